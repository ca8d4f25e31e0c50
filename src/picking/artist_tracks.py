"""The tracks of each artist, and which of all tracks may be picked.

N tracks of the catalogue, O of them may be picked, A artists.
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
        self.starts = np.append(0, ends[:-1])
        """Place of the first track of each artist in `by_artist`."""
        self.place = np.full(len(artist_of) + 1, -1)
        """Place of each track in `by_artist`; -1 for the kept ones, and at the end, for a row of -1."""
        self.place[by_artist] = np.arange(len(by_artist))

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

    def by(self, artist: int) -> Int[np.ndarray, "n"]:
        """Rows of all tracks by an artist but the kept ones.

        Args:
            artist: row of the artist.
        """
        return self.by_artist[self.starts[artist] : self.ends[artist]]
