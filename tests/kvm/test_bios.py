"""Boot sectors on the Python BIOS: real-mode code, the ROM's stubs and the machine together."""

from __future__ import annotations

import pytest

import vmm

pytestmark = pytest.mark.kvm

# mov ax, 0x5307; mov bx, 1; mov cx, 3; int 0x15: power off through APM
POWER_OFF = bytes.fromhex("b80753 bb0100 b90300 cd15 f4")


@pytest.fixture
def boot(tmp_path):
    """Boot code as the first sector of a small disk."""
    machines = []

    def make(code: bytes, *, irqchip: bool, rest: bytes = b""):
        path = tmp_path / "disk.img"
        path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + rest.ljust(1024, b"\0"))
        machine = vmm.boot(str(path), memory="2M", irqchip=irqchip)
        machines.append(machine)
        return machine

    yield make
    for machine in machines:
        machine.close()


@pytest.mark.parametrize("irqchip", [False, True])
def test_read_a_sector_show_it_and_echo_a_key(boot, irqchip):
    code = bytes.fromhex(
        "31c0 8ed8 8ec0"  # xor ax, ax; mov ds, ax; mov es, ax
        "b80102 b90200 b600 bb0080 cd13 720f"  # read sector 2 to 0x8000; jc to the end
        "be0080 ac 84c0 7406"  # mov si, 0x8000; lodsb; test al, al; jz key
        "b40e cd10 ebf5"  # teletype; next
        "b400 cd16 b40e cd10"  # key: wait for one and show it
    )
    machine = boot(code + POWER_OFF, irqchip=irqchip, rest=b"from the disk: ")
    machine.console.send("K")
    result = machine.run(timeout=30)
    assert result.reason == "poweroff", result.report()
    assert machine.console.text == "from the disk: K"
    assert machine.bios.screen[0] == "from the disk: K"
    assert machine.bios.calls[0x13] == 1
    assert machine.bios.notes == []


def test_a_key_that_comes_later_ends_the_wait(boot):
    code = bytes.fromhex("b400 cd16 b40e cd10")  # wait for a key, show it
    machine = boot(code + POWER_OFF, irqchip=True)
    assert machine.run(timeout=0.3).reason == "timeout"
    machine.console.send("z")
    assert machine.run(timeout=30).reason == "poweroff"
    assert machine.console.text == "z"


def test_timer_interrupts_count_ticks_and_call_the_hook(boot):
    code = bytes.fromhex(
        "31c0 8ed8"  # xor ax, ax; mov ds, ax
        "c7067000 407c"  # INT 1Ch at [0x70]: offset 0x7C40...
        "8c0e7200"  # ...segment CS
        "fb f4"  # sti; wait: hlt
        "803e0005 03 72f8"  # cmp byte [0x500], 3; jb wait
    )
    hook = bytes.fromhex("1e 50 31c0 8ed8 fe060005 58 1f cf")  # inc byte [0x500]; iret
    image = (code + POWER_OFF).ljust(0x40, b"\0") + hook
    machine = boot(image, irqchip=True)
    before = machine.memory.read(0x46C, 4)
    result = machine.run(timeout=30)
    assert result.reason == "poweroff", result.report()
    assert machine.memory.read(0x500, 1) == b"\x03"
    count = int.from_bytes(machine.memory.read(0x46C, 4), "little")
    assert count - int.from_bytes(before, "little") >= 3
    assert machine.bios.calls[0x08] == 3


@pytest.mark.parametrize("irqchip", [False, True])
def test_a_wait_ends(boot, irqchip):
    code = bytes.fromhex("b90000 ba50c3 b486 cd15")  # INT 15h AH=86h, 50 ms
    machine = boot(code + POWER_OFF, irqchip=irqchip)
    assert machine.run(timeout=30).reason == "poweroff"


def test_a_jump_to_the_reset_vector_resets(boot):
    machine = boot(bytes.fromhex("ea0000ffff"), irqchip=False)  # jmp 0xFFFF:0
    assert machine.run(timeout=30).reason == "reset"


def test_a_pointer_comes_back_in_es(boot):
    code = bytes.fromhex("b4c0 cd15 8cc0 e6e9 88e0 e6e9 f4")  # INT 15h C0h; ES to port 0xE9
    machine = boot(code, irqchip=False)
    machine.run(timeout=30)
    assert machine.sregs.es.selector == 0xF000
    assert machine.regs.rbx & 0xFFFF == 0xA000


def test_an_exception_is_named(boot):
    machine = boot(bytes.fromhex("31db f7f3 f4"), irqchip=False)  # xor bx, bx; div bx
    assert machine.run(timeout=30).reason == "stopped"
    assert machine.bios.notes == ["the guest has no handler for divide error (#DE) at 0000:7c02"]


def test_drawing_on_the_screen_is_seen(boot):
    code = bytes.fromhex("b800b8 8ec0 26c70600004f1f f4")  # mov word [es:0], 0x1F4F; hlt
    machine = boot(code, irqchip=False)
    assert machine.run(timeout=30).reason == "halt"
    assert machine.bios.drawn_directly
    assert machine.bios.screen[0] == "O"
