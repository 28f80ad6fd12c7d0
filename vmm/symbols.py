"""Names for a guest's addresses, from an ELF file's symbol table or a list like System.map.

    symbols = Symbols.load("kernel.elf")
    symbols.at(0x100012)  # "main+0x12"
    symbols.find("main")  # 0x100000

pyelftools is imported when the first file is read. Names come from files that nobody vouches for:
what is malformed is refused in one line or left out, and everything is bounded.

Spec: Tool Interface Standard ELF 1.2, "Symbol Table"; nm(1), "System.map".
"""

from __future__ import annotations

import io
import os
import re
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from vmm.errors import ConfigError

__all__ = ["SymbolError", "Symbols"]

_MOST = 1_000_000
"""A Linux kernel has 200,000 symbols."""
_MOST_SECTIONS, _MOST_SEGMENTS = 4096, 64
_LONGEST_NAME = 256
_MAP_BYTES = 256 << 20
_NEAR = 1 << 20
"""How far behind a symbol without a size an address may be and still be told by it, in bytes."""
_ENTRIES = {32: struct.Struct("<IIIBBH"), 64: struct.Struct("<IBBHQQ")}
_NOTYPE, _OBJECT, _FUNC, _IFUNC = 0, 1, 2, 10
_UNDEFINED = 0
_LINE = re.compile(rb"^([0-9A-Fa-f]{1,16}) +([A-Za-z?]) +(\S{1,256})", re.MULTILINE)


class SymbolError(ConfigError):
    """A file has no symbols that can be read."""


class _Symbol(NamedTuple):
    address: int
    rank: int
    """Which of several at one address is told: functions, then data, then labels; global first."""
    name: str
    size: int
    """In bytes; 0 where the file does not say."""
    end: int
    """Where its section ends; 0 if that is not known."""


@dataclass(frozen=True, slots=True)
class _Alias:
    """A segment that is linked for one place and loaded at another."""

    start: int
    end: int
    delta: int


class Symbols:
    """Symbols, sorted by their addresses. Addresses are those that the image was linked for; where
    a segment is loaded at another physical address, that one is understood as well."""

    def __init__(self, symbols: Iterable[_Symbol], aliases: Iterable[_Alias] = ()) -> None:
        best: dict[int, _Symbol] = {}
        self._names: dict[str, int] = {}
        for symbol in symbols:
            other = best.get(symbol.address)
            if other is None or symbol.rank < other.rank:
                best[symbol.address] = symbol
            self._names.setdefault(symbol.name, symbol.address)
        self._sorted = [best[address] for address in sorted(best)]
        self._starts = [symbol.address for symbol in self._sorted]
        self._aliases = tuple(aliases)

    def __len__(self) -> int:
        return len(self._sorted)

    @classmethod
    def load(cls, source: str | os.PathLike[str] | bytes | memoryview, *, bias: int = 0) -> Symbols:
        """Read symbols from a file, or from its contents.

        Args:
            source: an ELF file, or lines of "ADDRESS TYPE NAME" as nm and System.map have them.
            bias: what to add to the file's addresses (a position-independent image that was moved).

        Raises:
            SymbolError: it cannot be read, or there are no symbols in it.
        """
        if isinstance(source, (bytes, memoryview)):
            return cls._read(io.BytesIO(source), "image", bias)
        name = os.fspath(source)
        try:
            with open(name, "rb") as file:
                return cls._read(file, name, bias)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise SymbolError(f"{name}: {why}") from None

    @classmethod
    def _read(cls, file: Any, name: str, bias: int) -> Symbols:
        is_elf = file.read(4) == b"\x7fELF"
        file.seek(0)
        found = _from_elf(file, name, bias) if is_elf else _from_lines(file, name, bias)
        if not len(found):
            raise SymbolError(f"{name}: no symbols are in it; was it stripped?")
        return found

    def at(self, address: int) -> str | None:
        """The name for an address: "main", "main+0x12"; None where no symbol reaches to it."""
        symbol, offset = self._find(address)
        if symbol is None:
            return None
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name

    def find(self, name: str) -> int | None:
        """The address of a symbol; None if there is none of this name."""
        return self._names.get(name)

    def behind(self, address: int) -> str | None:
        """The name for a return address: of the function that the CALL before it is in, though it
        may be that function's last instruction."""
        symbol, offset = self._find(address - 1)
        return None if symbol is None else f"{symbol.name}+{offset + 1:#x}"

    def _find(self, address: int) -> tuple[_Symbol | None, int]:
        found = self._holding(address)
        if found is None:
            for alias in self._aliases:
                if alias.start <= address < alias.end:
                    address += alias.delta
                    found = self._holding(address)
                    break
        return (None, 0) if found is None else (found, address - found.address)

    def _holding(self, address: int) -> _Symbol | None:
        last = bisect_right(self._starts, address) - 1
        # A function may hold smaller symbols: look back a little for the one around.
        for index in range(last, max(last - 8, -1), -1):
            symbol = self._sorted[index]
            offset = address - symbol.address
            if symbol.size:
                if offset < symbol.size:
                    return symbol
            elif index == last and (address < symbol.end or (not symbol.end and offset < _NEAR)):
                return symbol
        return None


