"""Make the pictures of the screen that the README shows: `make screenshots`.

SeaBIOS is booted, which talks to most devices, and watched as `vmm top` does.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

from vmm.control.client import Client
from vmm.control.protocol import ControlError
from vmm.tui.app import ScreenApp
from vmm.tui.live import LiveSource

FIRMWARE = Path("/usr/share/seabios/bios.bin")
FOLDER = Path(__file__).with_name("screenshots")
NAME = "seabios"
PATIENCE_S = 60.0
EXITS = 1500
"""Enough for a picture, and before the firmware has done all that it does."""


def connect() -> Client:
    """Connect to the machine when it can be reached.

    Raises:
        ControlError: it cannot be for a minute.
    """
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return Client.connect(NAME)
        except ControlError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


async def picture(source: LiveSource, name: str, size: tuple[int, int], *keys: str) -> None:
    """Take one picture, after some keys were typed."""
    app = ScreenApp(source)
    app.title = "vmm top"
    async with app.run_test(size=size) as pilot:
        end = time.monotonic() + PATIENCE_S
        while source.status.exits < EXITS and time.monotonic() < end:
            await pilot.pause(0.2)
        await pilot.pause(2.5)
        for key in keys:
            await pilot.press(key)
            await pilot.pause(0.7)
        app.footer.say("")
        await pilot.pause(0.3)
        path = FOLDER / f"{name}.svg"
        path.write_text(app.export_screenshot(simplify=True), encoding="utf-8")
        print(f"{path.relative_to(FOLDER.parent.parent)}: {path.stat().st_size >> 10} KiB")


def main() -> int:
    """Make all pictures; returns the exit status."""
    if not FIRMWARE.exists():
        print(f"{FIRMWARE} is missing: sudo apt-get install seabios", file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    for name, size, keys in (
        ("screen", (120, 40), ()),
        ("wide", (200, 60), ()),
        ("exit", (120, 40), ("space", "3", "enter")),
    ):
        command = [sys.executable, "-m", "vmm", "run", str(FIRMWARE), "--name", NAME]
        guest = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            source = LiveSource(connect())
            asyncio.run(picture(source, name, size, *keys))
            source.close()
        finally:
            guest.terminate()
            guest.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
