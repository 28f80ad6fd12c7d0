"""What is typed reaches guests that take keys from the hardware: INT 09h, IRQ 1, polling."""

from __future__ import annotations

import pytest

import vmm

pytestmark = pytest.mark.kvm

TYPED = "aB\r"
SCANCODES = bytes.fromhex("1e9e 2a30b0aa 1c9c")
"""A key, a key with Shift, Enter: each pressed and released, in set 1."""

# cli; put a handler at INT 9; sti; hlt until it has seen Enter go up; power off through APM.
# The handler sends what it reads from port 0x60 to port 0xE9.
HOOKS_INT9 = bytes.fromhex(
    "fa 31c0 8ed8 c7062400227c a32600 fb f4 803e377c00 74f8 b80753 bb0100 b90300 cd15"
    "50 e460 e6e9 3c9c 7506 2ec606377c01 b020 e620 58 cf 00"
)

# The same, but the handler only counts and passes the interrupt on to the BIOS; the program reads
# keys with INT 16h and shows them. At Enter it shuts interrupts out, sends the count to port 0xE9
# and powers off.
CHAINS_INT9 = bytes.fromhex(
    "31c0 8ed8 fa 66a12400 66a3427c 66c7062400347c0000 fb"
    "b400 cd16 b40e cd10 3c0d 75f4 fa a0467c e6e9 b80753 bb0100 b90300 cd15"
    "50 e460 2efe06467c 58 2eff2e427c 00000000 00"
)

# A boot sector that goes to protected mode, remaps the interrupt controllers to 0x20, and has an
# IRQ 1 handler that writes each code in hexadecimal to the text screen, white on blue. Enter
# going up ends it. Handlers return by POPF and RET: kvm_pvm runs ring 0 in KVM's emulator, which
# does not know IRETD.
PROTECTED_MODE = bytes.fromhex(
    "fa31c08ed80f01162f7c0f20c00c010f22c0ea3b7c0800"
    "0000000000000000 ffff0000009acf00 ffff00000092cf00 1700177c0000 0f0100100000"
    "66b810008ed88ec08ed0bc00700000c70508110000987c0800c7050c110000008e0000"
    "0f011d357c0000 b011e620e6a0 b020e621b028e6a1 b004e621b002e6a1 b001e621e6a1 b0ffe6a1 b0fde621"
    "bf00800b00 fb f4 3c9c 75fb b000 e6f4"
    "e460 88c2 c0e804 e821000000 88d0 e81a000000 b020 e620 88d0"
    "8b4c2408 8b1c24 895c2408 894c2404 83c404 9d c3"
    "240f 0430 3c39 7602 0407 b41f 66ab c3"
)

# A kernel at 1 MiB in protected mode with an IRQ 1 handler that sends codes to port 0xE9.
KERNEL = bytes.fromhex(
    "bc00700000 8cc8 c1e010 bb45001000 6689d8 a308110000 bb45001000 66bb008e 891d0c110000"
    "0f011d67001000 b011e620 b020e621 b004e621 b001e621 b0fde621 fb f4 ebfd"
    "e460 e6e9 3c9c 7502 e6f4 b020 e620 8b4c2408 8b1c24 895c2408 894c2404 83c404 9d c3"
    "0f0100100000"
)

# cli; wait for bit 0 of port 0x64 and send port 0x60 to port 0xE9, until Enter goes up.
POLLS_STATUS = bytes.fromhex("fa e464 a801 74fa e460 e6e9 3c9c 75f2 e6f4")

# cli; send port 0x60 to port 0xE9 whenever it changes, until Enter goes up.
POLLS_DATA = bytes.fromhex("fa b400 e460 38e0 74fa 88c4 e6e9 3c9c 75f2 e6f4")


@pytest.fixture
def boot(tmp_path):
    machines = []

    def make(code: bytes, **options):
        path = tmp_path / "guest.img"
        if "format" not in options:
            code = code.ljust(510, b"\0") + b"\x55\xaa"
        path.write_bytes(code)
        machine = vmm.boot(str(path), memory="2M", **options)
        machines.append(machine)
        return machine

    yield make
    for machine in machines:
        machine.close()


