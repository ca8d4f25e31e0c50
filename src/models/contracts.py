"""The contracts: what a head, a context and a loss must offer; that of a ranker is `ranker.py`. They do not say how.

B pairs in a batch, N tracks in the catalogue, L listeners, V width of a query or item vector, Q queries,
H tracks of a history, P pairs. A *row* is a place 0..N-1 in the catalogue. `tests/contracts/`
holds one test suite for each contract, and finds an implementation by its file in `conf/`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor, nn

from segue.histories import Histories
from segue.models.repeats import Repeats
from segue.runs.session_vectors import OrderPart


class PairBatch(NamedTuple):
    """A batch of pairs of tracks.

    Attributes:
        previous: row of the previous track of each pair.
        following: row of the next track of each pair.
        played_ratio: share of `following` that was played, in [0, 1]; NaN where the source does not report it.
        listener: number of the listener, in 0..L-1.
        history: rows of the tracks heard before `following`, newest first; -1 where the session is shorter. It has no
            columns where the context needs none (`datamodule.history=0`).
        history_share: played ratio of each of them; NaN where unknown, and where there is no track.
    """

    previous: Int64[Tensor, "B"]
    following: Int64[Tensor, "B"]
    played_ratio: Float32[Tensor, "B"]
    listener: Int64[Tensor, "B"]
    history: Int64[Tensor, "B H"]
    history_share: Float32[Tensor, "B H"]

    @classmethod
    def without_history(cls, *columns: Tensor) -> "PairBatch":
        """Build a batch whose histories have no columns, from its first four columns."""
        return cls(*columns, *(column.new_empty(len(column), 0) for column in columns[1:3]))


class QueryPart(NamedTuple):
    """Neighbouring columns of a query vector that are summed over a session with weights of their own.

    Attributes:
        columns: which columns. The parts of a vector begin at its first column and follow one another.
        share: the query and the item vectors are multiplied by its square root in this part; None where they are not.
    """

    columns: slice
    share: Float[Tensor, ""] | float | None


class Rated(NamedTuple):
    """Pairs whose shares are known.

    Attributes:
        histories: what was heard before each.
        following: row of its next track.
        played_ratio: share of it that was played, in [0, 1].
        listener: number of the listener.
    """

    histories: Histories
    following: Int64[np.ndarray, "P"]
    played_ratio: Float32[np.ndarray, "P"]
    listener: Int64[np.ndarray, "P"]


class Queries(NamedTuple):
    """The query vectors of a batch.

    Attributes:
        vectors: the vectors; pairs without a history may share one. With histories they are in the order of the pairs.
        of_pair: place of each pair's query among them.
        previous: row of the track that is never a candidate of a query.
    """

    vectors: Float[Tensor, "Q V"]
    of_pair: Int64[Tensor, "B"]
    previous: Int64[Tensor, "Q"]


class Scorer(nn.Module, ABC):
    """A head: it gives each track a query vector and an item vector, and their inner product is the score of a pair.

    Because every score is an inner product, the loss, the ranks, the lists and any vector index need one matrix
    product. A subclass implements `query` and `item`, and the other methods follow from these two.

    Args:
        num_tracks: number of tracks in the catalogue (N).
    """

    def __init__(self, num_tracks: int) -> None:
        super().__init__()
        self.num_tracks = num_tracks

    @abstractmethod
    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Compute the vectors of tracks in the first place of a pair.

        Args:
            rows: rows of the tracks, in 0..N-1.
        """

    @abstractmethod
    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Compute the vectors of tracks in the second place of a pair.

        Args:
            rows: rows of the tracks, in 0..N-1.
        """

    def forward(self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Compute the score of each pair, `query(previous) · item(following)`. A head may override it to be faster.

        Args:
            previous: rows of the previous tracks.
            following: rows of the next tracks.

        Returns:
            One score for each pair, dimensionless.
        """
        return torch.as_tensor(torch.linalg.vecdot(self.query(previous), self.item(following)))

    def query_parts(self) -> Mapping[str, QueryPart]:
        """Name the parts of a query vector, such as tracks and artists; a session weights each by itself.

        A head with several tables, or with a constant column, overrides it.

        Returns:
            The parts in the order of their columns; by default the whole vector as one part, `track`. Columns after
            the last part are constant.
        """
        return {"track": QueryPart(slice(0, self.query(self._rows()[:1]).shape[1]), None)}

    def query_vectors(self) -> Float[Tensor, "N V"]:
        """Compute the query vector of every track."""
        return self.query(self._rows())

    def item_vectors(self) -> Float[Tensor, "N V"]:
        """Compute the item vector of every track."""
        return self.item(self._rows())

    def logged(self) -> Mapping[str, float]:
        """Report numbers of the head that are logged after each epoch, such as `alpha`.

        Returns:
            Values by name; none by default.
        """
        return {}

    def _rows(self) -> Int64[Tensor, "N"]:
        return torch.arange(self.num_tracks, device=next(self.parameters()).device)


