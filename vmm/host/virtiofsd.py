"""virtiofsd: the program that serves a folder of the host's to a guest.

There are two of the name: the older one that came with QEMU, and the one in Rust; they differ in
their options. Either leaves by itself when the connection is closed, however this process ends.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile

from vmm.errors import ConfigError
from vmm.host.vhost_user import VhostUser, VhostUserError

__all__ = ["PLACES", "start_virtiofsd"]

PLACES = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd")
"""Where distributions have it, none of which is in PATH."""


def start_virtiofsd(folder: str) -> tuple[VhostUser, subprocess.Popen[bytes]]:
    """Have a folder served: the connection, and the process.

    Raises:
        ConfigError: it is no folder, or the program is not there or does not start.
    """
    if not os.path.isdir(folder):
        raise ConfigError(f"--share {folder}: not a folder")
    program = _find()
    # Its socket needs a name only until both ends have each other.
    with (
        tempfile.TemporaryFile() as words,
        tempfile.TemporaryDirectory(prefix="glassvm-") as place,
    ):
        path = os.path.join(place, "socket")
        listener = socket.socket(socket.AF_UNIX)
        connection = socket.socket(socket.AF_UNIX)
        with listener:
            listener.bind(path)
            listener.listen(1)
            command = [program, f"--fd={listener.fileno()}", *_words(program, folder)]
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,  # a pipe that nobody reads would hold it up one day
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is the VMM's to handle
            )
            connection.connect(path)
        try:
            return VhostUser(connection, "virtiofsd"), process
        except VhostUserError as error:
            process.kill()
            process.wait()
            words.seek(0)
            told = words.read().decode(errors="replace").strip().splitlines() or [str(error)]
            raise ConfigError(f"--share {folder}: virtiofsd did not start: {told[-1]}") from None


def _find() -> str:
    found = shutil.which("virtiofsd") or next(
        (place for place in PLACES if os.access(place, os.X_OK)), None
    )
    if found is None:
        raise ConfigError(
            "--share: virtiofsd is not installed (Debian 12, Ubuntu 22.04: qemu-system-common; "
            "later: virtiofsd)"
        )
    return found


def _words(program: str, folder: str) -> list[str]:
    """The options of the one or of the other."""
    helped = subprocess.run([program, "--help"], capture_output=True, check=False, timeout=10)
    if b"--shared-dir" in helped.stdout + helped.stderr:
        return ["--shared-dir", folder]
    # Without notes of every connection on standard error.
    return ["-f", "-o", "source=" + folder.replace(",", "\\,"), "-o", "log_level=err"]
