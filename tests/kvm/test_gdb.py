"""Debian's gdb on guests: each feature of the stub, as a user drives it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vmm.gdb.probe import find_traps
from vmm.gdb.server import Debugger
from vmm.lifecycle import Phase

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "vmm/gdb/attach.gdb"

# At 0x7c00, from real mode over protected mode (0x7c13) to long mode (0x7c8d), where RAX gets
# 0x1122334455667788, is pushed (0x7c97) and incremented; then 0 goes to the debug-exit port.
MODES = bytes.fromhex(
    "fa0f0116c07c0f20c00c010f22c0ea137c080066b810008ed88ed0bc0070"
    "0000c7050080000003900000c7050090000003a00000c70500a000008300"
    "0000c7050480000000000000c7050490000000000000c70504a000000000"
    "00000f20e083c8200f22e0b8008000000f22d8b9800000c00f320d000100"
    "000f300f20c00d000000800f22c0ea8d7c0000180048b888776655443322"
    "115048ffc0b000e6f4f40000000000000000ffff0000009acf00ffff0000"
    "0092cf00ffff0000009aaf001f00a07c0000"
)
# mov word [0x2000], 7; inc ax; out 0x80, al; jmp 0x1006
LOOP = "c70600200700 40 e680 ebfb"


@pytest.fixture
def gdb(request, tmp_path, background):
    """Run a machine with gdb on it, which carries out commands; its output and the result."""
    program = shutil.which("gdb")
    if program is None:
        why = "gdb is not installed"
        if request.config.getoption("--kvm") == "require":
            pytest.fail(f"{why}, and --kvm=require", pytrace=False)
        pytest.skip(why)

    class Gdb:
        def __init__(self) -> None:
            self.program = program
            self.path = str(tmp_path / "s")

        def start(self, machine, *, wait=True):
            Debugger(machine, self.path, wait=wait)

            def run():
                result = machine.run(timeout=200)
                machine.debugger.linger(result)
                return result

            self.run = background(run)

        def command(self, *commands):
            words = [program, "-q", "-nx", "-x", str(SCRIPT), "-ex", f"target remote {self.path}"]
            return words + [word for line in commands for word in ("-ex", line)]

        def __call__(self, *commands):
            words = self.command(*commands)
            words.insert(1, "-batch")
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=250, stdin=subprocess.DEVNULL
            )
            self.said = done.stdout + done.stderr
            return self.said

    return Gdb()


def test_it_follows_the_guest_through_all_modes(gdb, machine):
    m = machine()
    m.memory.write(0x7C00, MODES)
    m.start_at(0x7C00)
    gdb.start(m)
    said = gdb(
        "x/i $pc", "break *0x7c13", "break *0x7c8d", "continue", "x/i $pc", "p $cr0", "continue",
        "x/i $pc", "stepi", "p/x $rax", "stepi", "x/gx $rsp", "p $efer", "p $rax = 5", "p/x $rax",
        "continue",
    )  # fmt: skip
    assert "=> 0x7c00:\tcli" in said
    assert "=> 0x7c13:\tmov    $0x10,%ax" in said
    assert "[ PE ET ]" in said
    assert "=> 0x7c8d:\tmovabs $0x1122334455667788,%rax" in said
    assert "= 0x1122334455667788" in said
    assert "0x6ff8:\t0x1122334455667788" in said
    assert "[ LME LMA ]" in said
    assert "= 0x5" in said
    assert "exited with code 01" in said
    assert gdb.run.result().reason == "debug_exit"


def test_breakpoints_of_both_kinds_and_more_than_there_are_registers(gdb, machine):
    m = machine("90" * 8 + "f4", "protected")
    gdb.start(m)
    points = [f"break *0x100{n}" for n in (1, 2, 3, 4)] + ["hbreak *0x1005", "break *0x1007"]
    said = gdb(*points, *["continue"] * 7)
    met = [int(where, 16) for where in re.findall(r"Breakpoint \d+, (0x[0-9a-f]+) in", said)]
    assert met == [0x1001, 0x1002, 0x1003, 0x1004, 0x1005, 0x1007]
    assert gdb.run.result().reason == "halt"
    assert m.memory.read(0x1000, 8) == b"\x90" * 8
    trapped = find_traps().elsewhere
    if "software" not in trapped:
        assert "instruction by instruction" in said  # six are more than four
        assert ("does not trap INT3" in said) is ("hardware" in trapped)


def test_a_watchpoint_tells_old_and_new(gdb, machine):
    m = machine(LOOP)
    m.on_out(0x80)(lambda value, size: None)
    gdb.start(m)
    said = gdb("watch *(short *) 0x2000", "continue", "p/x $pc", "kill")
    assert "Old value = 0" in said
    assert "New value = 7" in said
    assert "= 0x1006" in said
    assert gdb.run.result().reason == "stopped"


# mov cl, 5; inc al (0x1002); mov [0x2000], al; out 0x80, al; dec cl (0x1009); jnz 0x1002; hlt
ROUNDS = "b105 fec0 a20020 e680 fec9 75f5 f4"


def test_back_by_steps_to_breakpoints_and_to_the_beginning(gdb, machine):
    m = machine(ROUNDS)
    m.on_out(0x80)(lambda value, size: None)
    gdb.start(m)
    said = gdb(
        "break *0x1009", "continue", "continue", "p $al", "reverse-stepi", "x/i $pc",
        "reverse-stepi", "x/i $pc", "reverse-continue", "p $al", "reverse-continue", "x/i $pc",
        "reverse-stepi", "continue", "p $al", "delete", "continue",
    )  # fmt: skip
    order = [
        "$1 = 2", "=> 0x1007:\tout", "=> 0x1004:\tmov", "Breakpoint 1", "$2 = 1",
        "No more reverse-execution history", "=> 0x1000:\tmov", "No more reverse-execution history",
        "Breakpoint 1", "$3 = 1", "exited normally",
    ]  # fmt: skip
    at = 0
    for text in order:
        at = said.index(text, at) + len(text)
    assert "this is where the way back begins" in said
    assert gdb.run.result().reason == "halt"
    assert (m.regs.rip, m.regs.rax & 0xFF, m.memory.read(0x2000, 1)) == (0x100E, 5, b"\5")


def test_back_to_who_wrote_it_and_no_further_than_to_a_change(gdb, machine):
    m = machine(ROUNDS)
    m.on_out(0x80)(lambda value, size: None)
    gdb.start(m)
    said = gdb(
        "hbreak *0x100d", "continue", "delete", "watch *(char *) 0x2000", "reverse-continue",
        "p $pc", "p $cl", "p $al = 7", "reverse-continue", "stepi", "reverse-stepi", "p $pc",
        "kill",
    )  # fmt: skip
    assert "Old value = 5 '\\005'\nNew value = 4 '\\004'" in said
    assert said.count("(void (*)()) 0x1004") == 2
    assert "$2 = 1" in said
    assert said.count("No more reverse-execution history") == 1
    assert "New value = 7" in said
    gdb.run.result()
    assert m.memory.read(0x2000, 1) == b"\4"


CALLS = """
.globl _start
_start: mov $0x8000, %esp
        call count
        call count
