"""The options of `vmm run` in a file: what is read, what is refused and at which line, and back."""

from __future__ import annotations

import os
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.cli import main
from vmm.cli.config_file import configured, key_lines, read_config, to_toml
from vmm.cli.parser import parse
from vmm.cli.run_options import RUN_OPTIONS, read_plainly
from vmm.errors import ConfigError

IN_A_FILE = [o for o in RUN_OPTIONS if o.flag not in ("--config", "--print-config")]


@pytest.fixture
def config(tmp_path):
    """Write a file; its name."""

    def write(text: str | bytes) -> str:
        path = tmp_path / "vm.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


def run_options(*words):
    """What `vmm run` would do with these words."""
    words = ["run", *words]
    return configured(words, read_plainly(words) or parse(words))


def sample(option):
    """A value of an option as a file has it, and as the command line has it."""
    if not option.takes:
        return True, []
    choice = next((c for c in option.choices if c != option.default), None)
    text = choice or {"--memory": "3M"}.get(option.flag, "3")
    return ([text], [text]) if option.repeated else (text, [text])


@pytest.mark.parametrize("option", IN_A_FILE, ids=lambda option: option.flag)
def test_every_option_means_in_a_file_what_it_means_on_the_command_line(option, config, tmp_path):
    value, words = sample(option)
    if option.names_file:
        words = [os.path.join(tmp_path, word) for word in words]
    key = option.flag.removeprefix("--")
    shown = str(value).lower() if value is True else repr(value)
    path = config(f"{key} = {shown}\n")
    by_file = vars(run_options("--config", path, "kernel"))
    by_words = vars(run_options("kernel", option.flag, *words))
    assert by_file[option.dest] != option.initial
    assert by_file | {"config": None} == by_words


def test_numbers_need_no_quotes_and_mean_the_same(config):
    path = config('image="k"\ncpus=2\nload-addr=0x100000\ntimeout=2.5\ncpl=3\nmax-exits=1_000\n')
    found = run_options("--config", path)
    assert (found.cpus, found.load_addr, found.timeout) == (2, 0x100000, 2.5)
    assert (found.cpl, found.max_exits) == ("3", 1000)


def test_the_command_line_wins_and_adds_to_what_is_repeated(config, tmp_path):
    path = config('image = "a"\nmemory = "8M"\ncpus = 2\ndisk = ["x"]\nstrict = true\n')
    found = run_options("--disk", "y", "--config", path, "--cpus", "3", "payload:smp")
    assert (found.image, found.memory, found.cpus) == ("payload:smp", "8M", 3)
    assert found.disk == [str(tmp_path / "x"), "y"]
    assert found.strict is True


def test_an_image_is_found_wherever_it_stands(config):
    path = config("")
    for words in (["k", "--config", path], ["--cpus", "2", "k", f"--config={path}", "--strict"]):
        assert run_options(*words).image == "k"


def test_without_any_image_both_places_are_named(config):
    path = config("cpus = 2\n")
    with pytest.raises(ConfigError, match=r"IMAGE is missing: .*vm\.toml has no image"):
        run_options("--config", path)


def test_names_of_files_are_relative_to_the_file(config, tmp_path, monkeypatch):
    config(
        'image="k"\nmodule=["m a/b"]\ndevice=["d.py:D@pio:1"]\ntrace="/t"\njson="-"\n'
        'gdb="unix:g"\nappend="x/y"\nshare=["s,tag=t"]\nvsock="3,unix=v"\n'
        'disk=["d.img:ro", "vhost-user=d.sock"]\n'
    )
    found = run_options("--config", str(tmp_path / "vm.toml"))
    assert found.image == str(tmp_path / "k")
    assert found.module == [str(tmp_path / "m a/b")]
    assert found.device == [str(tmp_path / "d.py:D@pio:1")]
    assert (found.trace, found.json, found.append) == ("/t", "-", "x/y")
    assert found.gdb == f"unix:{tmp_path / 'g'}"
    assert found.share == [f"{tmp_path / 's'},tag=t"]
    assert found.vsock == f"3,unix={tmp_path / 'v'}"
    assert found.disk == [str(tmp_path / "d.img:ro"), f"vhost-user={tmp_path / 'd.sock'}"]
    monkeypatch.chdir(tmp_path)
    assert run_options("--config", "vm.toml").image == "k"


