"""`vmm run --config FILE`: the options of `vmm run` in a file, and the way back, `--print-config`.

The file is TOML, one key an option, called as it is on the command line: `memory = "64M"`,
`max-exits = 1000`, `disk = ["a.img", "b.img:ro"]`, `strict = true`; the image is `image`. What the
command line says wins; what may be given more than once is added to what the file has.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence

from vmm.cli.options import Options
from vmm.cli.run_options import RUN_OPTIONS, RunOption
from vmm.cli.values import address, close_to, count, seconds
from vmm.errors import ConfigError
from vmm.furnish import PAYLOAD_PREFIX
from vmm.toml_file import read_toml

__all__ = ["configured", "key_lines", "read_config", "to_toml"]

_IMAGE = RunOption("--image", "image", "the file to boot, or payload:NAME", takes="FILE")
_OPTIONS: Mapping[str, RunOption] = {
    option.flag.removeprefix("--"): option
    for option in (_IMAGE, *RUN_OPTIONS)
    if option.dest not in ("config", "print_config")
}
"""What may stand in a file, by its key."""

_NUMBERS = (address, count, seconds)
"""The readers of numbers, which may stand in a file without quotes."""


def configured(arguments: Sequence[str], options: Options) -> Options:
    """What is to be run: what the command line says, on top of the file that it names.

    `options` is how `arguments` were read without the file.

    Raises:
        ConfigError: the file cannot be read, something in it is wrong, or no image is named.
    """
    from vmm.cli.parser import parse

    if options.config is None:
        return options
    found = parse(arguments, defaults=read_config(options.config))
    if found.image is None:
        raise ConfigError(
            f"IMAGE is missing: {options.config} has no image, and the command line names none"
        )
    return found


def read_config(path: str) -> dict[str, object]:
    """The values of the options in a file, by the options' names in `Options`.

    Relative names of files are relative to the file's folder.

    Raises:
        ConfigError: it cannot be read, or a line is wrong; the message says which.
    """
    text, table = read_toml(path, "a configuration", whole=f"--config {path}", name=path)
    values = {}
    for key, value in table.items():
        try:
            option = _option(key, value)
            values[option.dest] = _read(key, option, value, os.path.dirname(path))
        except ConfigError as error:
            raise ConfigError(f"{path}:{key_lines(text).get(key, 1)}: {error}") from None
    return values


def key_lines(text: str) -> dict[str, int]:
    """The line, from 1, that each key at the top of a TOML document begins at.

    tomllib does not tell. It can tell where a statement ends, though: before that it is not TOML,
    be it inside of an array, a string of several lines or anything else.
    """
    found: dict[str, int] = {}
    lines = text.split("\n")
    first = 0
    for last in range(1, len(lines) + 1):
        try:
            keys = tomllib.loads("\n".join(lines[first:last]))
        except tomllib.TOMLDecodeError:
            continue
        for key in keys:
            found.setdefault(key, first + 1)
        first = last
    return found


def to_toml(options: Options) -> str:
    """A file that has the same run as these options, wherever it is put.

    Raises:
        ConfigError: a value has bytes that no text holds.
    """
    lines = []
    for key, option in _OPTIONS.items():
        value = getattr(options, option.dest)
        if value == option.initial or value is None:
            continue
        if isinstance(value, list):
            items = [_text(key, _placed(option, item, os.getcwd())) for item in value]
            one = f"{key} = [{', '.join(items)}]"
            short = len(items) == 1 or len(one) <= 100
            lines += [one] if short else [f"{key} = [", *(f"    {i}," for i in items), "]"]
        elif isinstance(value, str):
            lines.append(f"{key} = {_text(key, _placed(option, value, os.getcwd()))}")
        elif isinstance(value, bool):
            lines.append(f"{key} = {str(value).lower()}")
        else:
            lines.append(f"{key} = {hex(value) if option.read is address else value}")
    return "".join(f"{line}\n" for line in lines)


def _option(key: str, value: object) -> RunOption:
    option = _OPTIONS.get(key)
    if option is not None:
        return option
    if isinstance(value, dict):
        raise ConfigError(
            f'{key}: options stand in no table; write them at the top: memory = "64M"'
        )
    known = close_to(key, _OPTIONS) or "'vmm run --help' lists them"
    raise ConfigError(f"{key}: no such option; {known}")


def _read(key: str, option: RunOption, value: object, folder: str) -> object:
    """The value of an option, as the command line would give it."""
    if not option.takes:
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{key}: true or false is wanted: {key} = true")
    read = option.reader(key)
    if not option.repeated:
        return read(_placed(option, _as_text(key, option, value), folder))
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f'{key}: a list of texts is wanted: {key} = ["{option.takes}"]')
    return [read(_placed(option, item, folder)) for item in value]


def _as_text(key: str, option: RunOption, value: object) -> str:
    """What stands behind the option on the command line."""
    if isinstance(value, str):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and (option.read in _NUMBERS or str(value) in option.choices):
        return str(value)
    if option.read in _NUMBERS:
        raise ConfigError(f"{key}: a number is wanted, for example {key} = 1")
    sample = f"{value:_}M" if number and key == "memory" else option.takes
    example = option.choices[0] if option.choices else sample.strip("'")
    raise ConfigError(f'{key}: text is wanted: {key} = "{example}"')


def _placed(option: RunOption, text: str, folder: str) -> str:
    """A value with the name of a file in it, which is relative to `folder`."""
    if option.dest == "disk" and text.startswith("vhost-user="):
        return "vhost-user=" + os.path.join(folder, text.removeprefix("vhost-user="))
    if option.dest == "cpu":
        template, comma, features = text.partition(",")
        if template.strip().endswith(".toml"):
            return os.path.join(folder, template.strip()) + comma + features
    if option.names_file:
        word = text in ("", "-", *option.takes.split("|")[1:])
        if not word and not (option is _IMAGE and text.startswith(PAYLOAD_PREFIX)):
            return os.path.join(folder, text)
    elif "unix:PATH" in option.takes and text.startswith("unix:"):
        return "unix:" + os.path.join(folder, text.removeprefix("unix:"))
    elif "unix=PATH" in option.takes and ",unix=" in text:
        head, _, path = text.partition(",unix=")
        return f"{head},unix={os.path.join(folder, path)}"
    return text


def _text(key: str, text: str) -> str:
    """A string of TOML: one of JSON is one, but for DEL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{key}: {text!r} is not UTF-8, as TOML is") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
