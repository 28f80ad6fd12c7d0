"""The plugin with real guests: fixtures, reports of failures, recordings, properties, xdist."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import vmm
import vmm.pytest_plugin.boot_once
import vmm.trace.view  # with NumPy, which cannot be imported again when pytester has forgotten it
from vmm.kvm import backend

pytest_plugins = ["pytester"]
pytestmark = [pytest.mark.kvm, pytest.mark.timeout(300)]


def run(pytester: pytest.Pytester, code: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(code)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)


def text(result: pytest.RunResult) -> str:
    return "\n".join(result.outlines)


PASSING = """
    import pytest

    HI = bytes.fromhex("66baf803 b048 ee b069 ee b00a ee f4")  # "Hi" to COM1, hlt

    def test_bare(vm):
        vm.memory.write(0x1000, b"\\xb0\\x41\\xe6\\x80\\xf4")
        vm.start_at(0x1000)
        assert vm.run().exits == 2
        assert vm.trace.where(port=0x80, write=True).values == b"A"

    @pytest.mark.guest(image="payload:hello32", memory="32M")
    def test_marked(vm, vm_console):
        assert vm.memory.size == 32 << 20
        assert vm_console.expect("Hello from (.*) mode").group(1) == "protected"

    @pytest.mark.guest(HI, format="flat32")
    def test_bytes(vm):
        assert vm.run().reason == "halt"
        assert vm.trace.where(port=0x3F8, write=True).values == b"Hi\\n"

    OPEN = []

    def test_several(vm, vm_factory):
        OPEN.extend([vm, vm_factory("payload:hello16"), vm_factory(memory="4M")])
        assert OPEN[1].run().reason == "halt"

    def test_they_were_closed():
        assert {machine.phase.value for machine in OPEN} == {"stopped"}
"""


def test_machines_are_made_as_asked_and_closed(pytester):
    run(pytester, PASSING).assert_outcomes(passed=5)


def test_a_wrong_marker_is_one_line(pytester):
    result = run(
        pytester,
        """
        import pytest

        @pytest.mark.guest(image="missing.elf")
        def test_missing(vm): pass

        @pytest.mark.guest(image="payload:spin", memroy="3M")
        def test_mistyped(vm): pass
        """,
    )
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "@pytest.mark.guest: */missing.elf: *",
            "@pytest.mark.guest: boot() got an unexpected keyword argument 'memroy'",
        ]
    )
    assert "Traceback" not in text(result)


def test_a_conversation_stops_the_guest_where_it_matches(vm_factory):
    from vmm.pytest_plugin.console import VmConsole

    vm = vm_factory("payload:serial_echo")
    console = VmConsole(vm)
    assert console.expect(r"(\w+), q quits").group(1) == "echo"
    assert console.text == "echo, q quits"  # the newline is not sent yet
    console.send("abc")
    assert console.expect("[A-Z]{2}")[0] == "AB"
    assert console.unread == ""
    assert console.expect("C")[0] == "C"
    console.send("one two.")
    assert console.expect(r"TWO\.")[0] == "TWO."
    assert console.before == "ONE "
    console.send("dq")
    with pytest.raises(pytest.fail.Exception) as failure:
        console.expect("never")
    assert str(failure.value).splitlines() == [
        f"the console never matched 'never': {vm.last_result.summary()}",
        "D",
    ]
    assert vm.last_result.reason == "debug_exit"
    assert console.expect("D")[0] == "D"  # it is there already


def test_a_match_longer_than_what_is_searched_at_once_is_found_at_the_end(machine):
    from vmm.pytest_plugin.console import VmConsole

    # mov cx, 6000; mov al, 'x'; again: out 0xE9, al; loop again; hlt
    vm = machine("b97017 b078 e6e9 e2fc f4")
    vm.on_out(0xE9)(lambda value, size: vm.console.write(bytes([value])))
    console = VmConsole(vm)
    assert len(console.expect("x{5000,}")[0]) == 6000
    assert console.before == ""


DYING = """
    def test_dies(vm_factory):
        vm = vm_factory("payload:triple_fault")
        assert vm.run().reason == "halt"

    def test_prints_wrong(vm_factory):
        vm = vm_factory("payload:hello64")
        vm.run()
        assert "Goodbye" in vm.console.text

    def test_never_runs(vm):
        raise ValueError

    def test_closes_it(vm_factory):
        with vm_factory("payload:hello64") as vm:
            vm.run()
        raise ValueError

    def test_in_the_middle(vm_factory):
        for event in vm_factory("payload:hello64").exits():
            assert event.size == 8
