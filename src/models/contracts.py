"""The contracts: what a head, a loss, a ranker and a reader must offer, and nothing about how they do it.

B pairs in a batch, N tracks in the catalogue, A artists, V width of a query or item vector, Q queries, K candidates of
a list. A *row* is a place 0..N-1 in the catalogue. `tests/contracts/` holds one suite for each contract; a new
implementation is tested by adding its name there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64
from torch import Tensor

from src.catalog import Catalog

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

OnBlock = Callable[[int], None]
"""Called with the number of queries done, whenever some are."""


class PairBatch(NamedTuple):
    """Some pairs of tracks, a line each.

    Args:
        previous: row of the track before.
        following: row of the track after.
        played_ratio: share of `following` that was played, 0 to 1; NaN where the source does not report it.
        listener: who listened, 0..L-1.
    """

    previous: Int64[Tensor, "B"]
    following: Int64[Tensor, "B"]
    played_ratio: Float32[Tensor, "B"]
    listener: Int64[Tensor, "B"]


@runtime_checkable
class Scorer(Protocol):
    """A head: it gives each track a query vector and an item vector, and the score of a pair is their inner product.

    One matrix product then serves the loss, ranks, lists and any vector index. A scorer is an `nn.Module`; `heads.Head`
    is one to start from, which needs only `query` and `item`.
    """

    num_tracks: int
    """N."""

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Vectors of the tracks in `rows` in the first place of a pair."""
        ...

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Vectors of the tracks in `rows` in the second place of a pair."""
        ...

    def __call__(self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Score of each pair: `query(previous) · item(following)`."""
        ...

    def query_vectors(self) -> Float[Tensor, "N V"]:
        """Query vector of every track of the catalogue."""
        ...

    def item_vectors(self) -> Float[Tensor, "N V"]:
        """Item vector of every track of the catalogue."""
        ...

    def artist_vectors(self) -> Float[Tensor, "A V"] | None:
        """A vector for each artist; None where the head has none, and the mean of an artist's tracks has to do."""
        ...

    def logged(self) -> Mapping[str, float]:
        """Numbers of the head that are logged after each epoch, by name, such as `alpha`."""
        ...


@runtime_checkable
class Loss(Protocol):
    """How a head is judged by what was listened to. A loss is an `nn.Module`."""

    def __call__(self, scorer: Scorer, batch: PairBatch) -> Float[Tensor, ""]:
        """Loss of a batch; it takes from the batch what it needs."""
        ...

    def predict(self, score: Float[Tensor, "B"], listener: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Share of the track, 0 to 1, that each score predicts of a listener; NaN where nothing is known of shares."""
        ...

    def calibrate(self, score: Float[Tensor, "B"], played_ratio: Float[Tensor, "B"]) -> None:
        """Learn from validation pairs with a known share what `predict` needs and training cannot give.

        Called once after each epoch. Most losses need nothing.
        """
        ...


@runtime_checkable
class Ranker(Protocol):
    """Whatever ranks a catalogue: every trained head and every baseline. Callbacks know no other contract."""

    scorer: Scorer | None
    """The head that was trained; None of a baseline, which has no vectors."""
    loss: Loss | None
    """What it was trained with; None of a baseline."""

    def ranks(
        self, previous: Int64[np.ndarray, "Q"], following: Int64[np.ndarray, "Q"], on_block: OnBlock
    ) -> Float64[np.ndarray, "Q"]:
        """Rank of each `following` among all tracks but its `previous`, from 1; ties share the mean of their ranks."""
        ...

    def top(
        self, query_rows: Int64[np.ndarray, "Q"], k: int, on_block: OnBlock
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """The K best candidates of each query, best first, and their scores; a track is no candidate of its own."""
        ...

    def approximate_top(
        self, query_rows: Int64[np.ndarray, "Q"], k: int, recall: float, on_block: OnBlock
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"], float | None]:
        """Nearly the same, faster: aims at the share `recall` of the exact lists, and returns the share it found.

        None in its place means that the lists are exact, since nothing faster was needed.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SourceEvents:
    """What a source held: the catalogue, and the table `events` in `database`.

    `events` has the columns `user_id`, `timestamp` (ms, NULL without a clock), `position` (order of the lines), `track`
    (row of the catalogue), `played_ratio` (DOUBLE, 0 to 1, or NULL), `source_session` (NULL where the source does not
    cut sessions itself) and `is_last` (BOOLEAN: a session ends here). The others are BIGINT.
    """

    database: "DuckDBPyConnection"
    catalog: Catalog
    num_events: int
    num_lines: int
    num_rejected: int


@runtime_checkable
class Reader(Protocol):
    """Reads the files of one source."""

    def read(self, folder: Path, *, max_rejected: float, rejected_path: Path) -> SourceEvents:
        """Read the catalogue and the events.

        Args:
            folder: where the files are.
            max_rejected: share of lines that may be rejected, 0 to 1.
            rejected_path: where rejected lines are kept aside; written only if there are any.

        Raises:
            InputError: a file is missing, was cut off, holds nothing, or too many lines do not fit.
        """
        ...

    def is_in(self, folder: Path) -> bool:
        """Whether a folder has the files of this source; they are not read."""
        ...
