"""The command line: every wrong use is one line that says what would be right."""

from __future__ import annotations

import shlex

import pytest

from vmm.cli.parser import COMMANDS, build_parser, parse
from vmm.cli.run_options import FORMATS
from vmm.errors import ConfigError
from vmm.loader.load import FORMATS as LOADERS

TRACE = "summary, show, export, diff, plot"


def refused(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_defaults_of_run():
    options = parse(["run", "boot.img"])
    assert (options.command, options.image) == ("run", "boot.img")
    assert options.memory is None
    assert options.cpus is None
    assert options.timeout is None
    assert (options.format, options.irqchip, options.input) == ("auto", "auto", "auto")
    assert options.disk == options.module == []
    assert not any((options.strict, options.stats, options.debug, options.testdev, options.shell))


def test_every_option_of_run_is_read():
    options = parse(
        [
            *("run", "--memory", "64M", "--cpus", "2", "--cpu", "-cx16,-xsave", "--irqchip", "on"),
            "--tui",
            *("--disk", "a", "--disk", "b:ro", "--huge-pages", "--testdev", "--strict"),
            *("--device", "a.py:A@pio:1", "--device", "b.py:B@mmio:2", "--shell"),
            *("--format", "flat32", "--append", "-v --x", "--module", "m a", "--module", "n"),
            *("--load-addr", "0x100", "--entry", "256", "--cpl", "3", "--boot-drive", "0x80"),
            *("--timeout", "1.5", "--max-exits", "7", "--input", "serial", "--stats"),
            *("--json", "-", "--record", "r.vtrace", "--debug", "--symbols", "map"),
            *(
                "--trace",
                "t.vtrace",
                "--explain-json",
                "x",
                "--name",
                "n",
                "--rip",
                "--tracer",
                "a.py:A,b=1",
            ),
            *("--stop-at", "exits=2", "--trace-only", "write", "kernel"),
            *("--gdb", "unix:g", "--gdb-nowait", "--initrd", "i.img", "--reboot"),
            *("--net", "user", "--net", "tap=t", "--vsock", "3", "--share", "d", "--balloon"),
            *("--rng", "off", "--virtio-console", "--smbios", "serial=S", "--smbios", "type=3"),
            *("--pmem", "p.img", "--pmem", "q.img,readonly"),
            *("--config", "c", "--print-config", "--detach", "--log", "journal"),
        ]
    )
    assert vars(options) == {
        "tui": True,
        "command": "run", "image": "kernel", "memory": "64M", "cpus": 2, "cpu": "-cx16,-xsave",
        "irqchip": "on", "disk": ["a", "b:ro"], "huge_pages": True, "testdev": True,
        "device": ["a.py:A@pio:1", "b.py:B@mmio:2"], "shell": True,
        "strict": True, "format": "flat32", "append": "-v --x", "module": ["m a", "n"],
        "load_addr": 0x100, "entry": 256, "cpl": "3", "boot_drive": 0x80, "timeout": 1.5,
        "max_exits": 7, "input": "serial", "record": "r.vtrace", "stats": True, "json": "-",
        "trace": "t.vtrace",
        "debug": True, "symbols": "map", "explain_json": "x", "name": "n", "rip": True,
        "tracer": ["a.py:A,b=1"], "stop_at": ["exits=2"], "trace_only": "write",
        "gdb": "unix:g", "gdb_nowait": True, "config": "c", "print_config": True,
        "net": ["user", "tap=t"], "vsock": "3", "share": ["d"], "balloon": True,
        "initrd": "i.img", "reboot": True, "detach": True, "log": "journal",
        "rng": "off", "virtio_console": True, "smbios": ["serial=S", "type=3"],
        "pmem": ["p.img", "q.img,readonly"],
    }  # fmt: skip


def test_what_the_screen_shows_may_be_left_out():
    assert parse(["top"]).what is None
    assert parse(["top", "run.vtrace"]).what == "run.vtrace"
    assert parse(["top"]).owner is None


def test_formats_are_those_that_there_are_loaders_for():
    assert {"auto", *LOADERS} == set(FORMATS)


@pytest.mark.parametrize("option", ["--cpu", "--append"])
def test_a_value_may_begin_with_a_dash(option):
    for arguments in ([option, "-a"], [f"{option}=-a"]):
        options = parse(["run", *arguments, "x"])
        assert getattr(options, option.removeprefix("--")) == "-a"


@pytest.mark.parametrize("command", ["run x", "replay x", "doctor", "payloads"])
def test_debug_goes_before_and_behind_the_command(command):
    name, *rest = command.split()
    assert not parse([name, *rest]).debug
    assert parse(["--debug", name, *rest]).debug
    assert parse([name, *rest, "--debug"]).debug


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("rnu x", "no command rnu; did you mean run?"),
        ("zzz", f"no command zzz; there are {', '.join(COMMANDS)} (see 'vmm --help')"),
        ("payload:smp", "payload:smp is no command; to boot it: vmm run payload:smp"),
        ("run", "IMAGE is missing; see 'vmm run --help'"),
        ("run a b", "b: one argument too many; see 'vmm run --help'"),
        ("run a --memroy 3", "no option --memroy; did you mean --memory?"),
        ("run a --memroy=3", "no option --memroy; did you mean --memory?"),
        ("run a --mem 3", "no option --mem; did you mean --memory?"),
        ("run a --qqqqqq", "no option --qqqqqq; see 'vmm run --help'"),
        ("run a --cpus", "--cpus: expected one argument; see 'vmm run --help'"),
        ("run a --cpus -1", "--cpus -1: give a whole number above 0"),
        ("run a --cpus 1.5", "--cpus 1.5: give a whole number above 0"),
        ("run a --max-exits 0", "--max-exits 0: give a whole number above 0"),
        ("run a --timeout nan", "--timeout nan: give seconds above 0, for example 2.5"),
        ("run a --timeout inf", "--timeout inf: give seconds above 0, for example 2.5"),
        ("run a --timeout 1e300", "--timeout 1e300: give seconds above 0, for example 2.5"),
        ("run a --timeout -1", "--timeout -1: give seconds above 0, for example 2.5"),
        ("run a --timeout soon", "--timeout soon: give seconds above 0, for example 2.5"),
        ("run a --load-addr zz", "--load-addr zz: not a number; write 1048576 or 0x100000"),
        ("run a --entry 08", "--entry 08: not a number; write 1048576 or 0x100000"),
        ("run a --boot-drive c", "--boot-drive c: not a number; write 1048576 or 0x100000"),
        ("run a --format elf", "--format elf: not known; did you mean elf64?"),
        ("run a --format exe", f"--format exe: not known; choose from {', '.join(FORMATS)}"),
        ("run a --cpl 2", "--cpl 2: not known; choose from 0, 3"),
        ("run a --irqchip yes", "--irqchip yes: not known; choose from on, off, auto"),
        ("run a --input kbd", "--input kbd: not known; choose from auto, serial, keyboard"),
        ("trace", "no command given; see 'vmm trace --help'"),
        ("trace sho x", "no command trace sho; did you mean show?"),
        ("trace qqq", f"no command trace qqq; there are {TRACE} (see 'vmm trace --help')"),
        ("trace show", "FILE is missing; see 'vmm trace show --help'"),
        ("trace show a --slowr 1us", "no option --slowr; did you mean --slower?"),
        ("trace diff a b c", "c: one argument too many; see 'vmm trace diff --help'"),
        (
            "trace show a --slower 10xs",
            "--slower 10xs: give a time with its unit: 10us, 1.5ms, 2s",
        ),
        ("trace show a --port 9-8", "--port 9-8: a range goes up: 0x3f8-0x3ff"),
        ("trace show a --port com1", "--port com1: not a number; write 1048576 or 0x100000"),
        ("trace summary a --by port", "--by port: not known; choose from address, device, reason"),
        ("doctor --jsn", "no option --jsn; did you mean --json?"),
        ("doctor x", "x: one argument too many; see 'vmm doctor --help'"),
        ("--versoin", "no option --versoin; did you mean --version?"),
        ("--debug", "no command given; see 'vmm --help'"),
    ],
)
def test_wrong_use_is_one_line_with_the_right_one(arguments, message):
    assert refused(*arguments.split()) == message


