"""Which catalogues fit a run: those with all its tracks and more."""

from pathlib import Path

import numpy as np

from segue.catalog import Catalog, derived_id, ids_of, quoted
from segue.errors import InputError
from segue.runs.catalog_files import catalog_records


def extended_catalogue(old: Catalog, path: Path) -> Catalog:
    """The catalogue of a run and the new tracks of a file.

    Args:
        old: the catalogue of the run.
        path: `tracks.json` with all its tracks and the new ones, `{"artist", "title", "track"}` in each line. If the
            ids of the run are derived from title and artist, a line may have no `track`.

    Returns:
        The tracks of the run in their rows, then the new ones in the order of the file. Artists of the run keep their
            rows too; new ones follow.

    Raises:
        InputError: the file is missing or damaged, has an id twice, lacks a track of the run, names another artist of
            one, or has no new track.
    """
    ids, titles, artists = old.track_ids.tolist(), old.titles.tolist(), old.artists[old.artist_of].tolist()
    given: dict[str, tuple[str, str]] = {}
    for where, track, title, artist in catalog_records(path, derive=ids == list(map(derived_id, titles, artists))):
        if str(track) in given:
            raise InputError(f"{where}: track {track} occurs twice; every id must be unique")
        given[str(track)] = title or "", artist or ""
    for track, title, artist in zip(map(str, ids), titles, artists, strict=True):
        if track not in given:
            raise InputError(
                f"catalogue={path} lacks track {quoted(track)} of the run; give all its tracks and new ones"
            )
        called, by = given.pop(track)
        if by != artist or called not in ("", title):
            raise InputError(
                f"catalogue={path}: track {quoted(track)} is {called!r} by {by!r}, not {title!r} by {artist!r}"
            )
    if not given:
        raise InputError(
            f"catalogue={path} has the {len(ids):,} tracks of the run and no new one; add new tracks to it"
        )
    names = old.artists.tolist()
    rows, artist_of = {name: row for row, name in enumerate(names) if name}, []
    for _, artist in given.values():
        row = rows.setdefault(artist, len(names)) if artist else len(names)  # two unknown ones need not be the same
        names += [artist] if row == len(names) else []
        artist_of.append(row)
    return Catalog(
        track_ids=ids_of([*ids, *given]),
        titles=np.array([*titles, *(title for title, _ in given.values())], object),
        artist_of=np.append(old.artist_of, np.array(artist_of, np.int64)),
        artists=np.array(names, object),
    )
