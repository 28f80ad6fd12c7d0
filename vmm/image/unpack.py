"""Unpacking Debian packages into a folder, and noting them as dpkg does.

Nothing of a package is run. dpkg's database has them as "unpacked": what their scripts would do is
left to the guest, where `dpkg --configure -a` (or the next `apt install`) does it.

Spec: deb(5); dpkg(1), "Package states"; deb-triggers(5).
"""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vmm.lab.tools import LabError, find_tool, last_line

__all__ = ["Tree"]

_MERGED = ("bin", "lib", "lib64", "sbin")
_UNWANTED = ("usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/locale/")
"""Of no use without a pager and a reader, and a quarter of all bytes. Copyrights stay."""


@dataclass
class Tree:
    """A root file system in the folder `root`, and whose its files are."""

    root: Path
    owners: dict[str, tuple[int, int]] = field(default_factory=dict)
    """User and group of each file that is not root's, by its path in the tree."""
    _status: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in _MERGED:
            # First, so that packages from before the merge of / and /usr land in the right place.
            (self.root / "usr" / name).mkdir(parents=True)
            (self.root / name).symlink_to(f"usr/{name}")

    def add(self, debs: Sequence[Path], told: Callable[[int, str], None]) -> None:
        """Unpack packages; `told` hears of each, by its number and name, before it is.

        Raises:
            LabError: one cannot be unpacked.
        """
        info = self.root / "var/lib/dpkg/info"
        info.mkdir(parents=True, exist_ok=True)
        for number, deb in enumerate(debs):
            told(number, deb.name.partition("_")[0])
            self._add(deb, info)

    def add_files(self, deb: Path, wanted: Callable[[str], bool]) -> None:
        """Unpack the files of a package that are wanted, by their paths, and note nothing.

        Raises:
            LabError: it cannot be unpacked.
        """
        for member, tar in _members(deb, "--fsys-tarfile"):
            if wanted(_path(member)):
                tar.extract(member, self.root, numeric_owner=True)

    def write_database(self) -> None:
        """Write dpkg's status file, and who waits for which triggers."""
        dpkg = self.root / "var/lib/dpkg"
        for folder in ("updates", "triggers", "parts", "alternatives"):
            (dpkg / folder).mkdir(exist_ok=True)
        (dpkg / "status").write_text("".join(self._status), encoding="utf-8")
        for name in ("available", "diversions", "statoverride", "lock", "triggers/Lock"):
            (dpkg / name).touch()
        (dpkg / "info/format").write_text("1\n")
        self._write_triggers(dpkg)

    def _add(self, deb: Path, info: Path) -> None:
        paths = []
        for member, tar in _members(deb, "--fsys-tarfile"):
            path = _path(member)
            if path.startswith(_UNWANTED) and not member.isdir() and "/copyright" not in path:
                continue
            paths.append(f"/{path}")
            # The folders above, for one whose archive leaves them out.
            tar.extract(member, self.root, numeric_owner=True)
            if (member.uid, member.gid) != (0, 0):
                merged = path.partition("/")[0] in _MERGED
                self.owners[f"usr/{path}" if merged else path] = (member.uid, member.gid)
        control: dict[str, tuple[bytes, int]] = {}
        for member, tar in _members(deb, "--ctrl-tarfile"):
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None:
                control[_path(member)] = (content.read(), member.mode)
        text = control.pop("control")[0].decode()
        fields = dict(line.partition(": ")[::2] for line in text.splitlines() if line[:1] != " ")
        name = fields["Package"]
        if fields.get("Multi-Arch") == "same":
            name += f":{fields['Architecture']}"
        for kind, (data, mode) in control.items():
            (info / f"{name}.{kind}").write_bytes(data)
            (info / f"{name}.{kind}").chmod(mode)
        (info / f"{name}.list").write_text("/.\n" + "".join(f"{p}\n" for p in paths if p != "/"))
        head, _, rest = text.strip("\n").partition("\n")
        self._status.append(f"{head}\nStatus: install ok unpacked\n{rest}\n\n")

    def _write_triggers(self, dpkg: Path) -> None:
        files: list[str] = []
        explicit: dict[str, list[str]] = {}
        for path in sorted((dpkg / "info").glob("*.triggers")):
            for line in path.read_text().splitlines():
                directive, _, trigger = line.partition("#")[0].strip().partition(" ")
                if not directive.startswith("interest"):
                    continue
                who = path.name.removesuffix(".triggers")
                who += "/noawait" if directive.endswith("-noawait") else ""
                if trigger.startswith("/"):
                    files.append(f"{trigger} {who}\n")
                else:
                    explicit.setdefault(trigger, []).append(f"{who}\n")
        (dpkg / "triggers/File").write_text("".join(files))
        for trigger, lines in explicit.items():
            (dpkg / "triggers" / trigger).write_text("".join(lines))


def _path(member: tarfile.TarInfo) -> str:
    return member.name.removeprefix(".").lstrip("/")


def _members(deb: Path, what: str) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """The members of one of a package's two archives, in their order.

    Raises:
        LabError: it cannot be read, or what is in it cannot be written.
    """
    with _archive(deb, what) as tar:
        for member in tar:
            yield member, tar


@contextmanager
def _archive(deb: Path, what: str) -> Iterator[tarfile.TarFile]:
    program = find_tool("dpkg-deb")
    if program is None:
        raise LabError(f"cannot unpack {deb.name}: dpkg-deb is not installed: apt-get install dpkg")
    with subprocess.Popen(
        [program, what, deb], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                # As the archive has it, set-user-ID bits and all; Python 3.11.2 knows no filters.
                tar.extraction_filter = lambda member, path: member
                yield tar
            while process.stdout.read(1 << 16):
                pass  # what pads the archive
        except (tarfile.TarError, OSError) as error:
            process.kill()
            said = last_line(process.stderr.read().decode(errors="replace"))
            raise LabError(f"cannot unpack {deb.name}: {said or error}") from None
    if process.returncode:
        raise LabError(f"cannot unpack {deb.name}: dpkg-deb ended with {process.returncode}")
