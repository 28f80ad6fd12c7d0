"""Where running machines can be found: a socket each, in a folder that only their user can enter.

    $XDG_RUNTIME_DIR/glassvm/NAME.sock; where there is no such folder, $TMPDIR (or /tmp) has
    glassvm-UID/NAME.sock

A socket that nobody answers at was left by a process that was killed; whoever lists removes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
from pathlib import Path

from vmm.control.protocol import ControlError

__all__ = ["bind", "check_name", "connect", "folder", "gdb_socket", "names", "pick"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUFFIX = ".sock"
_GDB = ".gdb"
_LONGEST_PATH = 107
"""sockaddr_un.sun_path, less its zero."""
_FOR_NUMBER = 10


def folder(*, make: bool = False) -> Path:
    """The folder of this user's machines.

    Raises:
        ControlError: somebody else could reach what is in it.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.path.isdir(runtime):
        path = Path(runtime, "glassvm")
    else:
        path = Path(os.environ.get("TMPDIR") or "/tmp", f"glassvm-{os.getuid()}")
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
        found = path.lstat()
    except FileNotFoundError:
        if not make:
            return path
        raise ControlError(f"{path}: cannot be made: {path.parent} is not there") from None
    except OSError as error:
        raise ControlError(f"{path}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ControlError(
            f"{path}: must be a folder of your own that nobody else can enter; remove it, or "
            f"chmod 700 it"
        )
    return path


def check_name(name: str) -> str:
    """Return `name` if a machine can be called so.

    Raises:
        ControlError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ControlError(
            f"{name!r} cannot be a machine's name: use up to 64 letters, digits, '.', '_' and '-'"
        )
    return name


def bind(name: str) -> tuple[socket.socket, Path]:
    """Make the socket of a machine called `name`, listening and non-blocking.

    Raises:
        ControlError: another machine has the name, or the folder cannot be used.
    """
    path = folder(make=True) / f"{check_name(name)}{_SUFFIX}"
    if len(os.fsencode(path)) > _LONGEST_PATH - _FOR_NUMBER:
        raise ControlError(f"{path}: too long for a socket's name; use a shorter name")
    # Whoever lists takes a socket that nobody listens at for a dead one: it gets its name when it
    # listens, not before.
    early = path.with_name(f"{path.name}.{os.getpid()}")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        early.unlink(missing_ok=True)
        made.bind(str(early))
        early.chmod(0o600)
        made.listen(16)
        made.setblocking(False)
        _give_name(early, path, name)
    except OSError as error:
        made.close()
        raise ControlError(f"{path}: {error.strerror}") from None
    except ControlError:
        made.close()
        raise
    finally:
        early.unlink(missing_ok=True)
    return made, path


def _give_name(early: Path, path: Path, name: str) -> None:
    for _ in range(2):
        try:
            os.link(early, path)
        except FileExistsError:
            if _answers(path):
                break
            path.unlink(missing_ok=True)
        else:
            return
    raise ControlError(f"{name}: a machine of that name is running; choose another with --name")


def gdb_socket(name: str) -> Path:
    """Where the machine called `name` waits for GDB, unless it was told another place.

    Raises:
        ControlError: somebody else could reach what is there.
    """
    return folder(make=True) / f"{check_name(name)}{_GDB}"


def names() -> list[str]:
    """The machines that answer, by name; sockets that nobody answers at are removed."""
    found = []
    where = folder()
    try:
        entries = sorted(where.iterdir())
    except FileNotFoundError:
        return []
    for path in entries:
        if path.suffix == _GDB and not path.with_suffix(_SUFFIX).exists():
            path.unlink(missing_ok=True)
        if path.suffix != _SUFFIX:
            continue
        if _answers(path):
            found.append(path.name.removesuffix(_SUFFIX))
        else:
            path.unlink(missing_ok=True)
    return found


def pick(name: str | None) -> str:
    """The machine that is meant: the one called so, or the only one there is.

    Raises:
        ControlError: there is none, or there are several to choose from.
    """
    if name is not None:
        return check_name(name)
    running = names()
    if not running:
        raise ControlError("no machine is running; start one with 'vmm run'")
    if len(running) > 1:
        raise ControlError(f"{len(running)} machines are running; name one: {', '.join(running)}")
    return running[0]


def connect(name: str) -> socket.socket:
    """Connect to a machine's socket.

    Raises:
        ControlError: there is no such machine.
    """
    path = folder() / f"{check_name(name)}{_SUFFIX}"
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.connect(str(path))
    except OSError:
        made.close()
        running = ", ".join(names()) or "none"
        raise ControlError(f"no machine {name!r} is running here (running: {running})") from None
    return made


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(1)
        try:
            trial.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # busy, or not ours to judge
    return True
