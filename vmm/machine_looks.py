"""Looking at a machine: registers, names, counters, the trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kvm_bindings.stats import Counter
    from vmm.counts import ExitCounts
    from vmm.cpustate import CpuState
    from vmm.hardware import Hardware
    from vmm.registers import RegisterView
    from vmm.result import RunResult
    from vmm.run import RunControl
    from vmm.symbols import Symbols
    from vmm.trace.trace import Trace
    from vmm.vcpu import Vcpu

__all__ = ["MachineLooks"]


class MachineLooks:
    """The part of a machine that tells how it is."""

    if TYPE_CHECKING:
        _control: RunControl
        _hardware: Hardware
        symbol_source: Callable[[], Symbols | None]
        trace: Trace | None

        @property
        def last_result(self) -> RunResult | None:
            """How the last run ended."""

        def _open(self) -> Hardware: ...
        def _standing(self) -> Vcpu: ...

    @property
    def regs(self) -> RegisterView:
        """The first vCPU's general registers. Before a run or between runs."""
        return self._standing().regs

    @property
    def sregs(self) -> RegisterView:
        """The first vCPU's segment and control registers. Before a run or between runs."""
        return self._standing().sregs

    @cached_property
    def symbols(self) -> Symbols | None:
        """Names for the guest's addresses, where its image or a file given beside it has any."""
        return self.symbol_source()

    def last_seen(self, vcpu: int) -> CpuState | None:
        """A vCPU's state before its last exit, on hosts that lose the state of a guest's death."""
        return self._hardware.last_seen(vcpu)

    def count_exits(self) -> ExitCounts:
        """Count exits from now on, by reason and address."""
        from vmm.counts import ExitCounts

        counts = ExitCounts()
        self._control.harvest = counts.add
        return counts

    def kvm_stats(self) -> dict[str, dict[str, int | tuple[int, ...]]]:
        """The kernel's counters: "vm", "vcpu0" and so on, each by name; empty where this kernel
        has none."""
        return {name: stats.read() for name, stats in self._open().stats().items()}

    def kvm_counters(self) -> dict[str, tuple[Counter, ...]]:
        """What these counters are: their kinds and units."""
        return {name: stats.counters for name, stats in self._open().stats().items()}

    def save_trace(self, path: str) -> None:
        """Write the last exits, with the machine's description, to a file for `vmm trace`.

        Raises:
            ConfigError: it cannot be written, or the machine keeps no trace.
        """
        if self.trace is None:
            raise ConfigError("this machine keeps no trace; make it without trace=False")
        result = self.last_result
        self.trace.save(path, None if result is None else result.facts())
