"""The tracks of each artist, and which of all tracks may be picked.

S sessions, K steps, N tracks of the catalogue, O of them may be picked, A artists.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, Int64


@dataclass(frozen=True, eq=False)
class ArtistTracks:
    """The tracks of each artist, and which of all tracks may be picked.

    A *kept* track is known, and never picked: a session may have heard it before it left the catalogue.

    Args:
        artist_of: row of the artist of each track.
        by_artist: rows of all tracks but the kept ones, those of an artist one after another, ascending.
        ends: place after the last track of each artist in `by_artist`.
    """

    artist_of: Int[np.ndarray, "N"]
    by_artist: Int[np.ndarray, "O"]
    ends: Int64[np.ndarray, "A"]

    @classmethod
    def of(
        cls, artist_of: Int[np.ndarray, "N"], num_artists: int = 0, kept: Int[np.ndarray, "kept"] | None = None
    ) -> "ArtistTracks":
        """Find the tracks of each artist.

        Args:
            artist_of: row of the artist of each track.
            num_artists: number of artists (A), if some of them have no tracks.
            kept: rows of the kept tracks, if any.
        """
        by_artist = np.argsort(artist_of, kind="stable")
        if kept is not None and len(kept):
            by_artist = by_artist[~np.isin(by_artist, kept)]
        num_artists = max(num_artists, int(artist_of.max(initial=-1)) + 1)
        return cls(artist_of, by_artist, np.bincount(artist_of[by_artist], minlength=num_artists).cumsum())

    @property
    def num_open(self) -> int:
        """Number of tracks that may be picked (O)."""
        return len(self.by_artist)

    @cached_property
    def is_kept(self) -> Bool[np.ndarray, "N"] | None:
        """Whether each track is kept; None where none is."""
        if self.num_open == len(self.artist_of):
            return None
        is_kept = np.ones(len(self.artist_of), bool)
        is_kept[self.by_artist] = False
        return is_kept

    def without_kept(self, rows: Int[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """Rows of tracks, with -1 for those that are kept.

        Args:
            rows: of tracks; -1 for none.
        """
        return rows if self.is_kept is None else np.where(self.is_kept[rows], -1, rows)

    def drawn(self, draws: Int64[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
        """The row of each of some tracks that may be picked.

        Args:
            draws: their numbers, in 0..O-1.
        """
        return draws if self.is_kept is None else np.asarray(self.by_artist[draws], np.int64)

    @cached_property
    def _place(self) -> Int64[np.ndarray, "N"]:
        """Place of each track in `by_artist`; of a kept one that before the first one of its artist."""
        if self.is_kept is None:
            return np.argsort(self.by_artist)
        place: Int64[np.ndarray, N] = np.append(0, self.ends)[self.artist_of] - 1
        place[self.by_artist] = np.arange(self.num_open)
        return place

    def by(self, artist: int) -> Int[np.ndarray, "n"]:
        """Rows of all tracks by an artist but the kept ones.

        Args:
            artist: row of the artist.
        """
        return self.by_artist[int(self.ends[artist - 1]) if artist else 0 : int(self.ends[artist])]

    def num_others(self, rows: Int[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
        """How many other tracks that may be picked the artist of each track has."""
        artists = self.artist_of[rows]
        itself = 1 if self.is_kept is None else ~self.is_kept[rows]
        return np.asarray(self.ends[artists] - np.where(artists > 0, self.ends[artists - 1], 0) - itself)

    def after(self, rows: Int[np.ndarray, "S"], steps: Int64[np.ndarray, "#S K"]) -> Int64[np.ndarray, "S K"]:
        """The other tracks of an artist, in the order of the catalogue; the first one follows the last one.

        Args:
            rows: a track of the artist.
            steps: how many tracks each is after it, at least 1.

        Returns:
            Their rows; -1 where the artist has no more.
        """
        num_others = self.num_others(rows)[:, None]
        size = num_others + (1 if self.is_kept is None else ~self.is_kept[rows][:, None])
        first = self.ends[self.artist_of[rows]][:, None] - size
        places = first + (self._place[rows][:, None] - first + steps) % np.maximum(size, 1)
        return np.where(steps <= num_others, self.by_artist.take(places, mode="clip"), -1).astype(np.int64)
