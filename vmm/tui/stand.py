"""Where a vCPU stands: its state out of a control answer, the code, the stack, the page walk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from devices.wiring import GuestAddressError
from kvm_bindings import constants as c
from kvm_bindings.structs.registers import kvm_regs, kvm_sregs
from vmm.control.protocol import ControlError, from_text
from vmm.cpustate import CpuState, register_lines
from vmm.explain.disassembly import at_rip, lines_around_rip
from vmm.explain.names import name_of
from vmm.explain.page_walk import read_linear, walk
from vmm.symbols import Symbols
from vmm.tui.decoding import hex_lines
from vmm.tui.source import CpuView, Section

__all__ = ["GuestReader", "cpu_view", "sections_of", "state_of"]

Call = Callable[..., dict[str, Any]]

_PAGE = 4096
_STACK_BYTES = 128
_ACTIVITIES = {
    c.KVM_MP_STATE_RUNNABLE: "",
    c.KVM_MP_STATE_UNINITIALIZED: "waits for INIT and SIPI",
    c.KVM_MP_STATE_INIT_RECEIVED: "waits for SIPI",
    c.KVM_MP_STATE_HALTED: "halted",
    c.KVM_MP_STATE_SIPI_RECEIVED: "starts",
    c.KVM_MP_STATE_STOPPED: "stopped",
}


class GuestReader:
    """Guest memory over a control socket, a page at a time, remembered for one look."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._pages: dict[int, bytes] = {}

    def __call__(self, gpa: int, size: int) -> bytes:
        """Read `size` bytes.

        Raises:
            GuestAddressError: some of it is not in guest memory.
        """
        data = bytearray()
        while len(data) < size:
            page, offset = divmod(gpa + len(data), _PAGE)
            data += self._page(page)[offset : offset + size - len(data)]
        return bytes(data)

    def _page(self, number: int) -> bytes:
        if number not in self._pages:
            try:
                answer = self._call("memory", gpa=number * _PAGE, size=_PAGE)
            except ControlError as error:
                raise GuestAddressError(str(error)) from None
            self._pages[number] = from_text(answer["data"])
        return self._pages[number]


def state_of(answer: dict[str, Any]) -> CpuState:
    """A vCPU's state out of what `registers` says of it."""
    regs = kvm_regs.from_buffer_copy(from_text(answer["regs"]))
    return CpuState.from_kvm(regs, kvm_sregs.from_buffer_copy(from_text(answer["sregs"])))


def cpu_view(
    index: int, answer: dict[str, Any], read: GuestReader, symbols: Symbols | None
) -> CpuView:
    """What the vCPU pane shows."""
    state = state_of(answer)
    _, instruction = at_rip(state, read)
    said = "" if instruction is None else f"{instruction.mnemonic} {instruction.op_str}".strip()
    mp_state = int(answer["mp_state"])
    activity = _ACTIVITIES.get(mp_state, f"MP state {mp_state}")
    return CpuView(index, state, activity, name_of(symbols, state, state.rip), said)


def sections_of(
    state: CpuState, read: GuestReader, symbols: Symbols | None, *, when: str
) -> list[Section]:
    """Code, stack, page walk and registers of a vCPU; `when` says of which moment."""

    def name(rip: int) -> str:
        return name_of(symbols, state, rip)

    sections = [
        Section(f"code around RIP, {when}", tuple(lines_around_rip(state, read, 6, 8, name)))
    ]
    top = state.linear_rsp
    stack = read_linear(state, read, top, _STACK_BYTES)
    lines = hex_lines(stack, top) or [f"{top:#x} is not in memory"]
    sections.append(Section(f"stack, {when}", tuple(lines)))
    if state.paging != "off":
        walked = walk(state, read, state.linear_rip, "execute")
        sections.append(Section("page walk of RIP", tuple(walked.lines())))
    sections.append(Section(f"registers, {when}", tuple(register_lines(state))))
    return sections
