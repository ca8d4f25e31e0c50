"""The catalogue of tracks, and what the training data shows of it.

N tracks in the catalogue, A artists, L listeners, E events, S sessions. A *row* is a place 0..N-1 in the catalogue. The
code uses rows everywhere; ids are in files, messages and answers.

An *id* of a track or a user is that of the source: a whole number in 0..2⁶³-1, or a text. The ids of a catalogue are of
one kind: whole numbers if every id is one as people write it (7, not 007 or +7), otherwise texts. Two ids are the same
if their texts are: 7 and "7" are, "a" and "A" are not.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Real, Shaped

from segue.attributes import Attribute, Values
from segue.errors import InputError

# Rows are looked up in a table of all ids if the largest id is at most about this many times the number of tracks.
_MAX_IDS_PER_TRACK = 8

MOST_ID_BYTES = 256
"""The longest id, in bytes of UTF-8."""

_AT_ONCE = 1 << 22  # events that are counted together, so that there may be more than memory holds

AN_ID = f"a whole number from 0 to 2⁶³-1, or a text of 1 to {MOST_ID_BYTES} bytes without NUL"
"""What an id is, for messages and descriptions; see `id_problem`."""

Id = int | str
"""An id of a track or a user."""

_is_whole = re.compile(r"0|[1-9][0-9]{0,18}").fullmatch


def id_problem(value: object) -> str | None:
    """What is wrong with an id, to be said after its name; None if nothing is.

    Args:
        value: any value, such as one of JSON.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return None if 0 <= value < 2**63 else "must be a whole number from 0 to 2⁶³-1, or a text"
    if not isinstance(value, str):
        return "must be a whole number or a text"
    try:
        num_bytes = len(value.encode())
    except UnicodeEncodeError:
        return "has an unpaired surrogate"
    if not 1 <= num_bytes <= MOST_ID_BYTES:
        return f"must have 1 to {MOST_ID_BYTES} bytes, and has {num_bytes}"
    return "has a NUL" if "\0" in value else None


def key_of(id: Id) -> int:
    """The key of an id, its number in memory: of a whole number itself, of a text a digest below 0.

    Args:
        id: the id. A text that is a whole number as people write it has the key of this number.
    """
    if isinstance(id, str):
        if _is_whole(id) and (number := int(id)) < 2**63:
            return number
        id = ~(int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest()) >> 1)
    return id


def keys_of(ids: Shaped[np.ndarray, "*n"] | Sequence[Id]) -> Int64[np.ndarray, "*n"]:
    """The keys of ids; see `key_of`.

    Args:
        ids: of any shape; whole numbers are returned as they are.
    """
    array = ids if isinstance(ids, np.ndarray) else ids_of(ids)
    if array.dtype != object:
        return array.astype(np.int64, copy=False)
    return np.fromiter(map(key_of, array.ravel().tolist()), np.int64, array.size).reshape(array.shape)


def ids_of(values: Sequence[Id]) -> Shaped[np.ndarray, "n"]:
    """An array of ids of one kind: of `int64` if each is a whole number as people write it, otherwise of texts."""
    if all(isinstance(one, int) or (_is_whole(one) and int(one) < 2**63) for one in values):
        return np.fromiter(map(int, values), np.int64, len(values))
    texts = np.empty(len(values), object)
    texts[:] = [str(one) for one in values]
    return texts


def quoted(id: Id) -> str:
    """An id in a message: quoted where it has a space, or a sign that does not print."""
    text = str(id)
    return text if text.isprintable() and " " not in text else repr(text)


