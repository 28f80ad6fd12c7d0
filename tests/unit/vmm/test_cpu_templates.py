"""CPU templates: those that come with the package, and users' own."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvm_bindings import CpuidEntry
from vmm.cpu_templates import find_template, shipped
from vmm.cpuid import feature_names, filter_cpuid, lacks, parse_features
from vmm.errors import ConfigError

# The table of micro-architecture levels of the psABI, in Linux's names. OSFXSR, SCE and OSXSAVE are
# what a system sets; SYSCALL stands for SCE.
LEVELS = {
    "x86-64-v1": {"cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"},
    "x86-64-v2": {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"},
    "x86-64-v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}
ALL = 0xFFFF_FFFF
SUBLEAF = 1
EVERYTHING = [
    CpuidEntry(0, eax=0xD, ebx=0x68747541, ecx=0x444D4163, edx=0x69746E65),
    CpuidEntry(1, ecx=ALL, edx=ALL),
    CpuidEntry(6, eax=ALL),
    CpuidEntry(7, 0, SUBLEAF, 2, ALL, ALL, ALL),
    CpuidEntry(7, 1, SUBLEAF, ALL, 0, 0, ALL),
    CpuidEntry(0xD, 0, SUBLEAF, eax=0x207, ebx=0x340, ecx=0x988),
    CpuidEntry(0xD, 1, SUBLEAF, eax=ALL),
    CpuidEntry(0xD, 2, SUBLEAF, eax=0x100, ebx=0x240),
    CpuidEntry(0x4000_0001, eax=ALL),
    CpuidEntry(0x8000_0001, ecx=ALL, edx=ALL),
    CpuidEntry(0x8000_0007, ebx=ALL, edx=ALL),
    CpuidEntry(0x8000_0008, eax=0x3030, ebx=ALL),
    CpuidEntry(0x8000_000A, eax=1, edx=ALL),
    CpuidEntry(0x8000_0021, eax=ALL),
]
"""A host that has it all."""


def shown(text: str) -> set[str]:
    return set(feature_names(filter_cpuid(EVERYTHING, parse_features(text))))


def test_levels_of_the_psabi_are_shipped() -> None:
    assert shipped() == sorted([*LEVELS, "steady"])
    below: set[str] = {"lm"}
    for name, features in LEVELS.items():
        below |= features
        template = find_template(name)
        assert template.demanded == below
        assert not template.allowed & template.demanded
        assert template.summary


def test_steady_is_the_same_on_every_host_that_fulfils_it() -> None:
    steady = find_template("steady")
    assert not steady.allowed
    assert steady.demanded >= find_template("x86-64-v2").demanded
    assert shown("steady") == steady.demanded | {"hypervisor"}
    # What comes and goes with vendor, model, microcode or kernel.
    assert not steady.demanded & {
        *("xsave", "avx", "pcid", "invpcid", "constant_tsc", "arch_capabilities", "spec_ctrl"),
        *("ibpb", "ssbd", "md_clear", "topoext", "cmp_legacy", "rdrand", "smep", "pdpe1gb"),
    }


@pytest.mark.parametrize("name", sorted(LEVELS))
def test_a_guest_sees_what_the_template_names_and_nothing_else(name: str) -> None:
    template = find_template(name)
    assert shown(name) <= template.demanded | template.allowed | {"hypervisor"}
    assert template.demanded <= shown(name)
    # SVM is in no level, nor what its leaf has.
    assert not shown(name) & {"svm", "npt", "vmx", "avx512vbmi"}


def test_bits_that_have_no_name_are_hidden_too() -> None:
    table = {
        (e.function, e.index): e for e in filter_cpuid(EVERYTHING, parse_features("x86-64-v1"))
    }
    assert table[7, 0].ecx == 1 << 2  # umip
    assert table[7, 1].eax == 0
    assert table[0x8000_0007, 0].ebx == 0
    # AMD repeats bits of leaf 1 here; those of the level are cmov, cx8, fpu, fxsr, mmx and more.
    assert table[0x8000_0001, 0].edx & 0x0183_F3FF == table[1, 0].edx & 0x0183_F3FF


def test_leaves_by_which_a_guest_learns_of_more_are_hidden_too() -> None:
    more = [
        CpuidEntry(0xA, eax=0x0830_0805),
        CpuidEntry(0x24, 0, SUBLEAF, ebx=0x0007_0002),
        CpuidEntry(0x8000_0022, eax=1),
        CpuidEntry(0x8000_0006, ecx=0x0200_8140),
    ]
    table = {e.function: e for e in filter_cpuid([*EVERYTHING, *more], parse_features("x86-64-v4"))}
    for entry in more[:3]:
        assert table[entry.function][3:] == (0, 0, 0, 0)
    assert table[0x8000_0006] == more[3]  # caches are the host's


def test_without_a_local_apic_a_template_is_shown_without_what_needs_it(tmp_path: Path) -> None:
    path = own(tmp_path, 'extends = "x86-64-v1"\ndemand = ["x2apic"]\n')
    for lapic in (True, False):
        table = filter_cpuid(EVERYTHING, parse_features(path), lapic=lapic)
        assert ("x2apic" in feature_names(table)) == lapic
    with pytest.raises(ConfigError, match=r"\+x2apic: needs a local APIC; add --irqchip"):
        filter_cpuid(EVERYTHING, parse_features(f"{path},+x2apic"), lapic=False)


def test_features_behind_a_template_are_added_and_taken_away() -> None:
    assert "aes" not in shown("x86-64-v2")
    assert shown("x86-64-v2,+aes") == shown("x86-64-v2") | {"aes"}
    assert shown("x86-64-v2,-popcnt") == shown("x86-64-v2") - {"popcnt"}
    # With SSE4.1 goes what needs it.
    assert shown("x86-64-v2,-sse4_1") == shown("x86-64-v2") - {"sse4_1", "sse4_2"}


def test_the_host_is_no_template() -> None:
    assert parse_features("host,-avx") == parse_features("-avx")


def test_what_is_added_to_a_template_brings_what_it_needs() -> None:
    with pytest.raises(
        ConfigError, match=r"^CPU feature \+avx2: needs xsave, avx, which x86-64-v2"
    ):
        shown("x86-64-v2,+avx2")
    assert {"avx2", "avx"} <= shown("x86-64-v2,+avx2,+xsave,+avx")
    with pytest.raises(ConfigError, match=r"\+avx2: needs xsave, which -xsave hides"):
        shown("x86-64-v3,-xsave,+avx2")


def test_a_host_without_a_feature_is_refused_by_its_name() -> None:
    host = [e._replace(ecx=e.ecx & ~(1 << 23)) if e.function == 1 else e for e in EVERYTHING]
    assert lacks(host, find_template("x86-64-v2").demanded) == ["popcnt"]
    with pytest.raises(
        ConfigError,
        match=r"^CPU template x86-64-v2: KVM on this host does not support popcnt; 'vmm cpu list' "
        r"tells which it fulfils; to do without: --cpu x86-64-v2,-popcnt$",
    ):
        filter_cpuid(host, parse_features("x86-64-v2"))
    filter_cpuid(host, parse_features("x86-64-v2,-popcnt"))
    with pytest.raises(ConfigError, match=r"sse4_2, ssse3; 'vmm cpu list' tells which it fulfils$"):
        filter_cpuid(
            [e._replace(ecx=1 << 13) if e.function == 1 else e for e in EVERYTHING],
            parse_features("x86-64-v2"),
        )


def own(tmp_path: Path, text: str, name: str = "own.toml") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    path = own(
        tmp_path, 'summary = "ours"\nextends = "x86-64-v2"\ndemand = ["aes"]\nallow = ["rdrand"]\n'
    )
    assert shown(path) == shown("x86-64-v2") | {"aes", "rdrand"}
    above = own(tmp_path, 'extends = "own.toml"\nallow = ["aes", "sha_ni"]\n', "above.toml")
    template = find_template(above)
    assert template.demanded == find_template(path).demanded
    assert template.allowed == find_template(path).allowed | {"sha_ni"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('\ndemand = [\n  "sse2",\n  "ssse4",\n]\n', r"own.toml:4: CPU feature 'ssse4': not known"),
        ("alow = []\n", "own.toml:1: 'alow' is none of summary, extends, demand, allow"),
        ("# demand\ndemand = 1\n", "own.toml:2: demand is a list of names"),
        ("allow = [1]\n", "own.toml:1: allow is a list of names"),
        ("summary = 1\n", "own.toml:1: summary is a text"),
        ("extends = 1\n", "own.toml:1: extends is the name of one template"),
        ('\nextends = "x86"\n', "own.toml:2: extends 'x86': there are steady, x86-64-v1, "),
        ('demand = ["fpu"]\nallow = ["avx"]\n', "own.toml:2: avx needs .*xsave as well"),
        ('demand = ["sse2"]\n\nallow = [\n', "own.toml:3: not TOML: invalid value"),
        ('demand = ["sse2"]\r\n\r\nalow = []\r\n', "own.toml:3: 'alow' is none of"),
        ("demand = " + "[" * 5000 + "]" * 5000, r"own.toml: nested too deeply"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        find_template(own(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml: cannot be read: No such file"):
        find_template(str(tmp_path / "none.toml"))
    with pytest.raises(
        ConfigError, match=r"'own': there are steady, x86-64-v1, .*files of your own"
    ):
        find_template("own")
    (tmp_path / "own.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        find_template(str(tmp_path / "own.toml"))
    loop = own(tmp_path, 'extends = "b.toml"\n', "a.toml")
    own(tmp_path, 'extends = "a.toml"\n', "b.toml")
    with pytest.raises(ConfigError, match="extends itself"):
        find_template(loop)
