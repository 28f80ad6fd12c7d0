from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vmm.explain import disassembly
from vmm.explain.disassembly import around_rip, at_rip, lines_around_rip

pytest.importorskip("capstone")


@pytest.mark.parametrize(
    ("mode", "code", "text"),
    [
        ("real", "b8 34 12", "mov ax, 0x1234"),
        ("protected", "b8 78 56 34 12", "mov eax, 0x12345678"),
        ("long", "48 0f c7 0f", "cmpxchg16b xmmword ptr [rdi]"),
    ],
)
def test_the_mode_chooses_the_width(guest: Any, mode: str, code: str, text: str) -> None:
    guest.code(code)
    data, instruction = at_rip(getattr(guest, mode)(), guest.read)
    assert data.hex(" ").startswith(code)
    assert f"{instruction.mnemonic} {instruction.op_str}" == text


def test_rip_is_marked_and_code_before_it_found(guest: Any) -> None:
    # mov eax, 1; mov ecx, 2; add eax, ecx; ud2
    guest.code("b8 01 00 00 00 b9 02 00 00 00 01 c8 0f 0b")
    lines = around_rip(guest.protected(rip=0x100C), guest.read, before=3)
    current = next(n for n, line in enumerate(lines) if line.current)
    assert [line.text for line in lines[: current + 1]] == [
        "mov eax, 1", "mov ecx, 2", "add eax, ecx", "ud2",
    ]  # fmt: skip
    assert lines[current].address == 0x100C
    assert sum(line.current for line in lines) == 1


def test_text_has_no_zeroed_memory(guest: Any) -> None:
    guest.code("90 f4")
    lines = lines_around_rip(guest.real(), guest.read)
    assert lines[0].startswith("-> 0000:1000  90 ")
    assert "hlt" in lines[1]
    assert len(lines) == 3  # one line of zeros says enough


def test_what_is_no_instruction_is_said(guest: Any) -> None:
    guest.code("90 ff ff ff ff ff ff ff ff")
    texts = [line.text for line in around_rip(guest.protected(), guest.read)]
    assert texts[-1] == "(no valid instruction)"
    lines = around_rip(guest.protected(rip=0x1001), guest.read, before=0)
    assert [(line.text, line.current) for line in lines] == [("(no valid instruction)", True)]


def test_rip_in_no_memory_gives_no_lines(guest: Any) -> None:
    assert lines_around_rip(guest.protected(rip=0xF000_0000), guest.read) == []


def test_rip_at_the_first_byte_of_memory(guest: Any) -> None:
    guest.write(0, b"\xf4")
    assert around_rip(guest.protected(rip=0), guest.read)[0].text == "hlt"


def test_a_page_before_rip_that_is_not_there(guest: Any) -> None:
    state = guest.long()
    guest.u64(guest.PD, guest.PT | 7)
    guest.u64(guest.PT + 8, 0x1000 | 7)
    guest.code("90 0f 0b")
    lines = around_rip(replace(state, rip=0x1001), guest.read)
    assert [line.text for line in lines[:2]] == ["nop", "ud2"]


def test_without_capstone_there_are_bytes(guest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disassembly, "_decoder", lambda bits: None)
    guest.code("0f 0b 90")
    lines = lines_around_rip(guest.protected(), guest.read)
    assert lines[0].startswith("-> 00001000  0f 0b 90")
    assert "capstone is not installed" in lines[0]
    assert at_rip(guest.protected(), guest.read)[1] is None
