"""Reading the journal out of a recording, which may be damaged or made to harm."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from vmm.errors import ConfigError
from vmm.trace.journal import START, VERSION, Entry, JournalError, entries
from vmm.trace.layout import CHUNK, CHUNK_MAGIC, FINISHED, HEADER, JOURNAL, MAGIC
from vmm.trace.layout import VERSION as FILE_VERSION

__all__ = ["Recording"]


@dataclass(frozen=True, slots=True)
class _Header:
    chunks_at: int
    chunks_end: int
    began_ns: int
    finished: bool


class Recording:
    """A recording's journal.

    Raises:
        ConfigError: it cannot be read, or is no recording of a kind that this version knows.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._map = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) if size else b""
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(f"{self.path}: cannot be read: {why}") from None
        try:
            self._header = self._read_header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def began_ns(self) -> int:
        """CLOCK_MONOTONIC when the recording was begun."""
        return self._header.began_ns

    @property
    def finished(self) -> bool:
        """Whether it was closed in good order."""
        return self._header.finished

    def entries(self) -> Iterator[Entry]:
        """The journal's entries, without the first one, which says what it is.

        Raises:
            JournalError: it is damaged.
            ConfigError: there is none.
        """
        begun = False
        for chunk in self._chunks():
            for entry in entries(chunk):
                if not begun:
                    if entry.kind != START or entry.who != VERSION:
                        raise JournalError(f"it does not begin as one of version {VERSION}")
                    begun = True
                else:
                    yield entry
        if not begun:
            raise ConfigError(
                f"{self.path}: no journal is in it, so there is nothing to replay; "
                "record one with: vmm run IMAGE --record FILE"
            )

    def close(self) -> None:
        """Let go of the file."""
        # Whoever still has an entry holds the mapping.
        if isinstance(self._map, mmap.mmap):
            with suppress(BufferError):
                self._map.close()

    def _read_header(self) -> _Header:
        if len(self._map) < HEADER.size or self._map[: len(MAGIC)] != MAGIC:
            raise ConfigError(f"{self.path}: not a recording")
        fields = HEADER.unpack_from(self._map)
        if fields[1] != FILE_VERSION:
            raise ConfigError(
                f"{self.path}: a recording of version {fields[1]}; this vmm reads {FILE_VERSION}"
            )
        return _Header(fields[7], fields[8], fields[10], bool(fields[11] & FINISHED))

    def _chunks(self) -> Iterator[memoryview]:
        data = memoryview(self._map)
        at, end = self._header.chunks_at, self._header.chunks_end
        if end > len(data):
            raise JournalError(f"the file ends {end - len(data)} bytes too early")
        while at < end:
            if at + CHUNK.size > end:
                raise JournalError(f"a chunk is cut off at byte {at}")
            magic, kind, _, size, _, _ = CHUNK.unpack_from(data, at)
            at += CHUNK.size
            if magic != CHUNK_MAGIC or at + size > end:
                raise JournalError(f"no chunk is at byte {at - CHUNK.size}")
            if kind == JOURNAL:
                yield data[at : at + size]
            at += size
