"""Compressed files: a truncated one is refused, and an archive is unpacked into a temporary folder."""

import gzip
import shutil
import zipfile
import zlib
from pathlib import Path

from src.errors import InputError

_MOST_UNPACKED = 200 * 2**30
"""Bytes that one archive may unpack to. A small file can be made that unpacks to more than any disk holds."""


def check_whole(path: Path) -> None:
    """Refuse a truncated .gz file. DuckDB would read its first part without an error.

    Args:
        path: the file; files with another suffix are not checked.

    Raises:
        InputError: the file is truncated or is not a gzip file.
    """
    if path.suffix != ".gz":
        return
    try:
        with gzip.open(path) as file:
            while file.read(1 << 24):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is not a complete gzip file: {error}; copy or compress it again") from None


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
