"""The files of a catalogue: `tracks.json` and `top_tracks.json` in the formats of botify, and `plays.npz`.

N tracks of the catalogue, P popular tracks.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeGuard
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Int64

from segue.catalog import Catalog
from segue.errors import InputError
from segue.runs.atomic import write_text, write_whole

PLAYS = "plays.npz"
"""Name of the file that a training run writes beside its `recommendations.jsonl`: the plays of each track."""


def write_catalog(catalog: Catalog, path: Path, columns: Mapping[str, Sequence[Any]] | None = None) -> None:
    """Write `tracks.json`: one JSON object `{"artist", "title", "track"}` for each track.

    Args:
        catalog: the catalogue.
        path: the file to write.
        columns: further keys of the objects, each with a JSON value for each track.
    """
    names: dict[str, Sequence[Any]] = {
        "artist": [artist or None for artist in catalog.artists[catalog.artist_of].tolist()],
        "title": catalog.titles.tolist(),
        "track": catalog.track_ids.tolist(),
        **(columns or {}),
    }
    write_lines(path, (dict(zip(names, values, strict=True)) for values in zip(*names.values(), strict=True)))


def read_catalog(path: Path) -> Catalog:
    """Read `tracks.json`.

    Args:
        path: the file.

    Returns:
        The catalogue, sorted by track id.

    Raises:
        InputError: the file is missing or damaged.
    """
    records: list[tuple[int, str | None, str | None]] = []
    for where, record in read_lines(path):
        track, title, artist = record.get("track"), record.get("title"), record.get("artist")
        if not is_whole(track) or not isinstance(title, str | None) or not isinstance(artist, str | None):
            raise InputError(f'{where}: expected {{"artist": text, "title": text, "track": whole number}}')
        for text in (title, artist):
            if text is not None and not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
                raise InputError(f"{where}: {text!r} contains an unpaired surrogate; correct the text")
        records.append((track, title, artist))
    tracks, titles, artists = zip(*sorted(records, key=itemgetter(0)), strict=True) if records else ((), (), ())
    return Catalog.from_columns(tracks, titles, artists, source=str(path))


def read_columns(path: Path, names: Iterable[str], catalog: Catalog) -> dict[str, list[Any]]:
    """Read further keys of the objects in `tracks.json`.

    Args:
        path: the file that the catalogue was read from.
        names: the keys.
        catalog: the catalogue.

    Returns:
        For each key that an object has, the JSON values in the order of the catalogue; None where there is none.
    """
    lines = {record["track"]: record for _, record in read_lines(path)}
    records = [lines[track] for track in catalog.track_ids.tolist()]
    there = {name for record in records for name in record}
    return {name: [record.get(name) for record in records] for name in names if name in there}


def write_top_tracks(track_ids: Int64[np.ndarray, "P"], path: Path) -> None:
    """Write `top_tracks.json`: one JSON array of raw ids.

    Args:
        track_ids: raw ids of the most played tracks, most plays first.
        path: the file to write.
    """
    write_text(json.dumps(track_ids.tolist()), path)


def read_top_tracks(path: Path, catalog: Catalog) -> Int64[np.ndarray, "P"]:
    """Read `top_tracks.json`: one JSON array of raw ids.

    Args:
        path: the file.
        catalog: the catalogue that the ids belong to.

    Returns:
        Rows of the most played tracks, most plays first.

    Raises:
        InputError: the file is missing or damaged, or a track is not in the catalogue.
    """
    try:
        ids: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path} as JSON: {error}") from None
    if not isinstance(ids, list) or not ids or not all(map(is_whole, ids)):
        raise InputError(f"{path} must hold one JSON array of track ids, most played first")
    rows = catalog.rows_of(np.array(ids, np.int64))
    if (rows < 0).any():
        raise InputError(f"{path}: track {ids[int((rows < 0).argmax())]} is not in the catalogue of the same folder")
    return rows


def write_plays(catalog: Catalog, plays: Int64[np.ndarray, "N"], path: Path) -> None:
    """Write how often each track was played in training: the arrays `track_ids` and `plays`.

    Args:
        catalog: the catalogue.
        plays: number of training events of each track.
        path: the file; its name ends in `.npz`.
    """
    write_whole(path, lambda partial: np.savez(partial, allow_pickle=False, track_ids=catalog.track_ids, plays=plays))


def read_plays(path: Path, catalog: Catalog) -> Int64[np.ndarray, "N"]:
    """Read how often each track of a catalogue was played in training; 0 for a track that the file does not have.

    Args:
        path: the file.
        catalog: the catalogue.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, given = file["track_ids"].astype(np.int64), file["plays"].astype(np.int64)
    except (OSError, ValueError, LookupError, EOFError, BadZipFile) as error:
        raise InputError(f"cannot read {path}: {error}; train again") from None
    if ids.shape != given.shape or ids.ndim != 1:
        raise InputError(f"{path} is damaged: it must have a number of plays for each track; train again")
    rows = catalog.rows_of(ids)
    plays = np.zeros(len(catalog), np.int64)
    plays[rows[rows >= 0]] = given[rows >= 0]
    return plays


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read JSON lines; blank lines are skipped.

    Args:
        path: the file.

    Yields:
        For each line, its position as text for error messages, and the JSON object.

    Raises:
        InputError: the file cannot be read, or a line is not a JSON object.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield (where := f"{path}, line {number}"), _object(line, where)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; a world has tracks.json and users.json") from None


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is damaged: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise InputError(f"{where} is damaged: expected a JSON object, got {type(record).__name__}")
    return record


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines. The file appears under its name only when it is complete.

    Args:
        path: the file to write.
        records: one object for each line.
    """

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)

    write_whole(path, write)


def is_whole(value: object) -> TypeGuard[int]:
    """Check whether a value can be a raw id: an integer of 64 bits.

    Args:
        value: any JSON value; a bool is not an integer.

    Returns:
        True if it can be a raw id.
    """
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
