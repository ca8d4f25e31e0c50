"""The contracts: what a head, a context, a loss and a ranker must offer. They do not say how.

B pairs in a batch, N tracks in the catalogue, A artists, L listeners, V width of a query or item vector, Q queries,
K candidates of a list, H tracks of a history, P pairs. A *row* is a place 0..N-1 in the catalogue. `tests/contracts/`
holds one test suite for each contract. A new implementation is tested by adding its name there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64
from torch import Tensor, nn

from segue.histories import Histories
from segue.models.repeats import Repeats
from segue.models.retrieval.lists import ListSearch
from segue.runs.counted_part import CountedPart
from segue.runs.session_vectors import OrderPart, SessionVectors

if TYPE_CHECKING:
    from segue.models.listener_part import ListenerPart

OnBlock = Callable[[int], None]
"""Reports progress: called after each block of queries with the number of queries in that block."""
Among = Bool[np.ndarray, "N"] | None
"""True for each track that is a candidate; None for all tracks."""


class PairBatch(NamedTuple):
    """A batch of pairs of tracks.

    Attributes:
        previous: row of the previous track of each pair.
        following: row of the next track of each pair.
        played_ratio: share of `following` that was played, in [0, 1]; NaN where the source does not report it.
        listener: number of the listener, in 0..L-1.
        history: rows of the tracks heard before `following`, newest first; -1 where the session is shorter. It has no
            columns where the context needs none (`datamodule.history=0`).
        history_share: share of each of them that was played; NaN where unknown, and where there is no track.
    """

    previous: Int64[Tensor, "B"]
    following: Int64[Tensor, "B"]
    played_ratio: Float32[Tensor, "B"]
    listener: Int64[Tensor, "B"]
    history: Int64[Tensor, "B H"]
    history_share: Float32[Tensor, "B H"]

    @classmethod
    def without_history(
        cls,
        previous: Int64[Tensor, "B"],
        following: Int64[Tensor, "B"],
        played_ratio: Float[Tensor, "B"],
        listener: Int64[Tensor, "B"],
    ) -> "PairBatch":
        """Build a batch whose histories have no columns.

        Args:
            previous: row of the previous track of each pair.
            following: row of the next track of each pair.
            played_ratio: share of `following` that was played; NaN where unknown.
            listener: number of the listener.
        """
        no_rows, no_shares = previous.new_empty(len(previous), 0), played_ratio.new_empty(len(previous), 0)
        return cls(previous, following, played_ratio, listener, no_rows, no_shares)


class QueryPart(NamedTuple):
    """Neighbouring columns of a query vector that are summed over a session with weights of their own.

    Attributes:
        columns: which columns. The parts of a vector begin at its first column and follow one another.
        length: length of this part for a track that is known; None where tracks have different lengths.
        share: the query and the item vectors are multiplied by its square root in this part; None where they are not.
    """

    columns: slice
    length: Float[Tensor, ""] | float | None
    share: Float[Tensor, ""] | float | None


@runtime_checkable
class SparsePart(Protocol):
    """What is added to the scores of a head, for few of the tracks of each query."""

    def add(self, scores: Float[Tensor, "B N"], lines: Int64[Tensor, "B"]) -> None:
        """Add it to scores, in place.

        Args:
            scores: scores of all tracks, with the parts before this one.
            lines: which of the queries each line has.
        """


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
        vectors: the vectors; pairs with the same query may share one.
        of_pair: place of each pair's query among them.
        previous: row of the track that is never a candidate of a query.
        heard: rows of the tracks already heard, to which the rule of `context.repeats` applies; -1 where there is none.
        parts: what is added to the scores of the head, in this order.
    """

    vectors: Float[Tensor, "Q V"]
    of_pair: Int64[Tensor, "B"]
    previous: Int64[Tensor, "Q"]
    heard: Int64[Tensor, "Q H"]
    parts: Sequence[SparsePart] = ()


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
        return {"track": QueryPart(slice(0, self.query(self._rows()[:1]).shape[1]), None, None)}

    def query_vectors(self) -> Float[Tensor, "N V"]:
        """Compute the query vector of every track."""
        return self.query(self._rows())

    def item_vectors(self) -> Float[Tensor, "N V"]:
        """Compute the item vector of every track."""
        return self.item(self._rows())

    def artist_vectors(self) -> Float[Tensor, "A V"] | None:
        """Compute a vector for each artist.

        Returns:
            Artist vectors; None by default. The mean of an artist's track vectors is then used instead.
        """
        return None

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

    def power(self, part: str) -> Float[Tensor, ""] | float:  # noqa: ARG002 - no part is divided
        """Return the power of the length that a part of a query vector is divided by.

        Returns:
            The power, in [0, 1]; by default 0: it is not divided.
        """
        return 0.0

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
            Values by name; by default those of `repeats`.
        """
        return self.repeats.logged()


class Loss(nn.Module, ABC):
    """How the scores of a head are compared with what listeners did.

    Attributes:
        temperature: what divides the scores in a softmax over candidates; None where none are compared.
        first_scores: what an item bias begins with, as a score of each track; None for 0.
    """

    temperature: float | None
    first_scores: Float[Tensor, "N"] | None = None

    @abstractmethod
    def forward(self, scorer: Scorer, batch: PairBatch, context: Context) -> Float[Tensor, ""]:
        """Compute the loss of a batch.

        Args:
            scorer: the head.
            batch: the pairs; a loss reads the columns that it needs.
            context: which query vector a history gives.
        """

    @abstractmethod
    def predict(self, score: Float[Tensor, "B"], listener: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Predict the share played of each pair from its score.

        Args:
            score: score of each pair.
            listener: number of the listener, in 0..L-1.

        Returns:
            Predicted share played; NaN where the source does not report shares.
        """

    def calibrate(self, score: Float[Tensor, "B"], played_ratio: Float[Tensor, "B"]) -> None:
        """Fit on validation pairs what `predict` needs and training cannot give. Called once after each epoch.

        By default nothing.

        Args:
            score: score of each validation pair with a known share.
            played_ratio: share played of each of these pairs, in [0, 1].
        """


