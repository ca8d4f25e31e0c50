"""Which catalogues fit a run: those with all its tracks and more."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segue.catalog import Catalog, Id, derived_id, ids_of, quoted
from segue.errors import InputError
from segue.runs.catalog_files import catalog_records

_Names = tuple[str | None, str | None]


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
    given, ids = _read(path, derive=_has_derived_ids(old)), list(map(str, old.track_ids.tolist()))
    if lacking := [one for one in ids if one not in given]:
        raise InputError(
            f"catalogue={path} lacks {len(lacking):,} of the {len(old):,} tracks of the run, for example "
            f"{quoted(lacking[0])}; give a catalogue with all of them and the new ones"
        )
    for one, title, artist in zip(ids, old.titles.tolist(), old.artists[old.artist_of].tolist(), strict=True):
        called, named = given[one][0] or "", given[one][1] or ""
        if named != artist:
            raise InputError(
                f"catalogue={path}: track {quoted(one)} is by {named or 'nobody'!r}, and by {artist or 'nobody'!r} in "
                "the run; correct it, or train a run with this catalogue"
            )
        if called and title and called != title:
            raise InputError(
                f"catalogue={path}: track {quoted(one)} is called {called!r}, and {title!r} in the run; correct it, "
                "or train a run with this catalogue"
            )
    known = set(ids)
    if not (new := {one: names for one, names in given.items() if one not in known}):
        raise InputError(
            f"catalogue={path} has the {len(old):,} tracks of the run and no new one; add new tracks to it"
        )
    return with_tracks(old, list(new), *zip(*new.values(), strict=True))


def _has_derived_ids(catalog: Catalog) -> bool:
    names = zip(catalog.titles.tolist(), catalog.artists[catalog.artist_of].tolist(), strict=True)
    return all(id == derived_id(*of_id) for id, of_id in zip(catalog.track_ids.tolist(), names, strict=True))


def _read(path: Path, *, derive: bool) -> dict[str, _Names]:
    """Title and artist of each id."""
    if not path.is_file():
        raise InputError(f"catalogue={path}: there is no such file; name a tracks.json with all tracks, old and new")
    given = dict[str, _Names]()
    for where, track, title, artist in catalog_records(path, derive=derive):
        if str(track) in given:
            raise InputError(f"{where}: track {track} occurs twice; every id must be unique")
        given[str(track)] = (title, artist)
    return given


def with_tracks(
    old: Catalog, ids: Sequence[Id], titles: Sequence[str | None], artists: Sequence[str | None]
) -> Catalog:
    """A catalogue with new tracks in the rows after its own. Its artists keep their rows too; new ones follow."""
    rows = {name: row for row, name in enumerate(old.artists.tolist()) if name}
    names, artist_of = old.artists.tolist(), []
    for artist in artists:
        row = rows.setdefault(artist, len(names)) if artist else len(names)  # two unknown ones need not be the same
        if row == len(names):
            names.append(artist or "")
        artist_of.append(row)
    return Catalog(
        track_ids=ids_of([*old.track_ids.tolist(), *ids]),
        titles=np.append(old.titles, np.array([title or "" for title in titles], object)),
        artist_of=np.append(old.artist_of, np.array(artist_of, np.int64)),
        artists=np.array(names, object),
    )
