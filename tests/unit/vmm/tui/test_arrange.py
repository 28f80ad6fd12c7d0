"""No pane overlaps another, none leaves the terminal, and nothing is left unused."""

from __future__ import annotations

import itertools

import pytest

from vmm.tui.arrange import PANES, Rect, arrange

SIZES = [(80, 22), (80, 40), (100, 29), (109, 60), (110, 22), (110, 30), (120, 38), (167, 50),
         (168, 30), (200, 58), (200, 22), (400, 120)]  # fmt: skip


def cells(rect: Rect) -> set[tuple[int, int]]:
    return set(
        itertools.product(range(rect.x, rect.x + rect.width), range(rect.y, rect.y + rect.height))
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("screen", [False, True])
@pytest.mark.parametrize("live", [False, True])
def test_panes_share_the_terminal(size, screen, live):
    width, height = size
    rects = arrange(width, height, screen=screen, live=live)
    assert rects.keys() <= set(PANES)
    assert {"reasons", "log"} < rects.keys()
    taken: set[tuple[int, int]] = set()
    for name, rect in rects.items():
        assert rect.height >= 5, name
        assert not taken & cells(rect), name
        taken |= cells(rect)
    assert taken <= cells(Rect(0, 0, width, height))
    # Gaps between columns, and the place beside a recording's console.
    assert len(taken) >= (0.97 if live else 0.8) * width * height


@pytest.mark.parametrize("size", SIZES)
def test_a_text_screen_gets_a_place_where_there_is_one(size):
    assert "screen" not in arrange(*size)
    assert arrange(*size, screen=True)["screen"].width >= 80


@pytest.mark.parametrize("size", SIZES)
def test_a_console_has_80_columns(size):
    assert arrange(*size)["console"].width >= 80


@pytest.mark.parametrize(("width", "height"), [*itertools.product((1, 5, 30, 79), (-2, 0, 3, 10))])
def test_no_size_raises(width, height):
    assert "reasons" in arrange(width, height)
