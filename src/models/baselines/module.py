"""The `LightningModule` of every baseline: it counts once and ranks by the counts.

N tracks in the catalogue, Q queries, B queries in a block, H tracks heard.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from pytorch_lightning import LightningModule
from scipy.sparse import csr_array
from torch import Tensor
from torch.optim import Optimizer

from segue.catalog import Vocabulary
from segue.errors import InputError, build
from segue.histories import Histories
from segue.models.baselines.counting import Counter, of_artists
from segue.models.baselines.whole_sessions import SessionCounter
from segue.models.contracts import Among, Context, OnBlock, RepeatsDecided
from segue.models.repeats import boosted_shares, shares_of
from segue.models.retrieval.lists import ListSearch, digest_of_arrays
from segue.models.retrieval.nearest import in_parts, top_of_scores
from segue.models.retrieval.ranks import block_size, ranks_of_scores
from segue.models.retrieval.sparse import no_scores, sparse_lists
from segue.runs.counted_part import CountedPart
from segue.runs.session_vectors import SessionVectors

PART = "track"
"""Name of the one part that a session weights: scores have no tracks and artists of their own."""


class OneStep(LightningModule):
    """A model without gradients: it is ready before its only step."""

    scorer = loss = listener = temperature = None

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    @property
    def counted(self) -> CountedPart | None:
        """None: nothing is counted around a model that counts."""
        return None

    def session_vectors(self) -> SessionVectors | None:
        """None: what is counted has no vectors."""

    def configure_optimizers(self) -> Optimizer:
        """Build an optimizer of an unused number: Lightning saves no checkpoint of a model that has taken no step."""
        return torch.optim.SGD([torch.zeros(())], lr=0.0)

    def training_step(self, batch: Any, _: int) -> None:  # noqa: ARG002 - pairs are not needed
        """Take the one step that Lightning needs before it saves a checkpoint."""
        self.optimizers().step()  # type: ignore[union-attr]  # there is one

    def validation_step(self, batch: Any, _: int) -> None:
        """Do nothing: `callbacks/ranking_metrics.py` computes all metrics."""

    test_step = validation_step


class Baseline(RepeatsDecided, OneStep):
    """Reads the training sessions once. It has no loss, no gradients and no predicted share.

    Args:
        vocabulary: the catalogue and what the training data shows of it.
        model: factory of the model; takes the vocabulary.
        context: factory of the context; takes the vocabulary and the names of parts. With a session, the scores of its
            tracks, each divided by their sum, are added with the weights of the context.
        monitor: name of the metric that chooses the best epoch.

    Raises:
        InputError: the model refuses its settings, or `monitor` cannot be computed without a loss.
    """

    def __init__(
        self,
        *,
        vocabulary: Vocabulary,
        model: Callable[[Vocabulary], Counter],
        context: Callable[..., Context],
        monitor: str,
    ) -> None:
        super().__init__()
        self.context: Context = build("context", lambda v: context(v, [PART], learns=False), vocabulary)
        self._model = build("model", model, vocabulary)
        if not isinstance(self._model, Counter):
            raise InputError(
                "recipe=counting is for baselines, and this model counts nothing; leave it out, since model= or "
                "datamodule= names the recipe that fits"
            )
        if monitor in ("val/loss", "val/mse", "val/mae"):
            raise InputError(f"monitor.metric={monitor} cannot be computed: this model only ranks; use monitor=ndcg")
        self._vocabulary, self._counts = vocabulary, no_scores(len(vocabulary.catalog))

    def on_train_start(self) -> None:
        """Compute the scores, and fit the boosts of tracks already heard to sessions that were not counted for it."""
        listens, repeats = self._vocabulary.listens, self.context.repeats
        if repeats.asked is not None:
            self._counts = self._model.count(listens.where(np.arange(len(listens.track)) < repeats.asked.first_event))
            repeats.fit(self._dense_shares, unit=1.0, adds=True, at_once=block_size(len(self._vocabulary.catalog)))
        self._counts = self._model.count(listens)

    def _dense_shares(self, histories: Histories) -> Float[Tensor, "B N"]:
        return torch.from_numpy(shares_of(self._scores_of(histories)).toarray().astype(np.float32).clip(0))

    def ranks(
        self,
        histories: Histories,
        following: Int64[np.ndarray, "Q"],
        on_block: OnBlock,
        *,
        among: Among = None,
        every: bool = False,
    ) -> Float64[np.ndarray, "Q"]:
        """Rank the track that followed each history among all tracks except `histories.previous`."""
        num_last = self._num_last(every)
        return ranks_of_scores(
            scores=lambda first, end: self._boosted_scores_of(histories.part(first, end), every),
            plays=self._model.order,
            previous=None if every else histories.previous,
            following=following,
            heard=(lambda first, end: histories.part(first, end).newest_rows(num_last)) if num_last else None,
            on_block=on_block,
            among=among,
        )

    def top(
        self, histories: Histories, k: int, *, among: Among = None
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """Find the K best candidates of each history."""
        num_last = self._num_last()
        return in_parts(
            histories,
            len(self._model.order),
            lambda some: top_of_scores(
                torch.from_numpy(self._boosted_scores_of(some).toarray().astype(np.float32)),
                previous=torch.from_numpy(some.previous),
                heard=torch.from_numpy(some.newest_rows(num_last)),
                boosts=np.full(num_last, -np.inf, np.float32),
                plays=self._model.order,
                k=k,
                among=among,
            ),
        )

    def shares(
        self,
        histories: Histories,
        *,
        every: bool = False,
        alone: bool = False,  # noqa: ARG002 - no other part is added to them
    ) -> Float[Tensor, "Q N"]:
        """The scores, divided by their sum; tracks that come after all others have none.

        After a history without scores, such as those of a model that only has an order, they are those of the order.
        """
        found = self._boosted_scores_of(histories, every).toarray().astype(np.float32).clip(0)
        found[~found.any(1)] = self._model.order.clip(0)
        line, age = ((heard := histories.newest_rows(self._num_last(every))) >= 0).nonzero()
        found[line, heard[line, age]] = 0
        if not every:
            found[np.arange(len(found)), histories.previous] = 0
        return torch.from_numpy(found / np.maximum(found.sum(1, keepdims=True), np.float32(1e-12)))

    def lists(self, k: int, rows: Int64[np.ndarray, "Q"] | None = None, **_: object) -> ListSearch:
        """Prepare a search for lists. They are exact, because exact search is fast enough."""
        order = self._model.order
        return sparse_lists(
            scores=self._scores, plays=order, query_rows=np.arange(len(order)) if rows is None else rows, k=k
        )

    def lists_digest(self) -> str:
        """Return a digest of the scores and of the order of tracks without any."""
        counts = self._counts
        return digest_of_arrays(counts.data, counts.indices, counts.indptr, self._model.order)

    def _scores(self, rows: Int64[np.ndarray, "B"]) -> csr_array:
        if isinstance(self._model, SessionCounter):
            return self._scores_of(Histories.of_tracks(rows))
        return self._by_trend(self._counted(rows))

    def _by_trend(self, scores: csr_array) -> csr_array:
        scores.data *= self._model.trend[scores.indices]
        return scores

    def _counted(self, rows: Int64[np.ndarray, "B"]) -> csr_array:
        """The scores of all tracks after each one, whatever their trend."""
        scores = csr_array(self._counts[rows])
        if weight := self._model.artist_weight:
            places = np.ones(len(rows), np.float32), rows, np.arange(len(rows) + 1)
            artists = of_artists(csr_array(places, shape=scores.shape), self._vocabulary.catalog.artist_of)
            artists.sort_indices()  # sums of scores are then the same to the last digit
            scores = csr_array(scores + weight * artists)
        return scores

    def _num_last(self, every: bool = False) -> int:
        """How many of the newest tracks come after all others."""
        repeats = self.context.repeats
        return int(np.isinf(repeats.boosts(every=every)).sum())

    def _boosted_scores_of(self, histories: Histories, every: bool = False) -> csr_array:
        """The scores of all tracks for each history, by the rule for tracks already heard."""
        scores, repeats = self._scores_of(histories), self.context.repeats
        factor, added = repeats.in_force(every=every)
        if not (factor.any() or added.any()):
            return scores
        both = (repeats.added(histories, values, every=every) for values in (np.expm1(factor), added))
        return boosted_shares(scores, *both)

    def _scores_of(self, histories: Histories) -> csr_array:
        model = self._model
        if self.context.is_last:
            if not isinstance(model, SessionCounter):
                return self._scores(histories.previous)
            histories = Histories.of_tracks(histories.previous)
        rows, shares = histories.newest(1 if self.context.is_last else self.context.max_length)
        if isinstance(model, SessionCounter):
            return self._by_trend(model.scores(self._counts, rows, shares))
        line, age = (rows >= 0).nonzero()
        distinct, place = np.unique(rows[line, age], return_inverse=True)
        weight = self.context.weights(PART, torch.from_numpy(age), torch.from_numpy(shares[line, age])).numpy()
        weights = csr_array((weight, (line, place)), shape=(len(rows), len(distinct)))
        return self._by_trend(csr_array(weights @ shares_of(self._counted(distinct))))

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return what was counted for a checkpoint. It is not a buffer because its size is not known in advance."""
        model = self._model
        parts = {"scores": self._counts.data, "columns": self._counts.indices, "starts": self._counts.indptr}
        parts |= {"order": model.order, "trend": model.trend}
        return {name: torch.from_numpy(part) for name, part in parts.items()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Restore what was counted from a checkpoint."""
        self._model.order, self._model.trend = (state[name].numpy(force=True) for name in ("order", "trend"))
        parts = tuple(state[name].numpy(force=True) for name in ("scores", "columns", "starts"))
        self._counts = csr_array(parts, shape=(len(parts[2]) - 1, self._counts.shape[1]))
