"""Which catalogues fit a run: those with all its tracks and more."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.catalog import Catalog
from segue.errors import InputError
from segue.runs.catalog_files import is_whole, read_lines

_Names = tuple[str | None, str | None]


def with_source_ids(old: Catalog, path: Path) -> Catalog:
    """The catalogue with the text ids of the source, which the lines have where there are such ids."""
    with path.open(encoding="utf-8") as file:
        ids = [json.loads(line).get("id") for line in file]
    return old if None in ids else replace(old, source_ids=np.array(ids, object))


def extended_catalogue(old: Catalog, path: Path) -> Catalog:
    """The catalogue of a run and the new tracks of a file.

    Args:
        old: the catalogue of the run.
        path: `tracks.json` with all its tracks and the new ones, `{"artist", "title", "track"}` in each line. `track`
            is the id in the source, which is a text where the run has such ids.

    Returns:
        The tracks of the run in their rows, then the new ones in the order of the file. Artists of the run keep their
            rows too; new ones follow.

    Raises:
        InputError: the file is missing or damaged, has an id twice, lacks a track of the run, names another artist of
            one, or has no new track.
    """
    given = _read(path, old)
    ids = old.track_ids.tolist() if old.source_ids is None else old.source_ids.tolist()
    if lacking := [one for one in ids if one not in given]:
        raise InputError(
            f"catalogue={path} lacks {len(lacking):,} of the {len(old):,} tracks of the run, for example {lacking[0]}; "
            "give a catalogue with all of them and the new ones"
        )
    for one, artist in zip(ids, old.artists[old.artist_of].tolist(), strict=True):
        if (named := given[one][1] or "") != artist:
            raise InputError(
                f"catalogue={path}: track {one} is by {named or 'nobody'!r}, and by {artist or 'nobody'!r} in the run; "
                "correct it, or train a run with this catalogue"
            )
    if not (new := {one: names for one, names in given.items() if one not in set(ids)}):
        raise InputError(
            f"catalogue={path} has the {len(old):,} tracks of the run and no new one; add new tracks to it"
        )
    return _appended(old, new)


def _read(path: Path, old: Catalog) -> dict[int | str, _Names]:
    """Title and artist of each id."""
    if not path.is_file():
        raise InputError(f"catalogue={path}: there is no such file; name a tracks.json with all tracks, old and new")
    is_text, given = old.source_ids is not None, dict[int | str, _Names]()
    for where, record in read_lines(path):
        track: Any = record.get("track")
        title, artist = record.get("title"), record.get("artist")
        is_id = isinstance(track, str) and track if is_text else is_whole(track)
        if not is_id or not isinstance(title, str | None) or not isinstance(artist, str | None):
            kind = "text" if is_text else "whole number"
            raise InputError(f'{where}: expected {{"artist": text, "title": text, "track": {kind}}}')
        if track in given:
            raise InputError(f"{where}: track {track} occurs twice; every id must be unique")
        given[track] = (title, artist)
    return given


def _appended(old: Catalog, new: dict[int | str, _Names]) -> Catalog:
    rows = {name: row for row, name in enumerate(old.artists.tolist()) if name}
    artists, artist_of = old.artists.tolist(), []
    for _, artist in new.values():
        row = (
            rows.setdefault(artist, len(artists)) if artist else len(artists)
        )  # two unknown artists need not be the same
        if row == len(artists):
            artists.append(artist or "")
        artist_of.append(row)
    is_text = old.source_ids is not None
    numbers = range(int(old.track_ids.max()) + 1, int(old.track_ids.max()) + 1 + len(new)) if is_text else new
    return Catalog(
        track_ids=np.append(old.track_ids, np.array(list(numbers), np.int64)),
        titles=np.append(old.titles, np.array([title or "" for title, _ in new.values()], object)),
        artist_of=np.append(old.artist_of, np.array(artist_of, np.int64)),
        artists=np.array(artists, object),
        source_ids=None if old.source_ids is None else np.append(old.source_ids, np.array(list(new), object)),
    )
