"""Choices: the probability with which a recommender picks each track, at given decisions.

S decisions, T tracks that the session of each has played, K tracks that may be picked, M tracks that are asked about,
N tracks of the catalogue, U users with a list. The rules are those of the service (`serving/recommender.py`) and of
the simulator (`simulation/policies.py`); tests compare them with both.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from segue.runs.recommendations import open_new, pick_probabilities, redraw_probability

KINDS = ("lists", "user_lists", "random", "popular", "sticky_artist")
"""The policies whose choices are known."""

_SOURCES = {"lists": "list", "user_lists": "list", "popular": "popular", "sticky_artist": "artist"}
"""The tracks from which each policy picks; `random` picks any track."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Choices:
    """The probabilities of the tracks, at S decisions.

    Args:
        tracks: rows that may be picked; -1 fills up.
        probabilities: of each of them.
        rest: probability that any track of the catalogue is drawn instead.
        avoided: rows after which such a draw is repeated; none has no columns.
        draws: largest number of such draws.
        num_tracks: number of tracks in the catalogue (N).
    """

    tracks: Int64[np.ndarray, "S K"]
    probabilities: Float64[np.ndarray, "S K"]
    rest: Float64[np.ndarray, "S"]
    avoided: Int64[np.ndarray, "S T"]
    draws: int
    num_tracks: int

    def of(self, asked: Int64[np.ndarray, "S M"]) -> Float64[np.ndarray, "S M"]:
        """Compute the probability of given tracks.

        Args:
            asked: rows of tracks at each decision; -1 for none.

        Returns:
            In [0, 1]; 0 for none.
        """
        found = np.zeros(asked.shape)
        for track, probability in zip(self.tracks.T, self.probabilities.T, strict=True):
            found += (asked == track[:, None]) * probability[:, None]
        drawn = np.flatnonzero(self.rest)
        if len(drawn):
            found[drawn] += self.rest[drawn, None] * self._drawn(asked[drawn], self.avoided[drawn])
        return np.where(asked >= 0, found, 0.0)

    def _drawn(self, asked: Int64[np.ndarray, "S M"], avoided: Int64[np.ndarray, "S T"]) -> Float64[np.ndarray, "S M"]:
        if not avoided.shape[1]:
            return np.full(asked.shape, 1 / self.num_tracks)
        num_heard = 1 + (np.diff(np.sort(avoided, axis=1), axis=1) != 0).sum(1)
        columns = [
            redraw_probability(self.num_tracks, num_heard, (avoided == track[:, None]).any(1), self.draws)
            for track in asked.T
        ]
        return np.stack(columns, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Behaviour:
    """How a recommender picks the next track.

    Args:
        policy: one of KINDS.
        artist_of: row of the artist of each track.
        pick: one of `PICKS`, for lists.
        artist_gap: number of previous tracks whose artists are avoided as long as the list has others.
        lists: rows of the list of each track, or of each of `users`; -1 fills up; no columns for other policies.
        users: raw ids of the users of the lists, ascending; for `user_lists`.
        popular: distinct rows of the tracks of `popular`, also as a fallback.
        fallbacks: `artist` and `popular`, in the order in which they replace a list without a track left; after them
            any track is drawn.
        draws: how often any track is drawn at most until it is one that the session has not played.
        exploration: share of the picks from lists that are among new tracks.
        new: rows of the new tracks, ascending.
    """

    policy: str
    artist_of: Int64[np.ndarray, "N"]
    pick: str
    artist_gap: int
    lists: Int32[np.ndarray, "Q K"]
    users: Int64[np.ndarray, "U"]
    popular: Int64[np.ndarray, "P"]
    fallbacks: tuple[str, ...]
    draws: int
    exploration: float = 0.0
    new: Int64[np.ndarray, "E"] = field(default_factory=lambda: np.empty(0, np.int64))

    def choices(self, users: Int64[np.ndarray, "S"], played: Int64[np.ndarray, "S T"]) -> Choices:
        """Compute the probabilities at some decisions.

        Args:
            users: raw id of the user of each decision.
            played: rows of the tracks that each session has played, the last one last.

        Returns:
            The probabilities of all tracks.
        """
        has_lists, num = self.policy in ("lists", "user_lists"), len(users)
        heard = played if has_lists and self.pick != "uniform" else played[:, :0]
        parts: list[tuple[Int64[np.ndarray, "S k"], Float64[np.ndarray, "S k"]]] = []
        open_decisions = np.arange(num)
        for source in (_SOURCES.get(self.policy), *self.fallbacks):
            if source is None or not len(open_decisions):
                continue
            some = open_decisions
            tracks = self._source(source, users[some], played[some])
            is_open = (tracks >= 0) & ~(tracks[:, :, None] == heard[some][:, None, :]).any(2)
            how = "uniform"
            if source == "list":
                is_open, how = self._spaced(tracks, is_open, played[some]), self.pick
            part = np.full((num, tracks.shape[1]), -1), np.zeros((num, tracks.shape[1]))
            part[0][some], part[1][some] = tracks, pick_probabilities(how, is_open)
            parts.append(part)
            if source == "list" and self.exploration:
                parts.append(self._explored(part, is_open, played))
            open_decisions = some[~is_open.any(1)]
        rest = np.zeros(num)
        rest[open_decisions] = 1.0
        return Choices(
            tracks=np.concatenate([np.empty((num, 0), np.int64), *(part[0] for part in parts)], 1),
            probabilities=np.concatenate([np.empty((num, 0)), *(part[1] for part in parts)], 1),
            rest=rest,
            avoided=heard,
            draws=self.draws,
            num_tracks=len(self.artist_of),
        )

    def _explored(
        self,
        part: tuple[Int64[np.ndarray, "S k"], Float64[np.ndarray, "S k"]],
        is_open: Bool[np.ndarray, "S k"],
        played: Int64[np.ndarray, "S T"],
    ) -> tuple[Int64[np.ndarray, "S E"], Float64[np.ndarray, "S E"]]:
        """Add exploration to the probabilities of lists, in place; returns those of the new tracks outside them."""
        tracks, probabilities = part
        is_new = is_open & np.isin(tracks, self.new)
        avoided = played[:, -1:] if self.pick == "uniform" else played
        recent = self.artist_of[played[:, max(0, played.shape[1] - self.artist_gap) :]]
        others = open_new(self.new, avoided, self.artist_of, recent)
        has_new = np.asarray(is_new.any(1))
        others &= np.asarray(is_open.any(1) & ~has_new)[:, None]
        explores = has_new | others.any(1)
        probabilities[explores] *= 1 - self.exploration
        probabilities += self.exploration * pick_probabilities(self.pick, is_new)
        return np.tile(self.new, (len(played), 1)), self.exploration * pick_probabilities("uniform", others)

    def _source(
        self, source: str, users: Int64[np.ndarray, "S"], played: Int64[np.ndarray, "S T"]
    ) -> Int64[np.ndarray, "S k"]:
        """The tracks of a source: the list, the other tracks of the artist, or the popular tracks."""
        last = played[:, -1]
        if source == "popular":
            return np.tile(self.popular, (len(users), 1))
        if source == "artist":
            tracks = _by_artist(self.artist_of, self.artist_of[last])
            return np.where(tracks == last[:, None], -1, tracks)
        if self.policy == "lists":
            return np.asarray(self.lists[last], np.int64)
        places = self.users.searchsorted(users).clip(max=len(self.users) - 1)
        return np.where((self.users[places] == users)[:, None], self.lists[places], -1).astype(np.int64)

    def _spaced(
        self, tracks: Int64[np.ndarray, "S k"], is_open: Bool[np.ndarray, "S k"], played: Int64[np.ndarray, "S T"]
    ) -> Bool[np.ndarray, "S k"]:
        if not self.artist_gap:
            return is_open
        recent = self.artist_of[played[:, -self.artist_gap :]]
        spaced = is_open & ~(self.artist_of[tracks][:, :, None] == recent[:, None, :]).any(2)
        return np.where(spaced.any(1, keepdims=True), spaced, is_open)


def _by_artist(artist_of: Int64[np.ndarray, "N"], artists: Int64[np.ndarray, "S"]) -> Int64[np.ndarray, "S k"]:
    """All tracks of each artist, filled up with -1."""
    by_artist = np.argsort(artist_of, kind="stable")
    size = np.bincount(artist_of)
    first, places = (size.cumsum() - size)[artists], np.arange(size[artists].max(initial=0))
    is_filled = places < size[artists][:, None]
    return np.where(is_filled, by_artist[np.minimum(first[:, None] + places, len(by_artist) - 1)], -1)
