"""qemu-storage-daemon: the program that serves a disk image of any of QEMU's formats.

It neither leaves when its connection is closed nor when this process is killed. So a shell stands
between: it waits for the end of a pipe that only this process holds open, then ends the daemon by
SIGTERM, upon which that closes the image. (A parent-death signal would come when the thread ends
that made the machine.)

Spec: qemu-storage-daemon(1), --blockdev, --export.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile

from vmm.errors import ConfigError
from vmm.host.vhost_user import VhostUser, VhostUserError

__all__ = ["NAME", "start_storage_daemon"]

NAME = "qemu-storage-daemon"

# The listening socket is the daemon's standard output. The shell lets go of it, so that a daemon
# which does not start hangs up on us.
_WATCH = '"$@" & exec >&-; read -r end; kill $! 2>/dev/null; wait $!'


def start_storage_daemon(
    path: str, format: str, *, readonly: bool = False, queues: int = 1
) -> tuple[VhostUser, subprocess.Popen[bytes]]:
    """Have an image served as a vhost-user-blk device: the connection, and the process, which
    leaves when its standard input is closed.

    Args:
        path: the image.
        format: one of `vmm.host.disk_formats.FORMATS`.
        readonly: the guest cannot write to it.
        queues: how many the device has.

    Raises:
        ConfigError: the program is not there, or cannot open the image as asked.
    """
    program = shutil.which(NAME)
    if program is None:
        raise ConfigError(
            f"--disk {path}: {format} images are served by {NAME}, which is not installed "
            "(Debian 12, Ubuntu 22.04: apt install qemu-system-common; later: qemu-utils)"
        )
    path = os.path.abspath(path)
    both = {"read-only": readonly, "discard": "unmap"}
    file = {"driver": "host_device" if _is_device(path) else "file", "filename": path, **both}
    image = {"node-name": "disk", "driver": format, "file": file, **both}
    writable = "off" if readonly else "on"
    export = f"vhost-user-blk,id=disk,node-name=disk,writable={writable},num-queues={queues}"
    command = [program, "--blockdev", json.dumps(image)]
    command += ["--export", f"{export},addr.type=fd,addr.str=1"]
    # The socket needs a name only until both ends have each other.
    with (
        tempfile.TemporaryFile() as words,
        tempfile.TemporaryDirectory(prefix="glassvm-") as place,
    ):
        name = os.path.join(place, "socket")
        listener = socket.socket(socket.AF_UNIX)
        connection = socket.socket(socket.AF_UNIX)
        with listener:
            listener.bind(name)
            listener.listen(1)
            process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCH, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=listener.fileno(),
                stderr=words,  # a pipe that nobody reads would hold it up one day
                start_new_session=True,  # Ctrl-C is the VMM's to handle
            )
            connection.connect(name)
        try:
            return VhostUser(connection, NAME), process
        except VhostUserError as error:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
            words.seek(0)
            lines = words.read().decode(errors="replace").splitlines()
            told = " ".join(lines).rpartition("}: ")[2] or str(error)
            raise ConfigError(f"--disk {path}: {NAME} did not start: {told}") from None


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False  # the daemon says why
