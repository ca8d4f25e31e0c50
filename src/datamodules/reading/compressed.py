"""Compressed files: a truncated one is refused, and an archive is unpacked into a temporary folder."""

import gzip
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from segue.datamodules.reading.text_files import has_line_end, too_long
from segue.errors import InputError

_MOST_UNPACKED = 200 * 2**30
"""Bytes that one archive may unpack to. A small file can be made that unpacks to more than any disk holds."""


def check_whole(path: Path, *, has_lines: bool) -> None:
    """Refuse a truncated .gz or .zst file. DuckDB would read its first part without an error.

    Args:
        path: the file; files with another suffix are not checked.
        has_lines: whether it is a text of lines. Then a .gz file with a line above 32 MiB is refused too.

    Raises:
        InputError: the file is truncated or is not such a file, or a line is too long.
    """
    if path.suffix == ".zst":
        _check_zst(path)
    if path.suffix != ".gz":
        return
    num_lines = 1
    try:
        with gzip.open(path) as file:
            while block := file.read(1 << 24):
                if has_lines and len(block) == 1 << 24 and not has_line_end(block):
                    raise InputError(too_long(path, num_lines))
                num_lines += block.count(b"\n") if has_lines else 0
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is not a complete gzip file: {error}; copy or compress it again") from None


def _check_zst(path: Path) -> None:
    """Follow the frames and blocks of a .zst file to its end (RFC 8878), without unpacking them."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while at := file.read(4):
            magic = int.from_bytes(at, "little")
            if magic & 0xFFFFFFF0 == 0x184D2A50:  # a frame to skip
                file.seek(int.from_bytes(file.read(4), "little"), 1)
            elif magic == 0xFD2FB528:
                _skip_frame(file)
            else:
                raise InputError(f"{path} is not a zstd file; copy or compress it again")
            if file.tell() > size:
                break
        if file.tell() != size:
            raise InputError(f"{path} is not a complete zstd file: it ends too early; copy or compress it again")


def _skip_frame(file: BinaryIO) -> None:
    """Move to the end of a frame; beyond the end of the file if it is truncated."""
    descriptor = (file.read(1) or b"\0")[0]
    has_window = not descriptor & 0x20
    size_of_content = (1 if descriptor & 0x20 else 0, 2, 4, 8)[descriptor >> 6]
    file.seek(has_window + (0, 1, 2, 4)[descriptor & 3] + size_of_content, 1)
    is_last = False
    while not is_last:
        if len(header := file.read(3)) < 3:
            file.seek(1 << 62)
            return
        number = int.from_bytes(header, "little")
        is_last, kind = bool(number & 1), number >> 1 & 3
        file.seek(1 if kind == 1 else number >> 3, 1)  # a repeated byte, or as many as the header says
    if descriptor & 4:
        file.seek(4, 1)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip file.

    Args:
        archive: the file.
        folder: a new folder for its files. `zipfile` keeps every file inside it, whatever the archive says.

    Raises:
        InputError: the file is truncated, damaged, encrypted, or unpacks to more than 200 GiB.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            if (size := sum(member.file_size for member in file.infolist())) > _MOST_UNPACKED:
                raise InputError(f"{archive} unpacks to {size / 2**30:.0f} GiB, more than 200; unpack it yourself")
            file.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{archive} is not a complete zip file: {error}; copy or compress it again") from None
    except (RuntimeError, NotImplementedError) as error:  # a password, or a rare kind of compression
        raise InputError(f"cannot unpack {archive}: {error}; unpack it and give the folder") from None
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"cannot unpack {archive}: {error.strerror}; unpack it and give the folder") from None
