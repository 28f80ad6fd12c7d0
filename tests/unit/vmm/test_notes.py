"""What befell a machine."""

from __future__ import annotations

from vmm.notes import Notes


def test_notes_are_kept_and_told_as_they_come() -> None:
    notes, told = Notes(), list[str]()
    notes.add("one")
    notes.takers.append(told.append)
    notes.add("two")
    assert (list(notes), told) == (["one", "two"], ["two"])
