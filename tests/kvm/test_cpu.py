"""What guests see of the processor: templates in real guests, and `vmm cpu`."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import vmm
from vmm.cpu_templates import find_template, shipped
from vmm.cpuid import feature_names, lacks
from vmm.guest_cpuid import supported_cpuid
from vmm.kvm import backend, open_kvm

pytestmark = pytest.mark.kvm

CPUID = "66b801000000 6631c9 0fa2 f4"  # mov eax, 1; xor ecx, ecx; cpuid; hlt

# For each leaf and subleaf at 0x3000, until a leaf of -1: EAX, EBX, ECX and EDX to port 0x10.
EVERY_LEAF = """
        mov esi, 0x3000
1:      mov eax, [esi]; mov ecx, [esi + 4]; cmp eax, -1; je 2f
        cpuid
        out 0x10, eax; mov eax, ebx; out 0x10, eax; mov eax, ecx; out 0x10, eax
        mov eax, edx; out 0x10, eax
        add esi, 8; jmp 1b
2:      hlt
"""
REGISTERS = ("eax", "ebx", "ecx", "edx")
CX16 = 1 << 13
OF_THE_PROCESSOR = (1, 7)
"""The leaves that kvm_pvm lets its guests see as they are, in kernel mode; but for cx16."""

BY_STATE = {(0xD, 0): ("ebx",), (0xD, 1): ("ebx",)}
"""The registers that follow from XCR0 and XSS."""


@pytest.fixture(scope="module")
def fulfilled() -> list[str]:
    """The templates that this host fulfils."""
    kvm = open_kvm()
    supported = supported_cpuid(kvm)
    kvm.close()
    return [name for name in shipped() if not lacks(supported, find_template(name).demanded)]


def test_a_vcpu_is_told_what_the_template_says(machine, fulfilled) -> None:
    assert fulfilled, "every x86-64 host fulfils the first level"
    for name in fulfilled:
        told = set(feature_names(machine(CPUID, cpu=name, irqchip=True).hardware.cpuid[0]))
        template = find_template(name)
        assert template.demanded <= told <= template.demanded | template.allowed | {"hypervisor"}


def test_a_guest_sees_what_its_vcpu_is_told(machine, guest_asm, fulfilled) -> None:
    code = guest_asm(EVERY_LEAF, "flat32", address=0x1000).hex()
    for name in [*fulfilled, "host"]:
        cpu = "" if name == "host" else f"{name},-cx16"
        m = machine(code, "protected", cpu=cpu, irqchip=True)
        told = m.hardware.cpuid[0]
        asked = b"".join(struct.pack("<II", e.function, e.index) for e in told)
        m.memory.write(0x3000, asked + b"\xff" * 4)
        seen: list[int] = []
        m.on_out(0x10)(lambda value, size, seen=seen: seen.append(value))
        assert m.run(timeout=60).reason == "halt"
        assert len(seen) == 4 * len(told)
        for number, entry in enumerate(told):
            values = seen[4 * number : 4 * number + 4]
            shown = entry._replace(**dict(zip(REGISTERS, values, strict=True)))
            if backend() == "kvm_pvm" and entry.function in OF_THE_PROCESSOR:
                assert entry.function != 1 or shown.ecx & CX16 == entry.ecx & CX16, name
                continue
            for register in BY_STATE.get((entry.function, entry.index), ()):
                shown = shown._replace(**{register: getattr(entry, register)})
            assert shown == entry, name


def test_a_copy_needs_no_file_of_a_template(machine, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('extends = "x86-64-v1"\n')
    m = machine(CPUID, cpu=f"{path},-mmx")
    snapshot = m.snapshot()
    path.unlink()
    with vmm.restore(snapshot) as copy:
        told = feature_names(copy.hardware.cpuid[0])
        assert told == feature_names(m.hardware.cpuid[0])
        assert "mmx" not in told
        assert copy.settings["cpu"] == m.settings["cpu"]


def test_a_template_is_read_for_each_machine_and_for_no_copy(machine, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('extends = "x86-64-v1"\n')
    first = machine(CPUID, cpu=str(path))
    path.write_text('demand = ["fpu", "pae"]\n')
    second = machine(CPUID, cpu=str(path))
    path.unlink()
    told = [feature_names(m.hardware.cpuid[0]) for m in (first, second)]
    assert "sse2" in told[0]
    assert told[1] == ["fpu", "pae", "hypervisor"]
    for m, names in zip((first, second), told, strict=True):
        with m.fork() as copy:
            assert feature_names(copy.hardware.cpuid[0]) == names


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmm", "cpu", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.command
def test_the_command(tmp_path: Path, fulfilled) -> None:
    listed = json.loads(command("list", "--json").stdout)
    assert [one["name"] for one in listed] == shipped()
    assert [one["name"] for one in listed if not one["missing"]] == fulfilled
    text = command("list").stdout
    assert all(name in text for name in shipped())

    dumps = {}
    for spec in ("host", "x86-64-v1"):
        done = command("dump", spec, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        dumps[spec] = json.loads(done.stdout)
        (tmp_path / f"{spec}.json").write_text(done.stdout)
    template = find_template("x86-64-v1")
    seen = set(dumps["x86-64-v1"]["features"])
    assert template.demanded <= seen <= template.demanded | template.allowed | {"hypervisor"}
    assert seen <= set(dumps["host"]["features"])
    first = dumps["host"]["leaves"][0]
    vendor = struct.pack("<III", first["ebx"], first["edx"], first["ecx"]).decode()
    assert dumps["host"]["vendor"] == vendor
    assert command("dump").stdout.startswith(f"{vendor}, ")

    host, level = str(tmp_path / "host.json"), str(tmp_path / "x86-64-v1.json")
    same = command("diff", level, "x86-64-v1")
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "")
    done = command("diff", host, level, "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    hidden = set(dumps["host"]["features"]) - seen
    assert set(told["only_first"]) == hidden
    assert told["only_second"] == []
    assert told["leaves"]
    assert command("diff", host, level).stdout.startswith(f"only {host}: ")


@pytest.mark.command
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("dump", "pentium"), "vmm: CPU template 'pentium': there are steady, x86-64-v1, "),
        (("dump", "-sse17"), "vmm: "),
        (("diff", "host"), "vmm: "),
        (("diff", "none.json", "host"), "vmm: none.json: No such file or directory"),
        ((), "vmm: COMMAND is missing; see 'vmm cpu --help'"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: tuple[str, ...], told: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1


@pytest.mark.command
def test_a_file_that_is_no_dump(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("{}", "[]", '{"features": [1], "leaves": []}', '{"features": [], "leaves": [{}]}'):
        path.write_text(text)
        done = command("diff", str(path), "host")
        assert done.stderr == f"vmm: {path}: not what 'vmm cpu dump --json' writes\n"
    path.write_text("{")
    assert "no JSON" in command("diff", str(path), str(path)).stderr
