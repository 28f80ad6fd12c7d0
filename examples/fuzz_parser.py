"""Fuzzing a parser inside a guest: every input from one snapshot, with single steps as coverage.

The guest is a calculator for messages such as "=6*7;". It checks them byte after byte, so random
bytes would hardly get past the first; an input that reaches a new instruction is kept and changed
further. The crash that is found is then made as small and plain as it can be.
"""

import random

import vmm

MESSAGE, ROOM = 0x2000, 8
PARSER = bytes.fromhex(
    "be00200000"  # 1000  mov esi, MESSAGE
    "ac 3c3d 7534"  # 1005  lodsb; cmp al, '='; jne refuse
    "ac 2c30 3c09 772d"  # 100a  lodsb; sub al, '0'; cmp al, 9; ja refuse
    "88c3"  # 1011  mov bl, al: the left number
    "ac 88c1"  # 1013  lodsb; mov cl, al: the operator
    "ac 2c30 3c09 7721"  # 1016  lodsb; sub al, '0'; cmp al, 9; ja refuse
    "88c2"  # 101d  mov dl, al: the right number
    "ac 3c3b 751a"  # 101f  lodsb; cmp al, ';'; jne refuse
    "0fb6c3"  # 1024  movzx eax, bl
    "80f92b 740d"  # 1027  cmp cl, '+'; je add
    "80f92a 740b"  # 102c  cmp cl, '*'; je multiply
    "80f92f 7508"  # 1031  cmp cl, '/'; jne refuse
    "f6f2 f4"  # 1036  div dl; hlt: nobody asked whether it is 0
    "00d0 f4"  # 1039  add: add al, dl; hlt
    "f6e2 f4"  # 103c  multiply: mul dl; refuse: hlt
)
ALPHABET = bytes(sorted(set(PARSER)))  # a parser holds the bytes that it looks for


class Fuzzer:
    """One machine, the inputs worth keeping, and all instructions that were reached."""

    def __init__(self, machine: vmm.Machine, seed: int) -> None:
        self.machine, self.ready = machine, machine.snapshot()
        self.random = random.Random(seed)
        self.corpus = [b""]
        self.reached: set[int] = set()
        self.tried: set[bytes] = set()
        self.steps = 0

    def start(self, message: bytes) -> vmm.Machine:
        """Put the machine back to where it waits for a message, and give it one."""
        self.machine.reset_to(self.ready)
        self.machine.memory.write(MESSAGE, message.ljust(ROOM, b"\0"))
        return self.machine

    def trace(self, message: bytes) -> set[int]:
        """Where the guest comes by, instruction by instruction, until it ends."""
        machine, path = self.start(message), set[int]()
        while True:
            path.add(machine.regs.rip)
            machine.step()
            self.steps += 1
            if machine.last_result is not None:
                return path

    def crash(self, message: bytes) -> vmm.RunResult | None:
        """How the guest dies of a message, at full speed; None if it does not."""
        result = self.start(message).run(timeout=10.0)
        return result if result.died else None

    def mutant(self) -> bytes:
        """An input of the corpus with some bytes more, less, or changed."""
        newest = max(self.random.choices(range(len(self.corpus)), k=2))  # rather a late one
        message = bytearray(self.corpus[newest])
        for _ in range(self.random.randint(1, 2)):
            at = self.random.randint(0, len(message))
            replaced, new = self.random.choice([(0, 1), (1, 1), (1, 0)])
            message[at : at + replaced] = self.random.choices(ALPHABET, k=new)
        return bytes(message[:ROOM])

    def find(self) -> bytes:
        """Try mutants until one kills the guest."""
        while True:
            message = self.mutant()
            if message in self.tried:
                continue
            self.tried.add(message)
            new = self.trace(message) - self.reached
            if self.machine.last_result.died:
                return message
            if new:
                self.reached |= new
                self.corpus.append(message)
                print(f"{len(self.tried):5} inputs, {len(self.reached)} instructions: {message!r}")

    def minimise(self, message: bytes) -> bytes:
        """Remove bytes, then make them '0', as long as the guest still dies."""
        for plain in (b"", b"0"):
            for at in reversed(range(len(message))):
                smaller = message[:at] + plain + message[at + 1 :]
                if self.crash(smaller):
                    message = smaller
        return message


with vmm.Machine(memory="64K") as machine:
    machine.memory.write(0x1000, PARSER)
    machine.start_at(0x1000, mode="protected")
    fuzzer = Fuzzer(machine, seed=0)
    found = fuzzer.find()
    smallest = fuzzer.minimise(found)
    print(f"{len(fuzzer.tried)} inputs and {fuzzer.steps} steps later the guest dies of {found!r}")
    print(f"which comes down to {smallest!r}:\n")
    print(fuzzer.crash(smallest).report().partition("\n\nnotes:")[0])
