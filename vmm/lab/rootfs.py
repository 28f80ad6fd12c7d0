"""The lab's root file system: Debian packages unpacked, Python packages added, one ext4 image.

Nothing is installed and nothing of it is run in a chroot, so that it needs no root and works on
hosts of another architecture.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from vmm.lab.tools import LabError, run_tool

__all__ = ["make_ext4", "populate", "python_version", "requirements", "tree_size"]

_HERE = Path(__file__).resolve().parent

# Of no use inside, and a good part of the files.
_UNWANTED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
)

# Compiles C, which the inside cannot: there is no compiler there. And the project's own extras,
# which draw pictures.
_LEFT_OUT = ("setuptools", "glassvm")

# Wheels that the inside's C library (2.35 or later) takes; pip wants each of them named.
_PLATFORMS = tuple(
    f"{tag}_x86_64"
    for tag in (
        *(f"manylinux_2_{minor}" for minor in (35, 34, 31, 28, 27, 24, 17, 12, 5)),
        *("manylinux2014", "manylinux2010", "manylinux1"),
    )
)

_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nkvm:x:104:\nnogroup:x:65534:\n",
    "etc/hostname": "lab\n",
    "etc/hosts": "127.0.0.1 localhost lab\n::1 localhost lab\n",
    # The tests are about this processor's virtualization, not about a guest's own guests.
    "etc/modprobe.d/lab.conf": "options kvm_amd nested=0\n",
    "usr/local/bin/vmm": '#!/bin/sh\nexec python3 -m vmm "$@"\n',
}

_EXECUTABLE = ("usr/local/bin/vmm", "sbin/lab-init")


def requirements() -> list[str]:
    """What pip installs inside: what glassvm and its tests need, as it was installed here."""
    found = []
    for each in metadata.requires("glassvm") or ():
        requirement, _, condition = each.partition(";")
        name = re.split(r"[^\w.-]", requirement)[0]
        wanted = not condition or re.search(r"""extra == ['"]test['"]""", condition)
        if wanted and name not in _LEFT_OUT:
            found.append(requirement.strip())
    return found


def populate(root: Path, debs: Sequence[Path], wheels: Sequence[str]) -> None:
    """Fill the empty folder `root` with the .deb files `debs` and the Python packages `wheels`.

    Raises:
        LabError: a package cannot be unpacked or downloaded.
    """
    for name in ("bin", "lib", "lib64", "sbin"):
        # First, so that packages from before the merge of / and /usr land in the right place.
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for deb in debs:
        run_tool(["dpkg-deb", "-x", deb, root], doing=f"unpack {deb.name}")
    for unwanted in _UNWANTED:
        shutil.rmtree(root / unwanted, ignore_errors=True)
    _write_files(root)
    kernel_version = next((root / "lib/modules").iterdir()).name
    run_tool(["depmod", "-b", root, kernel_version], doing="list the kernel modules")
    version = python_version(root)
    packages = root / f"usr/local/lib/python{version}/dist-packages"
    _install_python_packages(packages, version, wheels)
    _compile_python(root, version)


