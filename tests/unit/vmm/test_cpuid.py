"""CPUID for guests, on a table made by hand: an AMD host with AVX and protection keys."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_bindings import CpuidEntry
from vmm.cpu_features import DEPENDENTS, FEATURES, dependents_of, find_feature
from vmm.cpuid import FeatureMask, feature_names, filter_cpuid, parse_features
from vmm.errors import ConfigError

SUBLEAF = 1  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX

# Bits written down by hand, from the manuals.
CX16, XSAVE, OSXSAVE, AVX, X2APIC, HYPERVISOR = 1 << 13, 1 << 26, 1 << 27, 1 << 28, 1 << 21, 1 << 31
DEADLINE = 1 << 24
HT, FPU, MMX, SSE, SSE2 = 1 << 28, 1 << 0, 1 << 23, 1 << 25, 1 << 26
PKU, OSPKE = 1 << 3, 1 << 4
AVX2, FSGSBASE = 1 << 5, 1 << 0
LM, NX = 1 << 29, 1 << 20
CMP_LEGACY, SVM, TOPOEXT = 1 << 1, 1 << 2, 1 << 22

HOST = [
    CpuidEntry(0, eax=0xD, ebx=0x68747541, ecx=0x444D4163, edx=0x69746E65),
    CpuidEntry(
        1,
        ebx=0x2304_0800,
        ecx=CX16 | XSAVE | OSXSAVE | AVX | X2APIC | DEADLINE,
        edx=HT | FPU | MMX | SSE | SSE2,
    ),
    CpuidEntry(4, 0, SUBLEAF, eax=0x1C00_4121, ebx=0x01C0_003F),
    CpuidEntry(4, 1, SUBLEAF, eax=0x1C03_C163),
    CpuidEntry(4, 2, SUBLEAF),
    CpuidEntry(7, 0, SUBLEAF, ebx=AVX2 | FSGSBASE, ecx=PKU | OSPKE),
    CpuidEntry(0xB, 0, SUBLEAF, eax=1, ebx=2, ecx=0x100, edx=0x23),
    CpuidEntry(0xD, 0, SUBLEAF, eax=0x207, ebx=0x340, ecx=0x988),
    CpuidEntry(0xD, 1, SUBLEAF, eax=0xF),
    CpuidEntry(0xD, 2, SUBLEAF, eax=0x100, ebx=0x240),
    CpuidEntry(0xD, 9, SUBLEAF, eax=8, ebx=0x980),
    CpuidEntry(0x4000_0001, eax=0x0100_7EFB),
    CpuidEntry(0x8000_0001, edx=LM | NX | FPU | MMX, ecx=CMP_LEGACY | SVM | TOPOEXT),
    CpuidEntry(0x8000_0008, eax=0x3030, ecx=0x7001),
    CpuidEntry(0x8000_000A, eax=1, edx=0x3),
    CpuidEntry(0x8000_001D, 0, SUBLEAF, eax=0x0000_4121, ebx=0x01C0_003F),
    CpuidEntry(0x8000_001D, 1, SUBLEAF, eax=0x0003_C163, ebx=0x03C0_003F),
    CpuidEntry(0x8000_001D, 2, SUBLEAF),
    CpuidEntry(0x8000_001E, eax=0x23, ebx=0x111, ecx=1),
]


def made(text: str = "", index: int = 0, cpus: int = 1) -> dict[tuple[int, int], CpuidEntry]:
    table = filter_cpuid(HOST, parse_features(text), vcpu_index=index, cpus=cpus)
    return {(e.function, e.index): e for e in table}


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("cx16", (1, 0, "ecx", 13)),
        ("xsave", (1, 0, "ecx", 26)),
        ("avx", (1, 0, "ecx", 28)),
        ("rdrand", (1, 0, "ecx", 30)),
        ("hypervisor", (1, 0, "ecx", 31)),
        ("sse4_2", (1, 0, "ecx", 20)),
        ("x2apic", (1, 0, "ecx", 21)),
        ("vmx", (1, 0, "ecx", 5)),
        ("fpu", (1, 0, "edx", 0)),
        ("sep", (1, 0, "edx", 11)),
        ("pbe", (1, 0, "edx", 31)),
        ("arat", (6, 0, "eax", 2)),
        ("smep", (7, 0, "ebx", 7)),
        ("smap", (7, 0, "ebx", 20)),
        ("avx512vl", (7, 0, "ebx", 31)),
        ("la57", (7, 0, "ecx", 16)),
        ("umip", (7, 0, "ecx", 2)),
        ("pks", (7, 0, "ecx", 31)),
        ("fsrm", (7, 0, "edx", 4)),
        ("ibt", (7, 0, "edx", 20)),
        ("arch_capabilities", (7, 0, "edx", 29)),
        ("spec_ctrl_ssbd", (7, 0, "edx", 31)),
        ("avx_vnni", (7, 1, "eax", 4)),
        ("lam", (7, 1, "eax", 26)),
        ("prefetchi", (7, 1, "edx", 14)),
        ("bhi_ctrl", (7, 2, "edx", 4)),
        ("xsaves", (0xD, 1, "eax", 3)),
        ("kvmclock", (0x40000001, 0, "eax", 0)),
        ("kvm_pv_unhalt", (0x40000001, 0, "eax", 7)),
        ("kvmclock_stable_bit", (0x40000001, 0, "eax", 24)),
        ("syscall", (0x80000001, 0, "edx", 11)),
        ("nx", (0x80000001, 0, "edx", 20)),
        ("pdpe1gb", (0x80000001, 0, "edx", 26)),
        ("lm", (0x80000001, 0, "edx", 29)),
        ("svm", (0x80000001, 0, "ecx", 2)),
        ("topoext", (0x80000001, 0, "ecx", 22)),
        ("mwaitx", (0x80000001, 0, "ecx", 29)),
        ("constant_tsc", (0x80000007, 0, "edx", 8)),
        ("ibpb", (0x80000008, 0, "ebx", 12)),
        ("stibp", (0x80000008, 0, "ebx", 15)),
        ("ssbd", (0x80000008, 0, "ebx", 24)),
        ("amd_psfd", (0x80000008, 0, "ebx", 28)),
        ("npt", (0x8000000A, 0, "edx", 0)),
        ("vnmi", (0x8000000A, 0, "edx", 25)),
        ("verw_clear", (0x80000021, 0, "eax", 5)),
        ("autoibrs", (0x80000021, 0, "eax", 8)),
        ("sbpb", (0x80000021, 0, "eax", 27)),
        ("srso_bp_spec_reduce", (0x80000021, 0, "eax", 31)),
        ("tsa_l1_no", (0x80000021, 0, "ecx", 2)),
    ],
)
def test_where_a_feature_is(name: str, where: tuple[int, int, str, int]) -> None:
    feature = FEATURES[name]
    assert (feature.function, feature.index, feature.register, feature.bit) == where


def test_the_table_has_no_bit_and_no_name_twice() -> None:
    places = {(f.function, f.index, f.register, f.bit) for f in FEATURES.values()}
    assert len(places) == len(FEATURES) > 250
    assert all(0 <= f.bit < 32 for f in FEATURES.values())


def test_dependents_are_known_features() -> None:
    assert set(DEPENDENTS) <= set(FEATURES)
    assert {name for names in DEPENDENTS.values() for name in names} <= set(FEATURES)


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("sse4.2", "sse4_2"),
        ("SSE4_2", "sse4_2"),
        ("tsc-deadline", "tsc_deadline_timer"),
        ("pclmuldq", "pclmulqdq"),
        ("sse3", "pni"),
        ("lahf-lm", "lahf_lm"),
        ("invtsc", "constant_tsc"),
        ("avx512-vnni", "avx512_vnni"),
        ("nrip-save", "nrip_save"),
        ("sha-ni", "sha_ni"),
        ("xd", "nx"),
    ],
)
def test_other_spellings(spelled: str, name: str) -> None:
    assert find_feature(spelled).name == name


def test_parsing() -> None:
    mask = parse_features(" -cx16, -xsave,+sse2,, ")
    assert mask == FeatureMask(frozenset({"cx16", "xsave"}), frozenset({"sse2"}))
    assert parse_features("") == FeatureMask()
    assert parse_features("+avx,-avx") == FeatureMask(hidden=frozenset({"avx"}))


def test_an_unknown_name_gets_suggestions() -> None:
    with pytest.raises(ConfigError, match=r"'cx17': not known; did you mean .*cx16"):
        parse_features("-cx17")
    with pytest.raises(ConfigError, match=r"'qqqqqqqq': not known$"):
        parse_features("-qqqqqqqq")


@pytest.mark.parametrize("text", ["cx16", "-", "+,avx", "=avx"])
def test_a_part_needs_a_sign_and_a_name(text: str) -> None:
    with pytest.raises(ConfigError, match="write -NAME to hide one"):
        parse_features(text)


@given(st.text(alphabet="+-,=abcx16_. \x00é", max_size=20))
def test_no_text_raises_anything_else(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_features(text)


def test_hiding_one_feature_leaves_the_others() -> None:
    before, after = made(), made("-cx16")
    assert after[1, 0].ecx == before[1, 0].ecx & ~CX16
    assert {k: v for k, v in after.items() if k != (1, 0)} == {
        k: v for k, v in before.items() if k != (1, 0)
    }


def test_xsave_goes_with_what_needs_it_and_with_its_leaf() -> None:
    table = made("-xsave")
    assert table[1, 0].ecx & (XSAVE | OSXSAVE | AVX) == 0
    assert table[1, 0].ecx & CX16
    assert table[7, 0].ebx == FSGSBASE
    assert table[7, 0].ecx == 0
    assert not [where for where in table if where[0] == 0xD]


def test_hiding_avx_takes_its_component_out_of_the_xsave_leaf() -> None:
    table = made("-avx")
    assert table[0xD, 0].eax == 0x203
    assert (0xD, 2) not in table
    assert (0xD, 9) in table
    assert table[0xD, 0].ecx == 0x988
    assert table[1, 0].ecx & XSAVE


def test_hiding_protection_keys_makes_the_xsave_area_smaller() -> None:
    table = made("-pku")
    assert table[7, 0].ecx == 0
    assert table[0xD, 0].eax == 0x7
    assert table[0xD, 0].ecx == 0x340


def test_a_leaf_without_its_feature_is_not_shown() -> None:
    host = [e for e in HOST if e.function != 1]
    host.append(CpuidEntry(1, edx=FPU))
    assert not [e for e in filter_cpuid(host) if e.function == 0xD]


def test_amd_s_second_copy_of_a_bit_goes_too() -> None:
    assert made()[0x8000_0001, 0].edx & MMX
    assert made("-mmx")[0x8000_0001, 0].edx == LM | NX | FPU


def test_svm_goes_with_its_leaf_s_features() -> None:
    table = made("-svm")
    assert table[0x8000_0001, 0].ecx == TOPOEXT
    assert table[0x8000_000A, 0][3:] == (0, 0, 0, 0)


def test_the_leaves_of_topology_go_with_their_feature() -> None:
    table = made("-topoext", index=1, cpus=2)
    for where in ((0x8000_001D, 0), (0x8000_001D, 1), (0x8000_001E, 0)):
        assert table[where][3:] == (0, 0, 0, 0)
    assert made(index=1, cpus=2)[0x8000_001E, 0].eax == 1


def test_several_cores_are_told_where_there_are_some() -> None:
    assert not made()[0x8000_0001, 0].ecx & CMP_LEGACY
    assert made(cpus=2)[0x8000_0001, 0].ecx & CMP_LEGACY


def test_the_guest_is_told_that_it_is_one() -> None:
    assert made()[1, 0].ecx & HYPERVISOR
    assert not made("-hypervisor")[1, 0].ecx & HYPERVISOR


def test_a_demand_that_is_met_changes_nothing() -> None:
    assert made("+avx,+cx16,+hypervisor") == made()


def test_a_demand_that_is_not_met_is_named() -> None:
    with pytest.raises(ConfigError, match=r"\+avx512f: KVM on this host does not support it"):
        made("+avx512f")


def test_a_demand_that_contradicts_is_named() -> None:
    with pytest.raises(ConfigError, match=r"\+avx2: needs xsave, which -xsave hides"):
        made("-xsave,+avx2")


def test_without_a_local_apic_nothing_that_needs_one() -> None:
    (one,) = [e for e in filter_cpuid(HOST, lapic=False) if e.function == 1]
    assert not one.ecx & (X2APIC | DEADLINE)
    assert made()[1, 0].ecx & (X2APIC | DEADLINE) == X2APIC | DEADLINE
    without = {e.function: e for e in filter_cpuid(HOST, lapic=False)}
    assert made()[0x4000_0001, 0].eax == 0x0100_7EFB
    # clock, I/O delay, steal time, TLB flush and polling remain
    assert without[0x4000_0001].eax == 0x0100_122B
    with pytest.raises(ConfigError, match=r"\+x2apic: needs a local APIC"):
        filter_cpuid(HOST, parse_features("+x2apic"), lapic=False)


def test_one_processor() -> None:
    table = made()
    assert table[1, 0].ebx == 0x0001_0800
    assert not table[1, 0].edx & HT
    assert table[4, 0].eax == 0x0000_0121
    assert table[0x8000_0008, 0].ecx == 0
    assert table[0x8000_001E, 0].eax == 0


def test_the_third_of_six_processors() -> None:
    table = made(index=2, cpus=6)
    assert table[1, 0].ebx == 0x0206_0800
    assert table[1, 0].edx & HT
    assert table[4, 0].eax >> 26 == 5
    assert table[4, 0].ebx == 0x01C0_003F
    assert table[4, 2].eax == 0
    levels = [table[0xB, level] for level in range(3)]
    assert [e.edx for e in levels] == [2, 2, 2]
    assert [e.eax for e in levels] == [0, 3, 0]  # 6 cores need 3 bits
    assert [e.ebx for e in levels] == [1, 6, 0]
    assert [e.ecx for e in levels] == [0x100, 0x201, 2]
    assert {e.flags for e in levels} == {SUBLEAF}
    assert (0x1F, 0) not in table
    assert table[0x8000_0008, 0].ecx == 5 | 3 << 12
    assert table[0x8000_001E, 0].eax == 2


@pytest.mark.parametrize("leaf", [4, 0x8000_001D])
def test_who_shares_a_cache(leaf: int) -> None:
    """EAX bits 14 to 25: the processors that share it, less one."""

    def sharing(cpus: int) -> list[int]:
        table = made(cpus=cpus)
        return [table[leaf, subleaf].eax >> 14 & 0xFFF for subleaf in range(3)]

    assert sharing(1) == [0, 0, 0]
    assert sharing(6) == [0, 5, 0]  # the third level is all cores'; nothing is said of no cache
    assert made(cpus=6)[0x8000_001D, 1].eax == 0x0001_4163


def test_many_processors_do_not_overflow() -> None:
    table = made(index=299, cpus=300)
    assert table[1, 0].ebx == (299 & 0xFF) << 24 | 255 << 16 | 0x0800
    assert table[0xB, 1].edx == 299
    assert table[0xB, 1].ebx == 300
    assert all(
        0 <= value < 1 << 32 for e in table.values() for value in (e.eax, e.ebx, e.ecx, e.edx)
    )


def test_the_host_s_table_is_left_alone() -> None:
    before = list(HOST)
    made("-xsave,-mmx", index=3, cpus=4)
    assert before == HOST


def test_names_in_order() -> None:
    names = feature_names(HOST)
    assert names[:5] == ["fpu", "mmx", "sse", "sse2", "ht"]
    assert {"cx16", "avx2", "pku", "xsaves", "nx", "lm", "svm", "npt"} <= set(names)
    assert "avx512f" not in names
    assert feature_names([]) == []


@given(st.sets(st.sampled_from(sorted(FEATURES))))
def test_what_is_hidden_is_gone_with_its_dependents(hidden: set[str]) -> None:
    left = set(feature_names(filter_cpuid(HOST, FeatureMask(hidden=frozenset(hidden)))))
    assert not left & {name for asked in hidden for name in dependents_of(asked)}
    assert left <= set(feature_names(HOST)) | {"hypervisor"}
