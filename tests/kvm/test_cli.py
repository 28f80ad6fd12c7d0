"""The `vmm` command as its users meet it: a process with arguments, files, pipes and a status."""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.kvm, pytest.mark.command, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
FLOOD = bytes.fromhex("baf803 b078 ee ebfd")  # 'x' to COM1 for ever
LINES = bytes.fromhex("baf803 b078 ee b00a ee ebf8")  # the same, a line each
PROMPT = bytes.fromhex("baf803 b03e ee b020 ee")  # "> " to COM1
HALT, SPIN = b"\xf4", b"\xeb\xfe"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vmm", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def vmm(*arguments: str, input: bytes = b"", **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments),
        input=input,
        capture_output=True,
        env=environment(),
        timeout=150,
        check=False,
        **options,
    )


@pytest.fixture
def code(tmp_path):
    """Write a flat image; the options that run it."""

    def write(image: bytes) -> list[str]:
        path = tmp_path / "code.bin"
        path.write_bytes(image)
        return ["run", str(path), "--format", "flat16"]

    return write


def start(arguments: list[str], **options) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        # What is started in the background without job control ignores SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


# -- what comes out --------------------------------------------------------------------------


def test_a_guest_that_halts_says_only_what_it_says():
    done = vmm("run", "payload:hello64")
    assert (done.stdout, done.stderr, done.returncode) == (b"Hello from long mode\n", b"", 0)


def test_the_guest_chooses_the_status(code):
    done = vmm(*code(bytes.fromhex("b015 e6f4")))  # 0x15 to the debug-exit port
    assert done.returncode == 0x15 << 1 | 1


def test_debug_says_what_is_set_up():
    done = vmm("run", "payload:hello16", "--debug", "--cpu", "-cx16,-xsave", "--irqchip", "on")
    assert done.stdout == b"Hello from real mode\n"
    assert b"format flat16, real mode, entry 0x7c00, 1 vCPU, 65536K, irqchip on" in done.stderr
    assert b"vmm: the guest halted" in done.stderr
    assert done.returncode == 0


def test_stats_count_every_exit():
    done = vmm("run", "payload:hello16", "--stats")
    rows = [line.split() for line in done.stderr.decode().splitlines()]
    assert ["IO", "0x3f8", "com1", "write", "21", "48.8%"] in rows
    assert next(row for row in rows if row[:1] == ["all"])[1] == "43"


def test_json_holds_the_result(tmp_path):
    path = tmp_path / "result.json"
    assert vmm("run", "payload:string_io", "--json", str(path)).returncode == 1
    result = json.loads(path.read_text())
    assert (result["reason"], result["value"], result["status"]) == ("debug_exit", 0, 1)
    assert result["explanation"] is None


def test_json_of_a_death_goes_to_standard_error_with_a_dash():
    done = vmm("run", "payload:triple_fault", "--json", "-")
    text = done.stderr.decode()
    result, _ = json.JSONDecoder().raw_decode(text)
    assert result["reason"] == "shutdown"
    assert result["explanation"]["headline"].startswith("guest died: triple fault")
    assert done.returncode == 6


def test_max_exits_bounds_the_run(code):
    done = vmm(*code(FLOOD), "--max-exits", "10")
    assert done.stdout == b"x" * 10
    assert done.stderr.startswith(b"vmm: the run reached its limit of exits at ")
    assert done.returncode == 124


def test_strict_ends_at_a_port_that_nobody_claims(code):
    image = bytes.fromhex("e699 f4")
    assert vmm(*code(image)).returncode == 0
    done = vmm(*code(image), "--strict")
    assert done.returncode == 6
    first = " ".join(done.stderr.decode().split("\n  try:")[0].split())
    # While an OUT waits for us, kvm_amd shows its own address; an emulated one is behind it.
    assert first.startswith(
        ("vmm: guest stopped at 0000:7c00 (real mode)", "vmm: guest stopped at 0000:7c02 (real")
    )
    assert first.endswith("the guest wrote to port 0x99 (1 byte), which no device claims")


def test_a_flat_image_goes_where_it_is_told(code):
    image = HALT + PROMPT + HALT
    run = [*code(image), "--load-addr", "0x8000", "--entry", "32769", "--debug"]
    done = vmm(*run)
    assert done.stdout == b"> "
    assert b"bytes at 0x8000" in done.stderr


