"""QEMU's command line, and what is said of a host that died. No QEMU is run."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from vmm.lab import boot, cache
from vmm.lab.tools import LabError


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> boot.Host:
    monkeypatch.setattr(boot, "find_tool", lambda name: f"/bin/{name}")
    image = cache.Image(Path("/cache/a,b"))
    return boot.Host(image, tmp_path / "share", tmp_path, cpus=3, memory_mib=1024)


def test_the_system_disk_is_not_written_to_and_comes_first(host: boot.Host) -> None:
    drives = [word for word in host.command_line(shell=False) if word.startswith("if=none")]
    assert drives[0].endswith("id=root,format=raw,snapshot=on,file=/cache/a,,b/root.ext4")
    assert "id=share" in drives[1]
    assert "snapshot" not in drives[1]


def test_the_machine_is_as_asked_and_dies_with_this_process(host: boot.Host) -> None:
    words = host.command_line(shell=False)
    assert words[:4] == ["/bin/setpriv", "--pdeathsig", "KILL", "--"]
    assert words[words.index("-smp") + 1] == "3"
    assert words[words.index("-m") + 1] == "1024"
    assert words[words.index("-cpu") + 1] == "max,+svm,+npt"


def test_the_terminal_is_the_outputs_or_the_shells(host: boot.Host) -> None:
    assert "stdio,signal=off,id=output" in host.command_line(shell=False)
    assert "stdio,signal=off,id=console" in host.command_line(shell=True)


def test_a_host_that_hangs_is_told_of_with_what_its_kernel_says(host: boot.Host) -> None:
    host.console.write_text("watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\nCall Trace:\n")
    reading, writing = os.pipe()
    with pytest.raises(LabError, match=r"said nothing for 0 s; .*: watchdog: BUG: soft lockup"):
        boot._pass_on(host, reading, io.BytesIO(), None, 0.01)
    os.close(writing)
    boot._pass_on(host, reading, io.BytesIO(), None, 5)
    os.close(reading)


def test_a_panic_is_told_by_its_reason(host: boot.Host) -> None:
    assert boot.last_words(host) == ""
    host.console.write_text("[1] Kernel panic - not syncing: why\n[1] Kernel Offset: disabled\n")
    assert boot.last_words(host).endswith("[1] Kernel panic - not syncing: why")
    host.console.write_text("one\nlab: no root disk\n\n")
    assert boot.last_words(host) == "; its console ends with: lab: no root disk"