def _plain(name: bytes) -> str:
    """A name that a terminal can be shown: a file may hold escape sequences in place of names."""
    text = name.decode("utf-8", "replace")
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _from_lines(file: Any, name: str, bias: int) -> Symbols:
    data = file.read(_MAP_BYTES)
    found = []
    for count, match in enumerate(_LINE.finditer(data)):
        if count >= _MOST:
            break
        kind = match[2].decode()
        if kind in "AaNUuw":  # absolute values, debugging, undefined
            continue
        code = kind in "Tti?Ww"
        rank = (0 if code else 2) + kind.islower()
        text = _plain(match[3])
        found.append(_Symbol(int(match[1], 16) + bias, rank, text, 0, 0))
    if not found:
        raise SymbolError(f"{name}: neither an ELF file nor lines of ADDRESS TYPE NAME (nm)")
    return Symbols(found)


def _from_elf(file: Any, name: str, bias: int) -> Symbols:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(file)
        if not elf.little_endian:
            raise SymbolError(f"{name}: an ELF file of a big-endian processor")
        found = list(_elf_symbols(elf, bias))
        return Symbols(found, _aliases(elf, bias))
    except SymbolError:
        raise
    # A malformed file makes pyelftools stumble in ways of its own.
    except (ELFError, OSError, ValueError, LookupError, TypeError, AttributeError, struct.error,
            OverflowError, MemoryError, RecursionError, AssertionError) as error:  # fmt: skip
        raise SymbolError(f"{name}: malformed ELF: {error or type(error).__name__}") from None


def _elf_symbols(elf: Any, bias: int) -> Iterator[_Symbol]:
    """The defined symbols of .symtab, or of .dynsym where that is all."""
    sections = [elf.get_section(n) for n in range(min(elf.num_sections(), _MOST_SECTIONS))]
    tables = [s for s in sections if s["sh_type"] == "SHT_SYMTAB"]
    tables = tables or [s for s in sections if s["sh_type"] == "SHT_DYNSYM"]
    entry = _ENTRIES[elf.elfclass]
    for table in tables[:1]:
        names = _contents(elf, sections[table["sh_link"]], _MAP_BYTES)
        data = _contents(elf, table, _MOST * entry.size)
        for fields in entry.iter_unpack(data[: len(data) // entry.size * entry.size]):
            if elf.elfclass == 32:
                at, value, size, info, _, index = fields
            else:
                at, info, _, index, value, size = fields
            kind, local = info & 0xF, info >> 4 == 0
            if index == _UNDEFINED or kind not in (_NOTYPE, _OBJECT, _FUNC, _IFUNC):
                continue
            if index >= len(sections):
                continue  # an absolute value, or common
            # A name without an end is cut.
            end = names.find(b"\0", at, at + _LONGEST_NAME)
            name = names[at : end if end >= 0 else at + _LONGEST_NAME]
            if not name or name.startswith((b".L", b"$")):
                continue
            section = sections[index]
            rank = {_FUNC: 0, _IFUNC: 0, _OBJECT: 2}.get(kind, 4) + local
            yield _Symbol(
                value + bias,
                rank,
                _plain(name),
                size,
                section["sh_addr"] + section["sh_size"] + bias,
            )


def _contents(elf: Any, section: Any, most: int) -> bytes:
    """The bytes of a section as they lie in the file, `most` of them at most."""
    elf.stream.seek(section["sh_offset"])
    data: bytes = elf.stream.read(min(section["sh_size"], most))
    return data


def _aliases(elf: Any, bias: int) -> list[_Alias]:
    segments = [elf.get_segment(n) for n in range(min(elf.num_segments(), _MOST_SEGMENTS))]
    loaded = [s for s in segments if s["p_type"] == "PT_LOAD" and s["p_memsz"]]
    if not any(s["p_paddr"] for s in loaded):
        return []  # the linker left them out
    return [
        _Alias(s["p_paddr"] + bias, s["p_paddr"] + bias + s["p_memsz"], s["p_vaddr"] - s["p_paddr"])
        for s in loaded
        if s["p_paddr"] != s["p_vaddr"]
    ]
