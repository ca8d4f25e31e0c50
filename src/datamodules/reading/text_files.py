"""Text files before DuckDB opens them: their encoding, what only looks like text, and lines that are too long."""

import gzip
import re
from pathlib import Path

from segue.errors import InputError

_LONGEST = 16 * 2**20
"""Bytes of a line. DuckDB rejects lines above 2 MiB, but leaves out lines above 32 MiB without a word."""

_OTHER_FILES = {
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or export it as csv",
    b"\x1f\x8b": "compressed with gzip; add .gz to its name",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; add .zst to its name",
    b"\xd0\xcf\x11\xe0": "a spreadsheet; export it as csv",
    b"SQLite format 3": "an SQLite database; export the table as csv",
    b"%PDF": "a PDF; export the table as csv",
    b"\x89PNG": "a picture; name another file",
    b"\x89HDF": "an HDF5 file; export the table as csv or Parquet",
}
"""What files begin with that people take for text, and what to do with them."""


def read_start(file: Path, size: int = 4096) -> bytes:
    """The first bytes of a file, unpacked if it is a .gz file.

    Args:
        file: a file that is whole.
        size: number of bytes.
    """
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
        return opened.read(size)


def check_is_text(file: Path, start: bytes) -> None:
    """Refuse a file that is no text.

    Args:
        file: its name, for the message.
        start: its first bytes.

    Raises:
        InputError: it is another kind of file.
    """
    for magic, what in _OTHER_FILES.items():
        if start.startswith(magic):
            raise InputError(f"cannot read {file}: it is {what}")


def is_utf_16(file: Path, start: bytes) -> bool:
    """Whether a text is UTF-16 in the usual order of bytes (little-endian), with or without a mark.

    Args:
        file: its name, for the message.
        start: its first bytes.

    Raises:
        InputError: it is UTF-16 in the other order, which DuckDB does not read.
    """
    odd, even = start[1:200:2], start[0:200:2]
    if start.startswith(b"\xfe\xff") or (len(even) > 4 and even.count(0) > len(even) / 2 > 2 * odd.count(0)):
        raise InputError(
            f"cannot read {file}: it is UTF-16 in big-endian order; save it as UTF-8 "
            f"(iconv -f UTF-16 -t UTF-8 {file.name} > new-{file.name})"
        )
    return start.startswith(b"\xff\xfe") or (len(odd) > 4 and odd.count(0) > len(odd) / 2 > 2 * even.count(0))


def check_lines(file: Path) -> None:
    """Refuse a file with a line of more than 32 MiB; a line of 16 to 32 MiB may be refused. A .gz file is not checked.

    Only the end of each 16 MiB is read, as long as it has an end of a line.

    Args:
        file: an uncompressed text file.

    Raises:
        InputError: a line is longer.
    """
    size = file.stat().st_size
    if size < _LONGEST:
        return
    with file.open("rb") as opened:
        for begin in range(0, size - _LONGEST + 1, _LONGEST):
            opened.seek(begin + _LONGEST - 2**16)
            if has_line_end(opened.read(2**16)):
                continue
            opened.seek(begin)
            if not has_line_end(opened.read(_LONGEST)):
                opened.seek(0)
                ends = sum(opened.read(min(2**20, begin - at)).count(b"\n") for at in range(0, begin, 2**20))
                raise InputError(too_long(file, ends + 1))


def has_line_end(block: bytes) -> bool:
    """Whether a block of a text has an end of a line."""
    return b"\n" in block or b"\r" in block


def too_long(file: Path, line: int) -> str:
    """The message for a line that is too long.

    Args:
        file: its file.
        line: its number.
    """
    return (
        f"{file} line {line} is longer than 16 MiB: correct or remove it (a file of JSON objects without ends of lines "
        "needs datamodule.files.format=json)"
    )


def sample_lines(file: Path, skip: int, size: int = 2**20) -> bytes | None:
    """The first lines of a file without those above 64 KiB, to see how they are written.

    Args:
        file: a file that is whole.
        skip: number of lines to leave out.
        size: bytes that are read.

    Returns:
        The lines; None for a .zst file, and for a file whose lines are all longer.
    """
    if file.suffix == ".zst":
        return None
    start = read_start(file, size)
    lines = re.split(rb"(?<=\n)" if b"\n" in start else rb"(?<=\r)", start)
    if len(start) == size:
        del lines[-1]
    return b"".join(line for line in lines[skip:] if len(line) <= 2**16) or None
