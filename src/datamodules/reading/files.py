"""Which files hold the rows of a source, in which format they are written, and which of them cannot be read."""

import glob
import mmap
import re
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import duckdb

from segue.datamodules.reading.queries import Database, one_line, plain_path
from segue.datamodules.reading.table_settings import FileFormat
from segue.errors import InputError

_FORMAT_OF_SUFFIX = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".inter"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".listens"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    ".json": "json",
}
_ADDRESS = re.compile(r"[a-z][a-z0-9+]*://")
_LONGEST = 16 * 2**20
"""Bytes of a line. DuckDB rejects lines above 2 MiB, but leaves out lines above 32 MiB without a word."""
_MOST_UNPACKED = 200 * 2**30
"""Bytes that one archive may unpack to. A small file can be made that unpacks to more than any disk holds."""
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


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one table.

    Args:
        paths: what DuckDB opens, in the order in which they are read.
        shown: how each is called in messages.
        format: see `FileFormat`.
    """

    paths: list[str]
    shown: list[str]
    format: str

    @property
    def local(self) -> list[Path]:
        """The paths of files on this machine, without the escapes of a glob; none of an address."""
        return [Path(plain_path(path)) for path in self.paths if not is_address(path)]

    def run(self, database: Database, query: str, **parameters: object) -> Database:
        """Execute a query over the files, which are its parameter `$files`.

        Raises:
            InputError: DuckDB cannot read the files.
        """
        try:
            return database.execute(query, {"files": self.paths, **parameters})
        except duckdb.Error as error:
            text = one_line(error)
            pairs = list(zip(self.paths, self.shown, strict=True))
            all_files = self.shown[0] + " and others" * (len(pairs) > 1)
            where = next((shown for path, shown in pairs if plain_path(path) in text), all_files)
            for path, shown in pairs:
                text = text.replace(path, shown)  # an address may have a secret after its name
            if "state machine reached an invalid state" in text:
                text = "ends of lines are of several kinds (LF, CRLF, CR); make them one, for example with dos2unix"
            remedy = "; correct the file, or give datamodule.files.format" if self.format in ("json", "parquet") else ""
            raise InputError(f"cannot read {where}: {text[:300]}{remedy}") from None


def is_address(path: str) -> bool:
    """Whether a path is an address such as `s3://…` or `https://…`, which DuckDB opens itself."""
    return bool(_ADDRESS.match(path))


def find_files(path: str, settings: FileFormat, *, patterns: str | Sequence[str], unpacked: Path) -> Files:
    """Find the files that hold the rows.

    Args:
        path: a file, a folder, a glob, or an address.
        settings: how they are written.
        patterns: globs of the files of a folder; of several, the first that matches a file is used.
        unpacked: folder that a .zip file is unpacked into.

    Raises:
        InputError: there is no such file, a file is truncated, or the files have several formats.
    """
    if is_address(path):
        shown = path.partition("?")[0]
        return Files(paths=[path], shown=[shown], format=_format_of_name(shown.rstrip("*"), settings))
    patterns = [patterns] if isinstance(patterns, str) else patterns
    try:
        found = _local_files(Path(path), settings, patterns, unpacked)
        if not found and Path(path).is_dir():
            next(Path(path).iterdir(), None)  # which fails without permission, unlike a glob
        formats = {_format_of(file, settings): file for file in reversed(found)}
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror}") from None
    except InputError as error:
        raise InputError(str(error).replace(str(unpacked), path)) from None
    if not found:
        raise InputError(_nothing_found(Path(path), settings, patterns))
    if len(formats) > 1:
        listed = " and ".join(f"{file} ({name})" for name, file in sorted(formats.items()))
        raise InputError(f"{path} has files of several formats: {listed}; choose with {settings.group}.pattern='*.csv'")
    archive = unpacked in found[0].parents
    shown_as = [f"{path}/{file.relative_to(unpacked)}" if archive else str(file) for file in found]
    return Files(paths=[glob.escape(str(file)) for file in found], shown=shown_as, format=next(iter(formats)))


def in_folder(folder: Path, settings: FileFormat, patterns: Sequence[str]) -> list[Path]:
    """The files of a folder that the first pattern with any matches; they are not opened.

    Args:
        folder: the folder.
        settings: how they are written.
        patterns: globs.
    """
    for pattern in patterns:
        found = [path for path in folder.glob(pattern) if _is_data(path)]
        if pattern.endswith("*") and settings.format == "auto":  # everything, therefore also a README
            found = [path for path in found if _suffix(path) in _FORMAT_OF_SUFFIX]
            found = [path for path in found if _suffix(path) != ".txt"] or found  # a README.txt beside data
        if found:
            return sorted(found, key=_oldest_first)
    return []


def _local_files(path: Path, settings: FileFormat, patterns: Sequence[str], unpacked: Path) -> list[Path]:
    if path.suffix == ".zip" and path.is_file():
        _unpack(path, unpacked)
        return in_folder(unpacked, settings, patterns)
    if path.is_dir():
        return in_folder(path, settings, patterns)
    if path.is_file():
        return [path]
    names = [] if "\0" in str(path) else glob.glob(str(path), recursive=True)  # noqa: PTH207 - absolute globs
    return sorted(filter(_is_data, map(Path, names)), key=_oldest_first)


def _is_data(path: Path) -> bool:
    """A file that is neither hidden nor a backup of an editor."""
    return path.is_file() and not path.name.endswith("~") and not path.name.startswith((".", "_"))


def _suffix(path: Path) -> str:
    """Suffix of the name without that of a compression and the number of a rotation: `.json` of `data.json.2.gz`."""
    return Path(re.sub(r"(\.\d+)?(\.gz|\.zst)?$", "", path.name.lower())).suffix


def _oldest_first(path: Path) -> tuple[str, str, int]:
    """Sort key: rotated files of one log, oldest first: data.json.2, data.json.1, data.json."""
    rotation = re.search(r"\.(\d+)(?:\.\w+)?$", path.name)
    name = path.name[: rotation.start()] if rotation else path.name
    return str(path.parent), name, -int(rotation[1]) if rotation else 0


def _nothing_found(path: Path, settings: FileFormat, patterns: Sequence[str]) -> str:
    remedy = "give datamodule.path=<file or folder>"
    if path.is_dir():
        if any(path.glob("*.tar*")):
            return f"cannot read {path}: DuckDB does not open .tar files; unpack it and give the folder"
        return f"cannot read {path}: no {' or '.join(patterns)} in it; {remedy}, or {settings.group}.pattern=<glob>"
    near = get_close_matches(path.name, [other.name for other in path.parent.glob("*") if other != path], 1)
    of_a_set = "" if path.suffix else ", or set SEGUE_DATA to the folder that holds the data sets"
    hint = f"did you mean {path.parent / near[0]}?" if near else f"{remedy}{of_a_set}"
    return f"cannot read {path}: no such file or folder; {hint}"


def _format_of_name(name: str, settings: FileFormat) -> str:
    if settings.format != "auto":
        return settings.format
    if (found := _FORMAT_OF_SUFFIX.get(_suffix(Path(name)))) is None:
        raise InputError(
            f"cannot see the format of {name} from its name; give {settings.group}.format=csv, jsonl, json, parquet or "
            "lines"
        )
    return found


def _format_of(file: Path, settings: FileFormat) -> str:
    """The format of a file, which is checked."""
    if file.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst", ".7z", ".rar")):
        raise InputError(f"cannot read {file}: it is an archive; unpack it and give the folder")
    with file.open("rb") as opened:
        if not opened.read(1):
            raise InputError(f"{file} is empty; remove it, or download it again")
    found = _format_of_name(file.name, settings)
    check_whole(file, has_lines=found in ("csv", "jsonl", "lines"))
    start = read_start(file)
    if found == "parquet":
        if not start.startswith((b"PAR1", b"PARE")):
            raise InputError(
                f"cannot read {file}: it is no Parquet file; download it again, or give {settings.group}.format"
            )
        return found
    if start.startswith(b"PAR1") and settings.format == "auto":
        return "parquet"
    for magic, what in _OTHER_FILES.items():
        if start.startswith(magic):
            raise InputError(f"cannot read {file}: it is {what}")
    is_utf_16(file, start)
    if settings.format == "auto":
        found = _format_of_start(start.removeprefix(b"\xef\xbb\xbf").lstrip(), found)
    if found == "json" and start.startswith(b"\xef\xbb\xbf"):
        raise InputError(f"cannot read {file}: JSON cannot begin with a byte-order mark; save it as UTF-8 without one")
    if found != "json":
        _check_lines(file)
    return found


def _format_of_start(start: bytes, found: str) -> str:
    if start.startswith(b"["):
        return "json" if found != "csv" or start[1:2] in b"{[ \r\n" else found
    if start.startswith(b"{"):
        return "jsonl" if re.match(rb"\{[^\r\n]*\}\s*[\r\n]+\s*\{", start) or found == "jsonl" else "json"
    return found


def open_binary(path: Path) -> Any:
    """Open a file to read its bytes, unpacked if its name ends in .gz or .zst.

    Args:
        path: the file.
    """
    import pyarrow as pa

    return pa.input_stream(str(path), compression="detect") if path.suffix in (".gz", ".zst") else path.open("rb")


def read_start(file: Path, size: int = 4096) -> bytes:
    """The first bytes of a file, unpacked.

    Args:
        file: a file that is whole.
        size: number of bytes.
    """
    with open_binary(file) as opened:
        return bytes(opened.read(size))


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


def check_whole(path: Path, *, has_lines: bool) -> None:
    """Refuse a truncated .gz or .zst file. DuckDB would read its first part without an error.

    Args:
        path: the file; files with another suffix are not checked.
        has_lines: whether it is a text of lines. Then a line above 32 MiB is refused too.

    Raises:
        InputError: the file is truncated or is not such a file, or a line is too long.
    """
    if path.suffix not in (".gz", ".zst"):
        return
    num_lines = 1
    try:
        with open_binary(path) as file:
            while block := file.read(_LONGEST):
                if has_lines and len(block) == _LONGEST and b"\n" not in block and b"\r" not in block:
                    raise _too_long(path, num_lines)
                num_lines += block.count(b"\n") if has_lines else 0
    except OSError as error:
        kind = {".gz": "gzip", ".zst": "zstd"}[path.suffix]
        raise InputError(f"{path} is not a complete {kind} file: {error}; copy or compress it again") from None


def _check_lines(file: Path) -> None:
    """Refuse an uncompressed text with a line of more than 32 MiB; a line of 16 to 32 MiB may be refused.

    Only the end of each 16 MiB is read, as long as it has an end of a line.
    """
    if file.suffix in (".gz", ".zst") or file.stat().st_size < _LONGEST:
        return
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for begin in range(0, len(text) - _LONGEST + 1, _LONGEST):
            if all(text.rfind(end, begin, begin + _LONGEST) < 0 for end in (b"\n", b"\r")):
                before = sum(text[at : at + _LONGEST].count(b"\n") for at in range(0, begin, _LONGEST))
                raise _too_long(file, before + 1)


def _too_long(file: Path, line: int) -> InputError:
    return InputError(
        f"{file} line {line} is longer than 16 MiB: correct or remove it (a file of JSON objects without ends of lines "
        "needs datamodule.files.format=json)"
    )


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip file. `zipfile` keeps every file inside the folder, whatever the archive says."""
    try:
        with zipfile.ZipFile(archive) as file:
            if (size := sum(member.file_size for member in file.infolist())) > _MOST_UNPACKED:
                raise InputError(f"{archive} unpacks to {size / 2**30:.0f} GiB, more than 200; unpack it yourself")
            file.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{archive} is not a complete zip file: {error}; copy or compress it again") from None
    except (RuntimeError, NotImplementedError, OSError) as error:  # a password, a rare kind, or no space
        shutil.rmtree(folder, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot unpack {archive}: {reason}; unpack it and give the folder") from None
