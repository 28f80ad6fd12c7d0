"""Network cards: from what `--net` says to a device in a machine."""

from __future__ import annotations

from devices.token_bucket import RateLimit, TokenBucket
from devices.virtio.net import Net
from kvm_bindings import KvmError
from vmm.errors import ConfigError
from vmm.host.passt import Passt
from vmm.host.tap import Tap
from vmm.virtio.handed_types import HandedNet
from vmm.virtio.net_options import NetOptions, mac_of, parse_net
from vmm.virtio.servers import KernelNet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.virtio.device import VirtioDevice
    from vmm.machine import Machine
    from vmm.virtio.place import VirtioPlace

__all__ = ["add_net"]


def add_net(machine: Machine, text: str, *, number: int = 0, name: str = "") -> VirtioPlace:
    """Give a machine a network card.

    Args:
        machine: has interrupt controllers.
        text: what stands behind `--net`.
        number: of the machine's cards, from 0.
        name: the machine's, to which the card's address belongs.

    Raises:
        ConfigError: the network cannot be had.
    """
    options = parse_net(text)
    mac = mac_of(name, number) if options.mac is None else options.mac
    if options.tap is None:
        link: Tap | Passt = Passt(tcp=options.tcp, udp=options.udp, interface=options.interface)
    else:
        link = Tap(options.tap)
    try:
        card: VirtioDevice | None = None
        if isinstance(link, Tap) and options.vhost is not False and options.rate is None:
            card = _hand_over(link, mac, options)
        place = machine.add_virtio(card or _own_card(machine, link, mac, options.rate))
        if options.mac is not None:
            _readdress(place.device, mac)
        return place
    except BaseException:
        link.close()
        raise


def _hand_over(tap: Tap, mac: bytes, options: NetOptions) -> VirtioDevice | None:
    """A card whose frames the kernel passes; None where it cannot and need not."""
    try:
        return HandedNet(KernelNet(tap), mac)
    except KvmError as error:
        if options.vhost:
            raise ConfigError(f"--net tap={tap.name},vhost=on: {error}") from None
        return None


def _readdress(card: VirtioDevice, mac: bytes) -> None:
    """A card that took a saved state took its address along; what the option says is more."""
    given = {f"mac{n}": byte for n, byte in enumerate(mac)}
    if card.transport is not None and not given.items() <= card.values.items():
        card.values |= given
        card.transport.config_changed()


def _own_card(machine: Machine, link: Tap | Passt, mac: bytes, rate: int | None) -> Net:
    """A card whose frames pass through this process."""
    to_guest, from_guest = (
        None if rate is None else RateLimit(size=TokenBucket(rate)) for _ in range(2)
    )
    return Net(
        *(link, mac),
        receive_limit=to_guest,
        send_limit=from_guest,
        later=machine.events.call_later,
    )
