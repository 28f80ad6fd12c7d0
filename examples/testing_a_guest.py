"""Tests of a guest: `pytest examples/testing_a_guest.py`, or the file itself."""

import sys

import pytest

ECHO = """
        mov dx, 0x3fd
    wait:
        in al, dx           # the line status: has a byte come?
        test al, 1
        jz wait
        mov dx, 0x3f8
        in al, dx
        xor al, 0x20        # a letter's other case
        out dx, al
        mov dx, 0x3fd
        jmp wait
"""


@pytest.mark.guest("payload:hello64", memory="16M")
def test_it_greets(vm, vm_console):
    vm_console.expect("Hello from (?:real|long) mode")
    assert vm.trace.where(port=0x3F8, write=True).values == b"Hello from long mode"


def test_it_answers(vm_factory, guest_asm):
    vm = vm_factory(guest_asm(ECHO, "flat16"), format="flat16")
    vm.console.send("Kvm")
    vm.trace.stop_at("reg=com1.THR=0x4d")  # 'M'
    assert vm.run(timeout=30).reason == "stopped"
    assert vm.trace.where(port=0x3F8, write=True).values == b"kVM"


def test_it_ends_as_its_author_says(vm):
    vm.memory.write(0x1000, bytes.fromhex("b007 e6f4"))  # mov al, 7; out 0xF4, al
    vm.start_at(0x1000)
    assert vm.run().status == 7 << 1 | 1


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q", "-p", "no:cacheprovider"]))
