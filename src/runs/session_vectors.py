"""Session vectors: query and item vectors of a trained head, the numbers of its context, and their file.

H tracks of a history, N tracks in the catalogue, V width of a vector, P parts of a vector, L ages, F features. How a
session makes one query vector of them is in `picking/session_query.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from jaxtyping import Float32, Int, Int64

from segue.atomic import write_whole
from segue.catalog import MOST_ID_BYTES, Catalog, keys_of
from segue.errors import InputError
from segue.runs.catalog_files import UNREADABLE, packed, unpacked
from segue.runs.counted_part import CountedPart

FILE = "vectors.npz"
"""Name of the file that a training run writes beside its `recommendations.jsonl`."""
CONTEXTS = ("last", "session", "listener")
"""What a query is made of: the last track, the session so far, or the session and the listener's own past. Vectors of a
later one can be served as an earlier one."""
MAX_LENGTH = 1000
"""Largest number of tracks of a session that may count."""

OF_LISTENER = (
    *("heard", "plays", "share", "last_hour", "last_day", "last_week", "same_hour"),
    *("artist_plays", "artist_share", "artist_day"),
)
"""What the weights of the listener's past are of; see `picking/listener_scores.py`."""

MAX_WIDTH = 4096
"""Largest number of columns of vectors."""
MAX_PARTS = 16
"""Largest number of parts of a vector."""

