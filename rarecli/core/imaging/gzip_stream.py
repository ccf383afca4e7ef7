"""Reads a gzip file as a stream with bounded memory.

zlib checks the header with its flags and checksum, the data and the trailer. `export/cpp` reads in the same way, so both accept the same
files. Python's gzip module checks less, and its checks depend on the version of Python.
"""

from __future__ import annotations

import zlib
from typing import BinaryIO

GZIP_MAGIC = b"\x1f\x8b"
_PACKED_BYTES = 2**16
_MOST_BYTES_PER_CALL = 2**20


class BrokenGzipError(Exception):
    """What is wrong with a gzip stream."""


class GzipStream:
    """Reads the members of a gzip file in order. Only zeros or another member may follow a member."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._packed = file.read(_PACKED_BYTES)
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._ended = False

    def read(self, size: int) -> bytes:
        """Return up to `size` more bytes, fewer at the end of the stream. Raises BrokenGzipError."""
        content = bytearray()
        while len(content) < size and not self._ended:
            if not self._packed and not self._refill():
                raise BrokenGzipError("the stream ends too early")
            try:
                content += self._member.decompress(self._packed, min(size - len(content), _MOST_BYTES_PER_CALL))
            except zlib.error as error:
                raise BrokenGzipError(error) from error
            self._packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if self._member.eof:
                self._next_member()
        return bytes(content)

    def _refill(self) -> bool:
        self._packed = self._file.read(_PACKED_BYTES)
        return bool(self._packed)

    def _next_member(self) -> None:
        while not (rest := self._packed.lstrip(b"\0")) and self._refill():
            pass
        if not rest:
            self._ended = True
            return
        self._packed = rest + self._file.read(1) if len(rest) == 1 else rest
        if not self._packed.startswith(GZIP_MAGIC):
            raise BrokenGzipError("bytes behind the end of the stream")
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
