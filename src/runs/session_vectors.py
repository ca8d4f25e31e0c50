"""Session vectors: query and item vectors of a trained head, and how a session makes one query vector of them.

S sessions, H tracks of a history, C candidates, N tracks in the catalogue, V width of a vector, P parts of a vector, K
tracks that are kept. This module does not import torch, because the service and the simulator import it.
`models/context.py` has the same formula for training; a test compares them.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64

from segue.catalog import Catalog
from segue.errors import InputError
from segue.runs.atomic import write_whole

FILE = "vectors.npz"
"""Name of the file that a training run writes beside its `recommendations.jsonl`."""
CONTEXTS = ("last", "session")
"""What a query is made of: the last track, or the session so far."""
MAX_LENGTH = 1000
"""Largest number of tracks of a session that may count."""

_UNREADABLE = (OSError, ValueError, EOFError, LookupError, NotImplementedError, BadZipFile)
_MAX_WIDTH, _MAX_PARTS = 4096, 16
_BLOCK = 32  # sessions whose candidates are scored together without faiss; their item vectors stay in the cache
_INFINITY = 0x7F800000  # ∞ as an integer
_TINY = 1e-6  # added to a squared length, as in `models/context.py`
_KINDS: dict[str, tuple[str, int]] = {
    "queries": ("float32", 2),
    "items": ("float32", 2),
    "part_names": ("str", 1),
    "part_ends": ("int64", 1),
    "part_lengths": ("float32", 1),
    "part_shares": ("float32", 1),
    "part_powers": ("float32", 1),
    "age_weights": ("float32", 2),
    "skipped": ("float32", 0),
    "heard_penalty": ("float32", 0),
    "heard_within": ("int64", 0),
    "context": ("str", 0),
}
"""The arrays of a file with their kinds and numbers of dimensions; it has `track_ids` too."""


class _Columns(NamedTuple):
    width: int  # of all parts together (W)
    part_of: Int64[np.ndarray, "W"]
    starts: Int64[np.ndarray, "P"]
    weights: Float32[np.ndarray, "H W"]
    by_square: Float32[np.ndarray, "P"]  # what the square of a length is multiplied by; 0 where nothing is divided
    exponents: Float32[np.ndarray, "P"] | None
    skipped: np.float32
    not_skipped: np.float32


@dataclass(frozen=True, eq=False, kw_only=True)
class SessionVectors:
    """The vectors of all tracks, and the numbers of the context.

    The query of a session is the sum of the query vectors of its tracks, each part with weights of its own:
    `q = Σ_k age_weight_k · g(share_k) · query(track_k)`, k = 0 the newest, `g(s) = skipped + (1 − skipped)·s`, and 1
    where the share is unknown. A part with a length is divided by (its length / the length for one track)^power; 10⁻⁶
    is added to the square of that ratio, so that tracks which cancel do not divide by 0. Columns after the last part
    are those of the newest track.

    Args:
        queries: query vector of each track.
        items: item vector of each track, in C order. Scores are inner products.
        parts: name of each part, such as `track` and `artist`.
        ends: column after the last one of each part.
        lengths: length of each part for one track; NaN where it differs from track to track.
        shares: share of each part in the score, such as α and 1 − α; queries and items have its square root in them.
            NaN where the head has no such shares.
        powers: power of the length that each part is divided by, in [0, 1].
        age_weights: weight of each age, the newest track first (H of them).
        skipped: weight of a track of which nothing was played, relative to one played in full, in [-1, 1].
        penalty: subtracted from the scores of tracks already heard; infinity means that they are never proposed.
        heard_within: number of newest tracks to which that applies; tracks heard before them are like all others.
        context: one of `CONTEXTS`.
    """

    queries: Float32[np.ndarray, "N V"]
    items: Float32[np.ndarray, "N V"]
    parts: tuple[str, ...]
    ends: Int64[np.ndarray, "P"]
    lengths: Float32[np.ndarray, "P"]
    shares: Float32[np.ndarray, "P"]
    powers: Float32[np.ndarray, "P"]
    age_weights: Float32[np.ndarray, "P H"]
    skipped: float
    penalty: float
    heard_within: int
    context: str

    @property
    def max_length(self) -> int:
        """Number of newest tracks that count (H)."""
        return int(self.age_weights.shape[1])

    @cached_property
    def _columns(self) -> "_Columns":
        """What `query` needs again and again."""
        part_of = np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))
        is_divided = (self.powers > 0) & (self.lengths > 0)  # not where the length is NaN
        return _Columns(
            width=len(part_of),
            part_of=part_of,
            starts=np.append(0, self.ends[:-1]),
            weights=self.age_weights[part_of].T.copy(),
            by_square=np.where(is_divided, 1 / np.where(is_divided, self.lengths, 1) ** 2, 0).astype(np.float32),
            exponents=np.where(is_divided, -self.powers / 2, 0).astype(np.float32) if is_divided.any() else None,
            skipped=np.float32(self.skipped),
            not_skipped=np.float32(1) - np.float32(self.skipped),
        )

    def _gained(self, rows: Int64[np.ndarray, "S h"], shares: Float32[np.ndarray, "S h"]) -> Float32[np.ndarray, "S h"]:
        """What the shares make of the weights; 0 where there is no track."""
        columns = self._columns
        gained = columns.skipped + columns.not_skipped * shares
        np.fmin(gained, np.float32(1), out=gained)  # 1 where the share is NaN
        np.putmask(gained, rows < 0, 0)
        return gained

    def gap_hint(self, *, pick: str, artist_gap: int) -> str | None:
        """What is wrong with a picking that repeats the artists of the session, and the remedy; None otherwise.

        Where shares are known, the sum of a session is mostly about its artists.

        Args:
            pick: `uniform`, `ranked` or `weighted`.
            artist_gap: artists of this many last tracks are skipped.
        """
        if pick != "ranked" or artist_gap or self.skipped == 1:
            return None
        return "pick=ranked recommends the artists of the session again and again; artist_gap=100 skips them"

    def query(self, rows: Int64[np.ndarray, "S h"], shares: Float32[np.ndarray, "S h"]) -> Float32[np.ndarray, "S V"]:
        """Compute the query vector of each session.

        Args:
            rows: rows of the tracks, newest first, of which there is at least one; -1 where there is none.
            shares: share of each that was played; NaN where unknown.

        Returns:
            One vector for each session.
        """
        made, factors = self._sums(rows[:, : self.max_length], shares[:, : self.max_length])
        if factors is not None:
            made[:, : self._columns.width] *= factors.take(self._columns.part_of, axis=1)
        return made

    def _sums(
        self, rows: Int64[np.ndarray, "S h"], shares: Float32[np.ndarray, "S h"]
    ) -> tuple[Float32[np.ndarray, "S V"], Float32[np.ndarray, "S P"] | None]:
        """The weighted sums, and what each part is multiplied by; None where nothing is divided."""
        columns, vectors = self._columns, self.queries.take(rows, axis=0, mode="clip")
        made = vectors[:, 0].copy()
        weighted = vectors[:, :, : columns.width] * columns.weights[: rows.shape[1]]
        # unlike a matrix product, the same to the last digit where tracks are missing at the end
        sums = np.einsum("sh,shw->sw", self._gained(rows, shares), weighted)
        made[:, : columns.width] = sums
        if columns.exponents is None:
            return made, None
        squared = np.add.reduceat(sums * sums, columns.starts, axis=1) * columns.by_square
        return made, (squared + np.float32(_TINY)) ** columns.exponents

    def scores(
        self, queries: Float32[np.ndarray, "S V"], candidates: Int[np.ndarray, "S C"]
    ) -> Float32[np.ndarray, "S C"]:
        """Compute the scores of given candidates. A score depends on its query and its item alone, to the last digit.

        Args:
            queries: the query of each session.
            candidates: rows; negative ones get any number.

        Returns:
            The inner products.
        """
        found = np.empty(candidates.shape, np.float32)
        if (faiss := import_faiss()) is not None:
            rows = np.minimum(candidates, len(self.items) - 1, dtype=np.int64, order="C")  # faiss does not check them
            arrays = found, np.ascontiguousarray(queries), self.items, rows
            pointers, num_threads = [faiss.swig_ptr(array) for array in arrays], faiss.omp_get_max_threads()
            faiss.omp_set_num_threads(1)  # too few candidates for several; torch may have the same setting
            try:
                faiss.fvec_inner_products_by_idx(*pointers, queries.shape[1], *candidates.shape)
            finally:
                faiss.omp_set_num_threads(num_threads)
            return found
        for first in range(0, len(queries), _BLOCK):
            some = slice(first, first + _BLOCK)
            np.vecdot(self.items.take(candidates[some], axis=0, mode="clip"), queries[some, None], out=found[some])
        return found

    def best(
        self,
        queries: Float32[np.ndarray, "S V"],
        candidates: Int32[np.ndarray, "S C"],
        heard: Int32[np.ndarray, "S H"],
        *,
        may_repeat: bool,
        k: int,
    ) -> Int32[np.ndarray, "S K"]:
        """Find the K best candidates of each session.

        Of equal scores the earlier candidate comes first, and a row that occurs several times counts once.

        Args:
            queries: the query of each session.
            candidates: rows, such as the lists of the last tracks one after another; -1 for none.
            heard: rows of the tracks that each session has heard, newest first; -1 for none. The newest is never
                proposed.
            may_repeat: whether other tracks that were heard may be proposed, where the rule of the context lets them.
            k: how many are kept (K); all candidates, if there are fewer.

        Returns:
            Rows, best first; -1 fills up.
        """
        rows, k = candidates, min(k, candidates.shape[1])
        if k > 1:  # in the order of rows, in which those that occur again follow one another
            rows, places = _in_order(candidates, len(self.items))
        scores = self.scores(queries, rows)
        is_out = rows < 0
        recent = heard[:, : max(1, self.heard_within)] if may_repeat else heard
        if may_repeat and math.isfinite(self.penalty):
            is_out |= rows == heard[:, :1]
            if self.penalty:
                scores -= np.float32(self.penalty) * _are_in(rows, recent)
        else:
            is_out |= _are_in(rows, recent)
        np.putmask(scores, is_out, -np.inf)
        return _first_of(scores, candidates) if k == 1 else _largest(scores, places, candidates, k)

    def products(
        self, rows: Int64[np.ndarray, "h"], shares: Float32[np.ndarray, "h"], item: int
    ) -> tuple[Float32[np.ndarray, "P m"], Float32[np.ndarray, "P m"], float]:
        """Explain a score: what each track of a session adds to each part of it.

        Args:
            rows: rows of the tracks, newest first.
            shares: share of each that was played; NaN where unknown.
            item: row of the candidate.

        Returns:
            The weight of each track in each part, after the division by the length; the products of the query vector of
            each track and the item vector in each part; and what the columns after the last part add. The score is the
            sum of weights · products, and of the last number.
        """
        rows, shares = rows[: self.max_length], shares[: self.max_length]
        weights = self.age_weights[:, : len(rows)] * self._gained(rows[None], shares[None])
        if (factors := self._sums(rows[None], shares[None])[1]) is not None:
            weights = weights * factors.T
        both, starts = self.queries.take(rows, axis=0, mode="clip") * self.items[item], [0, *self.ends.tolist()]
        products = np.stack([both[:, first:end].sum(1) for first, end in pairwise(starts)])
        return weights, np.where(rows >= 0, products, np.float32(0)), float(both[0, starts[-1] :].sum())

    def in_order(self, order: Int64[np.ndarray, "N"]) -> "SessionVectors":
        """The same vectors in another order of the tracks.

        Args:
            order: row of each track in the present order.
        """
        return replace(self, queries=self.queries[order], items=self.items[order])

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays by name, for `of_arrays`."""
        return {
            "queries": self.queries,
            "items": self.items,
            "part_names": np.array(self.parts, np.str_),
            "part_ends": self.ends,
            "part_lengths": self.lengths,
            "part_shares": self.shares,
            "part_powers": self.powers,
            "age_weights": self.age_weights,
            "skipped": np.array(self.skipped, np.float32),
            "heard_penalty": np.array(self.penalty, np.float32),
            "heard_within": np.array(self.heard_within, np.int64),
            "context": np.array(self.context, np.str_),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], *, num_tracks: int, where: str) -> "SessionVectors":
        """Build it from arrays, whose shapes and numbers are checked, but not each vector.

        Args:
            arrays: what `arrays` returned.
            num_tracks: number of tracks in the catalogue (N).
            where: names them in messages.

        Raises:
            InputError: an array is missing, or has another type, shape or range.
        """
        if (lengths := arrays.get("part_lengths")) is not None and lengths.dtype == np.float32:
            arrays = {"part_shares": lengths**2, **arrays}  # older versions wrote no shares
        arrays = {"heard_within": np.array(MAX_LENGTH, np.int64), **arrays}  # in older versions the whole session
        for name, (kind, dimensions) in _KINDS.items():
            array = arrays.get(name)
            if array is None or array.ndim != dimensions or not array.dtype.name.startswith(kind):
                found = "is missing" if array is None else f"is {array.dtype} with {array.ndim} dimensions"
                raise _damaged(where, f"{name} must be {kind} with {dimensions} dimensions, and {found}")
        queries, items, ends = arrays["queries"], arrays["items"], arrays["part_ends"]
        num_parts = len(ends)
        for name, shape in {
            "items": queries.shape,
            "part_names": (num_parts,),
            "part_lengths": (num_parts,),
            "part_shares": (num_parts,),
            "part_powers": (num_parts,),
            "age_weights": (num_parts, arrays["age_weights"].shape[1]),
        }.items():
            if arrays[name].shape != shape:
                raise _damaged(where, f"{name} must have the shape {shape}, and has {arrays[name].shape}")
        if len(queries) != num_tracks:
            raise InputError(
                f"{where} has vectors of {len(queries)} tracks, and the catalogue has {num_tracks}; use the vectors "
                "and the catalogue of one run"
            )
        width, length = queries.shape[1], arrays["age_weights"].shape[1]
        skipped, penalty, context = float(arrays["skipped"]), float(arrays["heard_penalty"]), str(arrays["context"])
        heard_within = int(arrays["heard_within"])
        is_right = {
            f"part_ends must increase up to at most {width}": bool(
                1 <= num_parts <= _MAX_PARTS and (np.diff(ends, prepend=0) > 0).all() and ends[-1] <= width
            ),
            f"vectors must be at most {_MAX_WIDTH} wide": 1 <= width <= _MAX_WIDTH,
            f"age_weights must be finite and of 1 to {MAX_LENGTH} ages": bool(
                1 <= length <= MAX_LENGTH and np.isfinite(arrays["age_weights"]).all()
            ),
            "part_powers must be in [0, 1]": bool(((arrays["part_powers"] >= 0) & (arrays["part_powers"] <= 1)).all()),
            "part_shares must be in [0, 1], or NaN": not (
                (arrays["part_shares"] < 0) | (arrays["part_shares"] > 1 + _TINY)
            ).any(),
            "skipped must be in [-1, 1]": -1 <= skipped <= 1,
            "heard_penalty must be at least 0": penalty >= 0,
            f"heard_within must be 0 to {MAX_LENGTH}": 0 <= heard_within <= MAX_LENGTH,
            f"context must be one of {', '.join(CONTEXTS)}": context in CONTEXTS,
        }
        if wrong := [rule for rule, holds in is_right.items() if not holds]:
            raise _damaged(where, wrong[0])
        return cls(
            queries=queries,
            items=np.ascontiguousarray(items, np.float32),  # as faiss needs it
            parts=tuple(arrays["part_names"].tolist()),
            ends=ends,
            lengths=arrays["part_lengths"],
            shares=arrays["part_shares"],
            powers=arrays["part_powers"],
            age_weights=arrays["age_weights"],
            skipped=skipped,
            penalty=penalty,
            heard_within=heard_within,
            context=context,
        )

    def write(self, path: Path, catalog: Catalog) -> None:
        """Write a file, which appears under its name only when it is complete.

        Args:
            path: the file; its name ends in `.npz`.
            catalog: the catalogue of the vectors.
        """
        arrays: dict[str, Any] = {"track_ids": catalog.track_ids, **self.arrays()}
        write_whole(path, lambda partial: np.savez(partial, allow_pickle=False, **arrays))

    @classmethod
    def read(cls, path: Path, catalog: Catalog) -> "SessionVectors":
        """Read a file and check it against a catalogue. It may list the tracks in another order.

        Args:
            path: the file.
            catalog: the catalogue.

        Raises:
            InputError: the file cannot be read, is damaged, or has other tracks than the catalogue.
        """
        try:
            with ZipFile(path) as members:
                size = sum(member.file_size for member in members.infolist())
            if size > (most := 8 * len(catalog) * (_MAX_WIDTH + 1) + 2**24):
                raise _damaged(str(path), f"it has {size} bytes, more than the {most} that {len(catalog)} tracks need")
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("track_ids", *_KINDS) if name in file}
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        except _UNREADABLE as error:
            if isinstance(error, InputError):
                raise
            raise _damaged(str(path), str(error)) from None
        ids = arrays.pop("track_ids", np.empty(0, np.int64))
        vectors = cls.of_arrays(arrays, num_tracks=len(catalog), where=str(path))
        if ids.dtype != np.int64 or not np.array_equal(np.sort(ids), np.sort(catalog.track_ids)):
            raise InputError(
                f"{path} has vectors of other tracks than the catalogue of {len(catalog)} tracks; use the vectors and "
                "the catalogue of one run"
            )
        for name in ("queries", "items"):
            if not np.isfinite(arrays[name]).all():
                raise _damaged(str(path), f"{name} must be finite")
        if np.array_equal(ids, catalog.track_ids):
            return vectors
        order = np.argsort(ids)
        return vectors.in_order(order[np.searchsorted(ids[order], catalog.track_ids)])