"""


def test_failures_tell_what_the_guest_did(pytester):
    result = run(pytester, DYING, "-k", "dies")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- guest vm -*",
            "guest died: triple fault *",
            "  why: the chain of faults: [#]UD -> [#]GP -> [#]DF -> triple fault",
            "*- guest vm: last exits, oldest first -*",
            "SHUTDOWN",
            "*- guest vm: registers of vCPU 0* -*",
            "*rip*",
            "*- guest vm: code around RIP -*",
            "*  ud2",
        ]
    )


def test_a_guest_that_ended_well_is_shown_as_well(pytester):
    result = run(pytester, DYING, "-k", "prints_wrong")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- guest vm -*",
            "the guest halted after * exits",
            "*- guest vm: last exits, oldest first -*",
            "IO out 0x3f8 1b 0xa com1 THR*",
            "*- guest vm: registers of vCPU 0 -*",
            "*- guest vm: code around RIP -*",
            "*hlt*",
            "*- guest vm: console -*",
            "Hello from long mode",
        ]
    )


def test_every_state_of_a_machine_can_be_told(pytester):
    result = run(pytester, DYING, "-k", "never or closes or middle")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        ["*- guest vm -*", "it has not run", "*- guest vm -*", "the guest halted after *"]
    )
    result.stdout.fnmatch_lines(
        ["*- guest vm -*", "the run was stopped after 1 exit", "*registers of vCPU 0*"]
    )
    assert "nothing can be told" not in text(result)


def test_a_machine_that_runs_on_another_thread_is_held_for_a_look(machine, background, until):
    from vmm.pytest_plugin.report import sections_of

    vm = machine("eb fe")
    running = background(lambda: vm.run(timeout=60))
    until(lambda: vm.phase is vmm.Phase.RUNNING)
    found = dict(sections_of(vm))
    assert "jmp" in found["code around RIP"]
    assert vm.phase is vmm.Phase.RUNNING
    vm.stop()
    assert running.result().reason == "stopped"


def test_what_the_guest_sends_does_not_move_the_terminal(machine):
    from vmm.pytest_plugin.report import sections_of

    vm = machine("f4")
    vm.console.write(b"".join(b"line %d\r\n" % n for n in range(40)) + b"\x1b[2Jred\n")
    vm.run()
    lines = dict(sections_of(vm))["console"].splitlines()
    assert lines[:2] == ["(11 lines before)", "line 11"]
    assert lines[-1] == "\\x1b[2Jred"
    assert len(lines) == 31


RECORDED = """
    import pytest
    import vmm

    @pytest.mark.parametrize("name", ["hello16", "hello/../32", "hello:64"])
    def test_one(vm_factory, name):
        for _ in range(2):
            vm_factory("payload:" + "".join(c for c in name if c.isalnum())).run()
        assert name == "hello16"

    def test_its_own(vm_factory, tmp_path):
        vm_factory("payload:hello16", trace=str(tmp_path / "own.vtrace")).run()
        vm_factory("payload:hello16", trace=False).run()
        raise ValueError

    def test_bare(vm):
        vm.memory.write(0x1000, b"\\xb0\\x41\\xe6\\x80\\xf4")
        vm.start_at(0x1000)
        vm.run()
        raise ValueError
