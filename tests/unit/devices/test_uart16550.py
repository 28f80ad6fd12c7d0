"""The 16550A as the drivers of Linux, SeaBIOS and GRUB use it."""

from __future__ import annotations

import dataclasses

import pytest

from devices import StateError
from devices.uart16550 import COM_PORTS, Uart16550

# Declared here once more, from the data sheet.
RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7
IER_RDI, IER_THRI, IER_RLSI, IER_MSI = 0x01, 0x02, 0x04, 0x08
NONE, MODEM, THRE, DATA, LINE, TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
FIFOS = 0xC0
FCR_ENABLE, FCR_CLEAR_RX, FCR_CLEAR_TX = 0x01, 0x02, 0x04
TRIGGERS = {0x00: 1, 0x40: 4, 0x80: 8, 0xC0: 14}
LCR_BREAK, LCR_DLAB = 0x40, 0x80
DTR, RTS, OUT1, OUT2, LOOP = 0x01, 0x02, 0x04, 0x08, 0x10
DR, OE, PE, FE, BI, LSR_THRE, TEMT, FIFOE = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80
DCTS, DDSR, TERI, DDCD, CTS, DSR, RI, DCD = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80
IDLE = 0x60


class Port:
    """A UART with everything that it does to the outside written down."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.level = False
        self.edges = 0
        self.rooms = 0
        self.uart = Uart16550(irq=self._irq, out=self.sent.extend, on_room=self._room)

    def _irq(self, level: bool) -> None:
        self.edges += level and not self.level
        self.level = level

    def _room(self) -> None:
        self.rooms += 1

    def inb(self, offset: int) -> int:
        return self.uart.read(offset, 1)

    def outb(self, offset: int, value: int) -> None:
        self.uart.write(offset, 1, value)

    def drain(self) -> bytes:
        got = bytearray()
        while self.inb(LSR) & DR:
            got.append(self.inb(RBR))
        return bytes(got)


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
def fifo(port: Port) -> Port:
    """FIFOs on, trigger 8, interrupts connected: as Linux sets a 16550A up."""
    port.outb(FCR, FCR_ENABLE | 0x80)
    port.outb(MCR, DTR | RTS | OUT2)
    return port


def test_the_four_places_of_a_pc():
    assert [ports.start for ports in COM_PORTS] == [0x3F8, 0x2F8, 0x3E8, 0x2E8]
    assert all(len(ports) == 8 for ports in COM_PORTS)


def test_after_power_on(port):
    assert [port.inb(n) for n in range(8)] == [0, 0, NONE, 0, 0, IDLE, DCD | DSR | CTS, 0]


def test_the_table_agrees_with_the_data_sheet():
    table = Uart16550.registers
    where = {register.name: (register.offset, register.access) for register in table}
    assert where == {
        "RBR": (0, "r"),
        "THR": (0, "w"),
        "DLL": (0, "rw"),
        "DLM": (1, "rw"),
        "IER": (1, "rw"),
        "IIR": (2, "r"),
        "FCR": (2, "w"),
        "LCR": (3, "rw"),
        "MCR": (4, "rw"),
        "LSR": (5, "r"),
        "MSR": (6, "r"),
        "SCR": (7, "rw"),
    }
    assert table["LSR"].decode(IDLE) == "THRE|TEMT"
    assert table["IIR"].decode(0xC4) == "ID=DATA|FIFO=0x3"
    assert table["FCR"].decode(0xC7) == "ENABLE|CLEAR_RX|CLEAR_TX|TRIGGER=14"
    at = table.at(0, write=True, values={"LCR": LCR_DLAB})
    assert at is not None
    assert at.name == "DLL"


def test_bytes_written_are_sent(port):
    for byte in b"Hi\xff":
        port.outb(THR, byte)
        assert port.inb(LSR) == IDLE
    assert port.sent == b"Hi\xff"


def test_each_byte_is_sent_at_once():
    calls = []
    uart = Uart16550(out=calls.append)
    uart.write(THR, 1, 0x41)
    uart.write(THR, 1, 0x42)
    assert calls == [b"A", b"B"]


def test_divisor_latch_hides_data_and_interrupt_enable(port):
    port.outb(IER, 0x05)
    port.outb(LCR, LCR_DLAB | 0x03)
    port.outb(DLL, 0x34)
    port.outb(DLM, 0x12)
    assert (port.inb(DLL), port.inb(DLM)) == (0x34, 0x12)
    assert port.inb(LCR) == 0x83
    port.outb(LCR, 0x03)
    assert port.inb(IER) == 0x05
    port.outb(THR, 0x41)
    assert port.sent == b"A"
    port.outb(LCR, LCR_DLAB)
    assert (port.inb(DLL), port.inb(DLM)) == (0x34, 0x12)


def test_the_first_divisor_is_not_zero(port):
    """Linux's `early_serial8250_setup` divides by it."""
    port.outb(LCR, LCR_DLAB)
    assert port.inb(DLM) << 8 | port.inb(DLL) == 115200 // 9600


