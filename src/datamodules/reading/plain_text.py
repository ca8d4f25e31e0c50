"""Texts in the one form that DuckDB reads exactly: UTF-8, with ends of lines of one kind. Others are rewritten.

DuckDB reads other rows than were written, or fails, if a text has ends of lines of several kinds (cells in quotes
included), and if several threads read cells that have ends of lines. Both are looked for in every text, once.
"""

import codecs
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt64

from segue.errors import InputError

LONGEST = 16 * 2**20
"""Bytes of a line. DuckDB rejects lines above 2 MiB, but leaves out lines above 32 MiB without a word."""
BOM = b"\xef\xbb\xbf"
"""What UTF-8 may begin with."""
_BLOCK = 2**22
# Share of lines that are not UTF-8 above which a text has another encoding; with fewer, these lines are damaged.
_MANY = 0.01
# A line with a byte that is not UTF-8, which Python writes as a lone surrogate.
_NOT_UTF_8 = re.compile("(?<![^\r\n])[^\r\n\udc80-\udcff]*+[\udc80-\udcff][^\r\n]*")
# A word with letters that ASCII does not have.
_WORD = re.compile(r"[A-Za-z\udc80-\udcff]*[\udc80-\udcff][A-Za-z\udc80-\udcff]*")
_MOST_WORDS = 10_000  # words that are looked at
_FOREIGN = re.compile("[^\x00-\x7f]{5}")  # five letters in a row that ASCII does not have: a word of another script
_MOST_KNOWN = 0.75  # share of the words that must be of a language that is known
_MARKS = "“”„‘’‚–—…«»©®°§·½×™€\xa0"  # what may be beside letters in every language
_WESTERN = "äöüß àâæçèéêëîïôœùûüÿ áéíñóúü¡¿ªº àáâãçéêíóôõúüªº àèéìíïòóùúüç åäöæøé äõöüšž"
_CENTRAL = "ąćęłńóśźż áäčďéěíľĺňóôŕřšťúůýž áéíóöőúüű ćčđšž ăâîşţ"
# Encodings of one byte a letter, and the letters of the languages that are written in each.
_ALPHABETS = {
    "windows-1252": f"{_WESTERN} áæéíðóöúýþ",
    "windows-1250": _CENTRAL,
    "iso-8859-2": _CENTRAL,
    "windows-1254": f"{_WESTERN} âçğıîöşûüİ",
}
_HALF = re.compile("[\ud800-\udfff]")  # half of a character that UTF-16 writes as two


@dataclass(frozen=True, kw_only=True)
class TextScan:
    """What a pass over the bytes of a text shows.

    Args:
        encoding: as Python names it; empty if it cannot be seen.
        begins_with_mark: whether it is UTF-8 that begins with a byte-order mark.
        is_uniform: whether all ends of lines are LF, or all are CR and LF.
        has_lines_in_quotes: whether a cell in quotes may have an end of a line.
        long_line: number of the first line above 16 MiB; None if there is none.
        last: the last byte that is no space.
    """

    encoding: str
    begins_with_mark: bool
    is_uniform: bool
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
    start, is_utf_8, utf_8 = b"", True, codecs.getincrementaldecoder("utf-8")()
    has_lf = has_cr = has_crlf = is_inside = has_lines_in_quotes = False
    position, line_begins, long_line, last = 0, 0, None, b""
    for block in _blocks(path):
        start = start or block
        if is_utf_8 and not (block.isascii() and not utf_8.getstate()[0]):
            try:
                utf_8.decode(block)
            except UnicodeDecodeError:
                is_utf_8 = False
        if b"\r" in block:
            num_crlf = block.count(b"\r\n")
            has_crlf |= num_crlf > 0
            has_cr |= block.count(b"\r") > num_crlf
            has_lf |= block.count(b"\n") > num_crlf
        else:
            has_lf |= b"\n" in block
        if quote and not has_lines_in_quotes:
            has_lines_in_quotes, is_inside = _lines_in_quotes(block, ord(quote), is_inside=is_inside)
        if long_line is None:
            ends = [place for end in (b"\n", b"\r") if (place := block.find(end)) >= 0]
            if position + min(ends, default=len(block)) - line_begins >= LONGEST:
                long_line = _num_lines(path, line_begins) + 1
            if ends:
                line_begins = position + max(block.rfind(b"\n"), block.rfind(b"\r")) + 1
        position += len(block)
        last = block.rstrip(b" \t\r\n\0")[-1:] or last
    encoding = utf_16_of(start) or ("utf-8" if is_utf_8 else _encoding_of_lines(path))
    return TextScan(
        encoding=encoding,
        begins_with_mark=start.startswith(BOM),
        is_uniform=not has_cr and not (has_crlf and has_lf),
        has_lines_in_quotes=has_lines_in_quotes,
        long_line=long_line,
        last=last,
    )


