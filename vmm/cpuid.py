"""What CPUID shows to a guest: KVM's answer, less what the user hides, for the right processor.

A guest believes CPUID. What the host cannot back (cx16 or XSAVE on some backends) kills it in odd
ways, so the table starts from KVM_GET_SUPPORTED_CPUID and features can be taken out by name. A
feature goes together with those that need it, and XSAVE with its leaf.

Spec: KVM API, KVM_GET_SUPPORTED_CPUID and KVM_SET_CPUID2; AMD64 APM vol. 3, "Obtaining Processor
Information Via the CPUID Instruction"; Intel SDM vol. 2, "CPUID".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from devices.records import Record
from kvm_bindings import CpuidEntry
from kvm_bindings.constants import KVM_CPUID_FLAG_SIGNIFCANT_INDEX
from vmm.cpu_features import FEATURES, NAMED_BITS, Feature, dependents_of, find_feature, needs_of
from vmm.errors import ConfigError

__all__ = [
    "HOST",
    "FeatureMask",
    "feature_names",
    "filter_cpuid",
    "lacks",
    "parse_features",
    "vendor_and_model",
]

HOST = "host"
"""What stands for no template: all that KVM supports here."""

_MIRRORED = 0x0183_F3FF
"""The bits of leaf 1 EDX that AMD repeats in leaf 0x80000001 EDX."""

_XSAVE_COMPONENTS = {
    "avx": (2,),
    "mpx": (3, 4),
    "avx512f": (5, 6, 7),
    "pku": (9,),
    "amx_tile": (17, 18),
}
"""The state components of leaf 0xD that go with a feature."""

_XSAVE_LEGACY_BYTES = 576
"""The legacy region and the header of an XSAVE area."""

_AMD = (0x6874_7541, 0x6F67_7948)
"""Leaf 0 EBX of AMD ("Auth") and Hygon ("Hygo")."""

_ALWAYS = frozenset({"hypervisor", "ht"})
"""Shown by us whatever KVM reports: KVM leaves the one out and copies the other from the host."""


_FEW = 4
"""So many features a guest might do without."""

_NEEDS_LAPIC = frozenset({
    *("x2apic", "tsc_deadline_timer"),
    # What KVM does for its guests through their local APIC: without one, the MSR of asynchronous
    # page faults is #GP to a guest that believes in them.
    *("kvm_asyncpf", "kvm_asyncpf_vmexit", "kvm_asyncpf_int", "kvm_pv_eoi", "kvm_pv_unhalt"),
    *("kvm_pv_ipi", "kvm_pv_sched_yield"),
})  # fmt: skip
"""Shown only where KVM emulates a local APIC, which it cannot know when it is asked."""

_LEAVES = {
    "sgx": (0x12,),
    "intel_pt": (0x14,),
    "amx_tile": (0x1D, 0x1E),
    "svm": (0x8000_000A,),
    "topoext": (0x8000_001D, 0x8000_001E),
}
"""Leaves that say more of a feature, and are nothing without it."""

_KNOWN_LEAVES = frozenset({
    *(0x0, 0x1, 0x2, 0x4, 0x6, 0x7, 0xB, 0xD, 0x12, 0x14, 0x15, 0x16, 0x1D, 0x1E, 0x1F),
    *(0x4000_0000, 0x4000_0001, *range(0x8000_0000, 0x8000_0009), 0x8000_000A),
    *(0x8000_0019, 0x8000_001A, 0x8000_001D, 0x8000_001E, 0x8000_0021),
})  # fmt: skip
"""The leaves that a template leaves: with features that have names, or with vendor, caches,
addresses, clocks. Not those by which a guest learns of more, as of performance counters (0xA)."""

_CACHES = (4, 0x8000_001D)
"""The leaves of caches, Intel's and AMD's, with the same layout of EAX."""


class FeatureMask(Record):
    """What `--cpu` asks for, by name: features to hide, and features that must be there; and where
    it names a template, all that may be there."""

    hidden: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    template: str = ""
    demanded: frozenset[str] = frozenset()
    """What the template demands beside that."""
    allowed: frozenset[str] = frozenset()
    """What may be shown, where there is a template: everything else is hidden."""


_NOTHING = FeatureMask()


def parse_features(text: str) -> FeatureMask:
    """Read "-cx16,-xsave,+avx" or "x86-64-v2,-popcnt": a template may come first. Of two mentions
    of one feature the later counts.

    Raises:
        ConfigError: a part has no sign, or names no feature, or there is no such template.
    """
    wanted: dict[str, bool] = {}
    template = None
    for number, part in enumerate(filter(None, (part.strip() for part in text.split(",")))):
        sign, name = part[0], part[1:]
        if number == 0 and sign not in "+-":
            if part == HOST:
                continue
            from vmm.cpu_templates import find_template

            template = find_template(part)
            continue
        if sign not in "+-" or not name:
            raise ConfigError(f"CPU features {part!r}: write -NAME to hide one, +NAME to demand it")
        wanted[find_feature(name).name] = sign == "+"
    hidden = frozenset(name for name, demanded in wanted.items() if not demanded)
    required = frozenset(name for name, demanded in wanted.items() if demanded)
    if template is None:
        return FeatureMask(hidden, required)
    gone = frozenset(name for asked in hidden for name in dependents_of(asked))
    allowed = template.allowed | template.demanded | required
    for name in sorted(required - gone):
        needed = [n for n in needs_of(name) if n not in allowed]
        if needed:
            raise ConfigError(
                f"CPU feature +{name}: needs {', '.join(needed)}, which {template.name} does not "
                f"have; add +{',+'.join(needed)}"
            )
    return FeatureMask(hidden, required, template.name, template.demanded - gone, allowed - gone)


def lacks(entries: Iterable[CpuidEntry], wanted: Iterable[str]) -> list[str]:
    """Those of `wanted` that a CPUID table does not have, in the order of their names."""
    table = {(e.function, e.index): e for e in entries}
    return sorted(n for n in wanted if n not in _ALWAYS and not _has(table, FEATURES[n]))


def feature_names(entries: Iterable[CpuidEntry]) -> list[str]:
    """Name the features in a CPUID table, in the order of their leaves and bits."""
    table = {(e.function, e.index): e for e in entries}
    return [f.name for f in FEATURES.values() if _has(table, f)]


def vendor_and_model(entries: Iterable[CpuidEntry]) -> tuple[str, str]:
    """The processor's vendor and its brand string; empty where a table does not tell them.

    Spec: AMD64 APM vol. 3, Processor Vendor and Largest Standard Function Number; Processor Name
    String.
    """
    leaves = {(e.function, e.index): e for e in entries}
    vendor = model = b""
    if (zero := leaves.get((0, 0))) is not None:
        vendor = struct.pack("<III", zero.ebx, zero.edx, zero.ecx)
    for function in (0x8000_0002, 0x8000_0003, 0x8000_0004):
        if (part := leaves.get((function, 0))) is not None:
            model += struct.pack("<IIII", part.eax, part.ebx, part.ecx, part.edx)
    return _text(vendor), _text(model)


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode("ascii", "replace").strip()


def filter_cpuid(
    entries: Sequence[CpuidEntry],
    mask: FeatureMask = _NOTHING,
    *,
    vcpu_index: int = 0,
    cpus: int = 1,
    lapic: bool = True,
) -> list[CpuidEntry]:
    """Make the CPUID table of one vCPU from what KVM supports.

    The processor is one package of `cpus` cores with one thread each; the APIC id is the index.
    `lapic` says whether the VM has its interrupt chips in the kernel. Without them there is no
    local APIC, and what needs one is not shown; KVM cannot know that when it is asked.

    Raises:
        ConfigError: a required feature is not supported, or it needs a hidden one.
    """
    hidden = frozenset(name for asked in mask.hidden for name in dependents_of(asked))
    if not lapic:
        hidden |= _NEEDS_LAPIC
    table = {(e.function, e.index): e for e in entries}
    for name in sorted(mask.required):
        if not lapic and name in _NEEDS_LAPIC:
            raise ConfigError(f"CPU feature +{name}: needs a local APIC; add --irqchip")
        if name in hidden:
            cause = min(asked for asked in mask.hidden if name in dependents_of(asked))
            raise ConfigError(f"CPU feature +{name}: needs {cause}, which -{cause} hides")
        if name not in _ALWAYS and not _has(table, FEATURES[name]):
            raise ConfigError(f"CPU feature +{name}: KVM on this host does not support it")
    if mask.template:
        missing = lacks(entries, mask.demanded)
        if missing:
            raise ConfigError(_unfulfilled(mask.template, missing))
        hidden |= FEATURES.keys() - mask.allowed - _ALWAYS
    _show(table, "hypervisor", True)
    _show(table, "ht", cpus > 1)
    for name in hidden:
        _show(table, name, False)
    if mask.template:
        _hide_unnamed(table)
        _clear(table, [f for f, _ in table if f not in _KNOWN_LEAVES])
    for name, functions in _LEAVES.items():
        if not _has(table, FEATURES[name]):
            _clear(table, functions)
    _trim_xsave(table, hidden)
    _number(table, vcpu_index, cpus)
    return list(table.values())


def _unfulfilled(template: str, missing: list[str]) -> str:
    text = (
        f"CPU template {template}: KVM on this host does not support {', '.join(missing)}; "
        "'vmm cpu list' tells which it fulfils"
    )
    if len(missing) <= _FEW:
        without = ",".join([template, *(f"-{name}" for name in missing)])
        text += f"; to do without: --cpu {without}"
    return text


_Table = dict[tuple[int, int], CpuidEntry]


def _has(table: _Table, feature: Feature) -> bool:
    entry = table.get((feature.function, feature.index))
    if entry is None:
        return False
    value: int = getattr(entry, feature.register)
    return bool(value >> feature.bit & 1)


def _show(table: _Table, name: str, shown: bool) -> None:
    """Set or clear one feature, where its leaf is there."""
    feature = FEATURES[name]
    _set_bit(table, (feature.function, feature.index), feature.register, feature.bit, shown)
    mirrored = feature.function == 1 and feature.register == "edx" and _MIRRORED >> feature.bit & 1
    if mirrored and not shown:  # only ever cleared: Intel has these bits 0
        _set_bit(table, (0x8000_0001, 0), "edx", feature.bit, False)


def _hide_unnamed(table: _Table) -> None:
    """Clear the bits that have no name, of the words that have some."""
    for (function, index, register), named in NAMED_BITS.items():
        entry = table.get((function, index))
        if entry is not None:
            if (function, register) == (0x8000_0001, "edx"):
                named |= _MIRRORED
            value = getattr(entry, register) & named
            table[function, index] = entry._replace(**{register: value})


def _clear(table: _Table, functions: Iterable[int]) -> None:
    """Make leaves all zeros, as those are that a processor does not have."""
    gone = frozenset(functions)
    for where, entry in table.items():
        if entry.function in gone:
            table[where] = entry._replace(eax=0, ebx=0, ecx=0, edx=0)


def _set_bit(table: _Table, where: tuple[int, int], register: str, bit: int, on: bool) -> None:
    entry = table.get(where)
    if entry is not None:
        value = getattr(entry, register) & ~(1 << bit) | (on << bit)
        table[where] = entry._replace(**{register: value})


def _trim_xsave(table: _Table, hidden: frozenset[str]) -> None:
    """Make leaf 0xD agree with the features that are hidden."""
    top = table.get((0xD, 0))
    if top is None:
        return
    if not _has(table, FEATURES["xsave"]):
        for where in [where for where in table if where[0] == 0xD]:
            del table[where]
        return
    gone = {n for name in hidden for n in _XSAVE_COMPONENTS.get(name, ())}
    if not gone:
        return
    for component in gone:
        table.pop((0xD, component), None)
    sizes = [
        entry.ebx + entry.eax
        for (function, index), entry in table.items()
        if function == 0xD and index >= 2 and not entry.ecx & 1
    ]
    lost = sum(1 << component for component in gone)
    area = max([_XSAVE_LEGACY_BYTES, *sizes])
    table[0xD, 0] = top._replace(
        eax=top.eax & ~lost & 0xFFFF_FFFF,
        edx=top.edx & ~(lost >> 32),
        ebx=min(top.ebx, area),
        ecx=area,
    )


def _number(table: _Table, index: int, cpus: int) -> None:
    """Write the vCPU's APIC id and the topology into the leaves that tell them."""
    width = (cpus - 1).bit_length()
    if (one := table.get((1, 0))) is not None:
        ebx = one.ebx & 0xFFFF | min(cpus, 255) << 16 | (index & 0xFF) << 24
        table[1, 0] = one._replace(ebx=ebx)
    for (function, subleaf), entry in list(table.items()):
        if function in _CACHES and entry.eax & 0x1F:
            # A core's own up to the second level, all cores' from the third on. EAX has how many
            # share it in bits 14 to 25, and Intel's the cores of the package from bit 26: less one.
            sharing = min(cpus - 1, 0xFFF) if entry.eax >> 5 & 7 >= 3 else 0
            cores = min(cpus - 1, 63) if function == 4 else 0
            eax = entry.eax & 0x3FFF | sharing << 14 | cores << 26
            table[function, subleaf] = entry._replace(eax=eax)
    _extended_topology(table, index, cpus, width)
    if cpus == 1:
        _show(table, "cmp_legacy", False)  # several cores in the package
    zero = table.get((0, 0))
    if zero is not None and zero.ebx in _AMD:
        if (sizes := table.get((0x8000_0008, 0))) is not None:
            ecx = min(cpus - 1, 255) | width << 12
            table[0x8000_0008, 0] = sizes._replace(ecx=ecx)
        ids = table.get((0x8000_001E, 0))
        if ids is not None and _has(table, FEATURES["topoext"]):
            table[0x8000_001E, 0] = ids._replace(eax=index, ebx=index & 0xFF, ecx=0)


def _extended_topology(table: _Table, index: int, cpus: int, width: int) -> None:
    zero = table.get((0, 0))
    for function in (0xB, 0x1F):
        subleaves = [where for where in table if where[0] == function]
        for where in subleaves:
            del table[where]
        if subleaves or (zero is not None and function <= zero.eax and function == 0xB):
            levels = ((0, 1, 1 << 8), (width, cpus, 2 << 8 | 1), (0, 0, 2))
            for level, (shift, count, kind) in enumerate(levels):
                table[function, level] = CpuidEntry(
                    function,
                    level,
                    KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                    eax=shift,
                    ebx=count,
                    ecx=kind,
                    edx=index,
                )
