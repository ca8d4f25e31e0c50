"""Texts in the one form that DuckDB reads exactly: UTF-8, with LF or CR LF at the ends of lines. Others are rewritten.

DuckDB reads other rows than were written, or fails, if a text has ends of lines of several kinds (cells in quotes
included), and if several threads read cells that have ends of lines. Both are looked for in every text, once.
"""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from segue.errors import InputError

LONGEST = 16 * 2**20
"""Bytes of a line. DuckDB rejects lines above 2 MiB, but leaves out lines above 32 MiB without a word."""
BOM = b"\xef\xbb\xbf"
"""What UTF-8 may begin with."""
_BLOCK = 2**22


@dataclass(frozen=True, kw_only=True)
class TextScan:
    """What a pass over the bytes of a text shows.

    Args:
        encoding: `utf-16` if the text begins with its mark, otherwise `utf-8`.
        bad_line: number of the first line that is not UTF-8; None if all are.
        is_plain: whether all ends of lines are LF, or all are CR LF, and no mark is before them.
        has_lines_in_quotes: whether a cell in quotes may have an end of a line.
        long_line: number of the first line above 16 MiB; None if there is none.
        last: the last byte that is no space.
    """

    encoding: str
    bad_line: int | None
    is_plain: bool
    has_lines_in_quotes: bool
    long_line: int | None
    last: bytes


def open_binary(path: Path) -> Any:
    """Open a file to read its bytes, unpacked if its name ends in .gz or .zst."""
    import pyarrow as pa

    return pa.input_stream(str(path), compression="detect") if path.suffix in (".gz", ".zst") else path.open("rb")


def read_start(file: Path, size: int = 4096) -> bytes:
    """The first bytes of a file, unpacked.

    Raises:
        InputError: the file is truncated, or is not compressed as its name says.
    """
    with _is_whole(file), open_binary(file) as opened:
        return bytes(opened.read(size))


def scan_text(path: Path, *, quote: str = "") -> TextScan:
    """Read the bytes of a text once. The answer is kept for the next call.

    Args:
        path: the file; .gz and .zst are unpacked.
        quote: what encloses cells; empty for none.

    Raises:
        InputError: the file is truncated, or is not compressed as its name says.
    """
    with _is_whole(path):
        status = path.stat()
        return _scan(path, status.st_size, status.st_mtime_ns, quote)


@contextmanager
def _is_whole(path: Path) -> Iterator[None]:
    """Refuse a truncated .gz or .zst file. DuckDB would read its first part without an error."""
    try:
        yield
    except OSError as error:
        if path.suffix not in (".gz", ".zst"):
            raise
        kind = {".gz": "gzip", ".zst": "zstd"}[path.suffix]
        raise InputError(f"{path} is not a complete {kind} file: {error}; copy or compress it again") from None


@lru_cache(maxsize=10_000)
def _scan(path: Path, _size: int, _modified: int, quote: str) -> TextScan:
    start, last, ends, utf_8 = b"", b"", set[bytes](), codecs.getincrementaldecoder("utf-8")()
    bad_line = long_line = None
    has_lines = is_inside = False
    num_lines, length = 0, 0  # lines before the current one, and its bytes so far
    with open_binary(path) as file:
        while block := bytes(file.read(_BLOCK)):
            block += bytes(file.read(1)) if block.endswith(b"\r") else b""
            start, last = start or block, block.rstrip(b" \t\r\n\0")[-1:] or last
            end = b"\n" if b"\n" in block else b"\r"
            if bad_line is None:
                try:
                    utf_8.decode(block)
                except UnicodeDecodeError as error:
                    bad_line = num_lines + block.count(end, 0, error.start) + 1
            num_crlf = block.count(b"\r\n")
            ends |= {b"\r\n"} if num_crlf else set()
            ends |= {one for one in (b"\r", b"\n") if block.count(one) > num_crlf}
            if quote and not has_lines and (is_inside or quote.encode() in block):
                letters = np.frombuffer(block, np.uint8)
                inside = np.logical_xor.accumulate(letters == ord(quote)) ^ is_inside
                has_lines, is_inside = bool((inside & (letters == ord(end))).any()), bool(inside[-1])
            first, final = block.find(end), block.rfind(end)
            if long_line is None and length + (first if first >= 0 else len(block)) >= LONGEST:
                long_line = num_lines + 1
            length = len(block) - final - 1 if final >= 0 else length + len(block)
            num_lines += block.count(end)
    return TextScan(
        encoding="utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8",
        bad_line=bad_line,
        is_plain=len(ends) <= 1 and b"\r" not in ends and not start.startswith(BOM),
        has_lines_in_quotes=has_lines,
        long_line=long_line,
        last=last,
    )


def rewrite_text(path: Path, encoding: str, target: Path, *, shown: str) -> None:
    """Write a text as UTF-8 with LF at the ends of all lines, those in cells included.

    A byte that an encoding does not have is copied, and DuckDB rejects the line.

    Raises:
        InputError: the text is not in this encoding, or there is no space.
    """
    name, errors = "utf-8-sig" if encoding == "utf-8" else encoding, "surrogateescape"
    try:
        with (
            open_binary(path) as binary,
            io.TextIOWrapper(binary, name, errors) as text,
            target.open("w", encoding="utf-8", errors=errors, newline="") as written,
        ):
            while block := text.read(_BLOCK):
                written.write(block)
    except UnicodeError as error:
        raise InputError(
            f"cannot read {shown}: it is not {encoding} ({error}); give datamodule.files.encoding=<name>"
        ) from None
    except OSError as error:
        raise InputError(f"cannot rewrite {shown} as UTF-8 in {target.parent}: {error.strerror}; free space") from None