@pytest.mark.parametrize(("text", "name"), [("journal", ""), ("a.log", "a.log")])
def test_a_word_in_the_place_of_a_file_is_none(text, name, config, tmp_path):
    found = run_options("--config", config(f'log = "{text}"\n'), "k")
    assert found.log == (str(tmp_path / name) if name else text)


def test_a_built_in_guest_is_no_file(config):
    assert run_options("--config", config('image = "payload:smp"\n')).image == "payload:smp"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("\n# x\nmemry = 2\n", 3, "memry: no such option; did you mean memory?"),
        ("max_exits = 2\n", 1, "max_exits: no such option; did you mean max-exits?"),
        ("qqqqqq = 2\n", 1, "qqqqqq: no such option; 'vmm run --help' lists them"),
        ('config = "x"\n', 1, "config: no such option; "),
        ('disk = [\n  "a",\n]\ncpus = "two"\n', 4, "cpus two: give a whole number above 0"),
        ('append = """\ncpus = 0\n"""\ncpus = 0\n', 4, "cpus 0: give a whole number above 0"),
        ("cpus = 1.5\n", 1, "cpus 1.5: give a whole number above 0"),
        ("cpus = true\n", 1, "cpus: a number is wanted, for example cpus = 1"),
        ("timeout = nan\n", 1, "timeout nan: give seconds above 0, for example 2.5"),
        ("load-addr = []\n", 1, "load-addr: a number is wanted, for example load-addr = 1"),
        ("memory = 64\n", 1, 'memory: text is wanted: memory = "64M"'),
        ('memory = "64X"\n', 1, "memory '64X': not a size; write a whole number and K, M, G or T"),
        ("name = 1\n", 1, 'name: text is wanted: name = "NAME"'),
        ("irqchip = true\n", 1, 'irqchip: text is wanted: irqchip = "on"'),
        ("cpl = 2\n", 1, 'cpl: text is wanted: cpl = "0"'),
        ('format = "elf"\n', 1, "format elf: not known; did you mean elf64?"),
        ("strict = 1\n", 1, "strict: true or false is wanted: strict = true"),
        ('disk = "a"\n', 1, 'disk: a list of texts is wanted: disk = ["FILE[:ro|:cow]['),
        ('stop-at = ["a", 1]\n', 1, 'stop-at: a list of texts is wanted: stop-at = ["CONDITION"]'),
        ("\n[machine]\ncpus = 2\n", 2, "machine: options stand in no table; write them at the top"),
        ("cpus = 1\ncpus = 2\n", 2, "not TOML: cannot overwrite a value"),
        ("cpus = 1\n\n= 2\n", 3, "not TOML: invalid statement"),
        ('name = "a\n', 1, "not TOML: "),
        ("cpus =", 1, "not TOML: invalid value"),
        (b"cpus = 1\n# \xff\n", 2, "not UTF-8, as TOML is"),
        ("cpus = 1\r\ncpu_s = 2\r\n", 2, "cpu_s: no such option; did you mean cpus?"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text, line, message, config):
    path = config(text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}:{line}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/no/such/file", "/", "a\0b", ""])
def test_a_file_that_cannot_be_read_is_one_line(path):
    with pytest.raises(ConfigError, match=r"^--config .*: cannot be read: "):
        read_config(path)


def test_a_disk_image_is_no_configuration(config):
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        read_config(config(bytes(1 << 21)))


@given(st.binary(max_size=60))
def test_any_file_gives_values_or_our_own_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "vm.toml"
    path.write_bytes(data)
    try:
        values = read_config(str(path))
    except ConfigError as error:
        told = str(error)
    else:
        assert {"image", *(option.dest for option in IN_A_FILE)} >= set(values)
        return
    assert str(path) in told


