"""The file of a snapshot.

    offset  bytes
    0       16     "glassvm snapshot"
    16      4      version, little-endian as all numbers
    20      4      0
    24      8      size of the manifest
    32      8      size of the file
    40      32     SHA-256 of the manifest
    72      24     0
    96      32     SHA-256 of bytes 0 to 95
    128            the manifest: JSON
    behind it      the memory (`vmm.snapshot.ram`), from a boundary of 2 MiB, with holes

A snapshot may build upon another: its memory then has only the pages that are not as there, and its
manifest the other's name and checksum. Such a one is put together in memory when it is read.

The manifest has all but the memory: settings, vCPUs and chips as the kernel's structures in hex,
devices by name with kind and version, and where the memory has data, with its SHA-256. So every
byte is covered, and what is damaged, cut off or too new is found before anything runs.

It is written under a name of its own beside the one it will have, made durable and renamed: whoever
dies in between leaves what was there before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import metadata

from kvm_bindings import CpuidEntry
from vmm.errors import SnapshotError
from vmm.snapshot.capture import held, take_state
from vmm.snapshot.chips import VmState
from vmm.snapshot.cpu import VcpuState
from vmm.snapshot.ram import (
    ImageRegion,
    MemoryImage,
    copy_changes,
    copy_memory,
    data_of_file,
    image_regions,
    laid_over,
)
from vmm.snapshot.snapshot import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.machine import Machine

__all__ = ["VERSION", "read_snapshot", "save_snapshot", "write_snapshot"]

VERSION = 1
_MAGIC = b"glassvm snapshot"
_HEADER = struct.Struct("<16sI4xQQ32s24x")
_SEAL = hashlib.sha256().digest_size
_MANIFEST_AT = _HEADER.size + _SEAL
_MOST_MANIFEST = 64 << 20
_ALIGNMENT = 2 << 20
_PIECE = 1 << 20


def write_snapshot(
    machine: Machine,
    path: str | os.PathLike[str],
    base: Snapshot | str | os.PathLike[str] | None = None,
) -> Snapshot:
    """Take a snapshot into a file; with `base`, of memory only the pages that are not as there.

    Raises:
        SnapshotError: a device cannot be saved, the file cannot be written (what was there before
            still is), or `base` has no file or is of another machine.
        LifecycleError: the machine is closed or failed.
    """
    path = os.fspath(path)
    if base is not None and not isinstance(base, Snapshot):
        with read_snapshot(base) as read:
            return write_snapshot(machine, path, read)
    with _written(path) as fd, held(machine):
        regions = image_regions(machine.memory)
        snapshot = take_state(machine, MemoryImage(-1, 0, regions))
        if base is None:
            _write(fd, snapshot, lambda offset: copy_memory(machine.memory, fd, offset))
        else:
            over = _base_of(path, base, regions)
            copy = partial(copy_changes, machine.memory, base.image, fd)
            _write(fd, snapshot, copy, over)
    return read_snapshot(path, verify=False, trusted=True)


def _base_of(path: str, base: Snapshot, regions: tuple[ImageRegion, ...]) -> dict[str, str]:
    """How a file says what it builds upon: by name, from its own folder, and by checksum."""
    if base.path is None:
        raise SnapshotError("a snapshot can build upon one that has a file; save that first")
    if base.image.regions != regions:
        raise SnapshotError(f"{base.path}: its memory is laid out otherwise than this machine's")
    if os.path.abspath(base.path) == os.path.abspath(path):
        raise SnapshotError(f"{path}: a snapshot cannot take the place of its own base")
    folder = os.path.dirname(os.path.abspath(path))
    return {"name": os.path.relpath(base.path, folder), "sha256": base.digest}


def save_snapshot(snapshot: Snapshot, path: str | os.PathLike[str]) -> Snapshot:
    """Write a snapshot that is in memory, or in another file, to a file.

    Raises:
        SnapshotError: the file cannot be written; what was there before still is.
    """
    path = os.fspath(path)
    with _written(path) as fd:
        _write(fd, snapshot, lambda offset: snapshot.image.copy(fd, offset))
    return read_snapshot(path, verify=False, trusted=True)


def _write(
    fd: int,
    snapshot: Snapshot,
    copy: Callable[[int], list[tuple[int, int]]],
    base: Mapping[str, str] | None = None,
) -> None:
    """Write all of a file; `copy` writes the memory at an offset and says where it has data."""
    # The manifest is written last, but its size decides where the memory begins.
    offset = _reserve(snapshot)
    extents = copy(offset)
    size = offset + sum(region.size for region in snapshot.image.regions)
    os.ftruncate(fd, size)
    manifest = _manifest(snapshot, offset, extents, _hash_extents(fd, offset, extents), base)
    if _MANIFEST_AT + len(manifest) > offset:
        raise SnapshotError("the snapshot's manifest is too large for its file")
    head = _HEADER.pack(_MAGIC, VERSION, len(manifest), size, hashlib.sha256(manifest).digest())
    _write_all(fd, head + hashlib.sha256(head).digest() + manifest, 0)


def read_snapshot(
    path: str | os.PathLike[str], *, verify: bool = True, trusted: bool = False
) -> Snapshot:
    """Open a snapshot's file.

    Args:
        path: the file; it must stay as it is while machines of it live.
        verify: also check the memory's checksum, which reads all of it that is not zero.

    Raises:
        SnapshotError: it is none, of a newer version, damaged or cut off.
    """
    path = os.fspath(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror}") from None
    try:
        manifest, digest, size = _read_manifest(path, fd)
        snapshot = _from_manifest(path, fd, manifest, digest)
        snapshot.trusted = trusted
        if verify:
            _verify(path, fd, manifest["memory"], size, len(manifest["raw"]))
        if manifest["memory"]["base"] is not None:
            snapshot.image = _on_its_base(path, snapshot.image, manifest["memory"], verify)
            os.close(fd)
    except SnapshotError:
        os.close(fd)
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        os.close(fd)
        raise SnapshotError(f"{path}: the snapshot's manifest is not one: {error!r}") from None
    return snapshot


# -- writing ----------------------------------------------------------------------------------


@contextmanager
def _written(path: str) -> Iterator[int]:
    """A new file that gets its name when it is complete, and is gone if it never is."""
    _clear_away(path)
    beside = f"{path}.{os.getpid()}.part"
    try:
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror}") from None
    try:
        try:
            yield fd
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(beside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        if isinstance(error, OSError):
            raise SnapshotError(f"{path}: not written: {error.strerror}") from None
        raise
    with contextlib.suppress(OSError):  # the name is durable as well, where that can be had
        folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _clear_away(path: str) -> None:
    """Remove what processes that were killed have left beside the file."""
    folder, name = os.path.split(os.path.abspath(path))
    with contextlib.suppress(OSError):
        for other in os.listdir(folder):
            pid = other.removeprefix(f"{name}.").removesuffix(".part")
            if other == f"{name}.{pid}.part" and pid.isdecimal() and not _lives(int(pid)):
                os.unlink(os.path.join(folder, other))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return pid != os.getpid()


def _reserve(snapshot: Snapshot) -> int:
    """Where the memory begins: behind the manifest, of which only the extents are not known yet."""
    known = len(_manifest(snapshot, 0, [], ""))
    return -(-(_MANIFEST_AT + 2 * known + (1 << 20)) // _ALIGNMENT) * _ALIGNMENT


def _manifest(
    snapshot: Snapshot,
    offset: int,
    extents: Iterable[tuple[int, int]],
    digest: str,
    base: Mapping[str, str] | None = None,
) -> bytes:
    vm = snapshot.vm
    return json.dumps(
        {
            "glassvm": _version(),
            "backend": snapshot.backend,
            "settings": snapshot.settings,
            "exits": snapshot.exits,
            "vcpus": [
                {
                    "cpuid": [list(entry) for entry in state.cpuid],
                    "tsc_khz": state.tsc_khz,
                    "parts": _in_hex(state.parts),
                    "msrs": {hex(index): value for index, value in state.msrs.items()},
                }
                for state in snapshot.vcpus
            ],
            "vm": {
                "parts": _in_hex(vm.parts),
                "clock_ns": vm.clock_ns,
                "lines": {str(gsi): level for gsi, level in vm.lines.items()},
            },
            "devices": snapshot.devices,
            "others": snapshot.others,
            "memory": {
                "offset": offset,
                "regions": [dict(vars(region)) for region in snapshot.image.regions],
                "extents": [list(extent) for extent in extents],
                "sha256": digest,
                "base": base,
            },
        },
        separators=(",", ":"),
    ).encode()


def _in_hex(parts: Mapping[str, bytes]) -> dict[str, str]:
    return {name: data.hex() for name, data in parts.items()}


def _version() -> str:
    try:
        return metadata.version("glassvm")
    except metadata.PackageNotFoundError:
        return ""


def _write_all(fd: int, data: bytes, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], at + done)


def _hash_extents(fd: int, offset: int, extents: Iterable[Iterable[int]]) -> str:
    """The checksum of where the memory has data, and of the data."""
    found = hashlib.sha256()
    for start, size in extents:
        found.update(struct.pack("<QQ", start, size))
        for at in range(start, start + size, _PIECE):
            found.update(os.pread(fd, min(_PIECE, start + size - at), offset + at))
    return found.hexdigest()


# -- reading ----------------------------------------------------------------------------------


def _read_manifest(path: str, fd: int) -> tuple[dict[str, Any], str, int]:
    """The manifest, its checksum, and the size of the file."""
    head = os.pread(fd, _MANIFEST_AT, 0)
    if head[: len(_MAGIC)] != _MAGIC:
        raise SnapshotError(f"{path}: not a snapshot")
    if len(head) < _MANIFEST_AT:
        raise SnapshotError(f"{path}: the snapshot is cut off in its header")
    _, version, length, size, digest = _HEADER.unpack_from(head)
    if hashlib.sha256(head[: _HEADER.size]).digest() != head[_HEADER.size :]:
        raise SnapshotError(f"{path}: the snapshot's header is damaged")
    if version != VERSION:
        raise SnapshotError(
            f"{path}: a snapshot of version {version}; this glassvm reads version {VERSION}"
        )
    have = os.fstat(fd).st_size
    if have != size:
        raise SnapshotError(f"{path}: the snapshot has {have} bytes and should have {size}")
    raw = os.pread(fd, length, _MANIFEST_AT) if length <= _MOST_MANIFEST else b""
    if hashlib.sha256(raw).digest() != digest:
        raise SnapshotError(f"{path}: the snapshot's manifest is damaged")
    manifest = json.loads(raw)
    manifest["raw"] = raw
    return manifest, digest.hex(), size


def _from_manifest(path: str, fd: int, manifest: Mapping[str, Any], digest: str) -> Snapshot:
    vcpus = tuple(
        VcpuState(
            tuple(CpuidEntry(*entry) for entry in state["cpuid"]),
            int(state["tsc_khz"]),
            _from_hex(state["parts"]),
            {int(index, 16): int(value) for index, value in state["msrs"].items()},
        )
        for state in manifest["vcpus"]
    )
    vm = manifest["vm"]
    memory = manifest["memory"]
    regions = tuple(ImageRegion(**region) for region in memory["regions"])
    return Snapshot(
        settings=manifest["settings"],
        backend=manifest["backend"],
        vcpus=vcpus,
        vm=VmState(
            _from_hex(vm["parts"]),
            vm["clock_ns"],
            {int(gsi): bool(level) for gsi, level in vm["lines"].items()},
        ),
        devices=manifest["devices"],
        others=manifest["others"],
        image=MemoryImage(fd, int(memory["offset"]), regions),
        exits=manifest["exits"],
        path=path,
        digest=digest,
    )


def _on_its_base(
    path: str, changes: MemoryImage, memory: Mapping[str, Any], verify: bool
) -> MemoryImage:
    """The memory of a snapshot that has only what changed since another.

    Raises:
        SnapshotError: the other is not there, is damaged, or is not the one.
    """
    named = memory["base"]
    other = os.path.join(os.path.dirname(os.path.abspath(path)), named["name"])
    try:
        base = read_snapshot(other, verify=verify)
    except SnapshotError as error:
        raise SnapshotError(f"{path}: builds upon another: {error}") from None
    with base:
        if base.digest != named["sha256"]:
            raise SnapshotError(f"{path}: builds upon {other}, which is another snapshot by now")
        return laid_over(base.image, changes.fd, changes.offset, memory["extents"])


def _from_hex(parts: Mapping[str, str]) -> dict[str, bytes]:
    return {name: bytes.fromhex(text) for name, text in parts.items()}


def _verify(path: str, fd: int, memory: Mapping[str, Any], size: int, manifest_size: int) -> None:
    """Check the memory, and that there is nothing where nothing should be."""
    offset, extents = memory["offset"], memory["extents"]
    if _hash_extents(fd, offset, extents) != memory["sha256"]:
        raise SnapshotError(f"{path}: the snapshot's memory is damaged")
    known = [(0, _MANIFEST_AT + manifest_size)]
    known += [(offset + start, offset + start + length) for start, length in extents]
    at = 0
    for start, end in [*known, (size, size)]:
        for first, last in data_of_file(fd, at, start - at) if start > at else ():
            for piece in range(first, last, _PIECE):
                if os.pread(fd, min(_PIECE, last - piece), piece).strip(b"\0"):
                    raise SnapshotError(f"{path}: the snapshot has data where none should be")
        at = end
