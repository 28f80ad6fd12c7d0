"""Classes out of the user's files, and one line for each thing that can be wrong with them."""

from __future__ import annotations

import sys

import pytest

from vmm.errors import ConfigError
from vmm.usercode import line_in, load_class


@pytest.fixture
def file(tmp_path):
    def write(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_a_file_is_read_anew_each_time_and_sees_what_lies_beside_it(file):
    file("NUMBER = 5\n", "glassvm_test_beside.py")
    path = file("from glassvm_test_beside import NUMBER\nclass C:\n    number = NUMBER\n")
    before = list(sys.path)
    first = load_class(path, "C", "--tracer")
    file("class C:\n    number = 6 + 0 * 1111111111111111111111111111\n")
    assert (first.number, load_class(path, "C", "--tracer").number) == (5, 6)
    assert sys.modules[first.__module__].__file__ == path
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class A:\n    pass\nclass B:\n    pass\n", "--tracer {path}: no class C; it has A, B"),
        ("from pathlib import Path\n", "--tracer {path}: no class C; it has no classes"),
        ("x = 1\nclass C(:\n", "{path}:2: SyntaxError: "),
        ("def f():\n    return 1 / 0\n\nf()\n", "{path}:2: ZeroDivisionError: division by zero"),
        ("raise SystemExit('now\\nthen')\n", "{path}:1: SystemExit: now then"),
        ("class C:\n    pass\n\0", "{path}"),
    ],
)
def test_what_is_wrong_with_a_file(file, text, words):
    path = file(text)
    with pytest.raises(ConfigError) as refused:
        load_class(path, "C", "--tracer")
    said = str(refused.value)
    assert said.startswith(words.format(path=path))
    assert "\n" not in said


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"--device .*none\.py: No such file"):
        load_class(str(tmp_path / "none.py"), "C", "--device")
    with pytest.raises(ConfigError, match="null"):
        load_class("a\0b.py", "C", "--device")


def test_the_line_of_a_file_that_an_error_went_through():
    def fails():
        raise ValueError

    with pytest.raises(ValueError) as raised:  # noqa: PT011
        fails()
    assert line_in(__file__, raised.value.__traceback__) == fails.__code__.co_firstlineno + 1
    assert line_in("/elsewhere.py", raised.value.__traceback__) is None