VALUES = st.recursive(
    st.sampled_from(["1", "true", '"x = 1"', '"""\na = 1\n"""', "'''\nb = [\n'''", '"#"', "1.5"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda v: "[\n  # c\n" + ",\n".join(v) + "\n]"),
    max_leaves=4,
)


@given(st.lists(st.tuples(st.sampled_from(["", "\n", "# d = 1\n"]), VALUES), max_size=6))
def test_keys_are_found_at_their_lines(statements):
    text, expected = "", {}
    for number, (before, value) in enumerate(statements):
        text += before
        expected[f"k{number}"] = text.count("\n") + 1
        text += f"k{number} = {value}\n"
    assert key_lines(text) == expected
    assert list(tomllib.loads(text)) == list(expected)


def flat(lists):
    return [item for items in lists for item in items]


def as_words(option):
    """Arguments that give an option some value."""
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    reader = option.read.__name__ if option.read else ""
    if option.choices:
        text = st.sampled_from(option.choices)
    elif reader in ("count", "address", "seconds"):
        text = st.integers(1, 1 << 20).map(str)
    elif reader == "size":
        text = st.sampled_from(["64M", "4 GiB", "65536"])
    words = text.map(lambda t: [f"{option.flag}={t}"]) if option.takes else st.just([option.flag])
    return st.lists(words, max_size=3).map(flat) if option.repeated else words


@given(st.lists(st.sampled_from(IN_A_FILE).flatmap(as_words), max_size=6))
def test_what_is_printed_and_read_again_is_the_same(tmp_path_factory, words):
    path = tmp_path_factory.mktemp("again") / "vm.toml"
    once = run_options("payload:smp", *flat(words))
    path.write_text(to_toml(once), encoding="utf-8", newline="")
    again = run_options("--config", str(path))
    assert to_toml(again) == to_toml(once)
    same = {o.dest for o in IN_A_FILE if not o.names_file and "unix" not in o.takes}
    for name in same:
        assert getattr(again, name) == getattr(once, name)


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("own.toml", "{}/own.toml"),
        ("own.toml,-mmx", "{}/own.toml,-mmx"),
        ("/a/own.toml", "/a/own.toml"),
        ("x86-64-v2,+aes", "x86-64-v2,+aes"),
        ("-mmx", "-mmx"),
    ],
)
def test_a_template_of_the_cpu_is_relative_to_the_file(text, placed, config, tmp_path):
    path = config(f'cpu = "{text}"')
    assert read_config(path) == {"cpu": placed.format(tmp_path)}


def test_print_config_prints_what_differs_and_runs_nothing(config, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = config('image = "k"\ncpus = 2\nentry = 256\nstrict = true\ndisk = ["a", "b:ro"]\n')
    assert main(["run", "--config", path, "--memory", "8M", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert (
        printed
        == (
            f'image = "{tmp_path}/k"\nmemory = "8M"\ncpus = 2\n'
            f'disk = ["{tmp_path}/a", "{tmp_path}/b:ro"]\nstrict = true\nentry = 0x100\n'
        )
        or len(str(tmp_path)) > 40
    )
    config(printed)
    assert main(["run", "--config", path, "--print-config"]) == 0
    assert capsys.readouterr().out == printed


def test_print_config_works_without_a_file(capsys):
    assert main(["run", "payload:smp", "--print-config", "--append", 'a "b"\x7f']) == 0
    assert capsys.readouterr().out == 'image = "payload:smp"\nappend = "a \\"b\\"\\u007f"\n'


def test_print_config_refuses_what_no_toml_holds(capsys):
    assert main(["run", "payload:smp", "--print-config", "--append", "\udcff"]) == 2
    assert "append: '\\udcff' is not UTF-8, as TOML is" in capsys.readouterr().err


def test_a_value_that_looks_like_the_option_is_none():
    assert parse(["run", "k", "--append", "--config"]).image == "k"