def test_an_image_without_run_is_seen(tmp_path):
    image = tmp_path / "boot.img"
    image.write_bytes(b"")
    assert refused(str(image)) == f"{image} is no command; to boot it: vmm run {image}"


@pytest.mark.parametrize("command", ["", "run", "replay", "doctor", "payloads"])
def test_help_has_examples_that_parse(command, capsys):
    with pytest.raises(SystemExit) as ended:
        parse([*command.split(), "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(" ".join(("usage: vmm", command)).strip())
    assert all(len(line) <= 100 for line in text.splitlines())
    examples = [line.split("vmm ", 1)[1] for line in text.splitlines() if line.startswith("  vmm ")]
    assert examples
    for example in examples:
        words = shlex.split(example.split("   ")[0].split("|")[0])
        assert parse(words).command == words[0], example


def test_help_names_every_option_and_status():
    parser = build_parser()
    (commands,) = (action for action in parser._actions if action.dest == "command")
    text = commands.choices["run"].format_help()
    for name in FORMATS:
        assert name in text
    for status in ("0 ", "2 ", "4 ", "6 ", "8 ", "124", "130", "(V << 1 | 1) & 0xff"):
        assert status in text
    for action in commands.choices["run"]._actions:
        assert action.help, action.dest


@pytest.mark.parametrize(("columns", "widest"), [("40", 38), ("300", 98), ("x", 98)])
def test_help_fits_the_terminal(columns, widest, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    parser = build_parser()
    head = parser.format_help().split("examples:")[0]
    assert all(len(line) <= max(widest, 70) for line in head.splitlines())
