"""The best tracks for a session, among the lists of its last tracks.

faiss scores the candidates: it reads the vectors of scattered rows where they are. numpy copies them first, which makes
a step of the simulator 1.4 to 1.6 times as long (docs/dependencies.md); it is the plain form, on systems without faiss,
and its test.

S sessions, H tracks of a session, C candidates, N tracks in the catalogue, L tracks of a list, V width of a vector, K
tracks that are kept.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int32, Int64

from segue.picking.arm import Arm
from segue.picking.counted_scores import CountedScores
from segue.picking.listener_scores import MOST_FAVOURITES, ListenerScores, Pasts, favourites, is_known, past_of
from segue.picking.places import are_in
from segue.picking.session_query import SessionQuery
from segue.runs.profiles import DAY_MS, Profiles
from segue.runs.session_vectors import SessionVectors

NUM_FAVOURITES = 3
"""Favourites of a listener whose lists are searched."""
OF_SESSION, OF_FAVOURITES = 200, 50
"""Candidates from the lists of the session's tracks, and from those of favourites, at most, with a listener's past. Of
each list the first ones are taken."""
MOST_CANDIDATES = OF_SESSION + MOST_FAVOURITES + OF_FAVOURITES
"""Candidates of a session with a listener's past, at most."""

_INFINITY = 0x7F800000  # ∞ as an integer
_MOST_GAPS, _MOST_NEWEST = 500, 20
_Add = Callable[[Float32[np.ndarray, "S C"], Int32[np.ndarray, "S C"]], None]
_BLOCK = 32  # sessions whose candidates numpy scores together: their vectors stay in the cache


