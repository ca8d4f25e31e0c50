"""The `LightningModule` of every head: a scorer, a loss and an optimizer, and the regression metrics.

B pairs in a batch, P pairs in a split, Q queries, K candidates of a list, V width of a query vector.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segue.catalog import Vocabulary
from segue.errors import InputError, build
from segue.histories import Histories
from segue.models.context.repeats import as_number
from segue.models.contracts import Context, Loss, OnBlock, PairBatch, Queries, Scorer
from segue.models.exchange import exchange_gradients, is_shared, part_of_loss
from segue.models.retrieval.approximate import approximate_lists
from segue.models.retrieval.exact import exact_lists, top_k
from segue.models.retrieval.lists import ListSearch, digest_of_arrays
from segue.models.retrieval.ranks import ranks_of_tracks, ranks_of_vectors


class PairRanker(LightningModule):
    """Learns to score pairs of tracks.

    Logs `train/loss`, `val/loss` and, where shares are known, MSE and MAE of the predicted share. The test metrics are
    logged with two floors: predicting the training mean, and a uniform random guess (as its exact expectation).
    Numbers that the scorer reports, such as `alpha`, are logged too.

    Args:
        vocabulary: the catalogue and what the training pairs show of it.
        scorer: factory of the scorer; takes the vocabulary.
        loss: factory of the loss; takes the vocabulary.
        context: factory of the context; takes the vocabulary and the names of the parts of a query vector.
        optimizer: factory of the optimizer; takes parameter groups. Weight decay applies to embeddings only.
        scheduler: factory of the scheduler, or None; takes the optimizer. It is stepped after each epoch.
        monitor: name of the metric that a scheduler such as `ReduceLROnPlateau` reads.

    Raises:
        InputError: the scorer, the loss, the optimizer or the scheduler refuses its settings.

    `bytes_sent` counts the bytes of gradients that this process has sent to each process that trains with it.
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
    ) -> None:
        super().__init__()
        self.scorer: Scorer = build("model", scorer, vocabulary)
        if not isinstance(self.scorer, Scorer):
            raise InputError(
                f"the model is a {type(self.scorer).__name__}, which has no query and item vectors to train; the yaml "
                "of a baseline names recipe=counting, therefore remove recipe= and experiment="
            )
        self.loss: Loss = build("loss", loss, vocabulary)
        self.context = _build_context(context, vocabulary, self.scorer)
        if not self.loss.compares_candidates:
            self.context.repeats.without_penalty()
        self._optimizer, self._scheduler, self._monitor = optimizer, scheduler, monitor
        self.bytes_sent = 0
        self._trained: list[tuple[Tensor, int]] = []
        self._evaluated: list[tuple[Tensor, Tensor, Tensor]] = []
        self._mean_played_ratio, self._plays = vocabulary.mean_played_ratio, vocabulary.plays
        self.configure_optimizers()  # a wrong setting is reported now and not after the run has begun

    def on_fit_start(self) -> None:
        """Check the settings of the trainer.

        Raises:
            InputError: gradient clipping is on and gradients are sparse.
        """
        if self.trainer.gradient_clip_val is not None and _uses_sparse_gradients(self.trainer.optimizers[0]):
            raise InputError(
                f"trainer.gradient_clip_val={self.trainer.gradient_clip_val} needs dense gradients, and this optimizer "
                "uses sparse ones; use optimizer=adam with it"
            )

    def training_step(self, batch: PairBatch, _: int) -> Tensor:
        """Compute the loss of a batch.

        Args:
            batch: the pairs; where several processes train together, those of this process, which may be none.

        Returns:
            The loss, or what this process adds to it.
        """
        num_pairs, context = len(batch.previous), self.context.of_loss
        if not is_shared():
            whole = loss = self.loss(self.scorer, batch, context)
        elif num_pairs:
            loss, weight = self.loss(self.scorer, batch, context), self.loss.weight(batch, context)
            loss, whole, num_pairs = part_of_loss(loss, weight, num_pairs)
        else:
            nothing = torch.zeros((), device=self.device, requires_grad=True)
            loss, whole, num_pairs = part_of_loss(nothing, nothing, 0)
        self._trained.append((whole.detach(), num_pairs))  # Lightning's own mean takes as long as half a step
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Sum the gradients of all processes that train together.

        Args:
            optimizer: whose parameters have gradients.
        """
        if is_shared():
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            self.bytes_sent += exchange_gradients(parameters)

    def on_train_batch_end(self, *_: object) -> None:
        """Log the mean loss of the epoch after its last batch, because callbacks run before `on_train_epoch_end`."""
        if not (self.trainer.is_last_batch or self.trainer.should_stop):
            return
        losses, sizes = zip(*self._trained, strict=True)
        self._trained.clear()
        device = losses[-1].device  # the first ones may be from a checkpoint
        weights = torch.tensor(sizes, dtype=torch.float64, device=device)
        mean = torch.stack([loss.to(device) for loss in losses]).double() @ weights / weights.sum()
        self.log("train/loss", mean, on_step=False, on_epoch=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the losses of the epoch so far, where it is not over.

        Args:
            checkpoint: gets `epoch_losses`: the loss and the number of pairs of each batch.
        """
        if self._trained and not self.trainer.is_last_batch:
            losses, sizes = zip(*self._trained, strict=True)
            checkpoint["epoch_losses"] = torch.stack(losses).cpu(), torch.tensor(sizes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them.

        Args:
            checkpoint: what was saved.
        """
        if "epoch_losses" in checkpoint:
            losses, sizes = checkpoint["epoch_losses"]
            self._trained = list(zip(losses.unbind(), sizes.tolist(), strict=True))

    def validation_step(self, batch: PairBatch, _: int) -> None:
        """Log the loss of a batch and keep the scores whose shares are known.

        Args:
            batch: the pairs.
        """
        self._evaluate("val", batch)

    def test_step(self, batch: PairBatch, _: int) -> None:
        """Log the loss of a batch and keep the scores whose shares are known.

        Args:
            batch: the pairs.
        """
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Calibrate the loss, then log regression metrics and the numbers of the scorer.

        Raises:
            InputError: training has diverged. Such weights are not saved in a checkpoint.
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
        """Log regression metrics with their floors, and the numbers of the scorer."""
        self._log_regression("test", *self._known_pairs())
        self._log_scorer()

    def ranks(
        self,
        histories: Histories,
        following: Int64[np.ndarray, "Q"],
        on_block: OnBlock,
        *,
        among: Bool[np.ndarray, "N"] | None = None,
    ) -> Float64[np.ndarray, "Q"]:
        """Rank the track that followed each history among all tracks except `histories.previous`.

        Args:
            histories: what was heard before.
            following: rows of the tracks that followed.
            on_block: reports progress.
            among: True for each track that is a candidate; None for all tracks.

        Returns:
            Rank of each `following`, at least 1; see `retrieval.ranks`.
        """
        penalty = self.context.repeats.penalty()
        if self.context.is_last and isinstance(penalty, float) and penalty == 0:
            return ranks_of_tracks(
                queries=self.scorer.query_vectors(),
                items=self.scorer.item_vectors(),
                previous=histories.previous,
                following=following,
                on_block=on_block,
                among=among,
            )
        return ranks_of_vectors(
            queries=lambda first, end: self._queries(histories.part(first, end)),
            items=self.scorer.item_vectors(),
            following=following,
            penalty=as_number(penalty),
            on_block=on_block,
            among=among,
        )

    def _queries(self, histories: Histories) -> Queries:
        """The query vectors of histories, one for each."""
        rows, shares = histories.newest(max(1, self.context.max_length))
        columns = histories.previous, rows, shares, histories.newest_rows(self.context.repeats.within)
        *tensors, of_rule = (torch.from_numpy(column).to(self.device) for column in columns)
        return self.context.queries(self.scorer, *tensors)._replace(heard=of_rule)

    def top(
        self, query_rows: Int64[np.ndarray, "Q"], k: int, on_block: OnBlock
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """Find the K best candidates of each query.

        Args:
            query_rows: rows of the queries.
            k: length of a list, 1 <= k < N.
            on_block: reports progress.

        Returns:
            Rows of the candidates, best first, and their scores; see `retrieval.exact.top_k`.
        """
        return top_k(
            queries=self.scorer.query_vectors(),
            items=self.scorer.item_vectors(),
            query_rows=torch.from_numpy(query_rows),
            k=k,
            plays=self._plays,
            on_block=on_block,
        )

    def lists(self, k: int, *, recall: float | None, plan: Mapping[str, np.ndarray] | None) -> ListSearch:
        """Prepare a search for the lists of all tracks.

        Args:
            k: length of a list, 1 <= k < N.
            recall: share of the exact lists to aim at, in (0, 1]; None for exact lists.
            plan: the cells of an approximate search; see `retrieval.approximate.approximate_lists`.

        Returns:
            The search.
        """
        queries, items = self.scorer.query_vectors(), self.scorer.item_vectors()
        rows = torch.arange(len(items))
        if recall is None:
            return exact_lists(queries=queries, items=items, query_rows=rows, k=k, plays=self._plays)
        return approximate_lists(
            queries=queries, items=items, query_rows=rows, k=k, plays=self._plays, recall=recall, plan=plan
        )

    def lists_digest(self) -> str:
        """Return a digest of the vectors and the plays.

        Returns:
            Hexadecimal digits.
        """
        tables = (self.scorer.query_vectors(), self.scorer.item_vectors())
        return digest_of_arrays(*(table.cpu().numpy() for table in tables), self._plays)

    def _evaluate(self, stage: str, batch: PairBatch) -> None:
        self.log(f"{stage}/loss", self.loss(self.scorer, batch, self.context.of_loss), batch_size=len(batch.previous))
        known = ~batch.played_ratio.isnan()
        rated = PairBatch(*(column[known] for column in batch))
        score = self.context.of_loss.score(self.scorer, rated)
        self._evaluated.append((score, rated.played_ratio, rated.listener))

    def _known_pairs(self) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"], Int64[Tensor, "P"]]:
        """Return score, share and listener of all pairs with a known share since the last call."""
        scores, shares, listeners = zip(*self._evaluated, strict=True)
        self._evaluated.clear()
        return torch.cat(scores), torch.cat(shares), torch.cat(listeners)

    def _log_scorer(self) -> None:
        values = {**self.scorer.logged(), **self.context.logged()}
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})

    def _log_regression(
        self, stage: str, score: Float[Tensor, "P"], share: Float[Tensor, "P"], listener: Int64[Tensor, "P"]
    ) -> None:
        if self._mean_played_ratio is None or not len(share):
            return

        def mean(values: Float[Tensor, "P"]) -> Float[Tensor, ""]:
            return values.double().mean()

        error = self.loss.predict(score, listener) - share
        metrics = {"mse": mean(error**2), "mae": mean(error.abs())}
        if stage == "test":
            off_mean = share - self._mean_played_ratio
            metrics["mse_mean_floor"], metrics["mae_mean_floor"] = mean(off_mean**2), mean(off_mean.abs())
            # E(U−y)² and E|U−y| for U uniform on [0, 1]
            metrics["mse_random_floor"] = mean(1 / 3 - share + share**2)
            metrics["mae_random_floor"] = mean((share**2 + (1 - share) ** 2) / 2)
        self.log_dict({f"{stage}/{name}": value for name, value in metrics.items()})

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the scheduler. Only embeddings have weight decay.

        Weight decay of the other parameters would move alpha to ½, a scale to 1 and biases to 0.

        Returns:
            The optimizer, or a dictionary with optimizer and scheduler, as Lightning expects.
        """
        embeddings = [module for module in self.modules() if isinstance(module, nn.Embedding)]
        tables = [embedding.weight for embedding in embeddings if getattr(embedding, "decays", True)]
        others = [p for p in self.parameters() if not any(p is table for table in tables)]
        groups: list[dict[str, Any]] = [{"params": tables}]
        if others:
            groups.append({"params": others, "weight_decay": 0.0})
        optimizer = build("optimizer", self._optimizer, groups)
        for embedding in embeddings:
            embedding.sparse = _uses_sparse_gradients(optimizer)
        if self._scheduler is None:
            return optimizer
        scheduler = build("scheduler", self._scheduler, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self._monitor}}


def _build_context(factory: Callable[..., Context], vocabulary: Vocabulary, scorer: Scorer) -> Context:
    parts = scorer.query_parts()
    context: Context = build("context", lambda words: factory(words, list(parts), learns=True), vocabulary)
    powers = [context.power(name) for name, part in parts.items() if part.length is None]
    if given := [power for power in powers if isinstance(power, float) and power > 0]:
        raise InputError(
            f"context.normalise={given[0]:g} divides a sum by the length that one track has, and with model.shrinkage "
            "above 0 or model=contextual tracks differ in length; use context.normalise=0"
        )
    return context


def _uses_sparse_gradients(optimizer: Any) -> bool:
    """Whether an optimizer updates single rows of a table and therefore needs sparse gradients."""
    return bool(getattr(optimizer, "uses_sparse_gradients", False))
