"""What ids mean from release to release: which are new, which are kept, and whether one means another song.

A release that becomes current knows every id that the one before it knew. A track that its lists lack is *kept*: with
id, title and artist, without lists, and never recommended. Whoever plays it still gets an answer.

N tracks of a release, n of some of them, A artists.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64, UInt8

from segue.catalog import quoted
from segue.errors import InputError
from segue.picking.artist_tracks import ArtistTracks
from segue.runs.catalog_files import packed, texts_at, unpacked
from segue.serving.release import EXTENDS, Release, write_arrays

_NUM_AT_ONCE = 65_536  # texts that are compared together

Texts = tuple[UInt8[np.ndarray, "_"], Int64[np.ndarray, "_"]]
"""Texts as arrays: their bytes, and the end of each; see `catalog_files.packed`."""


class Change(NamedTuple):
    """How the ids of a release differ from those of the one before.

    Attributes:
        num_new: number of ids that the one before did not know.
        num_kept: number of tracks that are kept in the end: those that are missing, and those that already were.
        missing: rows, in the one before, of the tracks that the release does not know.
        changed: rows, in the release, of the tracks with another title or artist. A title or an artist that one of the
            two does not know is no change.
        before: rows of the same tracks in the one before.
    """

    num_new: int
    num_kept: int
    missing: Int64[np.ndarray, "n"]
    changed: Int64[np.ndarray, "n"]
    before: Int64[np.ndarray, "n"]

    def __bool__(self) -> bool:
        return self.num_new + self.num_kept + len(self.changed) > 0

    def __str__(self) -> str:
        changed = f", {len(self.changed):,} changed" * bool(len(self.changed))
        return f"{self.num_new:,} new, {self.num_kept:,} kept without lists{changed}"


def change_of(old: Release, new: Release) -> Change:
    """Compare the ids, titles and artists of two releases.

    Args:
        old: the release before.
        new: the release.
    """
    nothing = np.empty(0, np.int64)
    if old.catalogue == new.catalogue:
        return Change(0, len(new.kept), nothing, nothing, nothing)
    rows = old.keys.searchsorted(new.keys).clip(max=len(old) - 1)
    here = np.flatnonzero(old.keys[rows] == new.keys)
    there = rows[here]
    is_missing = np.ones(len(old), bool)
    is_missing[there] = False
    differs = _differ(old, "titles", there, new, here) | _differ(
        old, "artists", old.artist_of[there], new, new.artist_of[here]
    )
    missing = np.flatnonzero(is_missing)
    return Change(len(new) - len(here), len(new.kept) + len(missing), missing, here[differs], there[differs])


def refuse_changes(change: Change, old: Release, new: Release) -> None:
    """Refuse a release in which an id means another song.

    Args:
        change: how the ids differ.
        old: the release before.
        new: the release.

    Raises:
        InputError: an id has another title or artist. The message names it and both songs.
    """
    if not len(change.changed):
        return
    was, given = old.track(int(change.before[0])), new.track(int(change.changed[0]))
    others = f", and {len(change.changed) - 1:,} more ids have another title or artist" * (len(change.changed) > 1)
    track = quoted(given["track"])
    raise InputError(
        f"track {track} is {_song(given)} in the new release and {_song(was)} in release {old.version}, which is "
        f"current{others}; an id must keep its meaning: correct the ids, or, if only the names were corrected, "
        "set accept_changes=true; nothing in the store has changed"
    )


def with_kept(change: Change, old: Release, new: Release, folder: Path) -> Release:
    """The release, or, where it does not know all ids of the one before, another one that also has these.

    Args:
        change: how the ids differ.
        old: the release before.
        new: the release; what it recommends stays the same.
        folder: an empty folder, into which the other one is written.
    """
    if not len(missing := change.missing):
        return new
    keys, ids = np.concatenate([new.keys, old.keys[missing]]), None
    if new.has_texts or (keys < 0).any():  # texts, if one of them is
        ids = _joined(_id_texts(new), texts_at(*_id_texts(old), missing))
    artists, of_missing = _with_artists(new, old, old.artist_of[missing])
    return rewritten(
        new,
        folder,
        keys=keys,
        ids=ids,
        titles=_joined(new.texts("titles"), texts_at(*old.texts("titles"), missing)),
        artists=artists,
        artist_of=np.concatenate([new.artist_of, of_missing]),
    )


def rewritten(
    release: Release,
    folder: Path,
    *,
    keys: Int64[np.ndarray, "N"],
    ids: Texts | None,
    titles: Texts,
    artists: Texts,
    artist_of: Int[np.ndarray, "N"],
) -> Release:
    """The same lists and arms with other ids, and with more tracks, which are kept.

    Args:
        release: the release.
        folder: an empty folder, into which the other one is written.
        keys: the key of each id (`catalog.key_of`), those of the release first.
        ids: of each track; None where they are the same numbers.
        titles: of each track.
        artists: name of each artist.
        artist_of: row of the artist of each track.
    """
    order = np.argsort(keys)
    row_of = np.empty(len(keys) + 1, np.int32)  # a last one for -1
    row_of[order], row_of[-1] = np.arange(len(keys)), -1
    kept = np.sort(row_of[np.append(release.kept, np.arange(len(release), len(keys)))]).astype(np.int64)
    of = artist_of[order].astype(np.int32)
    by_artist = ArtistTracks.of(of, len(artists[1]), kept)
    arrays: dict[str, np.ndarray] = {
        **({"track_ids": keys[order]} if ids is None else _named("track_ids", texts_at(*ids, order))),
        **({} if ids is None else {"track_keys": keys[order]}),
        "artist_of": of,
        "top_tracks": row_of[release.top_tracks],
        **_named("titles", texts_at(*titles, order)),
        **_named("artists", artists),
        "by_artist": by_artist.by_artist.astype(np.int32),
        "artist_ends": by_artist.ends,
        **_of_arms(release, row_of),
        **({"kept": kept} if len(kept) else {}),
    }
    arms = {arm: given.record() for arm, given in release.arms.items()}
    provenance = {**release.provenance, EXTENDS: " ".join([*release.extends, release.version])}
    write_arrays(folder, release.experiment, arms, arrays, provenance=provenance)
    return Release(folder)


def _of_arms(release: Release, row_of: Int32[np.ndarray, "N_1"]) -> dict[str, np.ndarray]:
    """The arrays of the arms in other rows, among more tracks, which have no lists."""
    rows, num = row_of[: len(release)], len(row_of) - 1
    arrays = dict[str, np.ndarray]()

    def spread(array: np.ndarray, blank: int | float) -> np.ndarray:
        (of_all := np.full((num, array.shape[1]), blank, array.dtype))[rows] = array
        return of_all

    for arm, (users, lists) in release.user_lists.items():
        arrays[f"users_{arm}"], arrays[f"lists_{arm}"] = users, row_of[lists]
    for arm, lists in release.lists.items():
        arrays[f"lists_{arm}"] = spread(row_of[lists], -1)
        if arm in release.scores:
            arrays[f"scores_{arm}"] = spread(release.scores[arm], np.nan)
        if arm in release.vectors:
            own = release.vectors[arm].at_rows(rows, num).arrays()
            arrays |= {f"{name}_{arm}": array for name, array in own.items()}
    return arrays


def _id_texts(release: Release) -> Texts:
    if release.has_texts:
        return release.texts("track_ids")
    letters, ends = packed("ids", list(map(str, release.keys.tolist()))).values()
    return letters, ends


def _with_artists(
    new: Release, old: Release, of_missing: Int32[np.ndarray, "n"]
) -> tuple[Texts, Int64[np.ndarray, "n"]]:
    """The artists of a release and those of the tracks that it lacks, and the row of the artist of each of these."""
    rows, first, inverse = np.unique(of_missing, return_index=True, return_inverse=True)
    order = np.argsort(first)
    of_old = unpacked("names", _named("names", texts_at(*old.texts("artists"), rows[order]))).tolist()
    known = {name: row for row, name in enumerate(unpacked("artists", new.arrays).tolist()) if name}
    num, added, found = len(new.texts("artists")[1]), list[str](), np.empty(len(rows), np.int64)
    for place, name in zip(order.tolist(), of_old, strict=True):
        if (row := known.get(name)) is None:  # an artist without a name is no other one's
            row = num + len(added)
            added.append(name)
        found[place] = row
    letters, ends = packed("names", added).values()
    return _joined(new.texts("artists"), (letters, ends)), found[inverse]


def _named(name: str, texts: Texts) -> dict[str, np.ndarray]:
    return {f"{name}_text": texts[0], f"{name}_ends": texts[1]}


def _joined(first: Texts, second: Texts) -> Texts:
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1] + len(first[0])])


def _differ(
    old: Release, name: str, old_rows: Int[np.ndarray, "n"], new: Release, new_rows: Int[np.ndarray, "n"]
) -> Bool[np.ndarray, "n"]:
    """Whether texts of two releases differ, where both are known."""
    found = np.zeros(len(old_rows), bool)
    for start in range(0, len(found), _NUM_AT_ONCE):
        some = slice(start, start + _NUM_AT_ONCE)
        texts = texts_at(*old.texts(name), old_rows[some]), texts_at(*new.texts(name), new_rows[some])
        was, given = (np.diff(ends, prepend=0) for _, ends in texts)
        found[some] = (was != given) & (was > 0) & (given > 0)
        alike = np.flatnonzero(was == given)
        (one, ends), (other, _) = (texts_at(letters, ends, alike) for letters, ends in texts)
        num_other = np.append(0, (one != other).cumsum())  # bytes that differ, up to each
        found[start + alike] = num_other[ends] > num_other[ends - was[alike]]
    return found


def _song(record: dict[str, object]) -> str:
    return f"{record['title']!r} by {record['artist'] or 'nobody'!r}"
