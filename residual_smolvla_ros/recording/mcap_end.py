"""The end of an MCAP file: what closes one without an index, and where the whole part of one ends.

Record layout: https://mcap.dev/spec
"""

import io
from pathlib import Path
from typing import BinaryIO

from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import DataEnd, Footer
from mcap.writer import MCAP0_MAGIC


def end_bytes() -> bytes:
    """Return the shortest end of a valid MCAP: readers then scan the file for want of an index."""
    builder = RecordBuilder()
    DataEnd(data_section_crc=0).write(builder)
    Footer(summary_start=0, summary_offset_start=0, summary_crc=0).write(builder)
    return builder.end() + MCAP0_MAGIC


def is_closed(file: Path) -> bool:
    """Tell whether a file ends as an MCAP does."""
    with file.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - len(MCAP0_MAGIC)))
        return size > len(MCAP0_MAGIC) and stream.read() == MCAP0_MAGIC


def whole_part(file: Path) -> int:
    """Return the length in bytes of a file's whole data records; 0 if it is no MCAP."""
    with file.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if stream.read(len(MCAP0_MAGIC)) != MCAP0_MAGIC:
            return 0
        end = len(MCAP0_MAGIC)
        while len(head := stream.read(9)) == 9:
            after = end + 9 + int.from_bytes(head[1:], "little")
            # Zeros are what a lost machine leaves of blocks that it had not written yet.
            if after > size or head[0] in (0, Opcode.DATA_END, Opcode.FOOTER):
                break
            end = stream.seek(after)
        return end


class MendedFile:
    """A cut MCAP as a reader of rosbags opens a path: its whole part, then `end_bytes`."""

    suffix = ".mcap"

    def __init__(self, file: Path, length: int):
        self._file, self._length = file, length

    def exists(self) -> bool:
        """Tell that there is such a file."""
        return True

    def is_dir(self) -> bool:
        """Tell that it is no folder."""
        return False

    def open(self, mode: str) -> BinaryIO:
        """Return a stream to read."""
        return io.BufferedReader(_Mended(self._file, self._length))

    def __str__(self) -> str:
        return str(self._file)


class _Mended(io.RawIOBase):
    def __init__(self, file: Path, length: int):
        self._stream = file.open("rb")
        self._length, self._end, self._at = length, end_bytes(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._at, self._length + len(self._end))[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer) -> int:
        left = self._length - self._at
        if left > 0:
            self._stream.seek(self._at)
            data = self._stream.read(min(left, len(buffer)))
        else:
            data = self._end[-left : -left + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
