"""The files of a catalogue, in the predecessor's formats: `tracks.json` and `top_tracks.json`.

N tracks, P popular ones.
"""

import json
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Int64

from src.catalog import Catalog
from src.errors import InputError
from src.runs.atomic import write_whole


def write_catalog(catalog: Catalog, path: Path) -> None:
    """Write `tracks.json`: one line a track, `{"artist", "title", "track"}`."""
    artists = catalog.artists[catalog.artist_of]
    columns = zip(artists.tolist(), catalog.titles.tolist(), catalog.track_ids.tolist(), strict=True)
    write_lines(path, ({"artist": artist or None, "title": title, "track": track} for artist, title, track in columns))


def read_catalog(path: Path) -> Catalog:
    """Read `tracks.json`; rows follow the order of the ids.

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
                raise InputError(f"{where}: {text!r} has half a letter in it; mend the text")
        records.append((track, title, artist))
    tracks, titles, artists = zip(*sorted(records, key=itemgetter(0)), strict=True) if records else ((), (), ())
    return Catalog.from_columns(tracks, titles, artists, source=str(path))


def write_top_tracks(track_ids: Int64[np.ndarray, "P"], path: Path) -> None:
    """Write the raw ids of the most played tracks, best first, as one JSON array."""
    text = json.dumps(track_ids.tolist())
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_top_tracks(path: Path, catalog: Catalog) -> Int64[np.ndarray, "P"]:
    """Rows of the most played tracks, best first, from `top_tracks.json`: one JSON array of raw ids.

    Raises:
        InputError: the file is missing or damaged, or names what the catalogue does not have.
    """
    try:
        ids: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path} as JSON: {error}") from None
    if not isinstance(ids, list) or not ids or not all(map(is_whole, ids)):
        raise InputError(f"{path} must hold one JSON array of track ids, most played first")
    rows = catalog.rows_of(np.array(ids, np.int64))
    if (rows < 0).any():
        raise InputError(f"{path}: track {ids[int((rows < 0).argmax())]} is not in the catalogue beside it")
    return rows


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line that is not blank as an object, with the words that open an error about it."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; a world has tracks.json and users.json") from None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where} is damaged: not JSON ({error})") from None
            if not isinstance(record, dict):
                raise InputError(f"{where} is damaged: expected a JSON object, got {type(record).__name__}")
            yield where, record


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines into a file that appears only when it is whole."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it can be a raw id."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
