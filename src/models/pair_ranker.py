"""The `LightningModule` of every head: a scorer, a loss and an optimizer, and the regression metrics.

B pairs in a batch, P pairs, Q queries, H tracks heard, K candidates of a list, N tracks in the catalogue, A artists, V
width of a vector.
"""

from collections.abc import Callable, Iterator, Mapping
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
from segue.models.contracts import (
    Among,
    Context,
    Loss,
    OnBlock,
    PairBatch,
    Queries,
    Rated,
    RepeatsDecided,
    Scorer,
)
from segue.models.counted import MOST_QUERIES, AddedCounts, Counted, Query, added_counts, lists_of_head
from segue.models.export import session_vectors
from segue.models.listener_part import LISTENER, MOST_FITTED, Added, ListenerPart
from segue.models.repeats import MOST_AGES
from segue.models.retrieval.lists import ListSearch, digest_of_arrays
from segue.models.retrieval.nearest import Top, in_parts, to_units, top_of_scores
from segue.models.retrieval.ranks import add_parts, block_size, boost_heard, ndcg, ranks_of_tracks, ranks_of_vectors
from segue.runs.counted_part import CountedPart
from segue.runs.recommendations import SCORE_DECIMALS
from segue.runs.session_vectors import SessionVectors

_PAIRS_AT_ONCE = 65_536  # given pairs that are scored together


