"""Why the processor left the guest, by name: what the tracepoint kvm:kvm_exit calls exit_reason.

These are the processor's own reasons, of which user space sees a few. Names are the manuals',
without the prefix VMEXIT_.

Spec: AMD64 APM vol. 2, "SVM Intercept Exit Codes"; Intel SDM vol. 3, "VMX Basic Exit Reasons".
"""

from __future__ import annotations

__all__ = ["ISA_SVM", "ISA_VMX", "SVM_EXITS", "VMX_EXITS", "hardware_exit_name"]

ISA_VMX, ISA_SVM = 1, 2
"""The tracepoint's field `isa`: which of the two sets the reason is from."""

_EXCEPTIONS = (
    *("#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP", "#SS"),
    *("#GP", "#PF", "15", "#MF", "#AC", "#MC", "#XF", "20", "#CP", "22", "23", "24", "25", "26"),
    *("27", "#HV", "#VC", "#SX", "31"),
)


def _from(first: int, *names: str) -> dict[int, str]:
    return {first + n: name for n, name in enumerate(names) if name}


SVM_EXITS: dict[int, str] = {
    **_from(0x00, *(f"CR{n}_READ" for n in range(16))),
    **_from(0x10, *(f"CR{n}_WRITE" for n in range(16))),
    **_from(0x20, *(f"DR{n}_READ" for n in range(16))),
    **_from(0x30, *(f"DR{n}_WRITE" for n in range(16))),
    **_from(0x40, *(f"EXCP {name}" for name in _EXCEPTIONS)),
    **_from(
        0x60,
        *("INTR", "NMI", "SMI", "INIT", "VINTR", "CR0_SEL_WRITE"),
        *("IDTR_READ", "GDTR_READ", "LDTR_READ", "TR_READ"),
        *("IDTR_WRITE", "GDTR_WRITE", "LDTR_WRITE", "TR_WRITE"),
        *("RDTSC", "RDPMC", "PUSHF", "POPF", "CPUID", "RSM", "IRET", "SWINT", "INVD", "PAUSE"),
        *("HLT", "INVLPG", "INVLPGA", "IOIO", "MSR", "TASK_SWITCH", "FERR_FREEZE", "SHUTDOWN"),
        *("VMRUN", "VMMCALL", "VMLOAD", "VMSAVE", "STGI", "CLGI", "SKINIT", "RDTSCP", "ICEBP"),
        *("WBINVD", "MONITOR", "MWAIT", "MWAIT_CONDITIONAL", "XSETBV", "RDPRU"),
        "EFER_WRITE_TRAP",
    ),
    **_from(0x90, *(f"CR{n}_WRITE_TRAP" for n in range(16))),
    **_from(
        0xA0,
        *("INVLPGB", "INVLPGB_ILLEGAL", "INVPCID", "MCOMMIT", "TLBSYNC", "BUSLOCK", "IDLE_HLT"),
    ),
    **_from(0x400, "NPF", "AVIC_INCOMPLETE_IPI", "AVIC_NOACCEL", "VMGEXIT"),
    0xFFFF_FFFF: "INVALID",
}
"""SVM's exit codes; the tracepoint has the low 32 bits of them."""

VMX_EXITS: dict[int, str] = _from(
    0,
    *("EXCEPTION_NMI", "EXTERNAL_INTERRUPT", "TRIPLE_FAULT", "INIT_SIGNAL", "SIPI_SIGNAL"),
    *("IO_SMI", "OTHER_SMI", "INTERRUPT_WINDOW", "NMI_WINDOW", "TASK_SWITCH"),
    *("CPUID", "GETSEC", "HLT", "INVD", "INVLPG", "RDPMC", "RDTSC", "RSM", "VMCALL", "VMCLEAR"),
    *("VMLAUNCH", "VMPTRLD", "VMPTRST", "VMREAD", "VMRESUME", "VMWRITE", "VMXOFF", "VMXON"),
    *("CR_ACCESS", "DR_ACCESS", "IO_INSTRUCTION", "MSR_READ", "MSR_WRITE", "INVALID_STATE"),
    *("MSR_LOAD_FAIL", "", "MWAIT", "MONITOR_TRAP_FLAG", "", "MONITOR", "PAUSE"),
    *("MCE_DURING_VMENTRY", "", "TPR_BELOW_THRESHOLD", "APIC_ACCESS", "EOI_INDUCED"),
    *("GDTR_IDTR", "LDTR_TR", "EPT_VIOLATION", "EPT_MISCONFIG", "INVEPT", "RDTSCP"),
    *("PREEMPTION_TIMER", "INVVPID", "WBINVD", "XSETBV", "APIC_WRITE", "RDRAND", "INVPCID"),
    *("VMFUNC", "ENCLS", "RDSEED", "PML_FULL", "XSAVES", "XRSTORS", "", "", "UMWAIT", "TPAUSE"),
    *("", "", "", "", "", "BUS_LOCK", "NOTIFY"),
)
"""VMX's basic exit reasons."""

_BASIC = 0xFFFF
_FAILED_ENTRY = 1 << 31


def hardware_exit_name(isa: int, reason: int) -> str:
    """The name of a hardware exit; its number where the manuals had no name for it yet.

    Args:
        isa: the tracepoint's field of that name.
        reason: the exit reason, 32 bits.
    """
    if isa == ISA_SVM:
        return SVM_EXITS.get(reason, f"exit code {reason:#x}")
    if isa == ISA_VMX:
        name = VMX_EXITS.get(reason & _BASIC, f"exit reason {reason & _BASIC}")
        return f"{name} (entry failed)" if reason & _FAILED_ENTRY else name
    return f"exit {reason:#x}"  # a backend of its own: neither manual is its