def _damaged(where: str, problem: str) -> InputError:
    return InputError(f"{where} is damaged: {problem}; train again, or load the release again")


@cache
def import_faiss() -> Any | None:
    """faiss, which reads the vectors of scattered rows without a copy; None on other systems than Linux.

    On macOS a process that has the OpenMP of faiss and that of torch is known to crash.
    """
    if sys.platform != "linux":
        return None
    import faiss

    return faiss


def union(lists: Int32[np.ndarray, "N K"], recent: Int64[np.ndarray, "S n"]) -> Int32[np.ndarray, "S C"]:
    """The lists of the last tracks, one after another.

    Args:
        lists: rows of the list of each track; -1 fills up.
        recent: rows of the last tracks of each session, newest first; -1 for none.

    Returns:
        Rows of the candidates; -1 for none.
    """
    found = lists.take(recent, axis=0, mode="clip")
    found[recent < 0] = -1
    return found.reshape(len(recent), recent.shape[1] * lists.shape[1])


def num_kept(*, pick: str, artist_gap: int, exploration: float, num_lists: int, length: int) -> int:
    """How many of the candidates a picking needs.

    Where the best one is always picked it suffices; among artists that are kept apart the best may be any of them.
    Otherwise they are as many as a list has.

    Args:
        pick: `uniform`, `ranked` or `weighted`.
        artist_gap: artists of this many last tracks are skipped.
        exploration: share of the picks that are among new tracks.
        num_lists: number of last tracks whose lists are searched.
        length: number of tracks of a list.
    """
    if pick != "ranked" or exploration:
        return length
    return num_lists * length if artist_gap else 1