def test_a_word_write_sets_the_whole_divisor(port):
    port.outb(LCR, LCR_DLAB)
    port.uart.write(DLL, 2, 0x0180)
    assert (port.inb(DLL), port.inb(DLM)) == (0x80, 0x01)
    assert port.uart.read(DLL, 2) == 0x0180


def test_scratch_register(port):
    """SeaBIOS and Linux tell an 8250 from a 16450 by it."""
    for value in (0x5A, 0xA5, 0xFF, 0x00):
        port.outb(SCR, value)
        assert port.inb(SCR) == value


def test_seabios_detects_the_port(port):
    port.outb(IER, 0x02)
    assert port.inb(IER) == 0x02
    assert port.inb(IIR) & 0x3F == 0x02
    port.outb(IER, 0x00)


def test_read_only_registers_ignore_writes(port):
    for offset in (LSR, MSR):
        before = port.inb(offset)
        port.outb(offset, before ^ 0xFF)
        assert port.inb(offset) == before


def test_linux_autoconfiguration_finds_a_16550a(port):
    port.outb(IER, 0)
    assert port.inb(IER) == 0
    port.outb(IER, 0xFF)
    assert port.inb(IER) == 0x0F, "no XScale UUE bit, no sleep mode"
    port.outb(IER, 0)
    port.outb(MCR, LOOP | RTS | OUT2)
    assert port.inb(MSR) & 0xF0 == DCD | CTS
    port.outb(MCR, 0)
    port.outb(LCR, 0xBF)
    port.outb(IIR, 0)
    port.outb(LCR, 0)
    port.outb(FCR, FCR_ENABLE)
    assert port.inb(IIR) >> 6 == 3, "16550A"
    port.outb(LCR, LCR_DLAB)
    assert port.inb(IIR) != 0, "no 16650 with an extended features register"
    port.outb(LCR, 0)
    port.outb(FCR, FCR_ENABLE | 0x20)
    assert not port.inb(IIR) & 0x20, "no 16750 with 64 bytes"


def test_iir_shows_whether_the_fifos_are_on(port):
    assert port.inb(IIR) == NONE
    port.outb(FCR, FCR_ENABLE)
    assert port.inb(IIR) == FIFOS | NONE
    port.outb(FCR, 0)
    assert port.inb(IIR) == NONE


def test_nothing_is_programmed_while_bit_0_of_fcr_is_clear(fifo):
    fifo.outb(IER, IER_RDI)
    fifo.outb(FCR, FCR_ENABLE)
    fifo.outb(FCR, 0xC0)
    fifo.outb(FCR, FCR_ENABLE)
    fifo.uart.receive(b"a")
    assert fifo.inb(IIR) == FIFOS | DATA, "the trigger level is 1"


# Receiving.


def test_without_fifo_one_byte_is_taken(port):
    assert port.uart.receive(b"abc") == 1
    assert port.uart.receive(b"bc") == 0
    assert port.inb(LSR) == IDLE | DR
    assert port.inb(RBR) == ord("a")
    assert port.inb(LSR) == IDLE
    assert port.rooms == 1


def test_with_fifo_sixteen_bytes_are_taken_in_order(fifo):
    data = bytes(range(20))
    rooms = fifo.rooms
    assert fifo.uart.receive(data) == 16
    assert fifo.uart.receive(data[16:]) == 0
    assert not fifo.inb(LSR) & OE, "the host keeps what finds no room"
    assert fifo.drain() == data[:16]
    assert fifo.rooms == rooms + 1, "told once, when the receiver is empty"
    assert fifo.uart.receive(data[16:]) == 4
    assert fifo.drain() == data[16:]