class Context(nn.Module, ABC):
    """Which query vector a history gives.

    Attributes:
        is_last: whether one previous track is all that a query needs.
        max_length: number of newest tracks of a session that it looks at.
        repeats: how tracks already heard are ranked.
        of_loss: the context that the loss sees, in training and in validation: itself, or one previous track.
    """

    is_last: bool
    max_length: int
    repeats: Repeats

    @property
    def of_loss(self) -> "Context":
        """The context that the loss sees: by default itself."""
        return self

    @abstractmethod
    def queries(
        self, scorer: Scorer, previous: Int64[Tensor, "B"], history: Int64[Tensor, "B H"], share: Float[Tensor, "B H"]
    ) -> Queries:
        """Compute query vectors.

        Args:
            scorer: the head.
            previous: row of the previous track of each pair.
            history: rows of the tracks heard, newest first; -1 where a session is shorter.
            share: share of each that was played; NaN where unknown.

        Returns:
            The vectors, and what a query may not recommend.
        """

    @abstractmethod
    def weights(self, part: str, age: Int64[Tensor, "*E"], share: Float[Tensor, "*E"]) -> Float[Tensor, "*E"]:
        """Compute the weights of tracks of a history.

        Args:
            part: name of a part of the query vector.
            age: how many tracks each is back, 0 for the newest.
            share: share of each that was played; NaN where unknown.
        """

    def orders(self) -> tuple[OrderPart, ...]:
        """Return what reads the tracks of a session in their order.

        Returns:
            Its numbers, for a service; by default none: a query vector is a weighted sum.
        """
        return ()

    @abstractmethod
    def score(self, scorer: Scorer, batch: PairBatch) -> Float[Tensor, "B"]:
        """Compute the score of each pair."""

    def logged(self) -> Mapping[str, float]:
        """Report numbers that are logged after each epoch, such as the decay.

        Returns:
            Values by name; none by default.
        """
        return {}


class Loss(nn.Module, ABC):
    """How the scores of a head are compared with what listeners did.

    Attributes:
        temperature: what divides the scores in a softmax over candidates; None where none are compared: scores are then
            no logarithms of probabilities, nothing counted is added to them, and tracks heard are not boosted.
        first_scores: what an item bias begins with, as a score of each track; None for 0.
    """

    temperature: float | None = None
    first_scores: Float[Tensor, "N"] | None = None

    @abstractmethod
    def forward(self, scorer: Scorer, batch: PairBatch, context: Context) -> Float[Tensor, ""]:
        """Compute the loss of a batch.

        Args:
            scorer: the head.
            batch: the pairs; a loss reads the columns that it needs.
            context: which query vector a history gives.
        """

    def predict(self, score: Float[Tensor, "B"], listener: Int[Tensor, "B"]) -> Float[Tensor, "B"]:  # noqa: ARG002
        """Predict the share played of each pair from its score; by default unknown.

        Args:
            score: score of each pair.
            listener: number of the listener, in 0..L-1.

        Returns:
            Predicted share played; NaN where it is unknown, and where the source does not report shares.
        """
        return torch.full_like(score, torch.nan)
