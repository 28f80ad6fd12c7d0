"""What maintainer scripts would make of an unpacked system, as far as it takes to log in to it.

Accounts, PAM's files and the rest come from the templates that the packages have for their own
scripts, so that these find nothing strange when the guest runs them.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from vmm.image.unpack import Tree
from vmm.lab.tools import run_tool

__all__ = ["Looks", "settle"]

_INSIDE = Path(__file__).resolve().parent / "inside"

_SHADOW = 42
_DAY_0 = 19000
"""When passwords were set, in days; a guest without a clock is not told that they are from the
future."""

_PAM = {
    "auth": ("Primary", "[success=end default=ignore]\tpam_unix.so nullok"),
    "account": ("Primary", "[success=end new_authtok_reqd=done default=ignore]\tpam_unix.so"),
    "password": ("Primary", "[success=end default=ignore]\tpam_unix.so obscure yescrypt"),
    "session": ("Additional", "required\tpam_unix.so"),
    "session-noninteractive": ("Additional", "required\tpam_unix.so"),
}
"""The profile `unix` of libpam-runtime, of all that pam-auth-update knows."""

_NOTHING = "[default=1]\t\t\tpam_permit.so"
"""What stands for the first block where no profile has any."""

_LINKS = {
    "usr/sbin/init": "../bin/busybox",
    "usr/sbin/poweroff": "../bin/busybox",
    "usr/sbin/reboot": "../bin/busybox",
    "usr/sbin/halt": "../bin/busybox",
    "usr/bin/vi": "busybox",
    "usr/bin/less": "busybox",
    "usr/bin/wget": "busybox",
    "usr/bin/nc": "busybox",
    "usr/bin/awk": "mawk",
    "usr/bin/which": "which.debianutils",
    "etc/mtab": "../proc/self/mounts",
    "var/run": "/run",
    "var/lock": "/run/lock",
}
"""Links to be made where a package has not brought the file itself."""

_INITTAB = """\
# busybox init: what is run, on which terminal, and when
::sysinit:/etc/init.d/boot
ttyS0::respawn:/usr/local/sbin/console-login ttyS0
hvc0::respawn:/usr/local/sbin/console-login hvc0
::respawn:/usr/local/sbin/power-button
::ctrlaltdel:/usr/sbin/reboot
::shutdown:/bin/sync
::shutdown:/bin/umount -a -r
"""


@dataclass(frozen=True)
class Looks:
    """What a user may choose: without a `password`, root is logged in on every console."""

    hostname: str = "debian"
    password: str | None = None


def settle(tree: Tree, looks: Looks, sources: str) -> None:
    """Make an unpacked system one that boots and can be logged in to. `sources` are for its apt.

    Raises:
        LabError: the password cannot be hashed.
    """
    root = tree.root
    _accounts(tree, looks.password)
    _pam(root)
    _base_files(root)
    _write(root, "etc/hostname", f"{looks.hostname}\n")
    _write(root, "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {looks.hostname}\n::1 localhost\n")
    _write(root, "etc/fstab", "/dev/root / auto defaults,errors=remount-ro 0 1\n")
    _write(root, "etc/apt/sources.list", sources)
    _write(root, "etc/default/locale", "LANG=C.UTF-8\n")
    _write(root, "etc/machine-id", "")
    _write(root, "etc/inittab", _INITTAB)
    autologin = "--autologin root " if looks.password is None else ""
    login = (_INSIDE / "login.sh").read_text().replace("@AUTOLOGIN@", autologin)
    _write(root, "usr/local/sbin/console-login", login, 0o755)
    _write(root, "usr/local/sbin/power-button", (_INSIDE / "power.sh").read_text(), 0o755)
    _write(root, "etc/init.d/boot", (_INSIDE / "boot.sh").read_text(), 0o755)
    _write(root, "etc/udhcpc/lease", (_INSIDE / "lease.sh").read_text(), 0o755)
    _write(root, "etc/acpi/PWRF/00000080", "#!/bin/sh\nexec poweroff\n", 0o755)
    for name, target in _LINKS.items():
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)  # base-files has folders where it then makes links
        if not path.exists() and not path.is_symlink():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
    for folder in ("dev", "proc", "sys", "run", "mnt", "media", "srv", "opt", "root", "var/mail"):
        (root / folder).mkdir(parents=True, exist_ok=True)


def _write(root: Path, name: str, text: str, mode: int = 0o644) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _accounts(tree: Tree, password: str | None) -> None:
    root = tree.root
    masters = root / "usr/share/base-passwd"
    # root:*:0:... for "no password that fits", which is in etc/shadow here.
    accounts = (masters / "passwd.master").read_text().replace(":*:", ":x:")
    _write(root, "etc/passwd", accounts)
    _write(root, "etc/group", (masters / "group.master").read_text().replace(":*:", ":x:"))
    shadow = []
    for line in accounts.splitlines():
        name = line.partition(":")[0]
        hashed = "*" if name != "root" else "" if password is None else _hash(password)
        shadow.append(f"{name}:{hashed}:{_DAY_0}:0:99999:7:::\n")
    _write(root, "etc/shadow", "".join(shadow), 0o640)
    tree.owners["etc/shadow"] = (0, _SHADOW)
    if os.geteuid() == 0:
        os.chown(root / "etc/shadow", 0, _SHADOW)


def _hash(password: str) -> str:
    """A password as etc/shadow has it, hashed with SHA-512: by perl, which every Debian has, for
    Python has no crypt any more."""
    program = r"print crypt($ENV{VMM_PASSWORD}, q($6$) . $ENV{VMM_SALT} . q($))"
    given = {"VMM_PASSWORD": password, "VMM_SALT": secrets.token_hex(8)}
    return run_tool(["perl", "-e", program], doing="hash the password", env=given).strip()


def _pam(root: Path) -> None:
    """Write what pam-auth-update would: the files, and its notes of what it put into them, without
    which it takes them for a user's own."""
    saved = root / "var/lib/pam"
    for template in (root / "usr/share/pam").glob("common-*"):
        kind = template.name.removeprefix("common-")
        if kind not in _PAM:
            continue  # checksums of earlier versions
        block, line = _PAM[kind]
        blocks = {"Primary": "" if block == "Primary" else _NOTHING, "Additional": "", block: line}
        control = kind.removesuffix("-noninteractive")
        variable = kind.replace("noninteractive", "nonint").replace("-", "_")
        text = template.read_text()
        for name, module in blocks.items():
            # Without a line it is gone: an empty one would be a change of somebody's.
            shown = f"{control}\t{module}\n".replace("success=end", "success=1") if module else ""
            text = text.replace(f"${variable}_{name.lower()}\n", shown)
        _write(root, f"etc/pam.d/{template.name}", text)
        nothing = f"Module: null\n{_NOTHING}\n" if block == "Additional" else ""
        _write(root, f"var/lib/pam/{kind}", f"{nothing}Module: unix\n{line}\n")
    if saved.is_dir():
        _write(root, "var/lib/pam/seen", "unix\n")


def _base_files(root: Path) -> None:
    share = root / "usr/share/base-files"
    for name, target in (
        *(("profile", "etc/profile"), ("motd", "etc/motd")),
        *(("dot.profile", "root/.profile"), ("dot.bashrc", "root/.bashrc")),
        ("nsswitch.conf", "etc/nsswitch.conf"),
    ):
        if (share / name).is_file():
            _write(root, target, (share / name).read_text())
    nsswitch = root / "usr/share/libc-bin/nsswitch.conf"
    if nsswitch.is_file() and not (root / "etc/nsswitch.conf").exists():
        _write(root, "etc/nsswitch.conf", nsswitch.read_text())