def test_a_host_may_answer_with_more_at_once():
    rest = bytearray(bytes(range(40)))
    uart = Uart16550(on_room=lambda: rest.__delitem__(slice(uart.receive(bytes(rest)))))
    uart.write(FCR, 1, FCR_ENABLE)
    got = bytearray()
    while uart.read(LSR, 1) & DR:
        got.append(uart.read(RBR, 1))
    assert got == bytes(range(40))


def test_an_empty_receiver_repeats_the_last_byte(fifo):
    fifo.uart.receive(b"x")
    assert [fifo.inb(RBR), fifo.inb(RBR)] == [ord("x")] * 2


@pytest.mark.parametrize(("code", "level"), TRIGGERS.items())
def test_trigger_levels(port, code, level):
    port.outb(FCR, FCR_ENABLE | code)
    port.outb(IER, IER_RDI)
    for count in range(1, 17):
        port.uart.receive(b"x")
        expected = DATA if count >= level else TIMEOUT
        assert port.inb(IIR) == FIFOS | expected, count


def test_without_fifo_there_is_no_timeout(port):
    port.outb(IER, IER_RDI)
    port.uart.receive(b"x")
    assert port.inb(IIR) == DATA


def test_received_data_interrupt_lasts_until_read(fifo):
    fifo.outb(IER, IER_RDI)
    fifo.uart.receive(b"ab")
    assert fifo.level
    fifo.inb(IIR)
    assert fifo.level, "reading IIR does not end it"
    fifo.inb(RBR)
    assert fifo.level
    fifo.inb(RBR)
    assert not fifo.level
    assert fifo.inb(IIR) == FIFOS | NONE


def test_a_handler_that_takes_one_byte_an_edge_gets_all_of_them(fifo):
    fifo.outb(IER, IER_RDI)
    fifo.uart.receive(b"hello")
    got = bytearray()
    edges = 0
    while fifo.edges > edges:
        edges = fifo.edges
        got.append(fifo.inb(RBR))
    assert got == b"hello"


def test_interrupt_when_enabled_after_the_byte_came(fifo):
    fifo.uart.receive(b"a")
    assert not fifo.level
    fifo.outb(IER, IER_RDI)
    assert fifo.level


def test_switching_the_fifos_empties_them(port):
    port.uart.receive(b"a")
    port.outb(FCR, FCR_ENABLE)
    assert port.inb(LSR) == IDLE
    port.uart.receive(b"abc")
    port.outb(FCR, FCR_ENABLE)
    assert port.inb(LSR) & DR, "enabling what is enabled keeps it"
    port.outb(FCR, 0)
    assert port.inb(LSR) == IDLE


def test_clearing_the_receiver(fifo):
    fifo.outb(IER, IER_RDI)
    fifo.uart.receive(b"abc")
    fifo.outb(FCR, FCR_ENABLE | FCR_CLEAR_RX)
    assert fifo.inb(LSR) == IDLE
    assert not fifo.level
    assert fifo.uart.receive(bytes(16)) == 16
    fifo.outb(FCR, FCR_ENABLE | FCR_CLEAR_TX)
    assert fifo.inb(LSR) & DR, "the transmitter's clear bit leaves the receiver alone"


# Sending with interrupts.


def test_enabling_thri_raises_it_each_time(fifo):
    """Linux tests for it at start-up and works around UARTs that do not (UART_BUG_THRE)."""
    for _ in range(2):
        fifo.outb(IER, IER_THRI)
        assert fifo.level
        assert fifo.inb(IIR) == FIFOS | THRE
        fifo.outb(IER, 0)
        assert not fifo.level


def test_reading_iir_ends_the_thre_interrupt(fifo):
    fifo.outb(IER, IER_THRI)
    assert fifo.inb(IIR) == FIFOS | THRE
    assert not fifo.level
    assert fifo.inb(IIR) == FIFOS | NONE
    fifo.outb(IER, IER_THRI)
    assert fifo.inb(IIR) == FIFOS | NONE, "writing the bit again is no change"