def derived_id(title: str, artist: str | None) -> str:
    """The id of a track that a source names by title and artist alone.

    It is the first 32 hexadecimal digits of the SHA-256 of title, U+001F and artist in UTF-8.

    Args:
        title: the title.
        artist: the name of the artist; None where it is unknown.
    """
    return hashlib.sha256(f"{title}\x1f{artist or ''}".encode("utf-8", "replace")).hexdigest()[:32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Catalog:
    """Every track that may be recommended, with its artist.

    Args:
        track_ids: id of the track in each row, `int64` or texts; each occurs once.
        titles: title of the track in each row; empty where unknown.
        artist_of: row of the artist of each track, in 0..A-1.
        artists: name of each artist; empty where unknown.
        attributes: what else is known of the tracks, by name.
    """

    track_ids: Shaped[np.ndarray, "N"]
    titles: Shaped[np.ndarray, "N"]
    artist_of: Int64[np.ndarray, "N"]
    artists: Shaped[np.ndarray, "A"]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    @classmethod
    def from_columns(
        cls, tracks: Sequence[Id], titles: Sequence[str | None], artists: Sequence[str | None], *, source: str
    ) -> "Catalog":
        """Build a catalogue from columns with one entry for each track.

        Each track without an artist gets an artist of its own, because two unknown artists need not be the same.

        Args:
            tracks: ids.
            titles: titles; None where unknown.
            artists: names of the artists; None where unknown.
            source: name of the file, used in error messages.

        Returns:
            The catalogue, in the order of the columns.

        Raises:
            InputError: there is no entry, or an id occurs twice.
        """
        if not tracks:
            raise InputError(f"{source} is empty: a catalogue needs at least one track")
        track_ids = ids_of(tracks)
        ids, counts = np.unique(track_ids, return_counts=True)
        if len(ids) < len(track_ids):
            raise InputError(f"{source}: track {quoted(ids[counts > 1].item(0))} occurs twice; every id must be unique")
        names: dict[str, int] = {}
        of = np.array([-1 if artist is None else names.setdefault(artist, len(names)) for artist in artists], np.int64)
        num_nameless = np.count_nonzero(of < 0)
        of[of < 0] = len(names) + np.arange(num_nameless)
        return cls(
            track_ids=track_ids,
            titles=np.array([title or "" for title in titles], object),
            artist_of=of,
            artists=np.array([*names, *[""] * num_nameless], object),
        )

    def __len__(self) -> int:
        return len(self.track_ids)

    @property
    def num_artists(self) -> int:
        """Number of artists in the catalogue (A)."""
        return len(self.artists)

    @property
    def has_texts(self) -> bool:
        """Whether the ids are texts."""
        return self.track_ids.dtype == object

    @cached_property
    def keys(self) -> Int64[np.ndarray, "N"]:
        """The key of each id; see `key_of`."""
        return keys_of(self.track_ids)

    @cached_property
    def _by_key(self) -> Int64[np.ndarray, "N"]:
        return np.argsort(self.keys)

    @cached_property
    def _row_of(self) -> Int64[np.ndarray, "ids"] | None:
        """Row of every id up to the largest, or None if the ids are too sparse. 60 times as fast as a search."""
        if self.keys.min() < 0 or self.keys.max() > _MAX_IDS_PER_TRACK * (len(self) + 1):
            return None
        rows = np.full(self.keys.max() + 1, -1)
        rows[self.keys] = np.arange(len(self))
        return rows

    def rows_of(self, ids: Shaped[np.ndarray, "*n"] | Sequence[Id]) -> Int64[np.ndarray, "*n"]:
        """Look up the rows of ids.

        Args:
            ids: ids, or their keys, of any shape.

        Returns:
            Row of each id; -1 where the catalogue does not have the track.
        """
        keys = keys_of(ids)
        if self._row_of is not None:
            is_known = (keys >= 0) & (keys < len(self._row_of))
            return np.where(is_known, self._row_of[np.where(is_known, keys, 0)], -1)
        rows = self._by_key[np.minimum(np.searchsorted(self.keys, keys, sorter=self._by_key), len(self) - 1)]
        return np.where(self.keys[rows] == keys, rows, -1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Listens:
    """Events, sorted by the start of their session and by their place in the session.

    Args:
        session: number of the session of each event, ascending.
        track: row of the track that was played.
        played_ratio: share of the track that was played, in [0, 1]; NaN where the source does not report it. Until
            pairs are made milliseconds, where a share is of the longest play of its track (`TrackFacts.shares`).
    """

    session: Int64[np.ndarray, "E"]
    track: Int64[np.ndarray, "E"]
    played_ratio: Float32[np.ndarray, "E"]

    def where(self, chosen: Bool[np.ndarray, "E"]) -> "Listens":
        """Select events.

        Args:
            chosen: True for each event to keep.
        """
        return Listens(session=self.session[chosen], track=self.track[chosen], played_ratio=self.played_ratio[chosen])


@dataclass(frozen=True, eq=False, kw_only=True)
class Calendar:
    """How old training sessions are, and how fast plays age. All plays of a session have its age.

    Args:
        age: days from the start of each session to that of the last training session, in descending order; 0 for later
            sessions.
        half_life: days after which a play counts half; None if all count alike.
        newest_days: the most played tracks of so many last days of training predict validation best; None for all days.
    """

    age: Float32[np.ndarray, "S"]
    half_life: int | float | None = None
    newest_days: int | float | None = None

    def aged_plays(self, listens: Listens, num_tracks: int) -> Float64[np.ndarray, "N"]:
        """Sum what the plays of each track count, `2^(−age / half_life)` each.

        Args:
            listens: events of training sessions.
            num_tracks: number of tracks (N).
        """
        assert self.half_life is not None, "no play counts less than another"
        total = np.zeros(num_tracks)
        for first in range(0, len(listens.track), _AT_ONCE):
            session, track = (column[first : first + _AT_ONCE] for column in (listens.session, listens.track))
            total += np.bincount(track, np.exp2(-self.age[session] / self.half_life), num_tracks)
        return total

    def newest_plays(self, listens: Listens, num_tracks: int) -> Int64[np.ndarray, "N"]:
        """Count the plays of each track in the `newest_days`.

        Args:
            listens: events of training sessions.
            num_tracks: number of tracks (N).
        """
        num_older = 0 if self.newest_days is None else np.count_nonzero(self.age >= self.newest_days)
        return np.bincount(listens.track[np.searchsorted(listens.session, num_older) :], minlength=num_tracks)


def changes(*columns: Shaped[np.ndarray, "E"]) -> Bool[np.ndarray, "E"]:
    """Whether each event differs from the event before it in any of the columns; the first one does."""
    changed = np.asarray(np.arange(len(columns[0])) == 0)
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def most_played(plays: Real[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
    """The rows of all tracks, the most played first; of equal ones the one that is first in the catalogue."""
    return np.argsort(-plays, kind="stable")


def places_of(*values: Real[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
    """The places 0, 1, … of all tracks, the lowest value first; equal ones share a place.

    Args:
        values: of every track; the first ones decide.
    """
    order = np.lexsort(values[::-1])
    is_higher = np.logical_or.reduce([np.diff(value[order], prepend=value[order[:1]]) > 0 for value in values])
    places = np.empty(len(order), np.int64)
    places[order] = is_higher.cumsum()
    return places


@dataclass(frozen=True, eq=False, kw_only=True)
class Vocabulary:
    """A catalogue and what the training data shows of it. Test data are not used, and validation data by `calendar`.

    Args:
        catalog: the catalogue.
        previous_counts: number of training pairs that have the track as `previous`.
        next_counts: number of training pairs that have the track as `following`.
        plays: number of training events that play the track; its popularity.
        listener_counts: number of training pairs with a known share of each listener.
        listens: events of the training sessions, independent of the pairing. With `split=pair`, each training pair is a
            session of two tracks.
        mean_played_ratio: mean share played of the training pairs, in [0, 1]; None where the source does not report
            shares.
        calendar: how old the training sessions are; None without a clock, and where they are not the earliest ones.
    """

    catalog: Catalog
    previous_counts: Int64[np.ndarray, "N"]
    next_counts: Int64[np.ndarray, "N"]
    plays: Int64[np.ndarray, "N"]
    listener_counts: Int64[np.ndarray, "L"]
    listens: Listens
    mean_played_ratio: float | None
    calendar: Calendar | None = None

    @property
    def seen(self) -> Bool[np.ndarray, "N"]:
        """Whether training pairs have the track, in either place."""
        return np.asarray(self.previous_counts + self.next_counts > 0)

    @property
    def has_trend(self) -> bool:
        """Whether plays age."""
        return self.calendar is not None and self.calendar.half_life is not None

    @cached_property
    def trend(self) -> Float32[np.ndarray, "N"]:
        """How much more each track is played now than in all of training; 1 where plays do not age.

        It is `(aged plays + 1) / (plays · share + 1)`, where the share is that of all aged plays among all plays: few
        plays say little, and the trend of a track without plays is 1.
        """
        if not self.has_trend or self.calendar is None:
            return np.ones(len(self.plays), np.float32)
        aged = self.calendar.aged_plays(self.listens, len(self.plays))
        expected = self.plays * (aged.sum() / max(self.plays.sum(), 1))
        return np.asarray((aged + 1) / (expected + 1), np.float32)

    @cached_property
    def popularity(self) -> Int64[np.ndarray, "N"]:
        """What decides between equal scores, the higher value first: the plays, or where they age, places by now."""
        return places_of(self.plays_now) if self.has_trend else self.plays

    @property
    def plays_now(self) -> Float64[np.ndarray, "N"]:
        """The plays of each track, times its trend."""
        return self.plays * self.trend.astype(np.float64)

    @property
    def by_popularity(self) -> Int64[np.ndarray, "N"]:
        """The rows of all tracks, the most popular one first."""
        return most_played(self.popularity)

    @property
    def recent(self) -> Int64[np.ndarray, "N"]:
        """The place of each track by its plays in the newest days of `calendar`; of equal ones, by all its plays."""
        assert self.calendar is not None, "without a clock no days are the newest"
        return places_of(self.calendar.newest_plays(self.listens, len(self.plays)), self.plays)


def example_vocabulary(attributes: Iterable[str] = ()) -> Vocabulary:
    """Two tracks, one pair, one listener: enough to build a model, and to see whether its settings are accepted.

    Args:
        attributes: names of attributes that the tracks have.
    """
    catalog = Catalog.from_columns([1, 2], ["One", "Two"], ["Ann", "Bob"], source="example")
    catalog = replace(catalog, attributes={str(name): Values.from_lists([["one"], ["two"]]) for name in attributes})
    ones = np.ones(2, np.int64)
    listens = Listens(session=ones * 0, track=np.arange(2), played_ratio=np.ones(2, np.float32))
    return Vocabulary(
        catalog=catalog,
        previous_counts=ones,
        next_counts=ones,
        plays=ones,
        listener_counts=ones[:1],
        listens=listens,
        mean_played_ratio=0.5,
        calendar=Calendar(age=np.zeros(1, np.float32)),
    )