def _blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, without a block that ends between CR and LF."""
    with open_binary(path) as file:
        while block := bytes(file.read(_BLOCK)):
            yield block + (bytes(file.read(1)) if block.endswith(b"\r") else b"")


def _lines_in_quotes(block: bytes, quote: int, *, is_inside: bool) -> tuple[bool, bool]:
    """Whether an end of a line follows an odd number of quotes, and whether the end of the block does.

    64 bytes at a time, as simdjson does.
    """
    if not is_inside and bytes([quote]) not in block:
        return False, False
    inside, ends = _bits(block, quote), _bits(block, ord("\n"))
    for distance in (1, 2, 4, 8, 16, 32):  # until a bit says whether the quotes up to it in its word are odd
        inside ^= inside << distance
    after = np.bitwise_xor.accumulate(inside >> 63).astype(bool) ^ is_inside
    begins_inside = np.concatenate(([is_inside], after[:-1]))
    return bool((ends & np.where(begins_inside, ~inside, inside)).any()), bool(after[-1])


def _bits(block: bytes, byte: int) -> UInt64[np.ndarray, " W"]:
    """A bit for each byte of a block: whether it is this one. The last word is filled with zeros."""
    bits = np.packbits(np.frombuffer(block, np.uint8) == byte, bitorder="little")
    return np.pad(bits, (0, -len(bits) % 8)).view("<u8")


def _num_lines(path: Path, end: int) -> int:
    num, position = 0, 0
    for block in _blocks(path):
        part = block[: end - position]
        num += part.count(b"\n") or part.count(b"\r")
        position += len(block)
        if position >= end:
            break
    return num


def utf_16_of(start: bytes) -> str:
    """UTF-16 if a text begins with its mark, or if one byte of many characters is 0, as in digits; otherwise empty.

    >>> utf_16_of("title".encode("utf-16")), utf_16_of("a title".encode("utf-16-be")), utf_16_of(b"a title")
    ('utf-16', 'utf-16-be', '')
    """
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = start[:4096:2], start[1:4096:2]
    for name, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if len(odd) > 4 and zeros.count(0) > 0.1 * len(zeros) and others.count(0) < 0.1 * zeros.count(0):
            return name
    return ""


def _encoding_of_lines(path: Path) -> str:
    """The encoding of a text with a byte that is not UTF-8.

    It is UTF-8 if the first line and nearly all others are. Otherwise the words with other letters decide; where they
    are of no language, a single line is damaged.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    num_lines = num_wrong = 0
    first, words = None, list[str]()
    for block in _blocks(path):
        text = decoder.decode(block)
        first = text.lstrip().partition("\n")[0].partition("\r")[0] if first is None else first
        num_lines += text.count("\n") or text.count("\r")
        for line in _NOT_UTF_8.findall(text):
            num_wrong += 1
            if len(words) < _MOST_WORDS:
                words += _WORD.findall(line)
    starts_well = not _NOT_UTF_8.search(first or "")
    if num_wrong <= _MANY * num_lines and starts_well:
        return "utf-8"
    found = _encoding_of_words([word.encode("utf-8", "surrogateescape") for word in words])
    return found or ("utf-8" if num_wrong == 1 and starts_well else "")


def _encoding_of_words(words: Sequence[bytes]) -> str:
    """The encoding in which most words are of a known language; empty if this is three quarters of them or fewer.

    Of several, it is the one in which most words are of the same language, as Turkish letters could be Icelandic ones.

    >>> [_encoding_of_words(["Małgośka".encode(name), "Ćma".encode(name)]) for name in ("windows-1250", "iso-8859-2")]
    ['windows-1250', 'iso-8859-2']
    >>> _encoding_of_words(["Земфира".encode("windows-1251")])
    ''
    """
    fits = {}
    for encoding, letters in _ALPHABETS.items():
        texts = [word.decode(encoding, "replace") for word in words]
        others = [
            {letter for letter in text if letter > "\x7f"} if not _FOREIGN.search(text) else {""} for text in texts
        ]
        are_of = [[text <= {*alphabet, *alphabet.upper(), *_MARKS} for text in others] for alphabet in letters.split()]
        fits[encoding] = sum(map(any, zip(*are_of, strict=True))), max(map(sum, are_of))
    best = max(fits, key=lambda encoding: fits[encoding])
    return best if fits[best][0] > _MOST_KNOWN * len(words) else ""


def rewrite_text(path: Path, encoding: str, target: Path, *, shown: str) -> None:
    """Write a text as UTF-8 with LF at the ends of all lines, those in cells included.

    A byte that the encoding does not have is copied, half of a character of UTF-16 becomes the byte 255, and DuckDB
    rejects the line.

    Raises:
        InputError: the text is not in this encoding, or there is no space.
    """
    is_wide = encoding.startswith("utf-16")
    name = "utf-8-sig" if encoding == "utf-8" else encoding
    try:
        with (
            open_binary(path) as binary,
            io.TextIOWrapper(binary, name, "surrogatepass" if is_wide else "surrogateescape") as text,
            target.open("w", encoding="utf-8", errors="surrogateescape", newline="") as written,
        ):
            while block := text.read(_BLOCK):
                written.write(_HALF.sub("\udcff", block) if is_wide else block)
    except UnicodeError as error:
        raise InputError(
            f"cannot read {shown}: it is not {encoding} ({error}); give datamodule.files.encoding=<name>"
        ) from None
    except OSError as error:
        raise InputError(f"cannot rewrite {shown} as UTF-8 in {target.parent}: {error.strerror}; free space") from None
