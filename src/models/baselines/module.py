"""The `LightningModule` of every baseline: it counts once and ranks by the counts.

N tracks in the catalogue, B queries in a block.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from pytorch_lightning import LightningModule
from scipy.sparse import csr_array
from torch import Tensor
from torch.optim import Optimizer

from segue.catalog import Vocabulary
from segue.errors import InputError, build
from segue.histories import Histories
from segue.models.baselines.counting import Counter, of_artists
from segue.models.baselines.whole_sessions import SessionCounter
from segue.models.contracts import Context
from segue.models.ranker import Ranker, Scoring
from segue.models.repeats import boosted_shares, shares_of
from segue.models.retrieval.ranks import block_size, boost_heard, dense
from segue.models.retrieval.sparse import no_scores

PART = "track"
"""Name of the one part that a session weights: scores have no tracks and artists of their own."""


class OneStep(Ranker, LightningModule):
    """A model without gradients: it is ready before its only step."""

    scorer = loss = listener = None
    temperature: float | None = None

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Optimizer:
        """Build an optimizer of an unused number: Lightning saves no checkpoint of a model that has taken no step."""
        return torch.optim.SGD([torch.zeros(())], lr=0.0)

    def training_step(self, batch: Any, _: int) -> None:  # noqa: ARG002 - pairs are not needed
        """Take the one step that Lightning needs before it saves a checkpoint."""
        self.optimizers().step()  # type: ignore[union-attr]  # there is one

    def validation_step(self, batch: Any, _: int) -> None:
        """Do nothing: `callbacks/ranking_metrics.py` computes all metrics."""

    test_step = validation_step


class Baseline(OneStep):
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

    near_ties = False

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
        self.order = self._model.order

    def on_train_start(self) -> None:
        """Compute the scores, and fit the boosts of tracks already heard to sessions that were not counted for it."""
        listens, repeats = self._vocabulary.listens, self.context.repeats
        if repeats.asked is not None:
            self._counts = self._model.count(listens.where(np.arange(len(listens.track)) < repeats.asked.first_event))
            at_once = block_size(len(self._vocabulary.catalog))
            repeats.fit(
                lambda some: dense(shares_of(self._after(some))).clamp(min=0), unit=1.0, adds=True, at_once=at_once
            )
        self._counts = self._model.count(listens)

    def scoring(self, *, every: bool = False, alone: bool = False) -> Scoring:  # noqa: ARG002 - nothing is added
        """Prepare the scores: sparse lines, boosted, made dense."""
        repeats = self.context.repeats
        values, boosts = repeats.in_force(every=every), repeats.boosts(every=every)
        factor, added = np.expm1(values[0]), values[1]

        def score(histories: Histories) -> Float[Tensor, "B N"]:
            found = self._after(histories)
            if values.any():
                found = boosted_shares(found, *(repeats.added(histories, one, every=every) for one in (factor, added)))
            if not np.isinf(boosts).any():  # others are in the shares
                return dense(found)
            return boost_heard(dense(found), torch.from_numpy(histories.newest_rows(len(boosts))), boosts)

        return score

    def scoring_of_tracks(self) -> Scoring:
        """Prepare the scores after one track alone, as they were counted."""
        return lambda tracks: dense(self._after_track(tracks.previous))

    def shares(self, histories: Histories, *, every: bool = False, alone: bool = False) -> Float[Tensor, "Q N"]:
        """The scores, divided by their sum; tracks that come after all others have none.

        After a history without scores, such as those of a model that only has an order, they are those of the order.
        """
        scores = self.among_candidates(self.scores(histories, every=every, alone=alone), histories, None, every)
        found, is_out = scores.clamp(min=0), scores < 0
        found[~found.any(1)] = torch.from_numpy(self.order).to(found).clamp(min=0)
        found.masked_fill_(is_out, 0)
        return found / found.sum(1, keepdim=True).clamp(min=1e-12)

    def _after(self, histories: Histories) -> csr_array:
        """The scores of all tracks after each history, without the rule for tracks already heard."""
        model = self._model
        if self.context.is_last:
            return self._after_track(histories.previous)
        rows, shares = histories.newest(self.context.max_length)
        if isinstance(model, SessionCounter):
            return self._by_trend(model.scores(self._counts, rows, shares))
        line, age = (rows >= 0).nonzero()
        distinct, place = np.unique(rows[line, age], return_inverse=True)
        weight = self.context.weights(PART, torch.from_numpy(age), torch.from_numpy(shares[line, age])).numpy()
        weights = csr_array((weight, (line, place)), shape=(len(rows), len(distinct)))
        return self._by_trend(csr_array(weights @ shares_of(self._counted(distinct))))

    def _after_track(self, rows: Int64[np.ndarray, "B"]) -> csr_array:
        if not isinstance(self._model, SessionCounter):
            return self._by_trend(self._counted(rows))
        return self._by_trend(self._model.scores(self._counts, *Histories.of_tracks(rows).newest(1)))

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

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return what was counted for a checkpoint. It is not a buffer because its size is not known in advance."""
        parts = {"scores": self._counts.data, "columns": self._counts.indices, "starts": self._counts.indptr}
        parts |= {"order": self.order, "trend": self._model.trend}
        return {name: torch.from_numpy(part) for name, part in parts.items()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Restore what was counted from a checkpoint."""
        self.order, self._model.trend = (state[name].numpy(force=True) for name in ("order", "trend"))
        parts = tuple(state[name].numpy(force=True) for name in ("scores", "columns", "starts"))
        self._counts = csr_array(parts, shape=(len(parts[2]) - 1, self._counts.shape[1]))
