"""`vmm cpu list`, `dump`, `diff`: what guests may see of the processor."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from kvm_bindings import CpuidEntry
from vmm.cli.options import Options
from vmm.cpu_features import FEATURES
from vmm.cpu_templates import find_template, shipped
from vmm.cpuid import feature_names, filter_cpuid, lacks, parse_features, vendor_and_model
from vmm.errors import ConfigError, KvmUnavailable
from vmm.guest_cpuid import supported_cpuid
from vmm.kvm import open_kvm

__all__ = ["cpu"]

_LARGEST = 1 << 20
_REGISTERS = ("eax", "ebx", "ecx", "edx")


def cpu(options: Options) -> int:
    """Carry out the command behind `vmm cpu`; returns the exit status.

    Raises:
        VmmError: what is asked for cannot be had.
    """
    return {"list": _list, "dump": _show, "diff": _diff}[options.cpu_command](options)


def _list(options: Options) -> int:
    """List the templates, and whether this host fulfils them."""
    try:
        supported = _supported()
    except KvmUnavailable:
        supported = None
    rows = []
    for name in shipped():
        template = find_template(name)
        missing = None if supported is None else lacks(supported, template.demanded)
        rows.append({"name": name, "summary": template.summary, "missing": missing})
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['name']}  {row['summary']}")
        if row["missing"]:
            text = f"not here: KVM on this host does not support {', '.join(row['missing'])}"
            print(textwrap.fill(text, 100, initial_indent="    ", subsequent_indent="    "))
    if supported is None:
        print("whether this host fulfils them cannot be told without KVM; see 'vmm doctor'")
    return 0


def _show(options: Options) -> int:
    """Print what the first of a guest's vCPUs shows.

    Raises:
        VmmError: there is no such template, this host does not fulfil it, or has no KVM.
    """
    dump = _dump(options.what)
    if options.json:
        print(json.dumps(dump, indent=2))
        return 0
    print(f"{dump['vendor']}, {dump['model'] or 'no name'}")
    print(textwrap.fill(" ".join(dump["features"]), 100, break_on_hyphens=False))
    print("\nleaf       index  eax      ebx      ecx      edx")
    for leaf in dump["leaves"]:
        values = " ".join(f"{leaf[register]:08x}" for register in _REGISTERS)
        print(f"{leaf['function']:08x}   {leaf['index']:<5}  {values}")
    return 0


def _diff(options: Options) -> int:
    """Compare two; returns 0 where a guest sees the same, and 1 where it does not.

    Raises:
        VmmError: one of them cannot be had.
    """
    sides = [_side(options.first), _side(options.second)]
    features = [set(side["features"]) for side in sides]
    leaves = [{(e["function"], e["index"]): e for e in side["leaves"]} for side in sides]
    found = {
        "only_first": [n for n in FEATURES if n in features[0] - features[1]],
        "only_second": [n for n in FEATURES if n in features[1] - features[0]],
        "leaves": [
            {
                "function": where[0],
                "index": where[1],
                "register": register,
                "first": leaves[0].get(where, {}).get(register),
                "second": leaves[1].get(where, {}).get(register),
            }
            for where in sorted(leaves[0].keys() | leaves[1].keys())
            for register in _REGISTERS
            if leaves[0].get(where, {}).get(register) != leaves[1].get(where, {}).get(register)
        ],
    }
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        _print_diff(found, options.first, options.second)
    return 1 if any(found.values()) else 0


def _print_diff(found: dict[str, Any], first: str, second: str) -> None:
    for key, name in (("only_first", first), ("only_second", second)):
        if found[key]:
            text = f"only {name}: {' '.join(found[key])}"
            print(textwrap.fill(text, 100, subsequent_indent="    ", break_on_hyphens=False))
    for leaf in found["leaves"]:
        one, other = (
            "none" if leaf[side] is None else f"{leaf[side]:08x}" for side in ("first", "second")
        )
        print(f"leaf {leaf['function']:08x}.{leaf['index']} {leaf['register']}: {one} {other}")


def _supported() -> list[CpuidEntry]:
    kvm = open_kvm()
    try:
        return supported_cpuid(kvm)
    finally:
        kvm.close()


def _dump(spec: str) -> dict[str, Any]:
    mask = parse_features(spec)
    table = filter_cpuid(_supported(), mask)
    vendor, model = vendor_and_model(table)
    return {
        "cpu": spec,
        "vendor": vendor,
        "model": model,
        "features": feature_names(table),
        "leaves": [
            {"function": e.function, "index": e.index}
            | {register: getattr(e, register) for register in _REGISTERS}
            for e in sorted(table)
        ],
    }


def _side(what: str) -> dict[str, Any]:
    """One side of a comparison: a file of `vmm cpu dump --json`, or what this host shows."""
    if not what.endswith(".json"):
        return _dump(what)
    try:
        with open(what, "rb") as file:
            dump = json.loads(file.read(_LARGEST))
    except OSError as error:
        raise ConfigError(f"{what}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{what}: no JSON: {error}") from None
    if not _is_dump(dump):
        raise ConfigError(f"{what}: not what 'vmm cpu dump --json' writes")
    return {"features": dump["features"], "leaves": dump["leaves"]}


def _is_dump(dump: object) -> bool:
    if not isinstance(dump, dict):
        return False
    features, leaves = dump.get("features"), dump.get("leaves")
    numbers = ("function", "index", *_REGISTERS)
    return (
        isinstance(features, list)
        and all(isinstance(name, str) for name in features)
        and isinstance(leaves, list)
        and all(isinstance(e, dict) and all(type(e.get(n)) is int for n in numbers) for e in leaves)
    )
