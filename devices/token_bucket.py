"""Rate limits: so much a second, and so much at once.

A bucket fills with tokens as time passes, up to its size. Whoever takes more than there are goes
into debt and has to wait until it is paid; so a request that is larger than the bucket passes too,
and the rate is kept over time.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.wiring import Clock

__all__ = ["RateLimit", "TokenBucket"]

_SECOND_NS = 1_000_000_000


class TokenBucket:
    """A bucket of `rate` tokens a second that holds `burst` of them, and is full at first.

    Raises:
        ValueError: a rate or a size below 1.
    """

    def __init__(
        self, rate: int, burst: int | None = None, *, clock: Clock = time.monotonic_ns
    ) -> None:
        self.rate = rate
        self.burst = rate if burst is None else burst
        if self.rate < 1 or self.burst < 1:
            raise ValueError("a rate limit is at least 1 a second, and at least 1 at once")
        self._clock = clock
        # In tokens times nanoseconds, so that nothing is lost to rounding.
        self._level = self.burst * _SECOND_NS
        self._filled_ns = clock()

    def wait_ns(self) -> int:
        """How long until something may be taken, in nanoseconds; 0: now."""
        now = self._clock()
        self._level += (now - self._filled_ns) * self.rate
        self._filled_ns = now
        self._level = min(self._level, self.burst * _SECOND_NS)
        return 0 if self._level > 0 else -(self._level - 1) // self.rate + 1

    def take(self, amount: int) -> None:
        """Take tokens, whether there are any or not."""
        self._level -= amount * _SECOND_NS


class RateLimit:
    """A limit on operations, on bytes, or on both."""

    def __init__(self, ops: TokenBucket | None = None, size: TokenBucket | None = None) -> None:
        self._ops = ops
        self._bytes = size

    def wait_ns(self) -> int:
        """How long until the next operation may be done, in nanoseconds; 0: now."""
        return max((bucket.wait_ns() for bucket in (self._ops, self._bytes) if bucket), default=0)

    def take(self, size: int) -> None:
        """One operation of `size` bytes was done."""
        if self._ops is not None:
            self._ops.take(1)
        if self._bytes is not None:
            self._bytes.take(size)
