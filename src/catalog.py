"""The catalogue of tracks, and what the training pairs show of it.

N tracks in the catalogue, A artists. A *row* is a place 0..N-1 in the catalogue; everything inside Segue speaks in
rows, and only files that people and services read carry the raw ids.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Int64, Shaped

from src.errors import InputError


@dataclass(frozen=True, eq=False, kw_only=True)
class Catalog:
    """Every track that may be recommended, with its artist.

    Args:
        track_ids: raw id of the track in each row.
        titles: title of the track in each row.
        artist_of: row of the artist of each track, 0..A-1.
        artists: name of each artist.
    """

    track_ids: Int64[np.ndarray, "N"]
    titles: Shaped[np.ndarray, "N"]
    artist_of: Int64[np.ndarray, "N"]
    artists: Shaped[np.ndarray, "A"]

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, source: str) -> "Catalog":
        """Build from the columns `track`, `title`, `artist`; `source` names the file in errors.

        Tracks without an artist get one of their own each: that two artists are unknown does not make them one.

        Raises:
            InputError: no row, a row without a track id, or an id that stands twice.
        """
        if frame.empty:
            raise InputError(f"{source} is empty: a catalogue needs at least one track")
        if frame["track"].isna().any():
            place = int(frame["track"].isna().to_numpy().argmax()) + 1
            raise InputError(f"{source}: entry {place} has no whole number as its track id; mend or remove it")
        twice = frame["track"][frame["track"].duplicated()]
        if len(twice):
            raise InputError(f"{source}: track {twice.iloc[0]} stands twice; every id must be unique")
        artist_of, artists = pd.factorize(frame["artist"])
        nameless = artist_of < 0
        artist_of = artist_of.astype(np.int64)
        artist_of[nameless] = len(artists) + np.arange(nameless.sum())
        return cls(
            track_ids=frame["track"].to_numpy(np.int64, copy=True),
            titles=frame["title"].fillna("").to_numpy(object, copy=True),
            artist_of=artist_of,
            artists=np.concatenate([np.asarray(artists, object), np.full(nameless.sum(), "", object)]),
        )

    def __len__(self) -> int:
        return len(self.track_ids)

    @property
    def num_artists(self) -> int:
        """How many artists the catalogue has (A)."""
        return len(self.artists)

    @cached_property
    def _index(self) -> "pd.Index[int]":
        index: pd.Index[int] = pd.Index(self.track_ids)
        return index

    def rows_of(self, track_ids: Int64[np.ndarray, "*n"]) -> Int64[np.ndarray, "*n"]:
        """Rows of raw ids; -1 where the catalogue does not have the track."""
        rows = self._index.get_indexer(pd.Index(track_ids.ravel()))
        return np.asarray(rows, np.int64).reshape(track_ids.shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Vocabulary:
    """What the training pairs, and nothing else, show of a catalogue.

    Args:
        catalog: the catalogue.
        previous_counts: how many training pairs have the track as `previous`.
        next_counts: how many training pairs have the track as `next`.
        plays: how many training events play the track: its popularity.
        mean_played_ratio: mean share over training pairs, in [0, 1]; None where the source gives no shares.
    """

    catalog: Catalog
    previous_counts: Int64[np.ndarray, "N"]
    next_counts: Int64[np.ndarray, "N"]
    plays: Int64[np.ndarray, "N"]
    mean_played_ratio: float | None