def test_reading_iir_ends_thre_only_if_it_says_so(fifo):
    fifo.outb(IER, IER_THRI | IER_RDI)
    fifo.uart.receive(b"a")
    assert fifo.inb(IIR) == FIFOS | TIMEOUT
    fifo.inb(RBR)
    assert fifo.inb(IIR) == FIFOS | THRE


def test_linux_sends_a_fifo_full_for_each_interrupt(fifo):
    fifo.outb(IER, IER_THRI)
    text = bytes(range(48))
    for start in range(0, 48, 16):
        assert fifo.inb(IIR) == FIFOS | THRE
        edges = fifo.edges
        for byte in text[start : start + 16]:
            fifo.outb(THR, byte)
        assert fifo.level
        assert fifo.edges == edges + 1, "one interrupt for all sixteen"
    assert fifo.sent == text


def test_a_handler_that_never_reads_iir_gets_an_edge_for_each_byte(port):
    port.outb(MCR, OUT2)
    port.outb(IER, IER_THRI)
    for count in range(1, 40):
        assert port.edges == count
        port.outb(THR, count)
    assert port.sent == bytes(range(1, 40))


def test_sending_raises_nothing_while_thri_is_off(fifo):
    fifo.outb(IER, IER_RDI | IER_RLSI | IER_MSI)
    fifo.outb(THR, 0x41)
    assert fifo.edges == 0


# The interrupt pin.


def test_priorities(fifo):
    fifo.outb(IER, 0x0F)
    fifo.uart.set_modem_lines(cts=False)
    fifo.uart.receive_break()
    assert fifo.inb(IIR) == FIFOS | LINE
    assert fifo.inb(LSR) & BI
    assert fifo.inb(IIR) == FIFOS | TIMEOUT
    fifo.inb(RBR)
    assert fifo.inb(IIR) == FIFOS | THRE
    assert fifo.inb(IIR) == FIFOS | MODEM
    assert fifo.inb(MSR) == DCD | DSR | DCTS
    assert fifo.inb(IIR) == FIFOS | NONE
    assert not fifo.level


def test_out2_is_the_gate(port):
    port.outb(IER, IER_RDI)
    port.uart.receive(b"a")
    assert not port.level
    port.outb(MCR, OUT2)
    assert port.level
    port.outb(MCR, 0)
    assert not port.level
    assert port.inb(IIR) == DATA, "the chip still has it pending"


def test_loopback_closes_the_gate(fifo):
    fifo.outb(IER, IER_RDI)
    fifo.outb(MCR, OUT2 | LOOP)
    fifo.outb(THR, 0x55)
    assert not fifo.level
    assert fifo.inb(IIR) == FIFOS | TIMEOUT
    fifo.outb(MCR, OUT2)
    assert fifo.level


# Loopback.


def test_loopback_receives_what_is_sent(port):
    """The self-test of many small kernels."""
    port.outb(MCR, LOOP | OUT2 | OUT1 | RTS)
    port.outb(THR, 0xAE)
    assert port.sent == b""
    assert port.inb(LSR) & DR
    assert port.inb(RBR) == 0xAE
    port.outb(MCR, OUT2 | OUT1 | RTS | DTR)
    port.outb(THR, 0x41)
    assert port.sent == b"A"


@pytest.mark.parametrize(("output", "line"), [(DTR, DSR), (RTS, CTS), (OUT1, RI), (OUT2, DCD)])
def test_loopback_wires_outputs_to_inputs(port, output, line):
    port.outb(MCR, LOOP)
    assert port.inb(MSR) & 0xF0 == 0
    port.outb(MCR, LOOP | output)
    assert port.inb(MSR) & 0xF0 == line
    port.outb(MCR, output)
    assert port.inb(MSR) & 0xF0 == DCD | DSR | CTS


def test_loopback_is_cut_off_from_the_line(port):
    port.outb(MCR, LOOP)
    assert port.uart.receive(b"a") == 0
    assert not port.uart.receive_break()
    assert port.inb(LSR) == IDLE
    rooms = port.rooms
    port.outb(MCR, 0)
    assert port.rooms == rooms + 1
    assert port.uart.receive(b"a") == 1