def _write_files(root: Path) -> None:
    for folder in ("dev", "proc", "sys", "run", "tmp", "root", "share", "var/tmp"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    shutil.copy(_HERE / "inside/init.sh", root / "sbin/lab-init")
    shutil.copy(_HERE / "inside/steady.py", root / "sbin/lab-steady")
    for name in _EXECUTABLE:
        (root / name).chmod(0o755)
    for link, target in {"results": "share/results", "files": "share/files"}.items():
        (root / link).symlink_to(target)
    shell = root / "bin/sh"
    if not shell.is_symlink():
        shell.symlink_to("busybox")


def python_version(root: Path) -> str:
    """The version of the Python in `root`, as "3.11".

    Raises:
        LabError: it is older than the project needs.
    """
    version = (root / "usr/bin/python3").readlink().name.removeprefix("python")
    if int(version.split(".")[1]) < 11:
        raise LabError(
            f"the packages here have Python {version}: use Debian 12, Ubuntu 24.04 or later"
        )
    return version


def _install_python_packages(target: Path, version: str, wheels: Sequence[str]) -> None:
    platforms = [f"--platform={name}" for name in _PLATFORMS]
    run_tool(
        [
            *_pip(),
            *("install", "--quiet", "--no-input", "--no-compile", "--only-binary=:all:"),
            *("--implementation=cp", f"--python-version={version}", *platforms),
            "--target",
            target,
            *wheels,
        ],
        doing="install the lab's Python packages",
        env={"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"},
    )
    # pytest rewrites the assertions of every module of a plugin that its RECORD names, hypothesis
    # and all: 12 emulated seconds of each run. Without the list it takes the compiled modules.
    for record in target.glob("*.dist-info/RECORD"):
        record.unlink()


def _pip() -> list[str]:
    """The command that is pip: the running Python's, or else the system's."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            run_tool([python, "-m", "pip", "--version"], doing="find pip")
        except LabError:
            continue
        return [python, "-m", "pip"]
    raise LabError("the lab needs pip: sudo apt-get install python3-pip, or use a venv")


def _compile_python(root: Path, version: str) -> None:
    """Compile every module, which emulated would take minutes, and Debian leaves to installation.

    By hash and unchecked: the image never changes, and each check would be emulated too.
    """
    python = _interpreter(root, version)
    if python is None:
        return  # slower inside, and still right
    # Workers are started by the interpreter's own name, which one behind a loader does not know.
    workers = (os.cpu_count() or 1) if len(python) == 1 else 1
    folders = [root / "usr/lib" / f"python{version}", root / "usr/lib/python3/dist-packages"]
    folders += [root / f"usr/local/lib/python{version}/dist-packages"]
    run_tool(
        [
            *python,
            *("-m", "compileall", "-q", "-j", str(workers)),
            *("-x", r"/(tests?|idlelib|lib2to3|ensurepip)/"),
            *("--invalidation-mode", "unchecked-hash", "-s", root, "-p", "/"),
            *(folder for folder in folders if folder.is_dir()),
        ],
        doing="compile the lab's Python modules",
    )


def _interpreter(root: Path, version: str) -> list[str] | None:
    """A command on this machine that is Python `version`; compiled modules fit no other."""
    # The image's own, started by its own loader with its own libraries, on an x86-64 host.
    loader = (root / "lib64/ld-linux-x86-64.so.2").resolve()
    libraries = root / "usr/lib/x86_64-linux-gnu"
    own = [str(loader), "--library-path", str(libraries), str(root / f"usr/bin/python{version}")]
    for command in ([sys.executable], [f"python{version}"], own):
        probe = [*command, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        try:
            if run_tool(probe, doing="ask Python for its version").strip() == version:
                return command
        except (LabError, OSError):
            continue
    return None


def tree_size(tree: Path) -> int:
    """Bytes that the files below `tree` take in whole blocks of 4 KiB, with one for each inode."""
    total = 0
    for folder, names, files in os.walk(tree):
        total += 4096 * len(names)
        for name in files:
            total += 4096 + (os.lstat(os.path.join(folder, name)).st_size + 4095) // 4096 * 4096
    return total


def make_ext4(tree: Path, image: Path, *, free_mib: int) -> None:
    """Write the folder `tree` as the ext4 file system `image`, with `free_mib` MiB of room.

    There is no journal: an image is either kept pristine or lives for one run.

    Raises:
        LabError: mke2fs failed.
    """
    size_kib = tree_size(tree) * 11 // 10 // 1024 + free_mib * 1024
    run_tool(
        [
            *("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096", "-O", "^has_journal"),
            *("-E", "root_owner=0:0", "-d", tree, image, f"{size_kib}k"),
        ],
        doing=f"make the file system {image.name}",
    )