class RepeatsDecided:
    """What validation decides for a ranker that fits nothing to it: how tracks already heard are ranked.

    Attributes:
        context: has the rule.
    """

    context: Context

    def fit_to(self, histories: Histories, following: Int64[np.ndarray, "Q"], rated: Rated | None = None) -> None:
        """Fit nothing."""

    def describe(self) -> list[str]:
        """A line about tracks already heard, where `auto` chose."""
        line = self.context.repeats.describe()
        return [] if line is None else [line]

    def decided(self) -> dict[str, Any]:
        """How tracks already heard are ranked."""
        return self.context.repeats.decided()

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take how tracks already heard are ranked."""
        self.context.repeats.decide(decided)


@runtime_checkable
class Ranker(Protocol):
    """A model that ranks the catalogue: every trained head and every baseline. Callbacks use only this contract.

    Attributes:
        scorer: the trained head; None for a baseline, which has no vectors.
        loss: the loss that the head was trained with; None for a baseline.
        context: which query vector a history gives, and how tracks already heard are ranked.
        counted: what is counted and added to the scores of the head; None for a head alone, and for a baseline.
        listener: the part of the listener's own past; None without it.
        temperature: what divides scores in a softmax; None where they are no logarithms of probabilities.
    """

    if TYPE_CHECKING:
        scorer: Scorer | None
        loss: Loss | None
        context: Context

        temperature: float | None

        @property
        def counted(self) -> CountedPart | None:
            """What is counted."""

        @property
        def listener(self) -> "ListenerPart | None":
            """The part of the listener's own past."""

    def fit_to(self, histories: Histories, following: Int64[np.ndarray, "Q"], rated: Rated | None = None) -> None:
        """Fit to validation queries what the training sessions cannot give: how much the sparse parts weigh.

        Args:
            histories: what was heard before.
            following: rows of the tracks that followed.
            rated: validation pairs whose shares are known, for a loss of shares; None for none.
        """

    def shares(self, histories: Histories, *, every: bool = False, alone: bool = False) -> Float[Tensor, "Q N"]:
        """The probability of each track to follow each history, as the model ranks them.

        Args:
            histories: what was heard before.
            every: whether `histories.previous` is a candidate too; otherwise its probability is 0.
            alone: whether the counted part of a head is left out.

        Returns:
            The sum of a line is 1, or 0 where a model that counts has seen nothing.

        Raises:
            InputError: the scores of the model are no probabilities.
        """

    def session_vectors(self) -> SessionVectors | None:
        """The vectors of all tracks, with which a session can be the query; None for a model that has none.

        Raises:
            InputError: a vector is not finite.
        """

    def describe(self) -> Sequence[str]:
        """Lines about what was chosen, for people."""

    def decided(self) -> Mapping[str, Any]:
        """What validation decided: plain values by name."""

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take what validation decided for another model of the same recipe."""

    def ranks(
        self,
        histories: Histories,
        following: Int64[np.ndarray, "Q"],
        on_block: OnBlock,
        *,
        among: Among = None,
        every: bool = False,
    ) -> Float64[np.ndarray, "Q"]:
        """Rank the track that followed each history among all tracks except `histories.previous`.

        Args:
            histories: what was heard before. A model of one previous track uses `histories.previous` alone.
            following: rows of the tracks that followed.
            on_block: reports progress.
            among: True for each track that is a candidate, with all of `following`; None for all tracks.
            every: whether `histories.previous` is a candidate too, and may be the track that followed.

        Returns:
            Rank of each `following`, at least 1. Candidates that tie share the mean of the ranks they occupy.
        """

    def top(
        self, histories: Histories, k: int, *, among: Among = None
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """Find the K best candidates of each history: those with the ranks 1 to K.

        Args:
            histories: what was heard before, as in `ranks`.
            k: number of candidates, 1 <= k < N.
            among: True for each track that is a candidate; None for all tracks.

        Returns:
            Rows of the candidates, best first, and their scores. Of equal scores the track with more plays comes first.
            Row -1 and score NaN fill up, where there are fewer candidates.
        """

    def lists(self, k: int, rows: Int64[np.ndarray, "Q"] | None = None, *, recall: float | None = None) -> ListSearch:
        """Prepare a search for the K best candidates of tracks, or nearly those, faster. None is its own candidate.

        Args:
            k: length of a list, 1 <= k < N.
            rows: the tracks; None for all.
            recall: share of the exact lists to aim at, in (0, 1]; None for exact lists.

        Returns:
            The search. Its recall is None where the lists are exact, also because exact search is fast enough.
        """

    def lists_digest(self) -> str:
        """Return a digest of all that the lists depend on.

        Returns:
            Hexadecimal digits.
        """
