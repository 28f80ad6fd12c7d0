"""CPU templates: what a guest may see of the processor, as TOML files.

    summary = "what it is, in a line"
    extends = "x86-64-v2"         # everything of another template as well
    demand = ["avx", "xsave"]     # shown; a host without one of them is refused
    allow = ["rdrand"]            # shown where the host has it

What a template does not name is hidden. Which processor it is (vendor, family, model, brand) stays
the host's: a template says what a guest may use, and so what hosts a machine can be moved between.
Templates that come with the package lie beside this file; a user's own is named by its path.

Spec: System V ABI, AMD64 Architecture Processor Supplement, "Processor", table of the
micro-architecture levels.
"""

from __future__ import annotations

from pathlib import Path

from devices.records import Record
from vmm.cpu_features import find_feature, needs_of
from vmm.errors import ConfigError
from vmm.toml_file import read_toml

__all__ = ["CpuTemplate", "find_template", "shipped"]

_HERE = Path(__file__).parent
_KEYS = ("summary", "extends", "demand", "allow")


class CpuTemplate(Record):
    """What a guest may see: features that are demanded, and others that are shown where the host
    has them."""

    name: str
    summary: str
    demanded: frozenset[str]
    allowed: frozenset[str]


def shipped() -> list[str]:
    """The names of the templates that come with the package."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def find_template(name: str) -> CpuTemplate:
    """Read a template: one of the package's by its name, another by the path of its file.

    Raises:
        ConfigError: there is none, or its file is wrong; the message says at which line.
    """
    if name in shipped():
        return _read(_HERE / f"{name}.toml", name, ())
    if name.endswith(".toml"):
        return _read(Path(name), name, ())
    raise ConfigError(
        f"CPU template {name!r}: there are {', '.join(shipped())}, and files of your own whose "
        "names end in .toml; of a feature write -NAME to hide one, +NAME to demand it"
    )


def _read(path: Path, name: str, within: tuple[str, ...]) -> CpuTemplate:
    called = f"CPU template {name}"
    text, table = read_toml(path, "a template", whole=called, name=called)

    def wrong(what: str, near: str) -> ConfigError:
        lines = text.split("\n")
        line = next((n for n, one in enumerate(lines, 1) if near in one.partition("#")[0]), 1)
        return ConfigError(f"{called}:{line}: {what}")

    for key in table:
        if key not in _KEYS:
            raise wrong(f"{key!r} is none of {', '.join(_KEYS)}", key)
    summary = table.get("summary", "")
    if not isinstance(summary, str):
        raise wrong("summary is a text", "summary")
    found: dict[str, frozenset[str]] = {}
    for key in ("demand", "allow"):
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise wrong(f'{key} is a list of names, ["aes", "avx"]', key)
        names = []
        for one in value:
            try:
                names.append(find_feature(one).name)
            except ConfigError as error:
                raise wrong(str(error), f'"{one}"') from None
        found[key] = frozenset(names)
    demanded, allowed = found["demand"], found["allow"]
    if "extends" in table:
        base = table["extends"]
        if not isinstance(base, str):
            raise wrong("extends is the name of one template", "extends")
        if base in within or base == name:
            raise wrong(f"{base} extends itself", "extends")
        if base not in shipped() and not base.endswith(".toml"):
            raise wrong(f"extends {base!r}: there are {', '.join(shipped())}, or FILE.toml", base)
        ours = base in shipped()
        where = _HERE / f"{base}.toml" if ours else path.parent / base
        below = _read(where, base if ours else str(where), (*within, name, base))
        demanded, allowed = demanded | below.demanded, allowed | below.allowed
    for feature in sorted(demanded | allowed):
        needed = [one for one in needs_of(feature) if one not in demanded | allowed]
        if needed:
            raise wrong(f"{feature} needs {', '.join(needed)} as well", f'"{feature}"')
    return CpuTemplate(name, summary, demanded, allowed - demanded)