def test_python_m_vmm_says_which_built_in_guests_there_are():
    done = vmm("payloads", "--json")
    names = {row["name"] for row in json.loads(done.stdout)}
    assert {"hello16", "smp", "triple_fault"} <= names


def test_doctor_finds_this_host_usable():
    done = vmm("doctor", "--no-probe", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["usable"] is True


# -- input -----------------------------------------------------------------------------------


def test_piped_input_reaches_the_guest():
    done = vmm("run", "payload:serial_echo", input=b"hello\rq")
    assert done.stdout == b"echo, q quits\nHELLO\r"
    assert done.returncode == 1


def test_a_file_is_input_too(tmp_path):
    path = tmp_path / "input"
    path.write_bytes(b"a" * 300 + b"q")
    with path.open("rb") as file:
        done = subprocess.run(
            command("run", "payload:serial_echo"),
            stdin=file,
            capture_output=True,
            env=environment(),
            timeout=150,
            check=False,
        )
    assert done.stdout == b"echo, q quits\n" + b"A" * 300


@pytest.mark.parametrize("source", ["/dev/zero", "/dev/null"])
def test_endless_or_empty_input_does_not_keep_a_guest_from_ending(source):
    with open(source, "rb") as file:
        done = subprocess.run(
            command("run", "payload:hello16"),
            stdin=file,
            capture_output=True,
            env=environment(),
            timeout=60,
            check=False,
        )
    assert (done.stdout, done.returncode) == (b"Hello from real mode\n", 0)


def test_more_input_than_memory_should_hold_waits_in_its_pipe(code):
    """Nobody reads it, so no more is taken than may wait for a guest."""
    process = start([*code(PROMPT + SPIN), "--timeout", "60"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.read(2) == b"> "
    os.set_blocking(process.stdin.fileno(), False)
    written, quiet = 0, 0
    while quiet < 20:
        try:
            written += os.write(process.stdin.fileno(), bytes(65536))
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.05)
        assert written < 1 << 24, "all of it is taken"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()


# -- output ----------------------------------------------------------------------------------


def test_a_prompt_without_a_newline_comes_at_once(code):
    process = start(code(PROMPT + SPIN), stdin=subprocess.DEVNULL)
    with process:
        assert process.stdout.read(2) == b"> "  # while the guest still runs
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
        assert b"the run was stopped" in process.stderr.read()


def test_a_flood_arrives_whole(code):
    done = vmm(*code(LINES), "--max-exits", "20000")
    assert done.stdout == b"x\n" * 10000


def test_a_reader_that_leaves_ends_the_run_without_a_word(code):
    process = start(code(LINES), stdin=subprocess.DEVNULL)
    with process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 130
        assert process.stderr.read() == b""


def test_a_reader_that_takes_nothing_holds_the_guest_but_not_its_end(code):
    process = start(code(FLOOD), stdin=subprocess.DEVNULL)
    with process:
        fill(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_a_reader_that_takes_nothing_does_not_stop_the_clock(code):
    process = start([*code(FLOOD), "--timeout", "3"], stdin=subprocess.DEVNULL)
    with process:
        fill(process)
        assert process.wait(60) == 124
        errors = process.stderr.read()
    assert b"bytes are lost: nobody takes them" in errors
    assert b"timed out" in errors


def fill(process: subprocess.Popen[bytes]) -> None:
    """Make the pipe as small as can be, one page, and wait until something is in it: it is full."""
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    waiting = array.array("i", [0])
    while not waiting[0]:
        time.sleep(0.1)
        fcntl.ioctl(process.stdout, termios.FIONREAD, waiting)


@pytest.mark.parametrize(
    "arguments", [("run", "payload:hello16"), ("payloads",), ("doctor", "--no-probe")]
)
def test_a_full_disk_is_told_in_one_line(arguments):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(*arguments),
            stdout=full,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=environment(),
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"vmm: standard output: No space left on device")


@pytest.mark.parametrize(
    ("closed", "stdout"),
    [("<&-", b"Hello"), (">&-", b""), ("2>&-", b"Hello"), ("<&- >&- 2>&-", b"")],
)
def test_closed_standard_files_hurt_nobody(closed, stdout):
    shell = f'exec "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *command("run", "payload:hello16")],
        capture_output=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout[:5] == stdout
    assert done.stderr == b""


def test_errors_survive_a_full_standard_error():
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("run", "no-such-file"), stderr=full, env=environment(), timeout=60, check=False
        )
    assert done.returncode == 2


def test_the_exit_by_sigint_keeps_the_result(code, tmp_path):
    path = tmp_path / "result.json"
    process = start([*code(PROMPT + SPIN), "--json", str(path)], stdin=subprocess.DEVNULL)
    with process:
        process.stdout.read(2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        said = process.stderr.read().decode()
    first, *rest = said.splitlines()
    assert first.startswith("vmm: the run was stopped at 0000:7c")
    assert "after 2 exits: an endless loop" in said
    assert rest[-1] == "  (by SIGINT; --debug shows registers, code, stack and the last exits)"
    assert len(rest) <= 2
    result = json.loads(path.read_text())
    assert result["reason"] == "stopped"
    assert result["explanation"]["cause"].startswith("an endless loop of one instruction")


# -- what it costs ---------------------------------------------------------------------------


def test_no_heavy_module_is_imported_before_the_guest_runs():
    program = (
        "import sys\n"
        "from vmm.vcpu import Vcpu\n"
        "execute = Vcpu.execute\n"
        "def first(self, *args):\n"
        "    Vcpu.execute = execute\n"
        "    print(*sorted(sys.modules), file=sys.stderr)\n"
        "    return execute(self, *args)\n"
        "Vcpu.execute = first\n"
        "from vmm.cli import main\n"
        "sys.exit(main(['run', 'payload:hello16', '--irqchip', 'on']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env=environment(),
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    loaded = set(done.stderr.decode().split())
    assert "vmm.machine" in loaded
    heavy = {
        *("dataclasses", "inspect", "queue", "typing", "re", "argparse", "selectors", "weakref"),
        *("rich", "capstone", "elftools", "textual", "numpy", "typing_extensions", "pygments"),
        *("asyncio", "email", "json", "logging", "subprocess", "shutil", "tempfile", "socket"),
        *("importlib.metadata", "unittest", "multiprocessing", "traceback", "pdb"),
        *("vmm.explain", "vmm.doctor", "vmm.probes", "vmm.cli.stats"),
        *("pathlib", "platform", "urllib", "vmm.bios", "vmm.host.disk", "vmm.host.typist"),
        *("vmm.loader.multiboot", "vmm.loader.elf", "devices.i8042", "devices.vga_text"),
        *("devices.cmos_rtc", "devices.fw_cfg", "devices.acpi_pm", "devices.pci_host"),
        *("kvm_bindings.structs.vm", "kvm_bindings.structs.cpu", "kvm_bindings.structs.run"),
    }
    assert heavy & loaded == set()


# -- --reboot ---------------------------------------------------------------------------------

COUNTS_ITS_BOOTS = """
    xor ax, ax; mov ds, ax; mov es, ax
    inc byte ptr [n]
    mov al, [n]; out 0xe9, al
    mov ax, 0x0301; mov bx, 0x7c00; mov cx, 1; mov dh, 0
    int 0x13
    cmp byte ptr [n], '3'
    jae 1f
    mov al, 0xfe; out 0x64, al
1:  cli; hlt
n:  .byte '0'
"""


def test_a_guest_that_resets_the_machine_is_started_again(guest_asm, tmp_path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(guest_asm(COUNTS_ITS_BOOTS, "bootsector"))
    done = vmm("run", str(disk), "--reboot", "--timeout", "60", "--json", str(tmp_path / "json"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"123"
    assert done.stderr.count(b"the guest reset the machine, which starts again") == 2
    assert json.loads((tmp_path / "json").read_text())["reason"] == "halt"


def test_a_guest_that_resets_the_machine_without_end(guest_asm, tmp_path):
    """The time is that of all its starts."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(guest_asm("mov al, 0xfe; out 0x64, al; cli; hlt", "bootsector"))
    assert vmm("run", str(disk), "--timeout", "60").returncode == 0
    assert vmm("run", str(disk), "--reboot", "--timeout", "1").returncode == 124


def test_reboot_and_what_looks_at_one_machine(tmp_path):
    done = vmm("run", "payload:hello16", "--reboot", "--trace", str(tmp_path / "t"))
    assert done.returncode == 2
    assert done.stderr == b"vmm: --reboot: --trace is about one machine, which a reset ends\n"
