"""The power button: guests that listen to it, guests that do not, and guests that ignore it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmm.control.client import Client
from vmm.control.registry import names

pytestmark = pytest.mark.kvm

PATIENCE_S = 30.0

# Interrupt 9 is the second PIC's second; the BIOS has its vector at 0x71.
LISTENS = """
    xor ax, ax; mov ds, ax
    mov word ptr [4 * 0x71], offset pressed
    mov word ptr [4 * 0x71 + 2], ax
    mov al, 0xfb; out 0x21, al
    mov al, 0xfd; out 0xa1, al
    mov dx, 0x602; mov ax, 0x100; out dx, ax     # PWRBTN_EN
    mov al, 'L'; out 0xe9, al
    sti
wait: hlt
    jmp wait
pressed:
    mov dx, 0x600; in ax, dx; out dx, ax         # the status, and clear it
    mov al, ah; add al, '0'; out 0xe9, al        # PWRBTN_STS is the lowest bit of the high byte
"""
OFF = """
    mov dx, 0x604; mov ax, 0x2000; out dx, ax    # SLP_EN, SLP_TYP of S5
"""
GO_ON = """
    mov al, 0x20; out 0xa0, al; out 0x20, al
    iret
"""
DEAF = "mov al, 'D'; out 0xe9, al; again: jmp again"


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def test_a_guest_that_listens_powers_off(vm_factory, guest_asm) -> None:
    machine = vm_factory(guest_asm(LISTENS + OFF, "bootsector"))
    assert not machine.press_power_button()  # nobody has touched the chip yet
    threading.Thread(
        target=lambda: (until(lambda: "L" in machine.console.text), machine.press_power_button()),
        daemon=True,
    ).start()
    result = machine.run(timeout=PATIENCE_S)
    assert result.reason == "poweroff", result.report()
    assert machine.console.text == "L1"


def test_a_button_that_nobody_listens_to_is_not_pressed(vm_factory, guest_asm) -> None:
    """A guest that begins to listen later would find it pressed."""
    code = "mov dx, 0x600; in ax, dx; mov al, ah; out 0xe9, al; hlt"
    machine = vm_factory(guest_asm(code, "bootsector"))
    machine.devices["acpi-pm"]  # there it is, and the guest has enabled nothing
    assert not machine.press_power_button()
    machine.run(timeout=PATIENCE_S)
    assert machine.console.output == b"\0"


@pytest.fixture
def running(
    guest_asm: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str], subprocess.Popen[bytes]]]:
    """Runs a guest by the command, up to its first letter."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    started: list[subprocess.Popen[bytes]] = []

    def run(code: str, letter: str) -> subprocess.Popen[bytes]:
        image = tmp_path / "guest.img"
        image.write_bytes(guest_asm(code, "bootsector"))
        command = [sys.executable, "-m", "vmm", "run", str(image), "--name", "guest"]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.read(1) == letter.encode()
        until(names)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def vmm_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmm", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.command
def test_stop_presses_the_button(running) -> None:
    process = running(LISTENS + OFF, "L")
    done = vmm_command("stop", "guest")
    assert (done.returncode, done.stderr) == (0, "")
    assert process.wait(PATIENCE_S) == 0
    assert names() == []


@pytest.mark.command
def test_a_guest_that_ignores_the_button_is_ended(running) -> None:
    process = running(LISTENS + GO_ON, "L")
    done = vmm_command("stop", "guest", "--timeout", "0.5")
    assert done.returncode == 0
    assert done.stderr == (
        "vmm: guest: the guest has not shut itself down within 0.5 s of its power button being "
        "pressed; it is ended\n"
    )
    assert process.wait(PATIENCE_S) == 130
    assert process.stdout.read(1) == b"1"


@pytest.mark.command
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("stop", "vmm: guest: the guest does not listen to its power button; it is ended\n"),
        ("kill", ""),
    ],
)
def test_a_guest_that_does_not_listen_is_ended(running, command: str, said: str) -> None:
    process = running(DEAF, "D")
    done = vmm_command(command, "guest")
    assert (done.returncode, done.stderr) == (0, said)
    assert process.wait(PATIENCE_S) == 130


@pytest.mark.command
def test_one_that_is_paused_is_not_waited_for(running) -> None:
    process = running(LISTENS + OFF, "L")
    with Client.connect("guest") as client:
        client.call("pause")
    done = vmm_command("stop", "guest")
    said = "vmm: guest: the guest is held and cannot shut itself down; it is ended\n"
    assert (done.returncode, done.stderr) == (0, said)
    assert process.wait(PATIENCE_S) == 130


@pytest.mark.command
def test_kill_does_not_ask(running) -> None:
    process = running(LISTENS + OFF, "L")
    assert vmm_command("kill", "guest").returncode == 0
    assert process.wait(PATIENCE_S) == 130
    assert process.stdout.read(1) == b""
