"""Processor features by name: which bit of CPUID each is, and which need which.

Names are those of Linux's /proc/cpuinfo; QEMU's spelling is understood too. A word of feature
bits is written as the names of its bits from 0 on, with "." for a bit without a name.

Spec: AMD64 APM vol. 3, "CPUID Feature Numbers" (appendix E); Intel SDM vol. 2, "CPUID"; KVM's
own leaves in the kernel's "KVM CPUID bits".
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from functools import cache

from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    Register: TypeAlias = Literal["eax", "ebx", "ecx", "edx"]
else:
    Register = str

__all__ = [
    "DEPENDENTS",
    "FEATURES",
    "NAMED_BITS",
    "Feature",
    "dependents_of",
    "find_feature",
    "needs_of",
]


class Feature(namedtuple("Feature", "name function index register bit")):
    """Bit `bit` of `register` in leaf `function`, subleaf `index`."""

    __slots__ = ()


_WORDS: tuple[tuple[int, int, Register, str], ...] = (
    (0x1, 0, "edx", """
        fpu vme de pse tsc msr pae mce cx8 apic . sep mtrr pge mca cmov pat pse36 pn clflush .
        dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe
        """),
    (0x1, 0, "ecx", """
        pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm
        . pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx
        f16c rdrand hypervisor
        """),
    (0x6, 0, "eax", "dtherm ida arat . pln . pts hwp"),
    (0x7, 0, "ebx", """
        fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm
        zero_fcs_fds mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma . clflushopt clwb
        intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl
        """),
    (0x7, 0, "ecx", """
        prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq
        avx512_vnni avx512_bitalg tme avx512_vpopcntdq . la57 . . . . . rdpid .
        bus_lock_detect cldemote . movdiri movdir64b enqcmd sgx_lc pks
        """),
    (0x7, 0, "edx", """
        . . avx512_4vnniw avx512_4fmaps fsrm uintr . . avx512_vp2intersect srbds_ctrl md_clear
        rtm_always_abort . tsx_force_abort serialize hybrid_cpu tsxldtrk . pconfig arch_lbr
        ibt . amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d
        arch_capabilities core_capabilities spec_ctrl_ssbd
        """),
    (0x7, 1, "eax", """
        sha512 sm3 sm4 . avx_vnni avx512_bf16 . cmpccxadd . . fzrm fsrs fsrc . . . . fred lkgs
        wrmsrns . amx_fp16 hreset avx_ifma . . lam
        """),
    (0x7, 1, "edx",
        ". . . . avx_vnni_int8 avx_ne_convert . . amx_complex . avx_vnni_int16 . . . prefetchi"),
    (0x7, 2, "edx", "intel_psfd ipred_ctrl rrsba_ctrl ddpd_u bhi_ctrl mcdt_no"),
    (0xD, 1, "eax", "xsaveopt xsavec xgetbv1 xsaves xfd"),
    (0x4000_0001, 0, "eax", """
        kvmclock kvm_nopiodelay kvm_mmu kvmclock2 kvm_asyncpf kvm_steal_time kvm_pv_eoi
        kvm_pv_unhalt . kvm_pv_tlb_flush kvm_asyncpf_vmexit kvm_pv_ipi kvm_poll_control
        kvm_pv_sched_yield kvm_asyncpf_int kvm_msi_ext_dest_id kvm_hc_map_gpa_range
        kvm_migration_control . . . . . . kvmclock_stable_bit
        """),
    (0x8000_0001, 0, "edx", """
        . . . . . . . . . . . syscall . . . . . . . mp nx . mmxext . . fxsr_opt pdpe1gb rdtscp
        . lm 3dnowext 3dnow
        """),
    (0x8000_0001, 0, "ecx", """
        lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs
        xop skinit wdt . lwp fma4 tce . nodeid_msr . tbm topoext perfctr_core perfctr_nb .
        bpext ptsc perfctr_llc mwaitx
        """),
    (0x8000_0007, 0, "ebx", "overflow_recov succor . smca"),
    (0x8000_0007, 0, "edx", ". . . . . . . . constant_tsc"),
    (0x8000_0008, 0, "ebx", """
        clzero irperf xsaveerptr . rdpru . . . . wbnoinvd . . ibpb . ibrs stibp .
        stibp_always_on . ibrs_same_mode . . . amd_ppin ssbd virt_ssbd amd_no_ssb cppc
        amd_psfd btc_no ibpb_ret
        """),
    (0x8000_000A, 0, "edx", """
        npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists . .
        pausefilter . pfthreshold avic . v_vmsave_vmload vgif . . . v_spec_ctrl . . . . vnmi
        """),
    (0x8000_0021, 0, "eax", """
        no_nested_data_bp wrmsr_xx_base_ns lfence_rdtsc . . verw_clear null_sel_clr_base . autoibrs
        no_smm_ctl_msr amd_fsrs amd_fsrc . . . . . . . . . . . . . . . sbpb ibpb_brtype srso_no
        srso_user_kernel_no srso_bp_spec_reduce
        """),
    (0x8000_0021, 0, "ecx", ". tsa_sq_no tsa_l1_no"),
)  # fmt: skip

_ALIASES = {
    "amd_ssbd": "ssbd",
    "auto_ibrs": "autoibrs",
    "avx512_ifma": "avx512ifma",
    "avx512_vbmi": "avx512vbmi",
    "avx512bitalg": "avx512_bitalg",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "cmpxchg16b": "cx16",
    "cmpxchg8b": "cx8",
    "ds": "dts",
    "ffxsr": "fxsr_opt",
    "i64": "lm",
    "invtsc": "constant_tsc",
    "kvm_pv_clock": "kvmclock",
    "lfence_always_serializing": "lfence_rdtsc",
    "lzcnt": "abm",
    "nonstop_tsc": "constant_tsc",
    "nrips": "nrip_save",
    "pclmuldq": "pclmulqdq",
    "psn": "pn",
    "sse3": "pni",
    "tsc_deadline": "tsc_deadline_timer",
    "user_shstk": "shstk",
    "xd": "nx",
}

FEATURES: dict[str, Feature] = {
    name: Feature(name, function, index, register, bit)
    for function, index, register, names in _WORDS
    for bit, name in enumerate(names.split())
    if name != "."
}
"""Every feature by its name."""

NAMED_BITS: dict[tuple[int, int, Register], int] = {
    (function, index, register): sum(
        1 << bit for bit, name in enumerate(names.split()) if name != "."
    )
    for function, index, register, names in _WORDS
}
"""The bits that have names, of each word of features."""

DEPENDENTS: dict[str, tuple[str, ...]] = {
    "fxsr": ("fxsr_opt", "sse"),
    "sse": ("sse2",),
    "sse2": ("pni", "aes", "pclmulqdq", "sha_ni", "gfni"),
    "pni": ("ssse3", "sse4a"),
    "ssse3": ("sse4_1",),
    "sse4_1": ("sse4_2",),
    "sse4_2": ("avx",),
    "aes": ("vaes",),
    "pclmulqdq": ("vpclmulqdq",),
    "mmx": ("mmxext", "3dnow"),
    "3dnow": ("3dnowext",),
    "pae": ("lm",),
    "lm": ("la57", "pdpe1gb", "lahf_lm", "pcid", "cx16"),
    "apic": ("x2apic", "tsc_deadline_timer", "extapic"),
    "tsc": ("rdtscp", "tsc_adjust", "constant_tsc", "tsc_deadline_timer"),
    "pku": ("ospke",),
    "svm": tuple(f.name for f in FEATURES.values() if f.function == 0x8000_000A),
    "xsave": (
        "osxsave", "xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd", "xsaveerptr", "avx", "pku",
        "mpx", "lwp", "amx_tile",
    ),
    "xsaves": ("shstk", "ibt", "arch_lbr"),
    "xfd": ("amx_tile",),
    "avx": ("avx2", "fma", "f16c", "fma4", "xop", "vaes", "vpclmulqdq"),
    "avx2": (
        "avx512f", "avx_vnni", "avx_ifma", "avx_vnni_int8", "avx_vnni_int16", "avx_ne_convert",
        "sha512", "sm3", "sm4",
    ),
    "avx512f": tuple(n for n in FEATURES if n.startswith("avx512") and n != "avx512f"),
    "amx_tile": ("amx_bf16", "amx_int8", "amx_fp16", "amx_complex"),
}  # fmt: skip
"""What goes with a feature when it is taken away: a guest trusts that the others imply it."""


@cache
def dependents_of(name: str) -> frozenset[str]:
    """Return the feature itself and everything that needs it, directly or not."""
    found = {name}
    for dependent in DEPENDENTS.get(name, ()):
        found |= dependents_of(dependent)
    return frozenset(found)


def needs_of(name: str) -> list[str]:
    """Return the features that this one is not shown without, directly or not."""
    return [needed for needed in DEPENDENTS if needed != name and name in dependents_of(needed)]


def find_feature(name: str) -> Feature:
    """Find a feature by name, in Linux's or QEMU's spelling and any case.

    Raises:
        ConfigError: there is none; the message has the closest names.
    """
    plain = name.strip().lower().replace("-", "_").replace(".", "_")
    feature = FEATURES.get(_ALIASES.get(plain, plain))
    if feature is None:
        raise ConfigError(f"CPU feature {name!r}: not known{_did_you_mean(plain)}")
    return feature


def _did_you_mean(name: str) -> str:
    known: Iterable[str] = [*FEATURES, *_ALIASES]
    from difflib import get_close_matches  # a name that is right need not pay for it

    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""
