"""How much of what is played was known before: the metrics of discovery.

Of the tracks of a session after its first one, `share_known` is the share of those that the same listener played to at
least 80 % in an earlier session; `share_heard` of those that they heard at all in one; `share_known_artist` of those by
an artist of whom they knew a track. A first session has no value. E plays, U listeners, N tracks, A artists.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

DISCOVERY = ("share_known", "share_heard", "share_known_artist")
"""The metrics, as everything calls them. Neither more nor less is better."""

KNOWN = 0.8
"""Smallest share that must be played of a track, so that a listener knows it."""


class Before:
    """Says which pairs of a listener and an item were there in an earlier session of the listener.

    It is called with one part of the plays after another, in the order of time, and remembers the pairs.
    """

    def __init__(self) -> None:
        self._pairs = np.empty(0, np.int64)

    def seen(
        self, pairs: Int64[np.ndarray, "E"], sessions: Int[np.ndarray, "E"], counts: Bool[np.ndarray, "E"]
    ) -> Bool[np.ndarray, "E"]:
        """Whether each pair was there in an earlier session.

        Args:
            pairs: number of the pair of each play.
            sessions: number of the session of each play; those of a listener ascend.
            counts: whether each play lets its pair be there for later sessions.
        """
        order = np.flatnonzero(counts)
        order = order[np.argsort(pairs[order], kind="stable")]
        chosen = pairs[order]
        first = np.flatnonzero(np.append(True, chosen[1:] != chosen[:-1])[: len(chosen)])
        present, since = chosen[first], sessions[order[first]]
        found = is_in(pairs, self._pairs)
        if len(present):
            place = present.searchsorted(pairs).clip(max=len(present) - 1)
            found |= (present[place] == pairs) & (since[place] < sessions)
        added = present[~is_in(present, self._pairs)]
        self._pairs = np.sort(np.concatenate([self._pairs, added]), kind="stable")  # merges two ascending arrays
        return found


class Discovery:
    """Counts what listeners knew before, over parts of a log in the order of time.

    Args:
        artist_of: number of the artist of each track; None if it is not known.
    """

    def __init__(self, num_tracks: int, artist_of: Int[np.ndarray, "N"] | None) -> None:
        self._num_tracks, self._artist_of = num_tracks, artist_of
        self._num_artists = 0 if artist_of is None else int(artist_of.max(initial=-1)) + 1
        names = DISCOVERY if artist_of is not None else DISCOVERY[:2]
        self._before = {name: Before() for name in names}
        self._returned = Before()

    def of_plays(
        self,
        users: Int[np.ndarray, "E"],
        tracks: Int[np.ndarray, "E"],
        shares: Float64[np.ndarray, "E"],
        sessions: Int[np.ndarray, "E"],
    ) -> tuple[Bool[np.ndarray, "E"], dict[str, Bool[np.ndarray, "E"]]]:
        """What was known of each play.

        Args:
            sessions: number of the session of each play; its plays are one after another, in order of time, and those
                of a listener ascend.

        Returns:
            Which plays count: those after the first one of a session whose listener has an earlier session; and by the
            name of a metric, which of them were known.
        """
        users, is_any = users.astype(np.int64), np.ones(len(users), bool)
        is_first = np.append(True, (sessions[1:] != sessions[:-1]) | (users[1:] != users[:-1]))[: len(sessions)]
        counted = self._returned.seen(users, sessions, is_any) & ~is_first
        pairs, is_known = users * self._num_tracks + tracks, shares >= KNOWN - 1e-9
        asked = {"share_known": (pairs, is_known), "share_heard": (pairs, is_any)}
        if self._artist_of is not None:
            asked["share_known_artist"] = (users * self._num_artists + self._artist_of[tracks], is_known)
        found = {name: self._before[name].seen(keys, sessions, counts) for name, (keys, counts) in asked.items()}
        return counted, {name: one & counted for name, one in found.items()}


def is_in(values: Int64[np.ndarray, "E"], ascending: Int64[np.ndarray, "n"]) -> Bool[np.ndarray, "E"]:
    """Whether numbers are among ascending ones, which np.isin would sort each time."""
    if not len(ascending):
        return np.zeros(len(values), bool)
    return np.asarray(ascending[ascending.searchsorted(values).clip(max=len(ascending) - 1)] == values)
