"""The files of a catalogue: `tracks.json` and `top_tracks.json` in the formats of botify, and `plays.npz`.

N tracks of the catalogue, P popular tracks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Int, Int64, Shaped, UInt8
from pydantic_core import from_json, to_json

from segue.atomic import write_whole
from segue.catalog import Catalog, Id, derived_id, id_problem, ids_of, quoted
from segue.errors import InputError

PLAYS = "plays.npz"
"""Name of the file that a training run writes beside its `recommendations.jsonl`: the plays of each track."""
UNREADABLE = (OSError, ValueError, EOFError, LookupError, NotImplementedError, BadZipFile)
"""What numpy raises of an `.npz` that is damaged, or has another form."""


def write_catalog(catalog: Catalog, path: Path, columns: Mapping[str, Sequence[Any]] | None = None) -> None:
    """Write `tracks.json`: one JSON object `{"artist", "title", "track"}` for each track; `track` is its id.

    Args:
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

    Returns:
        The catalogue, sorted by track id.

    Raises:
        InputError: the file is missing or damaged.
    """
    records = [record[1:] for record in catalog_records(path)]
    order = ids_of([track for track, _, _ in records]).argsort()
    tracks, titles, artists = zip(*(records[row] for row in order), strict=True) if records else ((), (), ())
    return Catalog.from_columns(tracks, titles, artists, source=str(path))


def catalog_records(path: Path, *, derive: bool = False) -> list[tuple[str, Id, str | None, str | None]]:
    """Read `tracks.json` as lines.

    Args:
        derive: whether a line without `track` has the id that is derived from its title and artist.

    Returns:
        For each line, its position as text for error messages, then id, title and artist of the track.

    Raises:
        InputError: the file is missing or damaged.
    """
    found: list[tuple[str, Id, str | None, str | None]] = []
    for where, record in read_lines(path):
        track: Any = record.get("track")
        title, artist = record.get("title"), record.get("artist")
        if derive and track is None and isinstance(title, str) and title and isinstance(artist, str | None):
            track = derived_id(title, artist)
        if (problem := id_problem(track)) or not isinstance(title, str | None) or not isinstance(artist, str | None):
            reason = f'; "track" {problem}, got {track!r}' if problem else ""
            raise InputError(f'{where}: expected {{"artist": text, "title": text, "track": id}}{reason}')
        found.append((where, track, title, artist))
    return found


def read_columns(path: Path, names: Iterable[str], catalog: Catalog) -> dict[str, list[Any]]:
    """Read further keys of the objects in `tracks.json`.

    Returns:
        For each key that an object has, the JSON values in the order of the catalogue; None where there is none.
    """
    lines = {str(record["track"]): record for _, record in read_lines(path)}
    records = [lines[str(track)] for track in catalog.track_ids.tolist()]
    there = {name for record in records for name in record}
    return {name: [record.get(name) for record in records] for name in names if name in there}


def write_top_tracks(track_ids: Shaped[np.ndarray, "P"], path: Path) -> None:
    """Write `top_tracks.json`: one JSON array of ids.

    Args:
        track_ids: ids of the most played tracks, most plays first.
    """
    write_whole(path, lambda partial: partial.write_bytes(to_json(track_ids.tolist())))


def read_top_tracks(path: Path, catalog: Catalog) -> Int64[np.ndarray, "P"]:
    """Read `top_tracks.json`: one JSON array of ids.

    Returns:
        Rows of the most played tracks, most plays first.

    Raises:
        InputError: the file is missing or damaged, or a track is not in the catalogue.
    """
    try:
        ids: Any = from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as JSON: {error}") from None
    if not isinstance(ids, list) or not ids or any(map(id_problem, ids)):
        raise InputError(f"{path} must hold one JSON array of track ids, most played first")
    rows = catalog.rows_of(ids_of(ids))
    if (rows < 0).any():
        unknown = quoted(ids[int((rows < 0).argmax())])
        raise InputError(f"{path}: track {unknown} is not in the catalogue of the same folder")
    return rows


def write_plays(catalog: Catalog, plays: Int64[np.ndarray, "N"], path: Path) -> None:
    """Write how often each track was played in training: the ids, see `packed`, and the array `plays`.

    Args:
        path: the file; its name ends in `.npz`.
    """
    arrays: dict[str, Any] = {**packed("track_ids", catalog.track_ids), "plays": plays}
    write_whole(path, lambda partial: np.savez(partial, allow_pickle=False, **arrays))


def read_plays(path: Path, catalog: Catalog) -> Int64[np.ndarray, "N"]:
    """Read how often each track of a catalogue was played in training; 0 for a track that the file does not have.

    Raises:
        InputError: the file is missing or damaged.
    """
    plays = np.zeros(len(catalog), np.int64)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file.items())
        rows, given = catalog.rows_of(unpacked("track_ids", arrays)), arrays["plays"].astype(np.int64)
        if rows.shape != given.shape:
            raise ValueError("it must have a number of plays for each track")
    except UNREADABLE as error:
        raise InputError(f"cannot read {path}: {error}; train again") from None
    plays[rows[rows >= 0]] = given[rows >= 0]
    return plays


def packed(name: str, texts: Shaped[np.ndarray, "n"] | Sequence[str]) -> dict[str, np.ndarray]:
    """Ids or texts as arrays without objects: whole numbers are one array, texts their bytes and the end of each.

    Args:
        name: of the array; those of texts are `<name>_text` and `<name>_ends`.
        texts: whole numbers or texts.
    """
    if isinstance(texts, np.ndarray) and texts.dtype != object:
        return {name: texts}
    encoded = [text.encode("utf-8", "replace") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {f"{name}_text": np.frombuffer(b"".join(encoded), np.uint8), f"{name}_ends": ends}


def unpacked(name: str, arrays: Mapping[str, np.ndarray]) -> Shaped[np.ndarray, "n"]:
    """The ids or the texts of which `packed` made arrays.

    Raises:
        KeyError: there is none of this name.
        ValueError: they are damaged.
    """
    if name in arrays:
        if arrays[name].dtype != np.int64:
            raise ValueError(f"{name} must be int64, and is {arrays[name].dtype}")
        return arrays[name]
    letters, ends = arrays[f"{name}_text"].tobytes(), arrays[f"{name}_ends"]
    if (np.diff(ends, prepend=0) < 0).any() or (len(ends) and ends[-1] != len(letters)):
        raise ValueError(f"{name}_ends must be the ends of {name}_text")
    texts = np.empty(len(ends), object)
    starts = np.append(0, ends[:-1]).tolist()
    texts[:] = [letters[start:end].decode() for start, end in zip(starts, ends.tolist(), strict=True)]
    return texts


def text_at(letters: UInt8[np.ndarray, "letters"], ends: Int64[np.ndarray, "n"], place: int) -> str:
    """One of the texts of which `packed` made arrays."""
    start = int(ends[place - 1]) if place else 0
    return letters[start : int(ends[place])].tobytes().decode()


def texts_at(
    letters: UInt8[np.ndarray, "letters"], ends: Int64[np.ndarray, "n"], places: Int[np.ndarray, "m"]
) -> tuple[UInt8[np.ndarray, "of_these"], Int64[np.ndarray, "m"]]:
    """Some of the texts of which `packed` made arrays, as such arrays."""
    starts, stops = np.where(places > 0, ends[places - 1], 0), ends[places]
    lengths = stops - starts
    own_ends = lengths.cumsum()
    return letters[np.arange(lengths.sum()) + (stops - own_ends).repeat(lengths)], own_ends


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read JSON lines; blank lines are skipped.

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
        if isinstance(record := from_json(line), dict):
            return record
        raise ValueError("it must be an object")
    except ValueError as error:
        raise InputError(f"{where} is damaged: not JSON ({error})") from None


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines. The file appears under its name only when it is complete."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            file.writelines(to_json(record) + b"\n" for record in records)

    write_whole(path, write)