"""


def test_recordings_of_failures_are_kept(pytester, capsys):
    from vmm.cli import main

    result = run(pytester, RECORDED, "--kvm-trace=kept")
    result.assert_outcomes(passed=1, failed=4)
    folder = pytester.path / "kept"
    test = "test_recordings_of_failures_are_kept.py"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {
        f"{test}/test_one[hello%2F..%2F32]/vm.vtrace",
        f"{test}/test_one[hello%2F..%2F32]/vm2.vtrace",
        f"{test}/test_one[hello%3A64]/vm.vtrace",
        f"{test}/test_one[hello%3A64]/vm2.vtrace",
        f"{test}/test_bare/vm.vtrace",
    }
    assert not (folder / test / "test_one[hello16]").exists()
    for name in found:
        assert f"vmm trace show {folder / name}" in result.outlines
        assert str(vmm.replay(folder / name)).endswith("identical")
    capsys.readouterr()
    assert main(["trace", "summary", str(folder / test / "test_bare/vm.vtrace")]) == 0
    assert "2 exits" in capsys.readouterr().out


def properties(path: Path) -> dict[str, dict[str, str]]:
    return {
        case.attrib["name"]: {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
        for case in ElementTree.parse(path).iter("testcase")
    }


@pytest.mark.command
@pytest.mark.parametrize("workers", ["0", "2"])
def test_properties_and_recordings_with_any_number_of_workers(pytester, workers):
    pytester.makepyfile(RECORDED, test_second=RECORDED)
    done = pytester.run(
        sys.executable, "-m", "pytest", "-n", workers, "--kvm-trace=kept", "--junitxml=junit.xml"
    )
    done.assert_outcomes(passed=2, failed=8)
    kept = list((pytester.path / "kept").rglob("*.vtrace"))
    assert len(kept) == 10
    assert all(str(vmm.replay(path)).endswith("identical") for path in kept)
    found = properties(pytester.path / "junit.xml")
    bare = found["test_bare"]
    assert bare["kvm_backend"] == backend()
    assert bare["vm_exits"] == "2"
    assert float(bare["vm_seconds"]) > 0
    assert Path(bare["vm_recording"]) in kept
    passed = found["test_one[hello16]"]
    assert passed["vm_exits"] == passed["vm2_exits"] == "43"
    assert "vm_recording" not in passed


BOOTED = """
    import pytest

    pytestmark = pytest.mark.guest("payload:serial_echo", until="q quits\\n")

    @pytest.mark.parametrize("letter", "abcd")
    def test_each_goes_on_from_there(vm, vm_console, letter):
        assert vm_console.text == ""
        vm_console.send(letter)
        assert vm_console.expect(".")[0] == letter.upper()
        assert vm.trace.where(port=0x3F8, write=True).values == letter.upper().encode()

    @pytest.fixture(scope="module")
    def answered(booted):
        def answer(vm):
            vm.console.send("a")
            vm.trace.stop_at("port=0x3f8,write,value=0x41")
            assert vm.run().reason == "stopped"
        return booted("payload:serial_echo", answer)

    def test_two_that_go_on_from_where_a_function_led(answered, vm_factory):
        for key in "xy":
            vm = vm_factory(answered)
            vm.console.send(key + "q")
            assert vm.run(timeout=60).reason == "debug_exit"
            assert vm.console.text == key.upper()

    def test_the_same_again(answered, vm_factory):
        assert vm_factory(answered).regs.rax & 0xFF == 0x41
"""


def test_a_guest_is_booted_once_for_many_tests(pytester, monkeypatch):
    booted = []

    def boot(image, **options):
        booted.append(image)
        return vmm.boot(image, **options)

    monkeypatch.setattr(vmm.pytest_plugin.boot_once, "boot", boot)
    run(pytester, BOOTED).assert_outcomes(passed=6)
    assert booted == ["payload:serial_echo"] * 2  # to two different places


def test_a_guest_that_never_comes_there_is_waited_for_once(pytester, monkeypatch):
    result = run(
        pytester,
        """
        import pytest

        pytestmark = pytest.mark.guest("payload:triple_fault", until="never")

        def test_one(vm): pass
        def test_two(vm_console): pass

        @pytest.mark.guest("missing.elf", until="never")
        def test_missing(vm): pass
        """,
    )
    result.assert_outcomes(errors=3)
    # pytest repeats what it told in its summary, whole where CI is set.
    told = text(result).partition("short test summary")[0]
    assert told.count("booted: the console never matched 'never': the guest died of") == 2
    assert told.count("the chain of faults") == 2
    result.stdout.fnmatch_lines(["booted: */missing.elf: *"])
    assert "Traceback" not in text(result)


@pytest.mark.command
def test_each_worker_boots_for_itself(pytester):
    pytester.makepyfile(BOOTED, test_second=BOOTED)
    done = pytester.run(sys.executable, "-m", "pytest", "-n", "2", "--kvm-trace=kept")
    done.assert_outcomes(passed=12)
    assert not list((pytester.path / "kept").rglob("*.vtrace"))


def test_assertions_on_exits_show_the_exits(machine):
    vm = machine("b041 e680 e681 f4")
    vm.run()
    exits = vm.trace.where(reason="IO")
    assert repr(exits) == "<View: 2 exits: IO out 0x80 1b 0x41 'A'; IO out 0x81 1b 0x41 'A'>"
    assert repr(vm.trace.where(port=0x99)) == "<View: 0 exits>"


def test_guest_asm_makes_what_boots(vm_factory, guest_asm):
    for format in ("flat16", "flat32", "flat64"):
        code = guest_asm(
            """
            mov esi, offset text
            mov al, [esi + 1]
            out 0xe9, al
            here: hlt
            text: .ascii "ok"
            """,
            format,
        )
        vm = vm_factory(code, format=format)
        assert vm.run().reason == "halt"
        assert vm.trace.where(port=0xE9, write=True).values == b"k"
    boot = guest_asm("mov ax, 0x0e41; int 0x10; hlt", "bootsector")
    vm = vm_factory(boot)
    vm.run()
    assert vm.console.text == "A"
