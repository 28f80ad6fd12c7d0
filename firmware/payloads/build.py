"""Assemble the payloads: `python -m firmware.payloads.build` writes every NAME.bin anew."""

from __future__ import annotations

import sys

from firmware.assembler import NO_TOOLCHAIN, AssemblyError, Toolchain, assemble, find_toolchain
from firmware.payloads import PAYLOADS, Payload

__all__ = ["image_of", "main"]


def image_of(payload: Payload, tools: Toolchain) -> bytes:
    """Return the image that `payload`'s source makes.

    Raises:
        AssemblyError: the assembler or the linker refuses.
    """
    return assemble(payload.source_path, payload.load_addr, tools)


def main() -> int:
    """Rebuild every image and say which ones changed; return the exit status."""
    tools = find_toolchain()
    if tools is None:
        print(NO_TOOLCHAIN, file=sys.stderr)
        return 1
    for payload in PAYLOADS.values():
        try:
            image = image_of(payload, tools)
        except AssemblyError as error:
            print(error, file=sys.stderr)
            return 1
        if not payload.image_path.exists() or payload.image() != image:
            payload.image_path.write_bytes(image)
            print(f"{payload.image_path.name}: {len(image)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
