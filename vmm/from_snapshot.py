"""From a snapshot to a machine that goes on where it was taken: `vmm.restore`.

The machine is made anew and furnished as its settings say; then its state is put back: memory,
interrupt controllers and timer, vCPUs, clock. A device takes its state when it is added to the
machine, so that users' own are wired again by adding them; whoever is missing then is named when
the machine runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from kvm_bindings import constants as c
from vmm.config import MachineConfig
from vmm.cpuid import feature_names
from vmm.errors import ConfigError, SnapshotError
from vmm.furnish import furnish
from vmm.guest_cpuid import supported_cpuid
from vmm.machine import Machine
from vmm.snapshot.identities import own_settings
from vmm.snapshot.put import put_state
from vmm.snapshot.snapshot import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["refuse_untrusted", "restore"]

_REACHING_OUT = ("devices", "net", "vsock", "share")
"""The settings by which a machine runs code of the user's, or its guest reaches the host."""

_NOT_COMPARED = frozenset({"hypervisor", "ht", "osxsave", "ospke", "apic", "x2apic"})
"""Features that CPUID shows by the state of the processor, or whatever KVM says."""


def restore(
    snapshot: Snapshot | str | os.PathLike[str],
    *,
    console: Callable[[bytes], None] | None = None,
    terminal: bool = False,
    disks: str = "private",
    net: Sequence[str] | None = None,
    vsock: str | None = None,
    new_identity: bool = False,
    trust: bool = False,
    trace: str | bool = True,
    kvm: str = "/dev/kvm",
) -> Machine:
    """Make a machine of a snapshot, ready to run on.

    Functions and devices of your own are not in a snapshot: add them to the machine as you did
    before. A device whose name has a saved state is given that when it is added.

    Args:
        snapshot: what `Machine.snapshot` returned, or its file.
        console: called with the guest's output as it comes.
        terminal: the console understands cursor movement and colours.
        disks: "private": what the guest writes to its disks is kept for this machine only, so that
            any number can be made of one snapshot; "shared": it is written to the files, as the
            machine did that the snapshot was taken of.
        net: where the cables of its network cards lead now, a text a card as in `vmm.boot`; a
            card keeps its address unless the text has another.
        vsock: the guest's address for sockets now.
        new_identity: network cards and disks get other addresses and serial numbers, so that two
            machines of one snapshot can be told apart (`vmm.snapshot.identities`).
        trust: a snapshot out of a file may run devices of its author's own, reach networks, share
            folders and, with shared disks, write to files: whatever it names. Without this it is
            refused if it does.
        trace: True: the last exits are kept; a file: all of them are, in it; False: none.
        kvm: the device node.

    Raises:
        SnapshotError: the file is damaged or not for this version; or this host lacks what the
            state needs, or it is not trusted with what it names, which the message tells. Nothing
            has run then.
        ConfigError: a disk or a device of the settings cannot be had.
        KvmUnavailable: KVM cannot be used here.
    """
    if disks not in ("private", "shared"):
        raise ConfigError(f"disks={disks!r}: choose 'private' or 'shared'")
    if not isinstance(snapshot, Snapshot):
        from vmm.snapshot.file import read_snapshot

        with read_snapshot(snapshot, trusted=trust) as read:
            return restore(
                read,
                console=console,
                terminal=terminal,
                disks=disks,
                net=net,
                vsock=vsock,
                new_identity=new_identity,
                trace=trace,
                kvm=kvm,
            )
    if not (snapshot.trusted or trust):
        given = {"net": net, "vsock": vsock}
        known = [kind for kind, value in given.items() if value is not None]
        refuse_untrusted(snapshot, shared=disks == "shared", known=known)
    settings = own_settings(snapshot.settings, net=net, vsock=vsock, new_identity=new_identity)
    config = _config(snapshot)
    machine = Machine(**config, trace=trace, kvm=kvm)
    try:
        _refuse_missing(machine, snapshot)

        def refurnish(other: Machine, sink: Callable[[bytes], None] | None) -> None:
            furnish(
                other,
                other.settings,
                console=sink,
                terminal=terminal,
                private=disks == "private",
                folder=str(other.settings["folder"]),
            )

        furnished = "bios" in settings
        put_state(machine, snapshot, refurnish if furnished else None, console, settings)
    except BaseException:
        machine.close()
        raise
    return machine


def refuse_untrusted(
    snapshot: Snapshot, *, shared: bool = False, known: Sequence[str] = ()
) -> None:
    """Refuse a snapshot of unknown origin that does more than run a guest which is shut in.

    Disks that are only read are none of it: without a network nobody gets to know them.

    Args:
        snapshot: read from a file.
        shared: what the guest writes to disks goes to their files.
        known: settings that the user gives anew, whatever the snapshot says of them.

    Raises:
        SnapshotError: it reaches out of the guest; the message says what it names.
    """
    settings = snapshot.settings
    found = [
        f"{kind.removesuffix('s')} {text}"
        for kind in _REACHING_OUT
        if kind not in known
        for text in _texts(settings.get(kind))
    ]
    if found or shared:
        image = settings.get("image") if settings.get("bios") else ""
        found += [f"disk {text}" for text in (*_texts(image), *_texts(settings.get("disks")))]
        found += [f"pmem {text}" for text in _texts(settings.get("pmem"))]
    if found:
        raise SnapshotError(
            f"{snapshot.path}: the machine has {', '.join(found)} of this host; if you know where "
            "the snapshot is from, use --trust (in Python: trust=True)"
        )


def _texts(value: object) -> list[str]:
    """The values of a setting that takes one, several or none."""
    if not value:
        return []
    return [str(text) for text in value] if isinstance(value, list) else [str(value)]


def _config(snapshot: Snapshot) -> dict[str, Any]:
    try:
        config = {name: snapshot.settings[name] for name in MachineConfig._fields}
    except KeyError as error:
        raise SnapshotError(f"the snapshot does not say what its machine was: {error}") from None
    config["cpu"] = ""  # what the vCPUs show is in their state; no template is asked again
    return config


def _refuse_missing(machine: Machine, snapshot: Snapshot) -> None:
    """Refuse a state that this host cannot hold, by the names of what it lacks.

    Raises:
        SnapshotError: it lacks something.
    """
    supported = set(feature_names(supported_cpuid(machine.hardware.kvm))) | _NOT_COMPARED
    lacking = [name for name in feature_names(snapshot.vcpus[0].cpuid) if name not in supported]
    if lacking:
        raise SnapshotError(
            f"the snapshot's guest was shown CPU features that KVM does not have here: "
            f"{', '.join(lacking)}; take it with --cpu -{',-'.join(lacking)}"
        )
    parts = {"xsave": c.KVM_CAP_XSAVE, "xcrs": c.KVM_CAP_XCRS, "debugregs": c.KVM_CAP_DEBUGREGS}
    parts |= {"events": c.KVM_CAP_VCPU_EVENTS, "lapic": c.KVM_CAP_IRQCHIP}
    for part, capability in parts.items():
        if part in snapshot.vcpus[0].parts and not machine.hardware.has(capability):
            raise SnapshotError(f"the snapshot has {part}, which KVM here has no room for")
