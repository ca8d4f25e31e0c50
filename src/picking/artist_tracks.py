"""The tracks of each artist, and which of all tracks may be picked.

S sessions, K steps, N tracks of the catalogue, O of them may be picked, A artists.
"""

import numpy as np
from jaxtyping import Int, Int64


class ArtistTracks:
    """The tracks of each artist, and which of all tracks may be picked.

    A *kept* track is known, and never picked: a session may have heard it before it left the catalogue.

    Args:
        artist_of: row of the artist of each track.
        by_artist: rows of all tracks but the kept ones, those of an artist one after another, ascending.
        ends: place after the last track of each artist in `by_artist`.
    """

    def __init__(
        self, artist_of: Int[np.ndarray, "N"], by_artist: Int[np.ndarray, "O"], ends: Int64[np.ndarray, "A"]
    ) -> None:
        self.artist_of, self.by_artist, self.ends = artist_of, by_artist, ends
        self._nums, self._is_open = np.diff(ends, prepend=0), np.zeros(len(artist_of), bool)
        self._is_open[by_artist] = True
        self.open_rows = np.flatnonzero(self._is_open)
        """Rows of the tracks that may be picked, ascending."""
        # of each track in `by_artist`; of a kept one that before the first one of its artist
        self._place = (ends - self._nums)[artist_of] - 1
        self._place[by_artist] = np.arange(len(by_artist))

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

    def without_kept(self, rows: Int[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """Rows of tracks, with -1 for those that are kept.

        Args:
            rows: of tracks; -1 for none.
        """
        return np.where(self._is_open[rows], rows, -1)

    def by(self, artist: int) -> Int[np.ndarray, "n"]:
        """Rows of all tracks by an artist but the kept ones.

        Args:
            artist: row of the artist.
        """
        return self.by_artist[self.ends[artist] - self._nums[artist] : self.ends[artist]]

    def num_others(self, rows: Int[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
        """How many other tracks that may be picked the artist of each track has."""
        return np.asarray(self._nums[self.artist_of[rows]] - self._is_open[rows])

    def after(self, rows: Int[np.ndarray, "S"], steps: Int64[np.ndarray, "#S K"]) -> Int64[np.ndarray, "S K"]:
        """The other tracks of an artist, in the order of the catalogue; the first one follows the last one.

        Args:
            rows: a track of the artist.
            steps: how many tracks each is after it, at least 1.

        Returns:
            Their rows; -1 where the artist has no more.
        """
        num_others, artists = self.num_others(rows)[:, None], self.artist_of[rows][:, None]
        size = self._nums[artists]
        first = self.ends[artists] - size
        places = first + (self._place[rows][:, None] - first + steps) % np.maximum(size, 1)
        return np.where(steps <= num_others, self.by_artist.take(places, mode="clip"), -1).astype(np.int64)
