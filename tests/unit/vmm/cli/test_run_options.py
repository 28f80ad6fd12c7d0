"""The quick way to read `vmm run`: never anything else than the parser reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.cli.parser import parse
from vmm.cli.run_options import RUN_OPTIONS, read_plainly
from vmm.errors import ConfigError

FLAGS = [option.flag for option in RUN_OPTIONS]
WORDS = st.one_of(
    st.sampled_from([*FLAGS, "--debug", "--no-such", "--help", "-h", "--", "-", "run", "top"]),
    st.sampled_from(["2", "0x10", "1.5", "on", "auto", "flat16", "serial", "-cx16", "a.img", ""]),
    st.sampled_from(["--cpus=2", "--cpu=-x", "--append=", "--timeout=2", "--memory=a=b"]),
    st.text(max_size=5),
)


def both(words):
    """What each reads of the words: the values, or the sentence about what is wrong."""
    read = []
    for reader in (read_plainly, parse):
        try:
            found = reader(words)
        except ConfigError as error:
            read.append(str(error))
        except SystemExit:
            read.append("help")
        else:
            read.append(None if found is None else vars(found))
    return read


@given(st.lists(WORDS, max_size=8))
def test_what_it_reads_is_what_the_parser_reads(words):
    plainly, parsed = both(["run", *words])
    assert plainly is None or plainly == parsed


@pytest.mark.parametrize("option", RUN_OPTIONS, ids=lambda option: option.flag)
def test_every_option_is_read_plainly(option):
    value = next((choice for choice in option.choices if choice != option.default), "3")
    words = ["run", option.flag, *([value] if option.takes else []), "a.img"]
    plainly, parsed = both(words)
    assert plainly is not None
    assert plainly == parsed
    assert plainly[option.dest] != option.initial


def test_the_value_of_some_options_may_begin_with_a_dash():
    options = read_plainly(["run", "a", "--cpu", "-cx16", "--append", "--x -y", "--debug"])
    assert (options.cpu, options.append, options.debug) == ("-cx16", "--x -y", True)


def test_lists_are_not_shared_between_two_readings():
    read_plainly(["run", "a", "--disk", "b"]).disk.append("c")
    assert read_plainly(["run", "a"]).disk == []


@pytest.mark.parametrize(
    "words",
    [
        *([], ["top"], ["run"], ["run", ""], ["run", "a", "b"], ["run", "a", "--no-such"]),
        *(["--debug", "run", "a"], ["run", "a", "--cpus"], ["run", "a", "--name", "--debug"]),
    ],
)
def test_what_is_not_plain_is_left_to_the_parser(words):
    assert read_plainly(words) is None
