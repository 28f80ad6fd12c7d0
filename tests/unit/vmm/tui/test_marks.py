from __future__ import annotations

from vmm.tui.marks import Mark, difference


def test_the_greatest_difference_comes_first_and_nothing_is_left_out_that_moved():
    first = Mark(1_000_000_000, {"exits: IO": 10, "exits: HLT": 3, "exits: MMIO": 5})
    second = Mark(3_000_000_000, {"exits: IO": 20, "exits: HLT": 503, "exits: MMIO": 5,
                                  "time: IO": 1_000_000_000})  # fmt: skip
    head, exits, times = difference(first, second)
    assert head.lines == ("2.00s lie between the marks",)
    assert [line.split() for line in exits.lines] == [
        ["HLT", "+", "500", "250/s"],
        ["IO", "+", "10", "5.0/s"],
    ]
    assert [line.split() for line in times.lines] == [["IO", "+", "1.00s", "50.0%"]]


def test_the_order_of_the_marks_does_not_matter():
    first, second = Mark(5, {"exits: IO": 1}), Mark(9, {"exits: IO": 2})
    assert difference(second, first) == difference(first, second)


def test_no_difference_is_told():
    mark = Mark(5, {"exits: IO": 1})
    assert difference(mark, mark)[-1].lines == ("nothing happened",)