def test_loopback_break(fifo):
    fifo.outb(MCR, LOOP)
    fifo.outb(LCR, 0x03 | LCR_BREAK)
    assert fifo.inb(LSR) == IDLE | DR | BI | FE | FIFOE
    assert fifo.inb(RBR) == 0


def test_overrun_with_fifo_keeps_the_fifo(fifo):
    fifo.outb(IER, IER_RLSI)
    fifo.outb(MCR, LOOP)
    for byte in range(17):
        fifo.outb(THR, byte)
    assert fifo.inb(IIR) == FIFOS | LINE
    assert fifo.inb(LSR) == IDLE | DR | OE
    assert fifo.inb(LSR) == IDLE | DR, "reading clears it"
    assert fifo.drain() == bytes(range(16))


def test_overrun_without_fifo_loses_the_older_byte(port):
    port.outb(MCR, LOOP)
    port.outb(THR, 0x41)
    port.outb(THR, 0x42)
    assert port.inb(LSR) == IDLE | DR | OE
    assert port.inb(RBR) == 0x42
    assert not port.inb(LSR) & DR


def test_mcr_keeps_five_bits(port):
    port.outb(MCR, 0xFF)
    assert port.inb(MCR) == 0x1F


# Line and modem status.


def test_break_shows_when_it_reaches_the_top_of_the_fifo(fifo):
    fifo.uart.receive(b"a")
    assert fifo.uart.receive_break()
    fifo.uart.receive(b"b")
    assert fifo.inb(LSR) == IDLE | DR | FIFOE
    assert fifo.inb(RBR) == ord("a")
    assert fifo.inb(LSR) == IDLE | DR | FIFOE | BI | FE
    assert fifo.inb(LSR) == IDLE | DR
    assert fifo.drain() == b"\0b"


def test_break_that_finds_no_room(fifo):
    fifo.uart.receive(bytes(16))
    assert not fifo.uart.receive_break()


def test_modem_deltas(port):
    port.uart.set_modem_lines(cts=False, dsr=False, dcd=False, ri=True)
    assert port.inb(MSR) == RI | DCTS | DDSR | DDCD
    assert port.inb(MSR) == RI, "reading clears them"
    port.uart.set_modem_lines(cts=False, dsr=False, dcd=False, ri=False)
    assert port.inb(MSR) == TERI, "the trailing edge of the ring indicator"


def test_modem_interrupt(fifo):
    fifo.outb(IER, IER_MSI)
    fifo.uart.set_modem_lines(dcd=False)
    assert fifo.level
    fifo.inb(MSR)
    assert not fifo.level


# Reset and snapshots.


def test_reset(fifo):
    fifo.outb(IER, 0x0F)
    fifo.uart.receive(b"abc")
    fifo.outb(LCR, 0x83)
    assert fifo.level
    fifo.uart.reset()
    assert not fifo.level
    assert [fifo.inb(n) for n in range(8)] == [0, 0, NONE, 0, 0, IDLE, DCD | DSR | CTS, 0]
    fifo.outb(THR, 0x41)
    assert fifo.sent == b"A"


def test_a_loaded_port_raises_its_interrupt_and_sends(fifo):
    fifo.outb(IER, IER_RDI)
    fifo.uart.receive(b"abc")
    fifo.uart.receive_break()
    other = Port()
    other.uart.load(fifo.uart.save())
    assert other.level
    assert other.inb(LSR) == IDLE | DR | FIFOE
    assert other.drain() == b"abc\0"
    other.outb(THR, 0x41)
    assert other.sent == b"A"


@pytest.mark.parametrize(
    "wrong",
    [
        {"fcr": 0x02},
        {"fcr": 0xC0},
        {"ier": 0x10},
        {"lsr_errors": 0x01},
        {"received": b"ab", "errors": b"\0\0"},
        {"received": b"a", "errors": b""},
        {"received": b"a", "errors": b"\x80"},
        {"burst": 2},
        {"thre_pending": 1},
        {"inputs": 0x01},
    ],
)
def test_impossible_states_are_refused(port, wrong):
    port.outb(SCR, 0x5A)
    state = port.uart.save()
    with pytest.raises(StateError):
        port.uart.load(dataclasses.replace(state, **wrong))
    assert port.uart.save() == state