def test_a_program_with_its_own_int_9_gets_scan_codes(boot):
    machine = boot(HOOKS_INT9)
    machine.console.send(TYPED)
    result = machine.run(timeout=30)
    assert result.reason == "poweroff", result.report()
    assert machine.console.output == SCANCODES
    assert machine.bios.calls[0x09] == 0


def test_keys_that_come_later_wake_a_program_with_its_own_int_9(boot):
    machine = boot(HOOKS_INT9)
    assert machine.run(timeout=0.3).reason == "timeout"
    assert machine.console.listening
    machine.console.send("\x1b[A")
    machine.console.send("\r")
    result = machine.run(timeout=30)
    assert result.reason == "poweroff", result.report()
    assert machine.console.output == bytes.fromhex("e048 e0c8 1c9c")


def test_an_int_9_handler_may_pass_keys_on_to_the_bios(boot):
    machine = boot(CHAINS_INT9)
    machine.console.send(TYPED)
    result = machine.run(timeout=30)
    assert result.reason == "poweroff", result.report()
    # Each code came once to the handler and once to the BIOS, which has read it a second time.
    # Whether Enter has gone up again when the program ends is a matter of time.
    codes = machine.bios.calls[0x09]
    assert codes in (len(SCANCODES) - 1, len(SCANCODES))
    assert machine.console.output == b"aB\r" + bytes([codes])


def test_a_boot_sector_that_takes_irq_1_in_protected_mode(boot):
    machine = boot(PROTECTED_MODE)
    assert machine.run(timeout=0.3).reason == "timeout"
    machine.console.send(TYPED)
    result = machine.run(timeout=30)
    assert result.reason == "debug_exit", result.report()
    assert machine.bios.screen[0] == SCANCODES.hex().upper()
    assert machine.memory.read(0xB8001, 1) == b"\x1f"
    assert machine.bios.drawn_directly


@pytest.mark.parametrize("input", ["auto", "keyboard"])
def test_a_kernel_that_takes_irq_1(boot, input):
    machine = boot(KERNEL, format="flat32", irqchip=True, input=input)
    machine.console.send(TYPED)
    result = machine.run(timeout=30)
    assert result.reason == "debug_exit", result.report()
    assert machine.console.output == SCANCODES


def test_a_kernel_that_uses_com1_gets_its_input_there(boot):
    uses_com1 = bytes.fromhex("66bafc03 ec")  # mov dx, 0x3fc; in al, dx
    # Behind it the handler's address and the interrupt table's have moved.
    code = uses_com1 + KERNEL.replace(b"\x45\x00\x10\x00", b"\x4a\x00\x10\x00").replace(
        b"\x67\x00\x10\x00", b"\x6c\x00\x10\x00"
    )
    for route, output in (("auto", b""), ("keyboard", SCANCODES)):
        machine = boot(code, format="flat32", irqchip=True, input=route)
        machine.console.send(TYPED)
        result = machine.run(timeout=1 if route == "auto" else 30)
        assert result.reason == ("timeout" if route == "auto" else "debug_exit"), result.report()
        assert machine.console.output == output


@pytest.mark.parametrize("irqchip", [False, True])
@pytest.mark.parametrize("code", [POLLS_STATUS, POLLS_DATA], ids=["status", "data"])
@pytest.mark.parametrize("options", [{}, {"format": "flat16"}], ids=["bios", "flat16"])
def test_a_guest_that_polls_the_controller(boot, code, irqchip, options):
    machine = boot(code, irqchip=irqchip, **options)
    machine.console.send(TYPED)
    result = machine.run(timeout=30)
    assert result.reason == "debug_exit", result.report()
    assert machine.console.output == SCANCODES


def test_input_that_nobody_takes_waits(boot):
    machine = boot(bytes.fromhex("fb f4 ebfd"))  # sti; hlt for ever
    machine.console.send(TYPED)
    assert machine.run(timeout=0.5).reason == "timeout"
    assert machine.console.waiting == len(TYPED)
    assert not machine.console.listening
