"""The `LightningModule` of every baseline: it counts once and ranks by the counts.

N tracks in the catalogue, B queries in a block.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pytorch_lightning import LightningModule
from scipy.sparse import csr_array
from torch import Tensor
from torch.optim import Optimizer

from segue.catalog import Vocabulary
from segue.errors import InputError, build
from segue.histories import Histories
from segue.models.baselines.counting import Counter
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
        self.order, self._trend = self._model.order, self._model.trend

    def on_train_start(self) -> None:
        """Compute the scores, and fit the boosts of tracks already heard to sessions that were not counted for it."""
        listens, repeats = self._vocabulary.listens, self.context.repeats
        if repeats.asked is not None:
            self._counts = self._model.count(listens.where(np.arange(len(listens.track)) < repeats.asked.first_event))
            at_once = block_size(len(self.order))
            repeats.fit(
                lambda some: dense(shares_of(self._after(some))).clamp(min=0), unit=1.0, adds=True, at_once=at_once
            )
        self._counts = self._model.count(listens)

    def scoring(self, *, every: bool = False, alone: bool = False) -> Scoring:  # noqa: ARG002 - nothing is added
        """Prepare the scores: sparse lines, boosted, made dense."""
        repeats = self.context.repeats
        values, boosts = repeats.in_force(every=every), repeats.boosts(every=every)
        factor, added = np.expm1(values[0]), values[1]
        never = boosts[np.isinf(boosts)]  # others are in the shares

        def score(histories: Histories) -> Float[Tensor, "B N"]:
            found = self._after(histories)
            if values.any():
                found = boosted_shares(found, *(repeats.added(histories, one, every=every) for one in (factor, added)))
            return boost_heard(dense(found), torch.from_numpy(histories.newest_rows(len(never))), never)

        return score

    def scoring_of_tracks(self) -> Scoring:
        """Prepare the scores after one track alone, as they were counted."""
        return lambda tracks: dense(self._after(tracks, alone=True))

    def shares(self, histories: Histories, *, every: bool = False, alone: bool = False) -> Float[Tensor, "Q N"]:  # noqa: ARG002
        """The scores, divided by their sum; tracks that come after all others have none.

        After a history without scores, such as those of a model that only has an order, they are those of the order.
        """
        scores = self.among_candidates(self.scoring(every=every)(histories), histories, None, every)
        found, is_out = scores.clamp(min=0), scores < 0
        found[~found.any(1)] = torch.from_numpy(self.order).to(found).clamp(min=0)
        found.masked_fill_(is_out, 0)
        return found / found.sum(1, keepdim=True).clamp(min=1e-12)

    def _after(self, histories: Histories, *, alone: bool = False) -> csr_array:
        """The scores of all tracks after each history, or its previous track alone, whatever was already heard."""
        alone = alone or self.context.is_last
        if alone:
            histories = Histories.of_tracks(histories.previous)
        rows, shares = histories.newest(1 if alone else self.context.max_length)
        scores = self._model.scores(self._counts, rows, shares, partial(self.context.weights, PART))
        scores.data *= self._trend[scores.indices]
        return scores

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return what was counted for a checkpoint. It is not a buffer because its size is not known in advance."""
        parts = {"scores": self._counts.data, "columns": self._counts.indices, "starts": self._counts.indptr}
        parts |= {"order": self.order, "trend": self._trend}
        return {name: torch.from_numpy(one) for name, one in parts.items()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Restore what was counted from a checkpoint."""
        given = {name: one.numpy(force=True) for name, one in state.items()}
        self.order, self._trend, starts = given["order"], given["trend"], given["starts"]
        shape = len(starts) - 1, self._counts.shape[1]
        self._counts = csr_array((given["scores"], given["columns"], starts), shape=shape)
