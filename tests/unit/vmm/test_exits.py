from __future__ import annotations

import pytest

from vmm.exits import STATE_INCONSISTENT, Exit, describe, exit_name

# Numbers and names of <linux/kvm.h>, declared again.
NAMES = {
    0: "UNKNOWN",
    1: "EXCEPTION",
    2: "IO",
    3: "HYPERCALL",
    4: "DEBUG",
    5: "HLT",
    6: "MMIO",
    7: "IRQ_WINDOW_OPEN",
    8: "SHUTDOWN",
    9: "FAIL_ENTRY",
    10: "INTR",
    11: "SET_TPR",
    12: "TPR_ACCESS",
    16: "NMI",
    17: "INTERNAL_ERROR",
    21: "WATCHDOG",
    24: "SYSTEM_EVENT",
    26: "IOAPIC_EOI",
    27: "HYPERV",
    29: "X86_RDMSR",
    30: "X86_WRMSR",
    31: "DIRTY_RING_FULL",
    32: "AP_RESET_HOLD",
    33: "X86_BUS_LOCK",
    34: "XEN",
    37: "NOTIFY",
    39: "MEMORY_FAULT",
    40: "TDX",
}


@pytest.mark.parametrize(("number", "name"), NAMES.items())
def test_every_reason_of_the_x86_api_is_named(number, name):
    assert exit_name(number) == name
    assert Exit(number).name == name


@pytest.mark.parametrize("number", [99, 255, 1 << 31])
def test_a_reason_that_nobody_knows_has_its_number(number):
    assert str(number) in exit_name(number)


def test_the_names_are_different():
    assert len({exit_name(number) for number in range(43)}) == 43


@pytest.mark.parametrize("number", range(45))
def test_consistency(number):
    """KVM API, kvm_run: these complete on the next KVM_RUN (of those that x86 makes)."""
    incomplete = {2, 6, 3, 29, 30}
    assert (number in STATE_INCONSISTENT) is (number in incomplete)
    assert Exit(number).consistent is (number not in incomplete)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Exit(2, 0, 0x3F8, 1, 1, True, 0x48), "IO out 0x3f8 1b 0x48 'H' com1"),
        (Exit(2, 0, 0x64, 1, 1, False, 0x1C), "IO in 0x64 1b 0x1c com1"),
        (Exit(2, 0, 0xCF8, 4, 1, True, 0x80000000), "IO out 0xcf8 4b 0x80000000 com1"),
        (Exit(2, 0, 0xE9, 1, 3, True, 0x636261), "IO out 0xe9 1b x3 61 62 63 com1"),
        (Exit(6, 0, 0xFEE00020, 4, 1, False, 0), "MMIO read 0xfee00020 4b 0x0 com1"),
        (Exit(6, 0, 0xB8000, 8, 1, True, 0x1F), "MMIO write 0xb8000 8b 0x1f com1"),
    ],
)
def test_one_line_for_one_exit(event, line):
    assert describe(event, "com1") == line
    assert str(event) == line.removesuffix(" com1")


def test_an_exit_without_a_bus_is_its_name():
    assert str(Exit(5)) == "HLT"
    assert str(Exit(99)) == "unknown exit reason 99"


def test_a_long_string_is_cut_in_the_line_and_whole_in_the_data():
    data = bytes(range(200))
    event = Exit(2, 0, 0xE9, 1, 200, True, int.from_bytes(data, "little"))
    assert event.data == data
    assert len(str(event)) < 100


@pytest.mark.parametrize(("size", "count"), [(1, 1), (2, 1), (4, 1), (8, 1), (4, 3)])
def test_the_data_are_the_bytes_on_the_bus(size, count):
    data = bytes(range(1, size * count + 1))
    event = Exit(6, 0, 0, size, count, True, int.from_bytes(data, "little"))
    assert event.data == data


def test_leading_zeros_are_data_too():
    assert Exit(2, 0, 0xE9, 2, 2, True, 0).data == bytes(4)
