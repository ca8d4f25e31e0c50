"""Which files hold the rows of a source, and in which format they are written."""

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from segue.datamodules.reading.compressed import check_whole, unpack
from segue.datamodules.reading.text_files import check_is_text, check_lines, is_utf_16, read_start
from segue.errors import InputError, check_flag, check_number

FORMATS = ("csv", "jsonl", "json", "parquet", "lines")
"""Text with columns, a JSON object in each line, an array of JSON objects in each file, Parquet, and plain lines."""

_FORMAT_OF_SUFFIX = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".inter"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".listens"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    ".json": "json",
}
_COMPRESSED = (".gz", ".zst")
_ADDRESS = re.compile(r"[a-z][a-z0-9+]*://")


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """Which files are read, and how they are written; the keys of `datamodule.files`.

    Args:
        pattern: glob of the files, relative to the folder; of several, the first that matches a file is used.
        format: one of `FORMATS`, or `auto`: what the name and the first character of the first file say.
        delimiter: what separates the columns of csv; `auto`: what most rows agree on.
        quote: what encloses a text of csv; empty for none.
        header: whether the first line of csv has the names of the columns; `auto`: unless a name is a number.
        names: names of the columns of csv without a header.
        skip: number of lines before the header, or before the first row.
        encoding: `utf-8`, `latin-1`, `utf-16`, or `auto`: UTF-8, or Latin-1 where too many lines are not UTF-8.
        newest_first: whether of two events with the same time the one in the later row was first.
    """

    pattern: str | Sequence[str]
    format: str
    delimiter: str
    quote: str
    header: bool | str
    names: Sequence[str] | None
    skip: int
    encoding: str
    newest_first: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, key: str) -> "FileSettings":
        """Check the settings of one kind of files.

        Args:
            config: a value for each argument of the class.
            key: their key on the command line, for messages.

        Raises:
            InputError: a key is unknown, or a value is not allowed.
        """
        known = [field.name for field in fields(cls)]
        refuse_unknown(config, known, key=key)
        check_flag(f"{key}.newest_first", newest_first := config.get("newest_first", False))
        values: dict[str, Any] = {**{name: config.get(name) for name in known}, "newest_first": newest_first}
        for name, rule in (("pattern", "a glob, or a list of globs"), ("names", "a list of names, or null")):
            value = values[name]
            parts = [value] if name == "pattern" and isinstance(value, str) else value
            is_list = isinstance(parts, Sequence) and not isinstance(parts, str)
            if not (is_list and parts and all(map(str, parts))) and not (name == "names" and value is None):
                raise InputError(f"{key}.{name} must be {rule}, got {value!r}")
        choices = {
            "format": ("auto", *FORMATS),
            "encoding": ("auto", "utf-8", "latin-1", "utf-16"),
            "header": ("auto", True, False),
        }
        for name, allowed in choices.items():
            if (value := values[name]) not in allowed:
                words = ", ".join(str(choice).lower() for choice in allowed)
                raise InputError(f"{key}.{name} must be one of {words}, got {value!r}")
        for name, longest in (("delimiter", 4), ("quote", 1)):
            value = values[name]
            is_text = isinstance(value, str) and len(value) <= longest and "\n" not in value and "\r" not in value
            if value != "auto" and not is_text:
                few = "one character" if longest == 1 else f"a text of at most {longest} characters"
                raise InputError(f"{key}.{name} must be auto or {few}, got {value!r}")
        if values["delimiter"] == values["quote"] != "auto":
            raise InputError(f"{key}.delimiter and {key}.quote must differ, got {values['quote']!r} for both")
        if values["delimiter"] == "":
            raise InputError(f"{key}.delimiter must be auto or one character; format=lines reads whole lines")
        check_number(f"{key}.skip", values["skip"], whole=True, least=0)
        return cls(**values)

    @property
    def patterns(self) -> list[str]:
        """The globs, in the order in which they are tried."""
        return [self.pattern] if isinstance(self.pattern, str) else list(self.pattern)


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one table.

    Args:
        paths: what DuckDB opens, in the order in which they are read.
        shown: how each is called in messages.
        format: one of `FORMATS`.
    """

    paths: list[str]
    shown: list[str]
    format: str

    @property
    def is_local(self) -> bool:
        """Whether they are on this machine."""
        return not any(map(is_address, self.paths))


def refuse_unknown(config: Mapping[str, Any], known: Sequence[str], *, key: str) -> None:
    """Refuse a key that no setting has, and suggest the nearest one.

    Raises:
        InputError: a key is unknown.
    """
    for name in config:
        if name not in known:
            nearest = get_close_matches(str(name), known, 1)
            remedy = f"did you mean {nearest[0]}?" if nearest else f"the keys are {', '.join(known)}"
            raise InputError(f"{key} has no key {name!r}; {remedy}")


def is_address(path: str) -> bool:
    """Whether a path is an address such as `s3://…` or `https://…`, which DuckDB opens itself."""
    return bool(_ADDRESS.match(path))


def find_files(path: str, settings: FileSettings, *, unpacked: Path, key: str = "datamodule.files") -> Files:
    """Find the files that hold the rows.

    Args:
        path: a file, a folder, a glob, or an address.
        settings: which files of a folder, and their format.
        unpacked: folder that a .zip file is unpacked into.
        key: key of the settings on the command line, for messages.

    Raises:
        InputError: there is no such file, a file is truncated, or the files have several formats.
    """
    if is_address(path):
        name = path.partition("?")[0].rstrip("*")
        return Files(paths=[path], shown=[path.partition("?")[0]], format=_format_of_name(name, settings, key))
    try:
        found = _local_files(Path(path), settings, unpacked)
        if not found and Path(path).is_dir():
            next(Path(path).iterdir(), None)  # which fails without permission, unlike a glob
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not found:
        raise InputError(_nothing_found(Path(path), settings, key))
    formats: dict[str, Path] = {}
    try:
        for file in reversed(found):
            _check_readable(file)
            formats[_format_of(file, settings, key)] = file
    except InputError as error:
        raise InputError(str(error).replace(str(unpacked), path)) from None
    if len(formats) > 1:
        listed = " and ".join(f"{file} ({name})" for name, file in sorted(formats.items()))
        raise InputError(f"{path} has files of several formats: {listed}; choose with {key}.pattern='*.csv'")
    archive = unpacked in found[0].parents
    shown = [f"{path}/{file.relative_to(unpacked)}" if archive else str(file) for file in found]
    return Files(paths=[glob.escape(str(file)) for file in found], shown=shown, format=next(iter(formats)))


def has_files(path: Path, settings: FileSettings) -> bool:
    """Whether a folder has files that a pattern matches; they are not opened."""
    return path.is_dir() and bool(_in_folder(path, settings))


def _local_files(path: Path, settings: FileSettings, unpacked: Path) -> list[Path]:
    if path.is_dir():
        return _in_folder(path, settings)
    if path.suffix == ".zip" and path.is_file():
        unpack(path, unpacked)
        return _in_folder(unpacked, settings)
    if path.is_file():
        return [path]
    try:
        matches = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - absolute globs
    except ValueError:  # a NUL byte
        matches = []
    return sorted(filter(_is_data, matches), key=_oldest_first)


def _in_folder(folder: Path, settings: FileSettings) -> list[Path]:
    for pattern in settings.patterns:
        found = [path for path in folder.glob(pattern) if _is_data(path)]
        if pattern.endswith("*") and settings.format == "auto":  # everything, therefore also a README
            found = [path for path in found if _suffix(path) in _FORMAT_OF_SUFFIX]
            found = [path for path in found if _suffix(path) != ".txt"] or found  # a README.txt beside data
        if found:
            return sorted(found, key=_oldest_first)
    return []


def _is_data(path: Path) -> bool:
    """A file that is neither hidden nor a backup of an editor."""
    return path.is_file() and not path.name.endswith("~") and not path.name.startswith((".", "_"))


def _suffix(path: Path) -> str:
    """Suffix of the name without that of a compression and the number of a rotation: `.json` of `data.json.2.gz`."""
    name = re.sub(r"(\.\d+)?(\.gz|\.zst)?$", "", path.name.lower())
    return Path(name).suffix


def _oldest_first(path: Path) -> tuple[str, str, int]:
    """Sort key: rotated files of one log, oldest first: data.json.2, data.json.1, data.json."""
    rotation = re.search(r"\.(\d+)(?:\.\w+)?$", path.name)
    name = path.name[: rotation.start()] if rotation else path.name
    return str(path.parent), name, -int(rotation[1]) if rotation else 0


def _nothing_found(path: Path, settings: FileSettings, key: str) -> str:
    wanted = " or ".join(settings.patterns)
    remedy = "give datamodule.path=<file or folder>"
    if path.is_dir():
        if any(path.glob("*.tar*")):
            return f"cannot read {path}: DuckDB does not open .tar files; unpack it and give the folder"
        return f"cannot read {path}: no {wanted} in it; {remedy}, or {key}.pattern=<glob>"
    near = get_close_matches(path.name, [other.name for other in path.parent.glob("*") if other != path], 1)
    of_a_set = "" if path.suffix else ", or set SEGUE_DATA to the folder that holds the data sets"
    hint = f"did you mean {path.parent / near[0]}?" if near else f"{remedy}{of_a_set}"
    return f"cannot read {path}: no such file or folder; {hint}"


def _check_readable(file: Path) -> None:
    if file.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst", ".7z", ".rar")):
        raise InputError(f"cannot read {file}: it is an archive; unpack it and give the folder")
    try:
        with file.open("rb") as opened:
            if not opened.read(1):
                raise InputError(f"{file} is empty; remove it, or download it again")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None


def _format_of(file: Path, settings: FileSettings, key: str) -> str:
    """The format of a file, which is checked."""
    found = _format_of_name(file.name, settings, key)
    check_whole(file, has_lines=found in ("csv", "jsonl", "lines"))
    if file.suffix == ".zst":
        return found
    start = read_start(file)
    if found == "parquet":
        if not start.startswith((b"PAR1", b"PARE")):
            raise InputError(f"cannot read {file}: it is no Parquet file; download it again, or give {key}.format")
        return found
    if start.startswith(b"PAR1") and settings.format == "auto":
        return "parquet"
    check_is_text(file, start)
    is_utf_16(file, start)
    if settings.format == "auto":
        found = _format_of_start(start.removeprefix(b"\xef\xbb\xbf").lstrip(), found)
    if found == "json" and start.startswith(b"\xef\xbb\xbf"):
        raise InputError(f"cannot read {file}: JSON cannot begin with a byte-order mark; save it as UTF-8 without one")
    if found != "json" and file.suffix != ".gz":
        check_lines(file)
    return found


def _format_of_start(start: bytes, found: str) -> str:
    if start.startswith(b"["):
        return "json" if found != "csv" or start[1:2] in b"{[ \r\n" else found
    if start.startswith(b"{"):
        return "jsonl" if re.match(rb"\{[^\r\n]*\}\s*[\r\n]+\s*\{", start) or found == "jsonl" else "json"
    return found


def _format_of_name(name: str, settings: FileSettings, key: str) -> str:
    if settings.format != "auto":
        return settings.format
    found = _FORMAT_OF_SUFFIX.get(_suffix(Path(name)))
    if found is None:
        formats = ", ".join(FORMATS)
        raise InputError(f"cannot see the format of {name} from its name; give {key}.format=<one of {formats}>")
    return found
