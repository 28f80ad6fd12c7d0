"""What goes into the lab and what comes back."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vmm.lab import share
from vmm.lab.tools import LabError, find_tool

git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
ext4 = pytest.mark.skipif(
    not (find_tool("mke2fs") and find_tool("debugfs")), reason="e2fsprogs is not installed"
)


def _tree(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def _names(root: Path) -> list[str]:
    return [str(path) for path in share.checkout_files(root)]


@git
def test_files_by_git(tmp_path: Path) -> None:
    _tree(tmp_path, "tracked.py", "gone.py", "new.py", "ignored.log", ".hidden/kept", "a/b.py")
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / "link").symlink_to("nowhere")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "add", "tracked.py", "gone.py"], check=True)
    (tmp_path / "gone.py").unlink()
    expected = [".gitignore", ".hidden/kept", "a/b.py", "link", "new.py", "tracked.py"]
    assert _names(tmp_path) == expected


def test_files_of_a_source_archive(tmp_path: Path) -> None:
    _tree(tmp_path, "a.py", "b/c.py", ".venv/x", "env/pyvenv.cfg", "env/y", "build/z", "q/w.pyc")
    assert _names(tmp_path) == ["a.py", "b/c.py"]


@git
def test_files_of_a_source_archive_inside_another_work_tree(tmp_path: Path) -> None:
    _tree(tmp_path, "inner/a.py")
    (tmp_path / ".gitignore").write_text("inner\n")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert _names(tmp_path / "inner") == ["a.py"]


def test_extra_file_is_parsed(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.touch()
    assert share.ExtraFile.parse(f"{disk}") == share.ExtraFile(disk, "disk.img")
    assert share.ExtraFile.parse(f"{disk}:a/b.img") == share.ExtraFile(disk, "a/b.img")


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up", ""])
def test_extra_file_must_stay_in_its_folder(tmp_path: Path, name: str) -> None:
    disk = tmp_path / "disk.img"
    disk.touch()
    with pytest.raises(LabError, match="is not a name below") as caught:
        share.ExtraFile.parse(f"{disk}:{name}")
    assert caught.value.status == 2


def test_extra_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="nowhere is not a file"):
        share.ExtraFile.parse(f"{tmp_path}/nowhere:x")


@ext4
def test_round_trip(tmp_path: Path) -> None:
    checkout, work, results = (tmp_path / name for name in ("checkout", "work", "results"))
    _tree(checkout, "a.py", "b/c.py")
    _tree(tmp_path, "extra")
    work.mkdir()
    files = [share.ExtraFile(tmp_path / "extra", "disk.img")]
    image = share.make_share(work, checkout, files, share.Order("exit 7", 9))
    debugfs = str(find_tool("debugfs"))

    def inside(request: str) -> str:
        argv = [debugfs, "-w", "-R", request, str(image)]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    assert inside("cat checkout/b/c.py") == "b/c.py"
    assert inside("cat files/disk.img") == "extra"
    assert inside("cat control/command") == "exit 7\n"
    assert "LAB_TIMEOUT=9\n" in inside("cat control/settings")

    # Nothing done inside yet.
    assert share.bring_back(image, work, results) == share.Outcome(None, False)
    assert not results.exists()
    shutil.rmtree(work / "back")

    _tree(tmp_path, "junit.xml")
    (tmp_path / "status").write_text("7\n")
    inside(f"write {tmp_path / 'junit.xml'} results/junit.xml")
    inside(f"write {tmp_path / 'status'} control/status")
    assert share.bring_back(image, work, results) == share.Outcome(7, False)
    assert (results / "junit.xml").read_text() == "junit.xml"


def test_another_folder_goes_inside_with_what_is_built_there_and_glassvm(tmp_path: Path) -> None:
    if find_tool("debugfs") is None:
        pytest.skip("no debugfs (e2fsprogs)")
    folder, work = tmp_path / "kernel", tmp_path / "work"
    _tree(folder, "test_kernel.py", "build/kernel.elf", "venv/x.py", ".git/config")
    work.mkdir()
    image = share.make_share(work, folder, [], share.Order("true"))

    def inside(folder: str) -> set[str]:
        listed = subprocess.run(
            [find_tool("debugfs") or "", "-R", f"ls -p {folder}", image],
            capture_output=True,
            text=True,
            check=True,
        )
        names = {line.split("/")[5] for line in listed.stdout.splitlines() if line}
        return names - {".", "..", "lost+found"}

    assert inside("checkout") == {"test_kernel.py", "build"}
    assert inside("checkout/build") == {"kernel.elf"}
    assert inside("site") == {"kvm_bindings", "devices", "firmware", "vmm"}
    assert "init.sh" in inside("site/vmm/lab/inside")
    assert not any(name.endswith(".so") for name in inside("site/kvm_bindings"))