_LISTENER, _ORDER, _COLUMNS = "listener_weights", "order", "order_columns"
# For each field its array in the file, with its kind and number of dimensions; the file has ids too.
_ARRAYS: dict[str, tuple[str, str, int]] = {
    "queries": ("queries", "float32", 2),
    "items": ("items", "float32", 2),
    "parts": ("part_names", "str", 1),
    "ends": ("part_ends", "int64", 1),
    "shares": ("part_shares", "float32", 1),
    "age_weights": ("age_weights", "float32", 2),
    "skipped": ("skipped", "float32", 0),
    "boosts": ("heard_boosts", "float32", 1),
    "artist_boosts": ("artist_boosts", "float32", 1),
    "context": ("context", "str", 0),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class OrderPart:
    """A network that reads the tracks of a session in their order; what it has read is added to the query vector.

    Args:
        network: an ONNX model; see `models/order.py`.
        first: the first column of a query vector that it reads and adds to.
        width: number of these columns (W).
    """

    network: bytes
    first: int
    width: int

    @property
    def columns(self) -> slice:
        """The columns of a query vector that it reads and adds to."""
        return slice(self.first, self.first + self.width)


@dataclass(frozen=True, eq=False, kw_only=True)
class SessionVectors:
    """The vectors of all tracks, and the numbers of the context.

    Args:
        queries: query vector of each track.
        items: item vector of each track, in C order. Scores are inner products.
        parts: name of each part, such as `track` and `artist`.
        ends: column after the last one of each part.
        shares: share of each part in the score, such as α and 1 − α; queries and items have its square root in them.
            NaN where the head has no such shares.
        age_weights: weight of each age, the newest track first (H of them).
        skipped: weight of a track of which nothing was played, relative to one played in full, in [-1, 1].
        boosts: added to the scores of tracks already heard, by age, the newest track first (L of them); −∞ means that
            they are never proposed. Tracks heard before them are like all others.
        artist_boosts: added to the scores of tracks that have none of these, by the age of their artist.
        context: one of `CONTEXTS`.
        counted: what most often follows each track, as a part of the scores; None for vectors alone.
        listener: weights of the features of the listener's own past (`picking/listener_scores.py`); None without it.
        orders: what reads the tracks in their order and is added to their sum; none for the sum alone.
    """

    queries: Float32[np.ndarray, "N V"]
    items: Float32[np.ndarray, "N V"]
    parts: tuple[str, ...]
    ends: Int64[np.ndarray, "P"]
    shares: Float32[np.ndarray, "P"]
    age_weights: Float32[np.ndarray, "P H"]
    skipped: float
    boosts: Float32[np.ndarray, "L"]
    artist_boosts: Float32[np.ndarray, "a"]
    context: str
    counted: CountedPart | None = None
    listener: Float32[np.ndarray, "F"] | None = None
    orders: tuple[OrderPart, ...] = ()

    @property
    def max_length(self) -> int:
        """Number of newest tracks that count in a query (H)."""
        return int(self.age_weights.shape[1])

    @property
    def num_newest(self) -> int:
        """Number of newest tracks that are looked at: by the query, or by the counted part."""
        return max(self.max_length, 0 if self.counted is None else len(self.counted.age_weights))

    def in_order(self, order: Int64[np.ndarray, "N"]) -> "SessionVectors":
        """The same vectors in another order of the tracks.

        Args:
            order: row of each track in the present order.
        """
        counted = None if self.counted is None else self.counted.in_order(order)
        return replace(self, queries=self.queries[order], items=self.items[order], counted=counted)

    def at_rows(self, rows: Int[np.ndarray, "N"], num_tracks: int) -> "SessionVectors":
        """The same vectors among more tracks, whose vectors add nothing to a query and have no product with one.

        Args:
            rows: row of each track among all.
            num_tracks: number of all tracks.
        """
        queries, items = np.zeros((2, num_tracks, self.items.shape[1]), np.float32)
        after = int(self.ends[-1])  # the constant of an item bias, which is the same for all tracks
        queries[:, after:] = self.queries[:1, after:]
        queries[rows], items[rows] = self.queries, self.items
        counted = None if self.counted is None else self.counted.at_rows(rows, num_tracks)
        return replace(self, queries=queries, items=items, counted=counted)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays by name, for `of_arrays`."""
        own = {name: np.asarray(getattr(self, field), kind) for field, (name, kind, _) in _ARRAYS.items()}
        if self.listener is not None:
            own[_LISTENER] = self.listener
        if self.counted is not None:
            own |= self.counted.arrays()
        for nth, part in enumerate(self.orders):
            own[f"{_ORDER}{nth}"] = np.frombuffer(part.network, np.uint8)
            own[f"{_COLUMNS}{nth}"] = np.array([part.first, part.width])
        return own

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
        values: dict[str, Any] = {}
        for field, (name, kind, dimensions) in _ARRAYS.items():
            array = arrays.get(name)
            if array is None or array.ndim != dimensions or not array.dtype.name.startswith(kind):
                found = "is missing" if array is None else f"is {array.dtype} with {array.ndim} dimensions"
                raise _damaged(where, f"{name} must be {kind} with {dimensions} dimensions, and {found}")
            values[field] = array if dimensions else array.item()
        num_parts, width = len(values["ends"]), values["queries"].shape[1]
        shapes = {"items": values["queries"].shape, "age_weights": (num_parts, values["age_weights"].shape[1])}
        shapes |= dict.fromkeys(("part_names", "part_shares"), (num_parts,))
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise _damaged(where, f"{name} must have the shape {shape}, and has {arrays[name].shape}")
        if len(values["queries"]) != num_tracks:
            raise InputError(
                f"{where} has vectors of {len(values['queries'])} tracks, and the catalogue has {num_tracks}; use the "
                "vectors and the catalogue of one run"
            )
        values["parts"] = tuple(values["parts"].tolist())
        made = cls(**{**values, "items": np.ascontiguousarray(values["items"])})  # as faiss needs it
        ends, ages = made.ends, made.age_weights
        is_right = {
            f"part_ends must increase up to at most {width}": 1 <= num_parts <= MAX_PARTS
            and (np.diff(ends, prepend=0) > 0).all()
            and ends[-1] <= width,
            f"vectors must be at most {MAX_WIDTH} wide": 1 <= width <= MAX_WIDTH,
            f"age_weights must be finite and of 1 to {MAX_LENGTH} ages": 1 <= made.max_length <= MAX_LENGTH
            and np.isfinite(ages).all(),
            "part_shares must be in [0, 1], or NaN": not ((made.shares < 0) | (made.shares > 1 + 1e-6)).any(),
            "skipped must be in [-1, 1]": -1 <= made.skipped <= 1,
            f"heard_boosts must be at most {MAX_LENGTH} numbers or -inf": len(made.boosts) <= MAX_LENGTH
            and (made.boosts < np.inf).all(),
            f"artist_boosts must be at most {MAX_LENGTH} finite numbers": len(made.artist_boosts) <= MAX_LENGTH
            and np.isfinite(made.artist_boosts).all(),
            f"context must be one of {', '.join(CONTEXTS)}": made.context in CONTEXTS,
        }
        if wrong := [rule for rule, holds in is_right.items() if not holds]:
            raise _damaged(where, wrong[0])
        try:
            counted = CountedPart.of_arrays(arrays, num_tracks=num_tracks, max_length=MAX_LENGTH)
            orders = _orders_of(arrays, width=int(ends[-1]))
        except ValueError as error:
            raise _damaged(where, str(error)) from None
        listener = arrays.get(_LISTENER)
        if (listener is None) != (made.context != "listener") or (
            listener is not None
            and not (
                listener.dtype == np.float32 and listener.shape == (len(OF_LISTENER),) and np.isfinite(listener).all()
            )
        ):
            rule = f"must be {len(OF_LISTENER)} finite float32 numbers where the context is listener"
            raise _damaged(where, f"{_LISTENER} {rule}")
        return replace(made, counted=counted, listener=listener, orders=orders)

    def write(self, path: Path, catalog: Catalog) -> None:
        """Write a file, which appears under its name only when it is complete.

        Args:
            path: the file; its name ends in `.npz`.
            catalog: the catalogue of the vectors.
        """
        arrays: dict[str, Any] = {**packed("track_ids", catalog.track_ids), **self.arrays()}
        write_whole(path, lambda partial: np.savez(partial, allow_pickle=False, **arrays))

    @classmethod
    def read(cls, path: Path, catalog: Catalog) -> "SessionVectors":
        """Read a file and check it against a catalogue. It may list the tracks in another order.

        Raises:
            InputError: the file cannot be read, is damaged, or has other tracks than the catalogue.
        """
        try:
            with ZipFile(path) as members:
                size = sum(member.file_size for member in members.infolist())
            if size > (most := len(catalog) * (8 * (MAX_WIDTH + 1) + MOST_ID_BYTES) + 2**24):
                raise _damaged(str(path), f"it has {size} bytes, more than the {most} that {len(catalog)} tracks need")
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        except UNREADABLE as error:
            raise _damaged(str(path), str(error)) from None
        try:
            keys = keys_of(unpacked("track_ids", arrays))
        except KeyError:
            raise _damaged(str(path), "it has no ids of tracks") from None
        except ValueError as error:
            raise _damaged(str(path), str(error)) from None
        vectors = cls.of_arrays(arrays, num_tracks=len(catalog), where=str(path))
        if not np.array_equal(np.sort(keys), np.sort(catalog.keys)):
            raise InputError(
                f"{path} has vectors of other tracks than the catalogue of {len(catalog)} tracks; use the vectors and "
                "the catalogue of one run"
            )
        for name in ("queries", "items"):
            if not np.isfinite(arrays[name]).all():
                raise _damaged(str(path), f"{name} must be finite")
        if np.array_equal(keys, catalog.keys):
            return vectors
        order = np.argsort(keys)
        return vectors.in_order(order[np.searchsorted(keys[order], catalog.keys)])


def _orders_of(arrays: Mapping[str, np.ndarray], *, width: int) -> tuple[OrderPart, ...]:
    """The encoders of a run.

    Raises:
        ValueError: an array has another type, shape or range.
    """
    found: list[OrderPart] = []
    while (network := arrays.get(f"{_ORDER}{len(found)}")) is not None:
        columns = arrays.get(f"{_COLUMNS}{len(found)}")
        if network.ndim != 1 or network.dtype != np.uint8 or columns is None or columns.shape != (2,):
            raise ValueError(f"{_ORDER}{len(found)} must be bytes, with two numbers that name its columns")
        part = OrderPart(network=network.tobytes(), first=int(columns[0]), width=int(columns[1]))
        if not 0 <= part.first < part.columns.stop <= width:
            raise ValueError(f"{_COLUMNS}{len(found)} must be among the {width} columns of a query")
        found.append(part)
    return tuple(found)


def _damaged(where: str, problem: str) -> InputError:
    return InputError(f"{where} is damaged: {problem}; train again, or load the release again")


def context_of(where: str, given: object, lists: Path) -> str:
    """Decide whether lists are served with the session: as the setting says, otherwise as their run was trained.

    Args:
        where: the setting that names the lists.
        given: one of `CONTEXTS`, or None.
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
    remedy = f"train a run with context={given}, or leave context= out"
    if not path.is_file():
        raise InputError(f"{where}: context={given} needs {FILE} beside {lists}, and there is none; {remedy}")
    try:
        with np.load(path, allow_pickle=False) as file:
            trained = str(file["context"])
    except UNREADABLE as error:
        raise _damaged(str(path), str(error)) from None
    trained = trained if trained in CONTEXTS else "last"
    if given is not None and CONTEXTS.index(given) > CONTEXTS.index(trained):
        raise InputError(
            f"{where}: context={given}, and the run of {lists} was trained with context={trained}; {remedy}"
        )
    return given or trained
