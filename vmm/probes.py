"""How fast guests run here: three tiny guests, a few milliseconds each.

Backends differ by a factor of a thousand: kvm_pvm runs ring 0 through KVM's instruction emulator
and ring 3 natively. The figures say which one a user is on more plainly than a name does; they
are rough, and nothing but the doctor's words depends on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vmm.errors import VmmError
from vmm.loader.plan import Mode
from vmm.machine import Machine

__all__ = ["Speed", "measure"]

_CODE = 0x1000
_DONE = 0x80
_EXIT = 0x90
_ENOUGH_S = 0.003
_FEW, _MOST = 128, 1 << 28

# dec ecx; jnz -4; out 0x80, al
_REAL_LOOP = bytes.fromhex("66 49 75 fc e6 80")
_LONG_LOOP = bytes.fromhex("ff c9 75 fc e6 80")
# out 0x90, al; dec ecx; jnz -6; out 0x80, al (real mode: kvm_pvm leaves ring 3 more slowly)
_EXIT_LOOP = bytes.fromhex("e6 90 66 49 75 fa e6 80")


@dataclass(frozen=True, slots=True)
class Speed:
    """Rates a second, rounded; None where the guest did not get through."""

    ring0: int | None = None
    """Instructions in real mode, ring 0."""
    ring3: int | None = None
    """Instructions in long mode, ring 3."""
    exits: int | None = None
    """Port writes that a Python function handles."""
    errors: tuple[str, ...] = ()
    """What went wrong, one line each."""


def measure(make: Callable[[], Machine] | None = None) -> Speed:
    """Run the three guests. `make` builds a machine of 2 MiB (the default: `Machine`).

    Never raises for what KVM or the guest does: that ends up in `errors`.
    """
    build = make or Machine
    errors: list[str] = []

    def rate(what: str, code: bytes, mode: Mode, cpl: int, events: int) -> int | None:
        try:
            return _rate(build, code, mode, cpl, events)
        except (VmmError, OSError) as error:
            errors.append(f"{what}: {error}")
            return None

    return Speed(
        ring0=rate("ring 0", _REAL_LOOP, "real", 0, 2),
        ring3=rate("ring 3", _LONG_LOOP, "long", 3, 2),
        exits=rate("exits", _EXIT_LOOP, "real", 0, 1),
        errors=tuple(errors),
    )


def _rate(build: Callable[[], Machine], code: bytes, mode: Mode, cpl: int, events: int) -> int:
    """Run `code` with RCX = a count, longer and longer until it takes some milliseconds.

    `events` is how many there are for each count.
    """
    with build() as machine:
        machine.memory.write(_CODE, code)
        machine.on_out(_EXIT)(lambda value, size: None)
        machine.on_out(_DONE)(lambda value, size: machine.stop())

        def run(count: int) -> float:
            machine.start_at(_CODE, mode=mode, cpl=cpl)
            machine.regs.rcx = count
            result = machine.run(timeout=2.0)
            if result.reason != "stopped":
                raise VmmError(f"the probe did not finish: {result.summary()}")
            return max(result.seconds, 1e-9)

        count = _FEW
        while True:
            # The best of three: on a busy host one run may wait for its turn.
            seconds = min(run(count) for _ in range(3))
            if seconds >= _ENOUGH_S or count >= _MOST:
                return round(count * events / seconds)
            # What a run costs besides is about 0.2 ms, so a short one says little.
            count = min(count * 8, _MOST)
