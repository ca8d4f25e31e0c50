"""The catalogue of tracks, and what the training data shows of it.

N tracks in the catalogue, A artists, L listeners, E events. A *row* is a place 0..N-1 in the catalogue. The code uses
rows everywhere; raw ids are only in files that people and services read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Int64, Real, Shaped

from segue.attributes import Attribute, Values
from segue.errors import InputError

_MAX_IDS_PER_TRACK = 8
"""Rows are looked up in a table of all ids if the largest id is at most about this many times the number of tracks."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Catalog:
    """Every track that may be recommended, with its artist.

    Args:
        track_ids: raw id of the track in each row; each id occurs once.
        titles: title of the track in each row; empty where unknown.
        artist_of: row of the artist of each track, in 0..A-1.
        artists: name of each artist; empty where unknown.
        source_ids: id of each track in the source, where these ids are no whole numbers; `track_ids` are then numbers
            from 0. None where `track_ids` are the ids of the source, or where it has no ids.
        attributes: what else is known of the tracks, by name.
    """

    track_ids: Int64[np.ndarray, "N"]
    titles: Shaped[np.ndarray, "N"]
    artist_of: Int64[np.ndarray, "N"]
    artists: Shaped[np.ndarray, "A"]
    source_ids: Shaped[np.ndarray, "N"] | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    @classmethod
    def from_columns(
        cls,
        tracks: Sequence[int],
        titles: Sequence[str | None],
        artists: Sequence[str | None],
        *,
        source: str,
        source_ids: Sequence[str] | None = None,
    ) -> "Catalog":
        """Build a catalogue from columns with one entry for each track.

        Each track without an artist gets an artist of its own, because two unknown artists need not be the same.

        Args:
            tracks: raw ids.
            titles: titles; None where unknown.
            artists: names of the artists; None where unknown.
            source: name of the file, used in error messages.
            source_ids: ids in the source, where they are no whole numbers.

        Returns:
            The catalogue, in the order of the columns.

        Raises:
            InputError: there is no entry, or an id occurs twice.
        """
        if not tracks:
            raise InputError(f"{source} is empty: a catalogue needs at least one track")
        track_ids = np.array(tracks, np.int64)
        ids, counts = np.unique(track_ids, return_counts=True)
        if len(ids) < len(track_ids):
            raise InputError(f"{source}: track {ids[counts > 1][0]} occurs twice; every id must be unique")
        names: dict[str, int] = {}
        of = np.array([-1 if artist is None else names.setdefault(artist, len(names)) for artist in artists], np.int64)
        num_nameless = np.count_nonzero(of < 0)
        of[of < 0] = len(names) + np.arange(num_nameless)
        return cls(
            track_ids=track_ids,
            titles=np.array([title or "" for title in titles], object),
            artist_of=of,
            artists=np.array([*names, *[""] * num_nameless], object),
            source_ids=None if source_ids is None else np.array(source_ids, object),
        )

    def __len__(self) -> int:
        return len(self.track_ids)

    @property
    def num_artists(self) -> int:
        """Number of artists in the catalogue (A)."""
        return len(self.artists)

    @cached_property
    def _by_id(self) -> Int64[np.ndarray, "N"]:
        return np.argsort(self.track_ids)

    @cached_property
    def _row_of(self) -> Int64[np.ndarray, "ids"] | None:
        """Row of every id up to the largest, or None if the ids are too sparse. 60 times as fast as a search."""
        if self.track_ids.min() < 0 or self.track_ids.max() > _MAX_IDS_PER_TRACK * (len(self) + 1):
            return None
        rows = np.full(self.track_ids.max() + 1, -1)
        rows[self.track_ids] = np.arange(len(self))
        return rows

    def rows_of(self, track_ids: Int64[np.ndarray, "*n"]) -> Int64[np.ndarray, "*n"]:
        """Look up the rows of raw ids.

        Args:
            track_ids: raw ids, in an array of any shape.

        Returns:
            Row of each id; -1 where the catalogue does not have the track.
        """
        if self._row_of is not None:
            is_known = (track_ids >= 0) & (track_ids < len(self._row_of))
            return np.where(is_known, self._row_of[np.where(is_known, track_ids, 0)], -1)
        places = np.searchsorted(self.track_ids, track_ids, sorter=self._by_id)
        rows = self._by_id[np.minimum(places, len(self) - 1)]
        return np.where(self.track_ids[rows] == track_ids, rows, -1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Listens:
    """Events, sorted by the start of their session and by their place in the session.

    Args:
        session: number of the session of each event, ascending.
        track: row of the track that was played.
        played_ratio: share of the track that was played, in [0, 1]; NaN where the source does not report it.
    """

    session: Int64[np.ndarray, "E"]
    track: Int64[np.ndarray, "E"]
    played_ratio: Float32[np.ndarray, "E"]

    def where(self, chosen: Bool[np.ndarray, "E"]) -> "Listens":
        """Select events.

        Args:
            chosen: True for each event to keep.

        Returns:
            The selected events in the same order.
        """
        return Listens(session=self.session[chosen], track=self.track[chosen], played_ratio=self.played_ratio[chosen])


def most_played(plays: Real[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
    """The rows of all tracks, the most played first; of equal ones the one that is first in the catalogue.

    Args:
        plays: popularity of every track.
    """
    return np.argsort(-plays, kind="stable")


@dataclass(frozen=True, eq=False, kw_only=True)
class Vocabulary:
    """A catalogue and what the training data shows of it. Validation and test data are not used.

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
    """

    catalog: Catalog
    previous_counts: Int64[np.ndarray, "N"]
    next_counts: Int64[np.ndarray, "N"]
    plays: Int64[np.ndarray, "N"]
    listener_counts: Int64[np.ndarray, "L"]
    listens: Listens
    mean_played_ratio: float | None

    @property
    def by_plays(self) -> Int64[np.ndarray, "N"]:
        """The rows of all tracks, the most played in training first."""
        return most_played(self.plays)


def example_vocabulary(attributes: Iterable[str] = ()) -> Vocabulary:
    """Two tracks, one pair, one listener: enough to build a model, and to see whether its settings are accepted.

    Args:
        attributes: names of attributes that the tracks have.

    Returns:
        The vocabulary.
    """
    catalog = Catalog.from_columns([1, 2], ["One", "Two"], ["Ann", "Bob"], source="example")
    known = {str(name): Values.from_lists([["one"], ["two"]]) for name in attributes}
    catalog = replace(catalog, attributes=known)
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
    )