class RanksByVectors(RepeatsDecided):
    """How a head ranks: by the inner products of its vectors. Every `Ranker` with a head has these methods.

    Attributes:
        scorer: the head.
        context: which query vector a history gives.
    """

    scorer: Scorer
    _plays: Int64[np.ndarray, "N"]
    _counted_part: CountedPart | None = None
    temperature: float | None = None
    _listener: ListenerPart | None = None

    @property
    def counted(self) -> CountedPart | None:
        """What is counted and added to the scores of the head; None for the head alone."""
        return self._counted_part

    @property
    def listener(self) -> ListenerPart | None:
        """The part of the listener's own past; None without it."""
        return self._listener

    @property
    def _place(self) -> torch.device:
        return next(self.scorer.parameters()).device

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
        boosts, items = self.context.repeats.boosts(every=every), self.scorer.item_vectors()
        common: dict[str, Any] = {"items": items, "following": following, "on_block": on_block, "among": among}
        common["every"] = every
        is_plain = not (len(boosts) or self.context.repeats.by_artist)
        if self.context.is_last and is_plain and self.counted is None and self.listener is None:
            return ranks_of_tracks(queries=self.scorer.query_vectors(), previous=histories.previous, **common)
        return ranks_of_vectors(
            queries=lambda first, end: self._ranked(histories.part(first, end), every),
            boosts=boosts,
            **common,
        )

    def _ranked(self, histories: Histories, every: bool = False, alone: bool = False) -> Queries:
        """The same with all parts that are ranked with, those of artists too."""
        repeats = self.context.repeats
        found = self._queries(histories, len(repeats.boosts(every=every)), None if alone else self.counted)
        if not len(of_artists := repeats.artist_boosts()):
            return found
        values = np.append(np.zeros(MOST_AGES), of_artists)
        return found._replace(parts=[*found.parts, Added(repeats.added(histories, values, every=every))])

    def _queries(self, histories: Histories, num_ages: int, part: CountedPart | None) -> Queries:
        """The query vectors of histories, one for each, their newest tracks, and what is added to the scores."""
        rows, shares = histories.newest(max(1, self.context.max_length))
        columns = histories.previous, rows, shares, histories.newest_rows(num_ages)
        *tensors, of_rule = (torch.from_numpy(column).to(self._place) for column in columns)
        found = self.context.queries(self.scorer, *tensors)._replace(heard=of_rule)
        of_listener = None if self.listener is None else self.listener.part(histories)
        assert of_listener is None or len(found.vectors) == len(histories), "a past is that of one history"
        parts = [] if part is None else [self._counts_of(found, histories, part)]
        return found._replace(parts=[*parts, *([] if of_listener is None else [of_listener])])

    def _counts_of(self, found: Queries, histories: Histories, part: CountedPart) -> AddedCounts:
        if self.context.is_last:
            histories = Histories.of_tracks(found.previous.cpu().numpy())
        return added_counts(part, histories)

    def top(
        self, histories: Histories, k: int, *, among: Among = None
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """Find the K best candidates of each history; scores are rounded as in lists."""
        items, boosts = self.scorer.item_vectors(), self.context.repeats.boosts()

        def find(some: Histories) -> Top:
            queries = self._ranked(some)
            scores = add_parts(queries.vectors @ items.T, queries.parts)
            scores = to_units(scores).div_(10**SCORE_DECIMALS)
            return top_of_scores(
                scores[queries.of_pair],
                previous=queries.previous[queries.of_pair],
                heard=queries.heard[queries.of_pair],
                boosts=boosts,
                plays=self._plays,
                k=k,
                among=among,
            )

        return in_parts(histories, len(items), find)

    def shares(self, histories: Histories, *, every: bool = False, alone: bool = False) -> Float[Tensor, "Q N"]:
        """The softmax of the scores.

        Raises:
            InputError: the loss compares no candidates.
        """
        if self.temperature is None:
            raise InputError("the scores of a model of shares played are no probabilities; use loss=softmax")
        boosts = self.context.repeats.boosts(every=every)
        queries = self._ranked(histories, every, alone)
        scores = add_parts(queries.vectors @ self.scorer.item_vectors().T, queries.parts)
        scores, heard = scores[queries.of_pair].div_(self.temperature), queries.heard[queries.of_pair]
        if np.isfinite(boosts).all():
            boost_heard(scores, heard, boosts / np.float32(self.temperature))
        else:
            line, age = (heard >= 0).nonzero(as_tuple=True)
            scores[line, heard[line, age]] = -torch.inf
        if not every:
            scores[torch.arange(len(scores)), torch.from_numpy(histories.previous)] = -torch.inf
        return scores.softmax(1)

    def lists(self, k: int, rows: Int64[np.ndarray, "Q"] | None = None, *, recall: float | None = None) -> ListSearch:
        """Prepare a search for lists; see `retrieval.nearest`."""
        return lists_of_head(self.scorer, self.counted, self._plays, k, rows, recall=recall)

    def session_vectors(self) -> SessionVectors | None:
        """The vectors, and the numbers of the context.

        Raises:
            InputError: a vector is not finite.
        """
        return session_vectors(self.scorer, self.context, self.counted, self.listener)

    def lists_digest(self) -> str:
        """Return a digest of the vectors and the plays."""
        queries, items = self.scorer.query_vectors(), self.scorer.item_vectors()
        counted = () if self.counted is None else self.counted.arrays().values()
        return digest_of_arrays(queries.cpu().numpy(), items.cpu().numpy(), self._plays, *counted)


class PairRanker(RanksByVectors, LightningModule):
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
        counted: factory of the counted part, or None; takes the vocabulary.
        listener: factory of the listener's part, or None; takes the vocabulary.

    Raises:
        InputError: the scorer, the loss, the optimizer or the scheduler refuses its settings.
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
        if not isinstance(self.scorer, Scorer):
            raise InputError(
                "this recipe trains query and item vectors, which baselines and mixtures do not have; leave out "
                "recipe= and experiment=, since model= names the recipe that fits"
            )
        self.loss: Loss = build("loss", loss, vocabulary)
        if self.loss.first_scores is not None and (biases := getattr(self.scorer, "item_bias", None)) is not None:
            biases.begin_with(self.loss.first_scores)
        parts = self.scorer.query_parts()
        width = max(part.columns.stop for part in parts.values())
        self.context: Context = build(
            "context", lambda words: context(words, list(parts), width=width, learns=True), vocabulary
        )
        powers = [self.context.power(name) for name, part in parts.items() if part.length is None]
        if given := [power for power in powers if isinstance(power, float) and power > 0]:
            raise InputError(
                f"context.normalise={given[0]:g} divides a sum by the length that one track has, and with "
                "model.shrinkage above 0 or model=contextual tracks differ in length; use context.normalise=0"
            )
        if self.loss.temperature is None:
            self.context.repeats.asked = None  # scores are no logarithms of probabilities
            if counted is not None:
                raise InputError(
                    "counted= adds to logarithms of probabilities, and the scores of this loss are none; use "
                    "loss=softmax, or counted=none"
                )
        self.temperature = self.loss.temperature
        self._counts = None if counted is None else build("counted", counted, vocabulary)
        self._listener = None if listener is None else build("listener", listener, vocabulary)
        self._optimizer, self._scheduler, self._monitor = optimizer, scheduler, monitor
        self._trained: list[tuple[Tensor, int]] = []
        self._evaluated: list[tuple[Tensor, Tensor, Tensor]] = []
        self._mean_played_ratio, self._plays = vocabulary.mean_played_ratio, vocabulary.popularity
        self.configure_optimizers()  # a wrong setting is reported now and not after the run has begun

    def on_fit_start(self) -> None:
        """Check the settings of the trainer.

        Raises:
            InputError: gradient clipping is on and gradients are sparse.
        """
        is_sparse = getattr(self.trainer.optimizers[0], "uses_sparse_gradients", False)
        if self.trainer.gradient_clip_val is not None and is_sparse:
            raise InputError(
                f"trainer.gradient_clip_val={self.trainer.gradient_clip_val} needs dense gradients, and this optimizer "
                "uses sparse ones; use optimizer=adam with it"
            )

    def training_step(self, batch: PairBatch, _: int) -> Tensor:
        """Compute the loss of a batch."""
        loss: Tensor = self.loss(self.scorer, batch, self.context.of_loss)
        self._trained.append((loss.detach(), len(batch.previous)))  # Lightning's own mean takes as long as half a step
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        """Log the mean loss of the epoch after its last batch, because callbacks run before `on_train_epoch_end`."""
        if not (self.trainer.is_last_batch or self.trainer.should_stop):
            return
        losses, sizes = zip(*self._trained, strict=True)
        self._trained.clear()
        device = losses[-1].device  # the first ones may be from a checkpoint
        weights = torch.tensor(sizes, dtype=torch.float64, device=device)
        mean = torch.stack([loss.to(device) for loss in losses]).double() @ weights / weights.sum()
        self.log("train/loss", mean, on_step=False, on_epoch=True, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what decides between equal scores, and the losses of the epoch so far, where it is not over.

        Args:
            checkpoint: gets `popularity`, and `epoch_losses`: the loss and the number of pairs of each batch.
        """
        checkpoint["popularity"] = torch.from_numpy(self._plays)
        if self._trained and not self.trainer.is_last_batch:
            losses, sizes = zip(*self._trained, strict=True)
            checkpoint["epoch_losses"] = torch.stack(losses).cpu(), torch.tensor(sizes)
        if self._counts is not None:
            checkpoint |= self._counts.decided()
        if self._listener is not None:
            checkpoint[LISTENER] = self._listener.decided()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        self._take_fitted(checkpoint)
        if "epoch_losses" in checkpoint:
            losses, sizes = checkpoint["epoch_losses"]
            self._trained = list(zip(losses.unbind(), sizes.tolist(), strict=True))

    @property
    def counted(self) -> CountedPart | None:
        """What is counted and added to the scores of the head, once it is chosen."""
        if self._counts is None or self.loss.temperature is None:
            return None
        return self._counts.whole(self.loss.temperature)

    @torch.inference_mode()
    def fit_to(self, histories: Histories, following: Int64[np.ndarray, "Q"], rated: Rated | None = None) -> None:
        """Fit how much the sparse parts weigh, and leave each out where validation is not better with it."""
        if self._listener is not None:
            self._listener.decide(None)
        if self._counts is not None and self.loss.temperature is not None and len(following):
            self._choose_counts(self._counts, histories, following)
        if self._listener is None:
            return
        if self.loss.temperature is None:
            self._fit_listener_to_shares(self._listener, rated)
        elif len(following) and histories.timeline is not None:
            self._fit_listener_to_ranks(self._listener, histories, following)

    def _choose_counts(self, counts: Counted, histories: Histories, following: Int64[np.ndarray, "Q"]) -> None:
        assert self.loss.temperature is not None, "counts are added to logarithms of probabilities"
        places = np.arange(0, len(following), 1 + len(following) // MOST_QUERIES)
        scored = self._scored(histories, following, places, None, self.loss.temperature)
        counts.choose(scored, is_last=self.context.is_last)

    def _scored(
        self,
        histories: Histories,
        following: Int64[np.ndarray, "Q"],
        places: Int64[np.ndarray, "q"],
        part: CountedPart | None,
        unit: float,
    ) -> Iterator[Query]:
        """Some queries at a time, with what is counted; `unit` is that of the scores."""
        items = self.scorer.item_vectors()
        at_once = min(256, block_size(len(items)))
        for some in np.split(places, range(at_once, len(places), at_once)):
            own = histories.where(some)
            found = self._queries(own, 0, part)
            logits = add_parts(found.vectors @ items.T, found.parts)[found.of_pair] / unit
            logits.scatter_(1, found.previous[found.of_pair, None], -torch.inf)
            yield Query(logits, own, following[some])

    def _gain(self, histories: Histories, following: Int64[np.ndarray, "Q"]) -> float:
        return float(ndcg(self.ranks(histories, following, lambda _: None)).mean())

    def _fit_listener_to_ranks(
        self, listener: ListenerPart, histories: Histories, following: Int64[np.ndarray, "Q"]
    ) -> None:
        """Fit the weights by maximum likelihood, with the counted part in the scores."""
        part, unit = self.counted, self.loss.temperature
        assert unit is not None, "scores are logarithms of probabilities"
        chosen = np.arange(0, len(following), 1 + len(following) // MOST_FITTED)
        scored = self._scored(histories, following, chosen, part, unit)
        weights, ranked = np.float32(unit) * listener.fit_ranks(scored), (histories.where(chosen), following[chosen])
        without, listener.weights = self._gain(*ranked), weights
        listener.keep_if_better("ndcg@10", without, self._gain(*ranked), higher=True)

    def _fit_listener_to_shares(self, listener: ListenerPart, rated: Rated | None) -> None:
        """Fit the weights to pairs of artists that the session had not heard: of others less and less is played."""
        if rated is None or rated.histories.timeline is None:
            return
        is_other = listener.of_other_artists(rated.histories, rated.following)
        histories, following = rated.histories.where(np.flatnonzero(is_other)), rated.following[is_other]
        is_first, of = rated.listener[is_other] % 2 == 0, torch.from_numpy(rated.listener[is_other]).to(self._place)
        if is_first.all() or not is_first.any():
            return

        def predict(some: Bool[np.ndarray, "P"], scores: Float64[np.ndarray, "p"]) -> Float64[np.ndarray, "p"]:
            share = self.loss.predict(torch.from_numpy(scores).to(self._place), of[torch.from_numpy(some)])
            return np.asarray(share.double().cpu().numpy())

        scores = score_pairs(self.scorer, self.context, histories, following, self._place).double().cpu().numpy()
        features = listener.features(histories, following)
        listener.fit_shares(predict, scores, features, rated.played_ratio[is_other], is_first)

    def describe(self) -> list[str]:
        """Lines about tracks already heard, about the counted part and about the listener's."""
        lines = super().describe()
        if self._counts is not None:
            lines.append(self._counts.describe())
        return lines if self._listener is None else [*lines, self._listener.describe()]

    def decided(self) -> dict[str, Any]:
        """How tracks already heard are ranked, and how much the sparse parts weigh."""
        decided = super().decided()
        if self._counts is not None:
            decided |= self._counts.decided()
        if self._listener is not None:
            decided[LISTENER] = self._listener.decided()
        return decided

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take them from another model."""
        super().decide(decided)
        self._take_fitted(decided)

    def _take_fitted(self, given: Mapping[str, Any]) -> None:
        """Take how much the sparse parts weigh; nothing where validation was not better with them."""
        if self._counts is not None:
            self._counts.decide(given)
        if self._listener is not None:
            self._listener.decide(given.get(LISTENER))

    @torch.inference_mode()
    def on_validation_epoch_start(self) -> None:
        """Fit the boosts of tracks already heard to the weights of the epoch."""
        repeats, unit = self.context.repeats, self.loss.temperature
        if repeats.asked is None or unit is None:
            return
        items = self.scorer.item_vectors()
        counted = None if self._counts is None else self._counts.part(unit, repeats.asked.first_event)

        def shares_of(histories: Histories) -> Float[Tensor, "B N"]:
            queries = self._queries(histories, 0, counted)
            return (add_parts(queries.vectors @ items.T, queries.parts)[queries.of_pair] / unit).softmax(1)

        repeats.fit(shares_of, unit=unit, adds=False, at_once=block_size(len(items)))

    def validation_step(self, batch: PairBatch, _: int) -> None:
        """Log the loss of a batch and keep the scores whose shares are known."""
        self._evaluate("val", batch)

    def test_step(self, batch: PairBatch, _: int) -> None:
        """The same for `test`."""
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: PairBatch) -> None:
        context = self.context.of_loss
        self.log(f"{stage}/loss", self.loss(self.scorer, batch, context), batch_size=len(batch.previous))
        rated = PairBatch(*(column[~batch.played_ratio.isnan()] for column in batch))
        self._evaluated.append((context.score(self.scorer, rated), rated.played_ratio, rated.listener))

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

    def _known_pairs(self) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"], Int64[Tensor, "P"]]:
        """Return score, share and listener of all pairs with a known share since the last call."""
        scores, shares, listeners = zip(*self._evaluated, strict=True)
        self._evaluated.clear()
        return torch.cat(scores), torch.cat(shares), torch.cat(listeners)

    def _log_scorer(self) -> None:
        values = {**self.scorer.logged(), **self.context.logged()}
        values |= {} if self._counts is None else self._counts.logged()
        values |= {} if self._listener is None else self._listener.logged()
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})

    def _log_regression(
        self, stage: str, score: Float[Tensor, "P"], share: Float[Tensor, "P"], listener: Int64[Tensor, "P"]
    ) -> None:
        if self._mean_played_ratio is None or not len(share):
            return
        error, off_mean = self.loss.predict(score, listener) - share, share - self._mean_played_ratio
        errors = {"mse": error**2, "mae": error.abs()}
        if stage == "test":
            errors |= {"mse_mean_floor": off_mean**2, "mae_mean_floor": off_mean.abs()}
            # E(U−y)² and E|U−y| for U uniform on [0, 1]
            errors |= {
                "mse_random_floor": 1 / 3 - share + share**2,
                "mae_random_floor": (share**2 + (1 - share) ** 2) / 2,
            }
        self.log_dict({f"{stage}/{name}": values.double().mean() for name, values in errors.items()})

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the scheduler. Only embeddings have weight decay.

        Weight decay of the other parameters would move alpha to ½, a scale to 1 and biases to 0. A module with a `rate`
        has a learning rate of its own, relative to that of the others.
        """
        embeddings = [module for module in self.modules() if isinstance(module, nn.Embedding)]
        tables = [embedding.weight for embedding in embeddings if getattr(embedding, "decays", True)]
        with_rate = [module for module in self.modules() if hasattr(module, "rate")]
        apart = [*tables, *(parameter for module in with_rate for parameter in module.parameters())]
        others = [p for p in self.parameters() if not any(p is one for one in apart)]
        groups: list[dict[str, Any]] = [{"params": tables}]
        groups += [{"params": others, "weight_decay": 0.0}] if others else []
        groups += [{"params": [*one.parameters()], "weight_decay": 0.0, "rate": one.rate} for one in with_rate]
        optimizer = build("optimizer", self._optimizer, groups)
        for group in optimizer.param_groups:
            group["lr"] *= group.get("rate", 1.0)
        for embedding in embeddings:  # such an optimizer updates single rows of a table
            embedding.sparse = getattr(optimizer, "uses_sparse_gradients", False)
        if self._scheduler is None:
            return optimizer
        scheduler = build("scheduler", self._scheduler, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self._monitor}}


def score_pairs(
    scorer: Scorer, context: Context, histories: Histories, following: Int64[np.ndarray, "P"], device: torch.device
) -> Float32[Tensor, "P"]:
    """Score the track that followed each history.

    Args:
        scorer: the head.
        context: which query vector a history gives.
        histories: what was heard before.
        following: rows of the tracks.
        device: where the scorer is.
    """
    scores = []
    for start in range(0, len(following), _PAIRS_AT_ONCE):
        part, candidates = histories.part(start, start + _PAIRS_AT_ONCE), following[start : start + _PAIRS_AT_ONCE]
        rows, shares = part.newest(context.max_length)
        unknown, nobody = np.full(len(part), np.nan, np.float32), np.zeros(len(part), np.int64)
        columns = (part.previous, candidates, unknown, nobody, rows, shares)
        scores.append(context.score(scorer, PairBatch(*(torch.from_numpy(column).to(device) for column in columns))))
    return torch.cat(scores)


def mean_of_tracks(scorer: Scorer, artist_of: Int64[Tensor, "N"]) -> Float[Tensor, "A V"]:
    """The mean item vector of each artist's tracks, for a scorer that has no vectors of artists.

    Tracks that no training pair shows have the zero vector and do not count; zero where an artist has no others.
    """
    tracks = scorer.item_vectors()
    artist_of = artist_of.to(tracks.device)
    sums = tracks.new_zeros(int(artist_of.max()) + 1, tracks.shape[1]).index_add_(0, artist_of, tracks)
    counts = tracks.new_zeros(len(sums)).index_add_(0, artist_of, tracks.any(1).to(tracks.dtype))
    return sums / counts.clamp(min=1)[:, None]
