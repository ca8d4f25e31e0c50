"""Which files hold the rows of a source, in which format they are written, and which of them cannot be read."""

import glob
import hashlib
import re
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

import duckdb

from segue.datamodules.reading.plain_text import BOM, read_start, rewrite_text, scan_text
from segue.datamodules.reading.queries import Database, is_of_files, one_line, plain_path, scratch_folder
from segue.datamodules.reading.table_settings import FileFormat
from segue.errors import InputError

_FORMAT_OF_SUFFIX = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".inter"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".listens"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    ".json": "json",
}
_ADDRESS = re.compile(r"[a-z][a-z0-9+]*://")
# Bytes that one archive may unpack to. A small file can be made that unpacks to more than any disk holds.
_MOST_UNPACKED = 200 * 2**30
_BLOCK, _MOST_BAD = 2**20, 0.01  # bytes of a text, and the share of their lines, that may be no UTF-8
_NOT_UTF_8 = re.compile("[\udc80-\udcff]")  # a byte, as Python writes it
_OF_MACOS = "__MACOSX"  # folder that macOS adds to an archive, with no data
# What files begin with that people take for text, and what to do with them.
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


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one table.

    Args:
        paths: what DuckDB opens, in the order in which they are read.
        shown: how each is called in messages.
        format: see `FileFormat`.
        folder: of the files, in which other files of the source are looked for.
        left_out: names of the other files of a folder or an archive, if no pattern says which are read.
    """

    paths: list[str]
    shown: list[str]
    format: str
    folder: Path
    left_out: list[str] = field(default_factory=list)

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
            if not is_of_files(error):
                raise
            text = one_line(error)
            pairs = list(zip(self.paths, self.shown, strict=True))
            all_files = self.shown[0] + " and others" * (len(pairs) > 1)
            where = next((shown for path, shown in pairs if plain_path(path) in text), all_files)
            for path, shown in pairs:
                text = text.replace(path, shown)  # an address may have a secret after its name
            remedy = "; correct the file, or give datamodule.files.format" if self.format in ("json", "parquet") else ""
            raise InputError(f"cannot read {where}: {text[:300]}{remedy}") from None


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file, in 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        format_ = _format_of_name(shown.rstrip("*"), settings)
        return Files(paths=[path], shown=[shown], format=format_, folder=Path(path).parent)
    patterns = [patterns] if isinstance(patterns, str) else patterns
    try:
        found, folder, left_out = _local_files(Path(path), settings, patterns, unpacked)
        if not found and Path(path).is_dir():
            next(Path(path).iterdir(), None)  # which fails without permission, unlike a glob
        formats = {_format_of(file, settings): file for file in reversed(found)}
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror}") from None
    except InputError as error:
        raise InputError(str(error).replace(str(unpacked), path)) from None
    if not found:
        raise InputError(_nothing_found(Path(path), settings, patterns))
    names = {file: f"{path}/{file.relative_to(unpacked)}" if unpacked in file.parents else str(file) for file in found}
    if len(formats) > 1:
        listed = " and ".join(f"{names[file]} ({name})" for name, file in sorted(formats.items()))
        raise InputError(f"{path} has files of several formats: {listed}; choose with {settings.group}.pattern='*.csv'")
    return Files(
        paths=[glob.escape(str(file)) for file in found],
        shown=list(names.values()),
        format=next(iter(formats)),
        folder=folder,
        left_out=left_out,
    )


def in_folder(folder: Path, settings: FileFormat, patterns: Sequence[str]) -> list[Path]:
    """The files of a folder that the first pattern with any matches; they are not opened."""
    for pattern in patterns:
        found = [path for path in folder.glob(pattern) if _is_data(path) and _OF_MACOS not in path.parts]
        if _is_everything(pattern, settings):
            found = [path for path in found if _suffix(path) in _FORMAT_OF_SUFFIX]
            found = [path for path in found if _suffix(path) != ".txt"] or found  # a README.txt beside data
        if found:
            return sorted(found, key=_oldest_first)
    return []


def _is_everything(pattern: str, settings: FileFormat) -> bool:
    """Whether a glob fits all files, therefore also a README."""
    return pattern.endswith("*") and settings.format == "auto"


def _local_files(
    path: Path, settings: FileFormat, patterns: Sequence[str], unpacked: Path
) -> tuple[list[Path], Path, list[str]]:
    """The files that are read, their folder, and the names of its other files, if a glob fits all of them."""
    if _is_zip(path):
        _unpack(path, unpacked)
        return _with_others(unpacked, settings, patterns)
    if path.is_dir():
        found, _, left_out = _with_others(path, settings, patterns)
        archives = sorted(filter(_is_zip, path.rglob("*")))
        if found or not archives:
            return found, path, left_out
        left_out = [name for name in left_out if not _is_zip(path / name)]
        for archive in archives:
            folder = unpacked / archive.relative_to(path)
            _unpack(archive, folder)
            inside, _, others = _with_others(folder, settings, patterns)
            found += inside
            left_out += [f"{archive.relative_to(path)}/{name}" for name in others]
        return found, folder if len(archives) == 1 else path, left_out
    if path.is_file():
        return [path], path.parent, []
    names = [] if "\0" in str(path) else glob.glob(str(path), recursive=True)  # noqa: PTH207 - absolute globs
    return sorted(filter(_is_data, map(Path, names)), key=_oldest_first), path.parent, []


def _with_others(folder: Path, settings: FileFormat, patterns: Sequence[str]) -> tuple[list[Path], Path, list[str]]:
    found = in_folder(folder, settings, patterns)
    if not all(_is_everything(pattern, settings) for pattern in patterns):
        return found, folder, []
    read = set(found)
    others = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file() and file not in read}
    names = {
        _OF_MACOS if _OF_MACOS in file.parts else str(file)
        for file in others
        if _OF_MACOS in file.parts or not any(part.startswith(".") for part in file.parts)
    }
    return found, folder, sorted(names)


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and _is_data(path)


def _is_data(path: Path) -> bool:
    """A file that is neither hidden nor a backup of an editor."""
    return path.is_file() and not path.name.endswith("~") and not path.name.startswith((".", "_"))


def _suffix(path: Path) -> str:
    """Suffix of the name without that of a compression and the number of a rotation: `.json` of `data.json.2.gz`."""
    return Path(re.sub(r"(\.\d+)?(\.gz|\.zst)?$", "", path.name.lower())).suffix


def _oldest_first(path: Path) -> tuple[str, bool, str, int]:
    """Sort key: a test set last; rotated files of one log, oldest first: data.json.2, data.json.1, data.json."""
    rotation = re.search(r"\.(\d+)(?:\.\w+)?$", path.name)
    name = path.name[: rotation.start()] if rotation else path.name
    return str(path.parent), path.name.startswith("test."), name, -int(rotation[1]) if rotation else 0


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
    if file.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst", ".7z", ".rar")):
        raise InputError(f"cannot read {file}: it is an archive; unpack it and give the folder")
    with file.open("rb") as opened:
        if not opened.read(1):
            raise InputError(f"{file} is empty; remove it, or download it again")
    found = _format_of_name(file.name, settings)
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
    text = start.replace(b"\0", b"").lstrip(BOM + b"\xff\xfe \t\r\n")
    if settings.format == "auto" and (found != "csv" or re.match(rb'\[?\s*\{\s*"', text)):
        found = _format_of_start(text, found)
    scan = scan_text(file, quote=quote_of(settings, found))
    if found == "json" and text.startswith(b"[") and scan.last != b"]":  # DuckDB reads what there is
        raise InputError(f"cannot read {file}: it is truncated, a JSON array that does not end in ]; download it again")
    if found != "json" and scan.long_line is not None:
        raise _too_long(file, scan.long_line)
    return found


def _format_of_start(start: bytes, found: str) -> str:
    if start.startswith(b"{"):
        return "jsonl" if re.match(rb"\{[^\r\n]*\}\s*[\r\n]+\s*\{", start) or found == "jsonl" else "json"
    return "json" if start.startswith(b"[") else found


def as_plain_text(database: Database, files: Files, settings: FileFormat) -> tuple[Files, str, bool]:
    """The files with those rewritten that DuckDB does not read exactly; see `plain_text.py`.

    Args:
        database: rewritten files are beside its temporary files.
        files: the files.
        settings: how they are written.

    Returns:
        The files, their encoding (several with commas between them), and whether cells may have ends of lines.

    Raises:
        InputError: a file is not UTF-8, apart from few lines, or has another encoding than the settings say.
    """
    quote = quote_of(settings, files.format)
    if files.format == "parquet" or not files.local:
        return files, "utf-8" if settings.encoding == "auto" else settings.encoding, bool(quote)
    paths, encodings, has_lines = list[str](), list[str](), False
    for place, (path, file, shown) in enumerate(zip(files.paths, files.local, files.shown, strict=True)):
        scan = scan_text(file, quote=quote)
        encoding = scan.encoding if settings.encoding == "auto" else settings.encoding
        if encoding == "utf-8" and scan.bad_line is not None:
            lines = read_start(file, _BLOCK).decode("utf-8", "surrogateescape").splitlines()
            num_bad = sum(_NOT_UTF_8.search(line) is not None for line in lines)
            if scan.bad_line <= settings.skip + 1 or num_bad > max(1, _MOST_BAD * len(lines)):
                raise InputError(
                    f"{shown} line {scan.bad_line} is not UTF-8; give {settings.group}.encoding=<name>, such as "
                    "windows-1252, windows-1251 or shift_jis"
                )
            # otherwise DuckDB fails at a bad line in a column that is not used, instead of rejecting the line
            database.execute("SET disabled_optimizers = 'in_clause, build_side_probe_side, unused_columns'")
        if encoding != "utf-8" or not scan.is_plain:
            target = scratch_folder(database) / f"{settings.group}-{place}.txt"
            rewrite_text(file, encoding, target, shown=shown)
            path, scan = str(target), scan_text(target, quote=quote)
        paths.append(path)
        encodings.append(encoding)
        has_lines |= scan.has_lines_in_quotes
    return replace(files, paths=paths), ", ".join(sorted(set(encodings))), has_lines


def quote_of(settings: FileFormat, format_: str) -> str:
    """What encloses cells of csv; empty for nothing. DuckDB would also find an apostrophe of a title.

    Args:
        settings: how a text is written.
        format_: see `FileFormat`.
    """
    if format_ != "csv":
        return ""
    return '"' if settings.quote == "auto" else settings.quote


def _too_long(file: Path, line: int) -> InputError:
    return InputError(
        f"{file} line {line} is longer than 16 MiB: correct or remove it (a file of JSON objects without ends of lines "
        "needs datamodule.files.format=json)"
    )


def check_whole(path: Path) -> None:
    """Refuse a truncated .gz or .zst file of lines, or one with a line above 16 MiB.

    DuckDB would read its first part, or leave the line out, without an error.

    Args:
        path: the file; files with another suffix are not checked.

    Raises:
        InputError: the file is truncated or is not such a file, or a line is too long.
    """
    if path.suffix in (".gz", ".zst") and (line := scan_text(path).long_line) is not None:
        raise _too_long(path, line)


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
