"""The `LightningModule` of every head: a scorer, a loss and an optimizer, and the regression metrics of Q queries."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segue.catalog import Vocabulary
from segue.errors import InputError, build
from segue.histories import Histories
from segue.models.after_training import fit_around
from segue.models.contracts import Context, Loss, PairBatch, Rated, Scorer
from segue.models.counted import Counted
from segue.models.head_ranker import HeadRanker
from segue.models.listener_part import ListenerPart
from segue.models.row_adam import parameter_groups


class PairRanker(HeadRanker, LightningModule):
    """Learns to score pairs of tracks. What is around the head is fitted after an epoch, by `after_training.py`.

    Logs `train/loss`, `val/loss`, what the parts report, such as `alpha`, and, where shares are known, MSE and MAE of
    the predicted share; in test with those of a floor, the training mean.

    Args:
        vocabulary: the catalogue and what the training pairs show of it.
        scorer: factory; takes the vocabulary, as do those of loss, counted and listener.
        loss: factory.
        counted: factory, or None for none.
        listener: factory, or None for none.
        context: factory; takes the vocabulary, and names of the parts of a query vector with their columns together.
        optimizer: factory; takes parameter groups. Weight decay applies to embeddings only.
        scheduler: factory or None; takes the optimizer. It is stepped after each epoch.
        monitor: name of the metric that a scheduler such as `ReduceLROnPlateau` reads.

    Raises:
        InputError: one of them refuses its settings, or does not go with the others.
    """

    def __init__(
        self,
        *,
        vocabulary: Vocabulary,
        scorer: Callable[[Vocabulary], Scorer],
        loss: Callable[[Vocabulary], Loss],
        context: Callable[..., Context],
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None,
        monitor: str,
        counted: Callable[[Vocabulary], Counted] | None = None,
        listener: Callable[[Vocabulary], ListenerPart] | None = None,
    ) -> None:
        super().__init__()
        self.scorer: Scorer = build("model", scorer, vocabulary)
        self.loss: Loss = build("loss", loss, vocabulary)
        if not isinstance(self.scorer, Scorer):
            raise InputError(
                "this recipe trains query and item vectors, which baselines and mixtures do not have; leave out "
                "recipe= and experiment=, since model= names the recipe that fits"
            )
        if self.loss.first_scores is not None and (biases := getattr(self.scorer, "item_bias", None)) is not None:
            biases.begin_with(self.loss.first_scores)
        self.temperature, parts = self.loss.temperature, self.scorer.query_parts()
        given = list(parts), max(part.columns.stop for part in parts.values())
        self.context = build("context", lambda words: context(words, *given, learns=True), vocabulary)
        if self.temperature is None:
            self.context.repeats.asked = None  # scores are no logarithms of probabilities
            if counted is not None:
                raise InputError("counted= adds to logarithms of probabilities; use loss=softmax, or counted=none")
        elif monitor in ("val/mse", "val/mae"):
            raise InputError(f"monitor.metric={monitor} cannot be computed with loss=softmax; use monitor=ndcg")
        self.counts = None if counted is None else build("counted", counted, vocabulary)
        self.listener = None if listener is None else build("listener", listener, vocabulary)
        self._factories, self._monitor = (optimizer, scheduler), monitor
        self._evaluated: list[tuple[Tensor, Tensor, Tensor]] = []
        self._mean_played_ratio, self.order = vocabulary.mean_played_ratio, vocabulary.popularity
        self.configure_optimizers()  # a wrong setting is reported now and not after the run has begun

    def training_step(self, batch: PairBatch, _: int) -> Tensor:
        """Compute the loss of a batch."""
        loss: Tensor = self.loss(self.scorer, batch, self.context.of_loss)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch.previous))
        return loss

    def validation_step(self, batch: PairBatch, _: int, stage: str = "val") -> None:
        """Log the loss of a batch and keep the scores whose shares are known."""
        context = self.context.of_loss
        self.log(f"{stage}/loss", self.loss(self.scorer, batch, context), batch_size=len(batch.previous))
        rated = PairBatch(*(column[~batch.played_ratio.isnan()] for column in batch))
        self._evaluated.append((context.score(self.scorer, rated), rated.played_ratio, rated.listener))

    def test_step(self, batch: PairBatch, nth: int) -> None:
        """The same for `test`."""
        self.validation_step(batch, nth, "test")

    def on_validation_epoch_end(self, stage: str = "val") -> None:
        """Log regression metrics, where the loss predicts shares, and the numbers of the parts.

        Raises:
            InputError: training has diverged. Such weights are not saved in a checkpoint.
        """
        if not all(parameter.isfinite().all() for parameter in self.parameters()):
            raise InputError(
                f"training diverged: weights are not finite in epoch {self.current_epoch + 1}; lower optimizer.lr"
            )
        score, share, listener = (torch.cat(column) for column in zip(*self._evaluated, strict=True))
        self._evaluated.clear()
        predicted = self.loss.predict(score, listener)
        if self._mean_played_ratio is not None and len(share) and not predicted.isnan().all():
            errors = {"": predicted - share}
            if stage == "test":
                errors["_mean_floor"] = self._mean_played_ratio - share
            for name, error in errors.items():
                means = {
                    f"{stage}/mse{name}": (error**2).double().mean(),
                    f"{stage}/mae{name}": error.abs().double().mean(),
                }
                self.log_dict(means)
        values = {name: one for of in (self.scorer, self.context, *self.parts) for name, one in of.logged().items()}
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})

    def on_test_epoch_end(self) -> None:
        """The same for `test`."""
        self.on_validation_epoch_end("test")

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the scheduler."""
        optimizer = build("optimizer", self._factories[0], parameter_groups(self))
        for group in optimizer.param_groups:
            group["lr"] *= group.get("rate", 1.0)
        self._is_sparse = getattr(optimizer, "uses_sparse_gradients", False)  # it updates single rows of tables
        for module in self.modules():
            if isinstance(module, torch.nn.Embedding):
                module.sparse = self._is_sparse
        if (scheduler := self._factories[1]) is None:
            return optimizer
        own = {"scheduler": build("scheduler", scheduler, optimizer), "monitor": self._monitor}
        return {"optimizer": optimizer, "lr_scheduler": own}

    def on_fit_start(self) -> None:
        """Refuse gradient clipping where gradients are sparse."""
        if self.trainer.gradient_clip_val is not None and self._is_sparse:
            raise InputError("trainer.gradient_clip_val needs dense gradients; use optimizer=adam with it")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what decides between equal scores, and what validation decided."""
        checkpoint |= {"popularity": torch.from_numpy(np.asarray(self.order)), **self.decided()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what validation decided."""
        self.decide(checkpoint)

    @torch.inference_mode()
    def fit_to(self, histories: Histories, following: Int64[np.ndarray, "Q"], rated: Rated | None = None) -> None:
        """Fit the parts around the head to the weights of the epoch."""
        fit_around(self, histories, following, rated)