def context_of(where: str, given: object, lists: Path) -> str:
    """Decide whether lists are served with the session: as the setting says, otherwise as their run was trained.

    Args:
        where: the setting that names the lists.
        given: `last`, `session`, or None.
        lists: a `recommendations.jsonl`; the vectors of its run are beside it.

    Returns:
        One of `CONTEXTS`.

    Raises:
        InputError: `given` is none of them, or the run has no vectors of sessions.
    """
    if given is not None and given not in CONTEXTS:
        raise InputError(f"{where}: context must be one of {', '.join(CONTEXTS)}, got {given!r}")
    path = lists.with_name(FILE)
    if given == "last" or (given is None and not path.is_file()):
        return "last"
    remedy = "train a run with context=session, or leave context= out"
    if not path.is_file():
        raise InputError(f"{where}: context=session needs {FILE} beside {lists}, and there is none; {remedy}")
    try:
        with np.load(path, allow_pickle=False) as file:
            trained = str(file["context"])
    except _UNREADABLE as error:
        raise _damaged(str(path), str(error)) from None
    if given == "session" and trained != given:
        raise InputError(f"{where}: context=session, and the run of {lists} was trained with context=last; {remedy}")
    return trained if trained in CONTEXTS else "last"


def _are_in(rows: Int32[np.ndarray, "S C"], others: Int32[np.ndarray, "S H"]) -> Bool[np.ndarray, "S C"]:
    return np.asarray(np.logical_or.reduce(rows[:, None] == others[:, :, None], axis=1))


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


