from __future__ import annotations

import pytest

from vmm.tui import format as f


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1,000"), (999_999, "999,999"), (1_000_000, "1.00M"),
     (12_345_678, "12.3M"), (999_499_999, "999M"), (999_500_000, "1.00G"), (5 * 10**12, "5.00T")],
)  # fmt: skip
def test_counts(value, text):
    assert f.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "-"), (-1, "-"), (0.04, "0.0"), (0.36, "0.4"), (9.94, "9.9"), (9.96, "10"), (812, "812"),
     (999.4, "999"), (999.6, "1.00k"), (73_123, "73.1k"), (1_234_567, "1.23M")],
)  # fmt: skip
def test_rates(value, text):
    assert f.rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0ns"), (999, "999ns"), (999.6, "1.00µs"), (13_240, "13.2µs"),
     (1_054_000, "1.05ms"), (999_600_000, "1.00s"), (12_300_000_000, "12.3s"),
     (119_000_000_000, "119s"), (121_000_000_000, "2m01s"), (3_599_000_000_000, "59m59s"),
     (11_100_000_000_000, "3h05m")],
)  # fmt: skip
def test_durations(value, text):
    assert f.duration(value) == text


def test_durations_never_grow_wider_than_their_column():
    value = 1.0
    while value < 3600e9 * 99:
        assert len(f.duration(value)) <= 6
        value *= 1.0137


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.000000"), (12_345_678_901, "12.345678"), (99_999_999_999, "99.999999"),
     (100_000_000_000, "1:40.000"), (3_723_456_000_000, "1:02:03.456")],
)  # fmt: skip
def test_clocks(value, text):
    assert f.clock(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "-"), (0.0004, "<0.1%"), (0.123, "12.3%"), (0.9996, "100%"), (1.0, "100%")],
)
def test_shares(value, text):
    assert f.percent(value) == text


def test_sparklines_show_the_newest_at_the_right():
    assert f.sparkline([0, 1, 4, 8], 4) == " ▁▄█"
    assert f.sparkline([8, 0, 0], 2) == "  "
    assert f.sparkline([8], 3) == "  █"
    assert f.sparkline([1], 2, top=8) == " ▁"
    assert f.sparkline([0.001, 8], 2) == "▁█"
    assert f.sparkline([], 2) == "  "


def test_bars():
    assert f.bar(0, 4) == "    "
    assert f.bar(0.0001, 4) == "▏   "
    assert f.bar(0.5, 4) == "██  "
    assert f.bar(0.53125, 4) == "██▏ "
    assert f.bar(2.0, 4) == "████"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1023, "1023"), (1024, "1K"), (1536, "1.5K"), (64 << 20, "64M")]
)
def test_sizes(size, text):
    assert f.bytes_text(size) == text