class SessionSearch:
    """Finds the best tracks for sessions.

    Args:
        vectors: of all tracks.
        lists: rows of the list of each track; -1 fills up.
        num_lists: number of last tracks whose lists are searched.
        may_repeat: whether tracks already heard may be proposed, where the rule of the training run lets them.
        artist_of: row of the artist of each track.
    """

    def __init__(
        self,
        vectors: SessionVectors,
        lists: Int32[np.ndarray, "N L"],
        *,
        num_lists: int,
        may_repeat: bool,
        artist_of: Int[np.ndarray, "N"],
    ) -> None:
        self._artist_of = artist_of
        self.vectors, self.lists, self._num_lists, self._may_repeat = vectors, lists, num_lists, may_repeat
        self._query = SessionQuery(vectors)
        self._counted = None if vectors.counted is None else CountedScores(vectors.counted)
        self._of_listener = None
        if vectors.listener is not None:
            self._of_listener = ListenerScores(vectors.listener, artist_of)

    @property
    def knows_listeners(self) -> bool:
        """Whether `best` needs the profiles of listeners."""
        return self._of_listener is not None

    @property
    def length(self) -> int:
        """Number of last tracks that are looked at."""
        return max(self.vectors.num_newest, self._num_lists)

    @property
    def most_candidates(self) -> int:
        """Number of candidates of a session, at most."""
        return max(int(self._num_lists * self.lists.shape[1]), MOST_CANDIDATES * self.knows_listeners)

    def best(
        self,
        rows: Int[np.ndarray, "S H"],
        shares: Float32[np.ndarray, "S h"],
        k: int,
        past: Pasts | None = None,
        now_ms: Int64[np.ndarray, "S"] | None = None,
        familiar: float = 1.0,
    ) -> Int32[np.ndarray, "S K"]:
        """The best tracks of the lists of the last tracks, for each session, and of those of the listener's own past.

        Args:
            rows: rows of all tracks that each session has heard, newest first; -1 for tracks that are not in the
                catalogue, and after the oldest one.
            shares: share of each that was played, NaN where it is unknown; at least of those that the query looks at.
            k: how many are kept (K).
            past: of the listener of each session (`listener_scores.past_of`); only if `knows_listeners`.
            now_ms: the time, for each session; with `past`.
            familiar: share of what is played that listeners may know. Below 1, the scores of tracks that a listener
                knows (`listener_scores.is_known`) are lowered, all by the same: √((1 − familiar) / familiar) times the
                `known_gap` of the vectors. 0 puts known tracks after all others, and so does any number below 1 where
                there is no such gap.

        Returns:
            Rows, best first; -1 fills up. Those of a session do not depend on the other sessions.
        """
        if past is not None and not (past.rows >= 0).any(1).all():
            return self._best_of_both(rows, shares, k, past, now_ms, familiar)
        queries, candidates, add_parts = self._scored(rows, shares, past, now_ms)

        def add(scores: np.ndarray, of: np.ndarray) -> None:
            add_parts(scores, of)
            if familiar < 1 and past is not None:
                scores -= self._penalty(familiar, np.where(of >= 0, scores, 0)) * is_known(past, of)

        heard = rows.astype(np.int32)
        return best(self.vectors, queries, candidates, heard, may_repeat=self._may_repeat, k=k, add=add)

    def _penalty(self, familiar: float, scores: Float32[np.ndarray, "S C"]) -> Float32[np.ndarray, "S 1"] | np.float32:
        if familiar and self.vectors.known_gap is not None:
            return np.float32(self.vectors.known_gap * ((1 - familiar) / familiar) ** 0.5)
        lowest = self.vectors.boosts.min(initial=0, where=np.isfinite(self.vectors.boosts))  # added to others later
        return np.asarray(1 + np.ptp(scores, axis=1, keepdims=True) - lowest, np.float32)

    def known_gap(self, of_run: Profiles, artist_gap: int) -> float | None:
        """How much more the best known track scores than the best other one, in sessions such as listeners had last.

        The sessions are the newest one, two, … twenty tracks of the profiles of 500 listeners, a day later.

        Args:
            of_run: the profiles of the run, with rows of tracks (`Profiles.in_rows`).
            artist_gap: artists of this many last tracks are skipped.

        Returns:
            The median over the sessions in which it scores more; None where there is none.
        """
        profiles = of_run.of_listeners(of_run.listeners[:_MOST_GAPS])
        if not profiles.size:
            return None
        times = np.where((profiles["plays"] > 0) & (profiles["track"] >= 0), profiles["last_ms"], -1)
        newest = np.argsort(-times, axis=1, kind="stable")[:, :_MOST_NEWEST]
        rows, shares, plays = (np.take_along_axis(profiles[name], newest, 1) for name in ("track", "shares", "plays"))
        is_there = np.arange(newest.shape[1]) <= np.arange(len(rows))[:, None] % _MOST_NEWEST
        rows = np.where(is_there & (np.take_along_axis(times, newest, 1) >= 0), rows, -1).astype(np.int64)
        means = np.where(rows >= 0, shares / np.maximum(plays, 1e-9), np.nan).astype(np.float32)
        past = past_of(profiles, rows)
        queries, candidates, add_parts = self._scored(rows, means, past, times.max(1) + DAY_MS)
        scores = inner_products(self.vectors.items, queries, candidates)
        add_parts(scores, candidates)
        artists = np.where(rows >= 0, self._artist_of[rows], -1)[:, :artist_gap]
        is_open = (candidates >= 0) & ~are_in(candidates, rows) & ~are_in(self._artist_of[candidates], artists)
        is_loved = is_known(past, candidates)
        known, others = (np.where(is_open & some, scores, -np.inf).max(1) for some in (is_loved, ~is_loved))
        is_above = (known > others) & np.isfinite(others)
        return float(np.median(known[is_above] - others[is_above])) if is_above.any() else None

    def _scored(
        self,
        rows: Int[np.ndarray, "S H"],
        shares: Float32[np.ndarray, "S h"],
        past: Pasts | None,
        now_ms: Int64[np.ndarray, "S"] | None,
    ) -> tuple[Float32[np.ndarray, "S V"], Int32[np.ndarray, "S C"], _Add]:
        """The query of each session, its candidates, and what adds to the scores of candidates."""
        newest, heard = rows[:, : shares.shape[1]].astype(np.int64), rows.astype(np.int32)
        queries, recent = self._query.of(newest, shares), rows[:, : self._num_lists]
        candidates = union(self.lists, recent, None if past is None else OF_SESSION // self._num_lists)
        if past is not None:
            own = favourites(past)
            others = union(self.lists, own[:, :NUM_FAVOURITES], OF_FAVOURITES // NUM_FAVOURITES)
            candidates = np.concatenate([candidates, own, others], 1)

        def add_parts(scores: np.ndarray, of: np.ndarray) -> None:  # shapes would be looked up at each request
            if self._counted is not None:
                self._counted.add(scores, self._counted.of(newest, shares, of))
            if self._of_listener is not None and past is not None and now_ms is not None:
                self._of_listener.add(scores, of, past, now_ms)
            if len(self.vectors.artist_boosts):
                scores += artist_boosts_of(self.vectors, self._artist_of, of, heard)

        return queries, candidates, add_parts

    def _best_of_both(
        self,
        rows: Int[np.ndarray, "S H"],
        shares: Float32[np.ndarray, "S h"],
        k: int,
        past: Pasts,
        now_ms: Int64[np.ndarray, "S"] | None,
        familiar: float,
    ) -> Int32[np.ndarray, "S K"]:
        """As `best`: sessions of listeners without a past are searched as with `context=session`."""
        found = np.full((len(rows), min(k, self.most_candidates)), -1, np.int32)
        has_past = np.asarray((past.rows >= 0).any(1))
        for some, known in ((~has_past, None), (has_past, past.part(has_past))):
            if some.any():
                times = None if known is None or now_ms is None else now_ms[some]
                of_some = self.best(rows[some], shares[some], k, known, times, familiar)
                found[some, : of_some.shape[1]] = of_some
        return found


def search_of(
    arm: Arm,
    vectors: SessionVectors,
    lists: Int32[np.ndarray, "N L"],
    artist_of: Int[np.ndarray, "N"],
    before: Profiles | None = None,
) -> SessionSearch:
    """What finds the best tracks for an arm with `context=session` or `listener`.

    Args:
        arm: the arm.
        vectors: of its run.
        lists: of its run.
        artist_of: row of the artist of each track.
        before: the profiles of its run, with rows of tracks, from which `known_gap` is computed; None leaves it.
    """
    vectors = vectors if arm.context == "listener" else replace(vectors, listener=None)
    search = SessionSearch(
        vectors, lists, artist_of=artist_of, num_lists=arm.num_lists, may_repeat=not arm.avoids_heard
    )
    if before is not None:
        search.vectors = replace(vectors, known_gap=search.known_gap(before, arm.artist_gap))
    return search


def gap_hint(vectors: SessionVectors, arm: Arm) -> str | None:
    """What is wrong with a picking that repeats the artists of the session, and the remedy; None otherwise.

    Where shares are known, the sum of a session is mostly about its artists.

    Args:
        vectors: of the run.
        arm: how it picks.
    """
    if arm.pick != "ranked" or arm.artist_gap or vectors.skipped == 1:
        return None
    return "pick=ranked recommends the artists of the session again and again; artist_gap=100 skips them"


def union(
    lists: Int32[np.ndarray, "N K"], recent: Int[np.ndarray, "S n"], most: int | None = None
) -> Int32[np.ndarray, "S C"]:
    """The lists of the last tracks, one after another.

    Args:
        lists: rows of the list of each track; -1 fills up.
        recent: rows of the last tracks of each session, newest first; -1 for none.
        most: how many of each list, at most; None for all.

    Returns:
        Rows of the candidates; -1 for none.
    """
    found = lists.take(recent, axis=0, mode="clip")[:, :, :most]
    found[recent < 0] = -1
    return found.reshape(len(recent), found.shape[1] * found.shape[2])


def best(
    vectors: SessionVectors,
    queries: Float32[np.ndarray, "S V"],
    candidates: Int32[np.ndarray, "S C"],
    heard: Int32[np.ndarray, "S H"],
    *,
    may_repeat: bool,
    k: int,
    add: Callable[[Float32[np.ndarray, "S C"], Int32[np.ndarray, "S C"]], None] = lambda _, __: None,
) -> Int32[np.ndarray, "S K"]:
    """Find the K best candidates of each session.

    Of equal scores the earlier candidate comes first, and a row that occurs several times counts once.

    Args:
        vectors: of all tracks.
        queries: the query of each session.
        candidates: rows, such as the lists of the last tracks one after another; -1 for none.
        heard: rows of the tracks that each session has heard, newest first; -1 for none. The newest is never
            proposed.
        may_repeat: whether other tracks that were heard may be proposed, where the rule of the context lets them.
        k: how many are kept (K); all candidates, if there are fewer.
        add: adds other parts to the scores of candidates, in place.

    Returns:
        Rows, best first; -1 fills up.
    """
    rows, places, k = candidates, None, min(k, candidates.shape[1])
    if k > 1:  # in the order of rows, in which those that occur again follow one another
        rows, places = _in_order(candidates, len(vectors.items))
    scores = inner_products(vectors.items, queries, rows)
    add(scores, rows)
    is_out = rows < 0
    if may_repeat and len(vectors.boosts):
        scores += boosts_of(vectors.boosts, rows, heard)
    is_out |= are_in(rows, heard[:, :1] if may_repeat else heard)
    np.putmask(scores, is_out, -np.inf)
    return _best_first(scores, places, candidates, k)


def boosts_of(
    boosts: Float32[np.ndarray, "L"], rows: Int[np.ndarray, "S C"], heard: Int[np.ndarray, "S H"]
) -> Float32[np.ndarray, "S C"]:
    """What is added to the scores of candidates because a session has heard them.

    Args:
        boosts: by age.
        rows: the candidates of each session.
        heard: rows of the tracks that each session has heard, newest first; -1 for none.
    """
    added, boosts = np.zeros(rows.shape, np.float32), boosts[: heard.shape[1]]
    ends = 1 + np.flatnonzero(boosts[1:] != boosts[:-1])  # ages with the same boost are looked up together
    for first, end in reversed([*pairwise([0, *ends.tolist(), len(boosts)])]):  # what was heard last decides
        np.putmask(added, are_in(rows, heard[:, first:end]), boosts[first])
    return added


def artist_boosts_of(
    vectors: SessionVectors,
    artist_of: Int[np.ndarray, "N"],
    rows: Int[np.ndarray, "S C"],
    heard: Int[np.ndarray, "S H"],
) -> Float32[np.ndarray, "S C"]:
    """What is added to the scores of candidates because a session has heard their artists.

    Args:
        vectors: have the boosts. A track with a boost of its own gets none for its artist.
        artist_of: row of the artist of each track.
        rows: the candidates of each session.
        heard: rows of the tracks that each session has heard, newest first; -1 for none.
    """
    newest = heard[:, : len(vectors.artist_boosts)]
    asked, artists = (np.where(some >= 0, artist_of.take(some, mode="clip"), -1) for some in (rows, newest))
    added = boosts_of(vectors.artist_boosts, asked, artists)
    np.putmask(added, are_in(rows, heard[:, : len(vectors.boosts)]), 0)
    return added


@cache
def _places(width: int, kind: type[np.integer[Any]]) -> tuple[int, Int[np.ndarray, "1 C"]]:
    """How many bits the places of a line need, and these places."""
    return max(1, (width - 1).bit_length()), np.arange(width, dtype=kind)[None]


def _in_order(rows: Int32[np.ndarray, "S C"], num_tracks: int) -> tuple[Int[np.ndarray, "S C"], Int[np.ndarray, "S C"]]:
    """Each line in ascending order, -1 for a row that occurs again; and the place that each row had, the first one."""
    bits, places = _places(rows.shape[1], np.int32)
    if num_tracks << bits >= 2**31:
        bits, places = _places(rows.shape[1], np.int64)
    keys = rows.astype(places.dtype)
    keys <<= bits
    keys |= places
    keys.sort(axis=1)
    ordered = keys >> bits
    np.putmask(ordered[:, 1:], ordered[:, 1:] == ordered[:, :-1], -1)
    keys &= (1 << bits) - 1
    return ordered, keys


def _best_first(
    scores: Float32[np.ndarray, "S C"],
    places: Int[np.ndarray, "S C"] | None,
    rows: Int32[np.ndarray, "S C"],
    k: int,
) -> Int32[np.ndarray, "S K"]:
    """The rows with the largest scores, largest first; of equal ones the first place first; -1 for −∞.

    Args:
        scores: in any order.
        places: place of the row of each score; None where they are in the order of the places.
        rows: in the order of places.
        k: how many are kept (K).
    """
    lines = np.arange(0, rows.size, rows.shape[1])[:, None]
    if k == 1 and places is None:  # without the sorting, which takes ten times as long
        flat = scores.argmax(1)[:, None] + lines
        return np.where(scores.ravel().take(flat) == -np.inf, np.int32(-1), rows.ravel().take(flat))
    bits, usual = _places(scores.shape[1], np.int32)
    whole = (np.float32(0) - scores).view(np.int32)  # without −0; as integers, positive numbers have the same order
    whole ^= (whole >> 31) & np.int32(0x7FFFFFFF)  # and now negative ones too
    keys = whole.astype(np.int64)
    keys <<= bits
    keys |= usual if places is None else places
    keys.sort(axis=1)
    keys = keys[:, :k]
    largest = rows.ravel().take((keys & ((1 << bits) - 1)) + lines)
    np.putmask(largest, keys >= _INFINITY << bits, -1)
    return largest


@cache
def import_faiss() -> Any | None:
    """faiss; None on other systems than Linux.

    On macOS a process that has the OpenMP of faiss and that of torch is known to crash.
    """
    if sys.platform != "linux":
        return None
    import faiss

    return faiss


def inner_products(
    items: Float32[np.ndarray, "N V"], queries: Float32[np.ndarray, "S V"], candidates: Int[np.ndarray, "S C"]
) -> Float32[np.ndarray, "S C"]:
    """Compute the scores of given candidates. A score depends on its query and its item alone, to the last digit.

    Args:
        items: item vector of each track, in C order.
        queries: the query of each session.
        candidates: rows; negative ones get any number.

    Returns:
        The inner products.
    """
    found = np.empty(candidates.shape, np.float32)
    if (faiss := import_faiss()) is not None:
        rows = np.minimum(candidates, len(items) - 1, dtype=np.int64, order="C")  # faiss does not check them
        arrays = found, np.ascontiguousarray(queries), items, rows
        pointers, num_threads = [faiss.swig_ptr(array) for array in arrays], faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # too few candidates for several; torch may have the same setting
        try:
            faiss.fvec_inner_products_by_idx(*pointers, queries.shape[1], *candidates.shape)
        finally:
            faiss.omp_set_num_threads(num_threads)
        return found
    for first in range(0, len(queries), _BLOCK):
        some = slice(first, first + _BLOCK)
        np.vecdot(items.take(candidates[some], axis=0, mode="clip"), queries[some, None], out=found[some])
    return found