def _first_of(scores: Float32[np.ndarray, "S C"], rows: Int32[np.ndarray, "S C"]) -> Int32[np.ndarray, "S 1"]:
    """The row with the largest score, of equal ones the first one; -1 where all are −∞."""
    flat = scores.argmax(1) + np.arange(0, scores.size, scores.shape[1])
    first = rows.ravel().take(flat)
    np.putmask(first, scores.ravel().take(flat) == -np.inf, -1)
    return np.asarray(first[:, None])


def _largest(
    scores: Float32[np.ndarray, "S C"], places: Int[np.ndarray, "S C"], rows: Int32[np.ndarray, "S C"], k: int
) -> Int32[np.ndarray, "S K"]:
    """The rows with the largest scores, largest first; of equal ones the first place first; -1 for −∞.

    Args:
        scores: in any order.
        places: place of the row of each score.
        rows: in the order of places.
        k: how many are kept (K).
    """
    bits, _ = _places(scores.shape[1], np.int32)
    whole = (np.float32(0) - scores).view(np.int32)  # without −0; as integers, positive numbers have the same order
    whole ^= (whole >> 31) & np.int32(0x7FFFFFFF)  # and now negative ones too
    keys = whole.astype(np.int64)
    keys <<= bits
    keys |= places
    keys.sort(axis=1)
    keys = keys[:, :k]
    largest = rows.ravel().take((keys & ((1 << bits) - 1)) + np.arange(0, rows.size, rows.shape[1])[:, None])
    np.putmask(largest, keys >= _INFINITY << bits, -1)
    return largest


def parts_of(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Numbers of each part by its name, rounded for people.

    Args:
        names: of the parts.
        values: one for each.
    """
    return {name: round(float(value), 6) for name, value in zip(names, values, strict=True)}
