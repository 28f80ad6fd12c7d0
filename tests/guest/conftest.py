"""Whole operating systems as guests: Debian's kernel with a busybox around it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import platform
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import vmm
from tests.guest.emulation import HIDDEN
from vmm.host.tap import Tap
from vmm.lab.initramfs import load_order, read_module
from vmm.pytest_plugin.machines import VmFactory

HERE = Path(__file__).parent
PATIENCE = 150
"""Seconds that a guest may take to its end, on an emulated host that is busy."""
CLONE_NEWNET = 0x4000_0000
EMULATED_RING_0 = Path("/sys/module/kvm_pvm").exists()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("kvm")
            item.add_marker("system")
            item.add_marker(pytest.mark.timeout(4 * PATIENCE))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if EMULATED_RING_0 and HERE in item.path.parents:
        pytest.skip(
            "a stock kernel does not boot where KVM emulates ring 0 (kvm_pvm); run it in the lab"
        )


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"guest_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def kernel() -> Path:
    """The newest of this host's own kernels, as installed; the lab has Debian's cloud kernel."""
    found = sorted(Path("/boot").glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    if not found or not os.access(found[-1], os.R_OK):
        pytest.skip("no kernel in /boot that can be read")
    return found[-1]


@pytest.fixture(scope="session")
def vmlinux(kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same kernel, unpacked."""
    unpack = _script("unpack")
    image = kernel.read_bytes()
    if program := unpack.missing_tool(image):
        pytest.skip(f"{kernel.name} is packed with {program}, which is not installed")
    path: Path = tmp_path_factory.mktemp("kernel") / "vmlinux"
    path.write_bytes(unpack.unpack(image))
    return path


@pytest.fixture(scope="session")
def modules(kernel: Path) -> Callable[..., Mapping[str, bytes]]:
    """Modules of the guest's kernel with what they need, as files in the order of their names."""
    folder = Path("/lib/modules", kernel.name.removeprefix("vmlinuz-"))
    if not folder.is_dir():
        pytest.skip(f"no modules of {kernel.name} in /lib/modules")
    needs = (folder / "modules.dep").read_text()
    builtin = (folder / "modules.builtin").read_text()

    def find(*wanted: str) -> Mapping[str, bytes]:
        paths = load_order(wanted, needs, builtin)
        return {f"modules/{n:02}.ko": read_module(folder / p) for n, p in enumerate(paths)}

    return find


@dataclass
class Outcome:
    """How a guest ended, and what it printed."""

    result: vmm.RunResult
    text: str
    machine: vmm.Machine

    def between(self, start: str, end: str) -> list[str]:
        """The lines that the guest printed between two others."""
        lines = self.text.replace("\r", "").split("\n")
        return lines[lines.index(start) + 1 : lines.index(end)]


Linux = Callable[..., Outcome]


@pytest.fixture
def linux(vm_factory: VmFactory, kernel: Path, tmp_path: Path) -> Linux:
    """Boot Linux with a script of busybox's shell as its init, until it ends."""
    initramfs = _script("initramfs")
    if not initramfs.BUSYBOX.exists():
        pytest.skip("no static busybox (Debian: busybox-static)")

    def run(
        script: str,
        *,
        image: Path = kernel,
        append: str = "",
        files: Mapping[str, bytes] | None = None,
        busybox: Path = initramfs.BUSYBOX,
        prepare: Callable[[vmm.Machine], object] = lambda machine: None,
        **options: Any,
    ) -> Outcome:
        initrd = tmp_path / "initrd"
        initrd.write_bytes(initramfs.make_initramfs(script, files, busybox=busybox))
        options.setdefault("cpu", HIDDEN)
        machine = vm_factory(
            image, initrd=initrd, append=f"console=ttyS0 quiet panic=-1 {append}", **options
        )
        prepare(machine)
        result = machine.run(timeout=PATIENCE)
        return Outcome(result, machine.console.text, machine)

    return run


@pytest.fixture(scope="session")
def architecture() -> str:
    """What `uname -m` says in a guest with this host's kernel."""
    return platform.machine()


@pytest.fixture
def busybox() -> Callable[[str], None]:
    """Runs programs of busybox on the host, one behind the other, from this thread."""

    def run(commands: str) -> None:
        for line in commands.split(";"):
            subprocess.run(["/bin/busybox", *line.split()], check=True, timeout=10)

    return run


@pytest.fixture
def own_network(busybox: Callable[[str], None]) -> Iterator[None]:
    """This thread, and what it starts, in a network namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before:
        if libc.unshare(CLONE_NEWNET):
            pytest.skip(f"no network namespaces: {os.strerror(ctypes.get_errno())}")
        try:
            busybox("ip link set lo up")
            yield
        finally:
            assert libc.setns(before.fileno(), CLONE_NEWNET) == 0


@pytest.fixture
def uplink(own_network: None, busybox: Callable[[str], None]) -> Iterator[str]:
    """An interface with the address that is given back, which leads nowhere: what a user-mode
    network takes for the host's own."""
    with contextlib.closing(Tap("up0")):
        busybox("ip addr add 192.0.2.5/24 dev up0; ip link set up0 up")
        busybox("ip route add default via 192.0.2.1")
        yield "192.0.2.5"


@pytest.fixture
def download_size() -> int:
    """Bytes of the file that guests download."""
    return int(os.environ.get("GLASSVM_DOWNLOAD_MIB", "8")) << 20


@pytest.fixture
def served(own_network: None, download_size: int, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """A web server with one file; gives the file's MD5 when it is started at an address."""
    folder = tmp_path / "served"
    folder.mkdir()
    content = os.urandom(download_size)
    (folder / "file").write_bytes(content)
    running: list[subprocess.Popen[bytes]] = []

    def serve(address: str) -> str:
        command = [sys.executable, "-m", "http.server", "8000", "--bind", address]
        running.append(
            subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        )
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection((address, 8000), 1):
                return hashlib.md5(content).hexdigest()
            threading.Event().wait(0.1)
        raise AssertionError("the web server did not start")

    yield serve
    for process in running:
        process.kill()
        process.communicate()