again:  jmp again
        .type count, @function
count:  push %ebp
        mov %esp, %ebp
        inc %eax
        pop %ebp
        ret
        .size count, . - count
"""


def test_back_out_of_a_function(gdb, boot, tmp_path):
    source, object_, kernel = (tmp_path / name for name in ("k.s", "k.o", "k.elf"))
    source.write_text(CALLS)
    link = ["ld", "-melf_i386", "-Ttext=0x100000", "-o", str(kernel), str(object_)]
    for command in (["as", "--32", "-o", str(object_), str(source)], link):
        subprocess.run(command, check=True, timeout=60)
    m = boot(str(kernel), irqchip=False)
    gdb.start(m)
    said = gdb(
        f"symbol-file {kernel}", "break count", "continue", "continue", "p $eax",
        "reverse-finish", "x/i $pc", "reverse-continue", "p $eax", "up", "x/i $pc", "kill",
    )  # fmt: skip
    order = ["$1 = 1", "=> 0x10000a <_start+10>:\tcall", "Breakpoint 1", "$2 = 0",
             "=> 0x10000a <_start+10>:\tcall"]  # fmt: skip
    at = 0
    for text in order:
        at = said.index(text, at) + len(text)
    gdb.run.result()


def test_where_there_is_no_way_back_it_says_why(gdb, machine):
    m = machine("90 90 90 ebfe", irqchip=True, cpus=2)
    gdb.start(m)
    said = gdb("stepi", "reverse-stepi", "p $pc", "reverse-continue", "stepi", "p $pc", "kill")
    assert said.count("no way back: several vCPUs do not do the same twice: use --cpus 1") == 2
    assert said.count("No more reverse-execution history") == 2
    assert "0x1001" in said
    assert "0x1002" in said
    gdb.run.result()


def test_registers_and_memory_are_changed(gdb, machine):
    m = machine("ebfe", "long")
    gdb.start(m)
    said = gdb(
        "p $rax = 0x123456789a", "p $xmm3.v2_int64[0] = 77", "p $eflags |= 1", "p $eflags",
        "set {int} 0x3000 = 0x11223344", "x/4xb 0x3000", "x/xb 0x7fffffff0000",
        "maint packet Qqemu.PhyMemMode:1", "x/4xb 0x3000", "kill",
    )  # fmt: skip
    assert "$3 = [ CF" in said or "[ CF ]" in said
    assert said.count("0x44\t0x33\t0x22\t0x11") == 2
    assert "Cannot access memory at address 0x7fffffff0000" in said
    gdb.run.result()
    assert m.regs.rax == 0x123456789A
    assert m.vcpus[0].kvm.get_fpu().xmm[3][0] == 77
    assert m.memory.read(0x3000, 4) == b"\x44\x33\x22\x11"


def test_vcpus_are_threads(gdb, boot):
    m = boot("payload:smp", cpus=2)
    gdb.start(m)
    said = gdb("info threads", "thread 2", "p/x $pc", "thread 1", "stepi", "continue")
    assert "Thread 1 (vCPU 0, protected 32-bit mode, ring 0)" in said
    assert "Thread 2 (vCPU 1, real mode, ring 0)" in said
    assert "= 0xfffffff0" in said
    assert "exited with code 01" in said
    assert gdb.run.result().reason == "debug_exit"


def test_monitor_commands(gdb, machine, tmp_path):
    m = machine("e680 e410 ebfe")
    m.on_out(0x80)(lambda value, size: None)
    gdb.start(m)
    saved = tmp_path / "saved"
    said = gdb(
        "monitor help", "stepi", "monitor exits", "monitor devices", "monitor status",
        "monitor walk 0x1234", "monitor physical on", f"monitor snapshot {saved}",
        "monitor nothing", "detach",
    )  # fmt: skip
    for text in (
        "page tables' way", "out 0x80", "debug-exit", "vCPU 0 at 0000:1002, real mode, ring 0",
        "leads to guest-physical 0x1234", "addresses are guest-physical", "saved to",
        "no command 'nothing'; there are devices, exits",
    ):  # fmt: skip
        assert text in said
    assert saved.stat().st_size > 0
    m.stop()
    gdb.run.result()


def test_ctrl_c_and_detach_leave_the_guest_running(gdb, machine, until):
    m = machine(LOOP)
    m.on_out(0x80)(lambda value, size: None)
    gdb.start(m, wait=False)
    until(lambda: m.vcpus[0].exits > 10)
    process = subprocess.Popen(
        [*gdb.command("continue"), "-ex", "set confirm off"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until(lambda: m.debugger.clients == 1 and m.phase is Phase.RUNNING)
    exits = m.vcpus[0].exits
    until(lambda: m.vcpus[0].exits > exits + 10)
    process.send_signal(signal.SIGINT)
    until(lambda: m.phase is Phase.PAUSED)
    said, _ = process.communicate("info registers ip\ndetach\nquit\n", timeout=120)
    assert "Program received signal SIGINT" in said
    assert re.search(r"ip +0x100[0-9a-f]", said)
    until(lambda: m.phase is Phase.RUNNING)
    exits = m.vcpus[0].exits
    until(lambda: m.vcpus[0].exits > exits + 10)
    # A gdb that is killed lets the guest go on as well, and the next one is welcome.
    process = subprocess.Popen(gdb.command(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    until(lambda: m.phase is Phase.PAUSED)
    process.kill()
    process.communicate()
    until(lambda: m.phase is Phase.RUNNING)
    assert "0x" in gdb("info registers ip", "detach")
    m.stop()
    assert gdb.run.result().reason == "stopped"


def test_a_guest_that_died_can_be_looked_at(gdb, machine):
    m = machine("90 0f0b", "long")
    gdb.start(m)
    said = gdb("continue", "info registers rip", "monitor explain", "continue")
    assert "SIGSEGV" in said
    assert "triple fault" in said
    assert "exited with code 06" in said
    assert gdb.run.result().reason == "shutdown"


@pytest.mark.parametrize("cpus", [1, 2])
def test_it_begins_anew(gdb, machine, cpus):
    m = machine(ROUNDS, irqchip=cpus > 1, cpus=cpus)
    m.on_out(0x80)(lambda value, size: None)
    gdb.start(m)
    said = gdb(
        "hbreak *0x1009", "continue", "continue", "p $al", "reset", "p $pc", "x/xb 0x2000",
        "continue", "p $al", "kill",
    )  # fmt: skip
    order = ["$1 = 2", "0x1000", "0x2000:\t0x00", "$3 = 1"]
    at = 0
    for text in order:
        at = said.index(text, at) + len(text)
    assert "the guest is back before its first instruction" in said
    assert gdb.run.result().reason == "stopped"


def test_run_begins_anew_in_extended_mode_also_after_death(gdb, machine, until):
    m = machine("fe060020 0f0b", "long")
    gdb.start(m)
    extended = gdb.command()
    extended[extended.index(f"target remote {gdb.path}")] = f"target extended-remote {gdb.path}"
    commands = ["set confirm off", "set remote exec-file guest", "continue", "run", "kill",
                "starti", "x/i $pc", "kill"]  # fmt: skip
    done = subprocess.run(
        [extended[0], "-batch", *extended[1:], *(w for c in commands for w in ("-ex", c))],
        capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stdout.count("SIGSEGV") == 2, done.stdout + done.stderr
    assert "=> 0x1000:\tincb" in done.stdout
    assert gdb.run.result().reason == "stopped"


def test_what_began_without_gdb_cannot_begin_anew(gdb, machine, until):
    m = machine(LOOP)
    m.on_out(0x80)(lambda value, size: None)
    gdb.start(m, wait=False)
    until(lambda: m.vcpus[0].exits > 10)
    assert "reset: the guest's beginning was not kept" in gdb("monitor reset", "kill")
    gdb.run.result()


def test_back_from_death(gdb, machine):
    m = machine("b003 88042500200000 e680 90 0f0b", "long")
    m.on_out(0x80)(lambda value, size: None)
    gdb.start(m)
    said = gdb(
        "continue", "monitor explain", "reverse-stepi", "x/i $pc", "reverse-stepi", "x/i $pc",
        "reverse-stepi", "p $al", "watch *(char *) 0x2000", "continue", "delete",
        "break *0x1002", "reverse-continue", "x/i $pc", "continue", "continue",
    )  # fmt: skip
    order = [
        "SIGSEGV", "=> 0x100c:\tud2", "=> 0x100b:\tnop", "$1 = 3",
        "Program received signal SIGSEGV", "Breakpoint 2, ", "=> 0x1002:", "SIGSEGV",
        "exited with code 06",
    ]  # fmt: skip
    at = 0
    for text in order:
        at = said.index(text, at) + len(text)
    assert "triple fault" in said
    assert gdb.run.result().reason == "shutdown"


def test_what_is_no_gdb_is_hung_up_on(gdb, machine, until):
    import socket

    m = machine(LOOP)
    m.on_out(0x80)(lambda value, size: None)
    gdb.start(m, wait=False)
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(gdb.path)
        other.settimeout(30)
        other.sendall(b"POST / HTTP/1.1\r\n\r\n$k#6b")
        assert other.recv(100) == b""
    until(lambda: not m.debugger.attached and m.phase is Phase.RUNNING)
    m.close()
    assert not os.path.exists(gdb.path)
    assert gdb.run.result().reason == "stopped"


@pytest.mark.command
def test_the_commands(gdb, tmp_path):
    env = {**os.environ, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": ""}
    command = [sys.executable, "-m", "vmm"]
    where = tmp_path / "g"
    with subprocess.Popen(
        [*command, "run", "payload:hello64", "--gdb", f"unix:{where}", "--name", "it"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=env, cwd=ROOT,
    ) as run:  # fmt: skip
        assert run.stderr is not None
        assert run.stderr.readline() == (
            f"vmm: the guest waits for gdb at {where}; from another terminal: vmm gdb it\n"
        )
        shown = subprocess.run(
            [*command, "gdb", "it", "--print"], capture_output=True, text=True, env=env, cwd=ROOT
        ).stdout
        assert shown.endswith(f"-ex 'target remote {where}'\n")
        said = subprocess.run(
            [gdb.program, "-q", "-nx", "-batch", "-x", str(ROOT / "examples/debug.gdb"),
             "-ex", f"target remote {where}", "-ex", "hello"],
            capture_output=True, text=True, env=env, timeout=120,
        ).stdout  # fmt: skip
        assert ": Hello from long mode" in said
        assert "exited normally" in said
        out, _ = run.communicate(timeout=60)
    assert (out, run.returncode) == ("Jello from long mode\n", 0)
    assert not where.exists()


def test_the_example_that_goes_back(gdb, boot):
    m = boot("payload:bad_jump")
    gdb.start(m)
    words = gdb.command("who")
    words[words.index(str(SCRIPT))] = str(ROOT / "examples/back.gdb")
    done = subprocess.run(
        [words[0], "-batch", *words[1:]],
        capture_output=True, text=True, timeout=250, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    way = r"it died at 0xd0000000\n.*\nand came there from\n=> 0x\w+:\tjmp +\*%eax"
    assert re.search(way, done.stdout), done.stdout + done.stderr
    assert "exited with code 06" in done.stdout
    assert gdb.run.result().died


def test_the_probe_finds_what_machines_do_everywhere():
    assert "step" in find_traps().elsewhere
