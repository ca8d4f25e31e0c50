"""The `LightningModule`: a scorer, a loss and an optimizer, and the regression metrics.

B pairs in a batch, P pairs in a split, Q queries, K candidates.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.catalog import Vocabulary
from src.errors import InputError, build
from src.models.contracts import Loss, OnBlock, PairBatch, Scorer
from src.models.retrieval.approximate import approximate_top_k
from src.models.retrieval.exact import mean_ranks, top_k


class PairRanker(LightningModule):
    """Learns to score pairs of tracks.

    Logs `train/loss`, `val/loss` and, where shares are known, MSE and MAE of the predicted share; in `test/` these
    stand beside two floors, the training mean and a uniform random guess (its expectation, so nothing is drawn).
    What the scorer wants logged, such as `alpha`, is logged with them.

    Raises:
        InputError: scorer, loss, optimizer or scheduler refuse their settings.

    Args:
        vocabulary: the catalogue and what the training pairs show of it.
        scorer: makes the scorer from the vocabulary.
        loss: makes the loss from the vocabulary.
        optimizer: makes the optimizer from parameter groups. Weight decay is for embeddings alone.
        scheduler: makes the scheduler from the optimizer, or None; stepped after each epoch.
        monitor: the metric that a scheduler which watches one is given.
    """

    def __init__(
        self,
        *,
        vocabulary: Vocabulary,
        scorer: Callable[[Vocabulary], Scorer],
        loss: Callable[[Vocabulary], Loss],
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None,
        monitor: str,
    ) -> None:
        super().__init__()
        self.scorer: Scorer = build("model", scorer, vocabulary)
        if not isinstance(self.scorer, Scorer):
            raise InputError(
                f"model makes a {type(self.scorer).__name__}, which has no query and item vectors to train; a baseline "
                "names recipe=counting in its yaml, so leave out recipe= and experiment="
            )
        self.loss: Loss = build("loss", loss, vocabulary)
        self._optimizer, self._scheduler, self._monitor = optimizer, scheduler, monitor
        self._trained: list[tuple[Tensor, int]] = []
        self._evaluated: list[tuple[Tensor, Tensor, Tensor]] = []
        self._mean_played_ratio, self._plays = vocabulary.mean_played_ratio, vocabulary.plays
        self.configure_optimizers()  # what they refuse should be known now, not when a run has begun

    def on_fit_start(self) -> None:
        """Look at what only the trainer knows.

        Raises:
            InputError: gradients shall be clipped, which sparse ones cannot be.
        """
        if self.trainer.gradient_clip_val is not None and _wants_sparse(self.trainer.optimizers[0]):
            raise InputError(
                f"trainer.gradient_clip_val={self.trainer.gradient_clip_val} needs gradients of whole tables; "
                "use optimizer=adam with it"
            )

    def training_step(self, batch: PairBatch, _: int) -> Tensor:
        """Loss of a batch."""
        loss = self.loss(self.scorer, batch)
        self._trained.append((loss.detach(), len(batch[0])))  # Lightning's own mean costs as much as half a step
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        """Log the mean loss of the epoch after its last batch: at the end of the epoch callbacks come before models."""
        if not (self.trainer.is_last_batch or self.trainer.should_stop):
            return
        losses, sizes = zip(*self._trained, strict=True)
        self._trained.clear()
        weights = torch.tensor(sizes, dtype=torch.float64, device=losses[0].device)
        mean = torch.stack(losses).double() @ weights / weights.sum()
        self.log("train/loss", mean, on_step=False, on_epoch=True)

    def validation_step(self, batch: PairBatch, _: int) -> None:
        """Loss of a batch, and the scores whose shares are known."""
        self._evaluate("val", batch)

    def test_step(self, batch: PairBatch, _: int) -> None:
        """Loss of a batch, and the scores whose shares are known."""
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Regression metrics, and what the scorer wants logged; calibrates the loss.

        Raises:
            InputError: training has diverged; no checkpoint is made of such weights.
        """
        if not all(parameter.isfinite().all() for parameter in self.parameters()):
            raise InputError(
                f"training diverged: weights are not finite in epoch {self.current_epoch + 1}; lower optimizer.lr"
            )
        score, share, listener = self._known_pairs()
        self.loss.calibrate(score, share)
        self._log_regression("val", score, share, listener)
        self._log_scorer()

    def on_test_epoch_end(self) -> None:
        """Regression metrics beside their floors, and what the scorer wants logged, of the weights under test."""
        self._log_regression("test", *self._known_pairs())
        self._log_scorer()

    def ranks(
        self, previous: Int64[np.ndarray, "Q"], following: Int64[np.ndarray, "Q"], on_block: OnBlock
    ) -> Float64[np.ndarray, "Q"]:
        """Rank of each `following` among all candidates of its `previous`; see `retrieval.mean_ranks`."""
        return mean_ranks(
            queries=self.scorer.query_vectors(),
            items=self.scorer.item_vectors(),
            previous=torch.from_numpy(previous).to(self.device),
            following=torch.from_numpy(following).to(self.device),
            on_block=on_block,
        )

    def top(
        self, query_rows: Int64[np.ndarray, "Q"], k: int, on_block: OnBlock
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """The K best candidates of each query and their scores; see `retrieval.top_k`."""
        return top_k(
            queries=self.scorer.query_vectors(),
            items=self.scorer.item_vectors(),
            query_rows=torch.from_numpy(query_rows),
            k=k,
            plays=self._plays,
            on_block=on_block,
        )

    def approximate_top(
        self, query_rows: Int64[np.ndarray, "Q"], k: int, recall: float, on_block: OnBlock
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"], float]:
        """Nearly the K best candidates, and the share of the best that was found; see `approximate.py`."""
        return approximate_top_k(
            queries=self.scorer.query_vectors(),
            items=self.scorer.item_vectors(),
            query_rows=torch.from_numpy(query_rows),
            k=k,
            plays=self._plays,
            recall=recall,
            on_block=on_block,
        )

    def _evaluate(self, stage: str, batch: PairBatch) -> None:
        self.log(f"{stage}/loss", self.loss(self.scorer, batch), batch_size=len(batch.previous))
        known = ~batch.played_ratio.isnan()
        score = self.scorer(batch.previous[known], batch.following[known])
        self._evaluated.append((score, batch.played_ratio[known], batch.listener[known]))

    def _known_pairs(self) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"], Int64[Tensor, "P"]]:
        """Score, share and listener of all pairs with a known share that were evaluated since the last call."""
        scores, shares, listeners = zip(*self._evaluated, strict=True)
        self._evaluated.clear()
        return torch.cat(scores), torch.cat(shares), torch.cat(listeners)

    def _log_scorer(self) -> None:
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in self.scorer.logged().items()})

    def _log_regression(
        self, stage: str, score: Float[Tensor, "P"], share: Float[Tensor, "P"], listener: Int64[Tensor, "P"]
    ) -> None:
        if self._mean_played_ratio is None or not len(share):
            return
        error = self.loss.predict(score, listener) - share
        metrics = {"mse": error**2, "mae": error.abs()}
        if stage == "test":
            off_mean = share - self._mean_played_ratio
            metrics["mse_mean_floor"], metrics["mae_mean_floor"] = off_mean**2, off_mean.abs()
            # E(U−y)² and E|U−y| for U uniform on [0, 1]
            metrics["mse_random_floor"] = 1 / 3 - share + share**2
            metrics["mae_random_floor"] = (share**2 + (1 - share) ** 2) / 2
        self.log_dict({f"{stage}/{name}": value.double().mean() for name, value in metrics.items()})

    def configure_optimizers(self) -> Any:
        """Weight decay on the embeddings alone: it would pull alpha to ½, a scale to 1, and biases to 0."""
        embeddings = [module for module in self.modules() if isinstance(module, nn.Embedding)]
        tables = [embedding.weight for embedding in embeddings if getattr(embedding, "decays", True)]
        others = [p for p in self.parameters() if not any(p is table for table in tables)]
        groups: list[dict[str, Any]] = [{"params": tables}]
        if others:
            groups.append({"params": others, "weight_decay": 0.0})
        optimizer = build("optimizer", self._optimizer, groups)
        for embedding in embeddings:
            embedding.sparse = _wants_sparse(optimizer)
        if self._scheduler is None:
            return optimizer
        scheduler = build("scheduler", self._scheduler, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self._monitor}}


def _wants_sparse(optimizer: Any) -> bool:
    """Whether an optimizer moves single rows of a table, and so wants to know which have a gradient."""
    return bool(getattr(optimizer, "wants_sparse", False))
