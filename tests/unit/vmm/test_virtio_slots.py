from __future__ import annotations

from vmm.virtio_slots import SLOTS


def test_slots_lie_side_by_side_in_the_hole_below_4_gib():
    assert [slot.number for slot in SLOTS] == list(range(14))
    assert [slot.gpa for slot in SLOTS] == [0xD000_0000 + n * 0x1000 for n in range(14)]
    assert {slot.size for slot in SLOTS} == {0x1000}


def test_no_line_is_shared_or_taken_by_the_pc():
    lines = [slot.gsi for slot in SLOTS]
    assert lines[:8] == list(range(16, 24))
    assert len(set(lines)) == len(lines)
    assert not set(lines) & {0, 1, 2, 4, 8, 9, 12, 13, 14, 15}
