"""The register table: declaration, lookup, words, and the byte lanes of a driven device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.registers import Field, Register, RegisterDevice, RegisterTable, When, bits

BYTE = st.integers(0, 0xFF)


class TestFields:
    def test_a_field_is_taken_out_and_put_in(self):
        field = Field("WLS", 4, 3)
        assert field.mask == 0b0111_0000
        assert field.get(0b1010_1111) == 0b010
        assert field.put(0b101) == 0b0101_0000
        assert field.put(0b1111) == 0b0111_0000, "bits that do not fit are cut off"

    def test_bits_declares_single_bits_ranges_and_fields(self):
        one, several, named = bits(DR=0, WLS=(3, 2), TYPE=Field("TYPE", 4, 2, {1: "fast"}))
        assert (one.name, one.low, one.width) == ("DR", 0, 1)
        assert (several.name, several.low, several.width) == ("WLS", 2, 2)
        assert named.values == {1: "fast"}

    def test_a_register_finds_its_fields(self):
        register = Register("R", 0, fields=bits(A=0, B=(3, 2)))
        assert register["B"].mask == 0b1100
        assert register.mask("A", "B") == 0b1101
        with pytest.raises(KeyError, match="R has no field C"):
            register["C"]


class TestDecode:
    REGISTER = Register(
        "LSR",
        0,
        fields=bits(DR=0, THRE=5, MODE=Field("MODE", 2, 2, {0: "idle", 2: "run"}), DIV=(7, 6)),
    )

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (0x00, "MODE=idle"),
            (0x21, "DR|THRE|MODE=idle"),
            (0x08, "MODE=run"),
            (0x04, "MODE=0x1"),
            (0xC0, "MODE=idle|DIV=0x3"),
            (0x12, "MODE=idle|0x12"),
        ],
    )
    def test_words(self, value, words):
        assert self.REGISTER.decode(value) == words

    def test_a_register_without_fields_is_a_number(self):
        assert Register("SCR", 0).decode(0x5A) == "0x5a"
        assert Register("SCR", 0).decode(0) == "0x0"

    @given(value=st.integers(0, 0xFF))
    def test_every_set_bit_is_accounted_for(self, value):
        words = self.REGISTER.decode(value).split("|")
        assert ("DR" in words) == bool(value & 1)
        assert ("THRE" in words) == bool(value & 0x20)
        assert (f"{value & 0x12:#x}" in words) == bool(value & 0x12)


class TestMerge:
    @given(old=BYTE, new=BYTE, writable=BYTE, w1c=BYTE)
    def test_bit_by_bit(self, old, new, writable, w1c):
        merged = Register("R", 0, writable=writable, w1c=w1c).merge(old, new)
        for bit in (1 << n for n in range(8)):
            if bit & w1c:
                assert merged & bit == (old & bit & ~new)
            elif bit & writable:
                assert merged & bit == new & bit
            else:
                assert merged & bit == old & bit

    def test_all_bits_are_writable_unless_said_otherwise(self):
        assert Register("R", 0, size=2).merge(0x1234, 0xFFFF) == 0xFFFF


class TestTable:
    def test_registers_by_name_and_span(self):
        a, b = Register("A", 0), Register("B", 4, size=2, reset=7)
        table = RegisterTable(a, b)
        assert list(table) == [a, b]
        assert len(table) == 2
        assert "A" in table
        assert "C" not in table
        assert table["B"] is b
        assert table.span == 6
        assert table.resets() == {"A": 0, "B": 7}

    def test_an_empty_table(self):
        assert RegisterTable().span == 0
        assert RegisterTable().at(0, write=False, values={}) is None

    def test_two_of_one_name_are_refused(self):
        with pytest.raises(ValueError, match="same name"):
            RegisterTable(Register("A", 0), Register("A", 1))

    @pytest.mark.parametrize(
        ("one", "two", "offset"),
        [
            (Register("A", 0), Register("B", 0), "0x0"),
            (Register("A", 0, size=4), Register("B", 2), "0x2"),
            (Register("A", 0, access="r"), Register("B", 0), "0x0"),
            (
                Register("A", 1, when=When("L", 0x80, 0x80)),
                Register("B", 1, when=When("L", 0xC0, 0x80)),
                "0x1",
            ),
            (Register("A", 0, size=2, exact=True), Register("B", 0, size=2, exact=True), "0x0"),
            (Register("A", 0, size=2, exact=True), Register("B", 0, size=2), "0x0"),
            (Register("A", 0, size=2), Register("B", 0, size=2, exact=True), "0x0"),
        ],
    )
    def test_two_that_answer_at_once_are_refused(self, one, two, offset):
        with pytest.raises(ValueError, match=f"both answer at offset {offset}"):
            RegisterTable(one, two, Register("L", 7))

    def test_an_exact_register_has_no_condition(self):
        with pytest.raises(ValueError, match="A cannot be both"):
            RegisterTable(Register("A", 0, exact=True, when=When("A", 1, 1)))

    def test_a_read_side_and_a_write_side_share_an_offset(self):
        table = RegisterTable(Register("IIR", 2, access="r"), Register("FCR", 2, access="w"))
        assert table.at(2, write=False, values={}) is table["IIR"]
        assert table.at(2, write=True, values={}) is table["FCR"]

    def test_a_condition_chooses(self):
        table = RegisterTable(
            Register("THR", 0),
            Register("DLL", 0, when=When("LCR", 0x80, 0x80)),
            Register("LCR", 3),
        )
        assert table.at(0, write=True, values={"LCR": 0x03}) is table["THR"]
        assert table.at(0, write=True, values={"LCR": 0x83}) is table["DLL"]
        assert table.at(0, write=True, values={}) is table["THR"]
        assert table.candidates(0, write=False) == (table["DLL"], table["THR"])
        assert table.candidates(1, write=False) == ()

    def test_an_exact_register_is_found_by_its_width_only(self):
        table = RegisterTable(Register("ADDRESS", 0, size=4, exact=True), Register("RC", 1))
        at = table.at
        assert at(0, write=True, values={}, size=4) is table["ADDRESS"]
        assert at(0, write=True, values={}, size=2) is None
        assert at(0, write=True, values={}) is None
        assert at(1, write=True, values={}, size=1) is table["RC"]


class Plain(RegisterDevice):
    """Two bytes, a hole, a word and a dword."""

    registers = RegisterTable(
        Register("A", 0, reset=0x11),
        Register("B", 1, reset=0x22),
        Register("W", 4, size=2, reset=0x4433),
        Register("D", 8, size=4),
    )


class TestLanes:
    def test_a_wide_read_is_put_together(self):
        device = Plain()
        assert device.read(0, 2) == 0x2211
        assert device.read(0, 4) == 0xFFFF_2211, "a hole reads as ones"
        assert device.read(3, 4) == 0xFF44_33FF
        assert device.read(5, 1) == 0x44
        assert device.read(4, 8) == 0x0000_0000_FFFF_4433
        assert device.read(100, 2) == 0xFFFF

    def test_a_wide_write_is_taken_apart(self):
        device = Plain()
        device.write(0, 8, 0x8877_6655_4433_2201)
        assert (device.values["A"], device.values["B"]) == (0x01, 0x22)
        assert device.values["W"] == 0x6655
        device.write(0, 8, 0xFFFF_0000_FFFF_0000)
        assert (device.values["A"], device.values["B"], device.values["W"]) == (0, 0, 0)

    def test_a_narrow_write_keeps_the_other_bytes(self):
        device = Plain()
        device.values["D"] = 0x4433_2211
        device.write(9, 1, 0xAA)
        assert device.values["D"] == 0x4433_AA11
        device.write(10, 2, 0xBEEF)
        assert device.values["D"] == 0xBEEF_AA11

    def test_another_byte_where_nothing_answers(self):
        class Config(Plain):
            unanswered = 0x00

        assert Config().read(0, 4) == 0x0000_2211

    @given(
        script=st.lists(
            st.tuples(
                st.booleans(),
                st.integers(0, 14),
                st.sampled_from([1, 2, 4, 8]),
                st.integers(0, 2**64 - 1),
            ),
            max_size=30,
        )
    )
    def test_cells_behave_as_bytes_of_memory(self, script):
        device = Plain()
        cells = {0: 0x11, 1: 0x22, 4: 0x33, 5: 0x44, 8: 0, 9: 0, 10: 0, 11: 0}
        for write, offset, size, value in script:
            if write:
                value &= (1 << 8 * size) - 1
                device.write(offset, size, value)
                for n, byte in enumerate(value.to_bytes(size, "little")):
                    if offset + n in cells:
                        cells[offset + n] = byte
            else:
                expected = bytes(cells.get(offset + n, 0xFF) for n in range(size))
                assert device.read(offset, size).to_bytes(size, "little") == expected

    def test_reset(self):
        device = Plain("named")
        assert device.name == "named"
        device.write(0, 1, 0)
        device.reset()
        assert device.values == {"A": 0x11, "B": 0x22, "W": 0x4433, "D": 0}


class Banked(RegisterDevice):
    """A dword, one byte of which is another register while SEL is 1."""

    registers = RegisterTable(
        Register("WIDE", 0, size=4, reset=0x4433_2211),
        Register("INNER", 2, reset=0xEE, when=When("SEL", 1, 1)),
        Register("SEL", 4),
    )


class TestConditions:
    def test_a_banked_byte_inside_of_a_wide_register(self):
        device = Banked()
        assert device.read(0, 4) == 0x4433_2211
        device.write(4, 1, 1)
        assert device.read(0, 4) == 0x44EE_2211
        device.write(0, 4, 0xAABB_CCDD)
        assert device.values["INNER"] == 0xBB
        assert device.values["WIDE"] == 0xAA33_CCDD
        device.write(4, 1, 0)
        assert device.read(0, 4) == 0xAA33_CCDD


class Status(RegisterDevice):
    """A status word, and an exact dword with a byte inside."""

    registers = RegisterTable(
        Register("STS", 0, size=2, writable=0x00F0, w1c=0x0F0F),
        Register("ADDRESS", 4, size=4, exact=True),
        Register("CONTROL", 5, exact=True),
        Register("RO", 8, access="r", reset=0x77),
        Register("WO", 9, access="w"),
    )


class TestAccessRules:
    def test_write_one_to_clear(self):
        device = Status()
        device.values["STS"] = 0x0F0F
        device.write(0, 2, 0x0101)
        assert device.values["STS"] == 0x0E0E

    def test_a_narrow_write_clears_nothing_in_the_other_byte(self):
        device = Status()
        device.values["STS"] = 0x0F0F
        device.write(0, 1, 0x02)
        assert device.values["STS"] == 0x0F0D
        device.write(1, 1, 0x04)
        assert device.values["STS"] == 0x0B0D

    def test_bits_that_are_not_writable_stay(self):
        device = Status()
        device.write(0, 2, 0xFFFF)
        assert device.values["STS"] == 0x00F0

    def test_an_exact_register_answers_its_own_width_only(self):
        device = Status()
        device.write(4, 4, 0x8765_4321)
        assert device.read(4, 4) == 0x8765_4321
        assert device.read(4, 2) == 0xFFFF
        assert device.read(4, 8) == 0xFFFF_FF77_FFFF_FFFF
        device.write(4, 2, 0)
        device.write(6, 1, 0)
        assert device.values["ADDRESS"] == 0x8765_4321
        device.write(5, 1, 0x06)
        assert device.read(5, 1) == 0x06
        assert device.values["ADDRESS"] == 0x8765_4321

    def test_one_way_registers(self):
        device = Status()
        device.write(8, 1, 0)
        assert device.read(8, 1) == 0x77
        device.write(9, 1, 0x55)
        assert device.values["WO"] == 0x55
        assert device.read(9, 1) == 0xFF


class Methods(RegisterDevice):
    """A register that counts its reads and keeps its writes."""

    registers = RegisterTable(Register("COUNT", 0), Register("LOG", 2, size=2))

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.log: list[int] = []

    def read_COUNT(self) -> int:
        self.reads += 1
        return self.reads

    def write_LOG(self, value: int) -> None:
        self.log.append(value)


class TestMethods:
    def test_a_method_takes_the_place_of_the_cell(self):
        device = Methods()
        assert device.read(0, 1) == 1
        assert device.read(0, 1) == 2
        device.write(2, 2, 0x1234)
        assert device.log == [0x1234]
        assert device.values == {"COUNT": 0, "LOG": 0}

    def test_a_wide_access_calls_each_method_once(self):
        device = Methods()
        device.read(0, 4)
        assert device.reads == 1
        device.write(0, 4, 0xABCD_0000)
        assert device.log == [0xABCD]
