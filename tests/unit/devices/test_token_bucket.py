"""Rate limits, by a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.token_bucket import RateLimit, TokenBucket

SECOND = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.ns = 5 * SECOND

    def __call__(self) -> int:
        return self.ns


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(10, 3, clock=clock)
    for _ in range(3):
        assert bucket.wait_ns() == 0
        bucket.take(1)
    wait = bucket.wait_ns()
    assert 0 < wait <= SECOND // 10
    clock.ns += wait
    assert bucket.wait_ns() == 0


def test_what_is_larger_than_the_bucket_passes_and_is_paid_for() -> None:
    clock = Clock()
    bucket = TokenBucket(100, 10, clock=clock)
    assert bucket.wait_ns() == 0
    bucket.take(210)
    wait = bucket.wait_ns()
    assert 2 * SECOND <= wait <= 2 * SECOND + 2
    clock.ns += wait - 2
    assert bucket.wait_ns() > 0
    clock.ns += 2
    assert bucket.wait_ns() == 0


def test_a_long_rest_fills_it_no_more_than_full() -> None:
    clock = Clock()
    bucket = TokenBucket(10, 2, clock=clock)
    clock.ns += 1000 * SECOND
    bucket.wait_ns()
    bucket.take(2)
    assert bucket.wait_ns() > 0


def test_a_limit_on_both_waits_for_the_slower() -> None:
    clock = Clock()
    limit = RateLimit(TokenBucket(10, 1, clock=clock), TokenBucket(1000, 1000, clock=clock))
    limit.take(500)
    assert 0 < limit.wait_ns() <= SECOND // 10
    limit.take(3500)
    assert 3 * SECOND <= limit.wait_ns() <= 3 * SECOND + 2
    assert RateLimit().wait_ns() == 0


@pytest.mark.parametrize(("rate", "burst"), [(0, None), (1, 0), (-5, 1)])
def test_no_limit_of_nothing(rate: int, burst: int | None) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TokenBucket(rate, burst)


@given(
    st.integers(1, 10**12),
    st.integers(1, 10**9),
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, SECOND)), min_size=1, max_size=50),
)
def test_the_rate_is_kept_over_time(rate: int, burst: int, steps: list[tuple[int, int]]) -> None:
    clock = Clock()
    start = clock.ns
    bucket = TokenBucket(rate, burst, clock=clock)
    taken = last = 0
    for amount, pause in steps:
        clock.ns += pause + bucket.wait_ns()
        clock.ns += bucket.wait_ns()
        assert bucket.wait_ns() == 0
        bucket.take(amount)
        taken, last = taken + amount, amount
    # Whoever waits as told has had no more than the burst and the time's worth, and one debt.
    assert (taken - last - burst) * SECOND <= (clock.ns - start) * rate
