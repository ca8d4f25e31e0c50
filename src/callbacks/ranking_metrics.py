"""Ranking metrics over the whole catalogue, the same for every model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from pytorch_lightning import Callback, LightningModule, Trainer

from segue.atomic import write_whole
from segue.callbacks.query_sample import places_of_queries, rated_pairs
from segue.callbacks.run_context import RunContext, ranker_of
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.pairs.pairs import Pairs
from segue.errors import InputError
from segue.models.ranker import Ranker
from segue.models.retrieval.ranks import ndcg, ranks_by_counts, ranks_by_plays
from segue.reports.progress import progress
from segue.runs.recommendations import check_k
from segue.settings import Setting, settings
from segue.statistics import ranking
from segue.statistics.direction import direction
from segue.statistics.online import VAL_TIME

_Ranks = Float64[np.ndarray, "Q"]
_Metrics = Callable[[_Ranks], Mapping[str, float]]
_NumVal = Annotated[int, Setting("most validation queries, the first in a seeded order", least=1)]
_NumTest = Annotated[int | None, Setting("most test queries, a sample of whole sessions; null ranks all", least=1)]


@settings("callbacks.ranking")
class RankingMetrics(Callback):
    """Logs accuracy metrics in validation, and in test also their floors, what lies beyond accuracy, and the metrics of
    every target.

    Where a model has boosts of tracks already heard besides its rule, validation chooses between them.

    Args:
        list_length: length of the lists that coverage, same artist and popularity are taken from.
        queries_path: where the test queries are written, a line each with its rank and every metric (Parquet).

    Raises:
        InputError: `list_length` is more than the catalogue can fill, or an argument is out of range.

    Attributes:
        queries: those that are ranked, for `val` and `test`.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        max_val_queries: _NumVal,
        max_test_queries: _NumTest,
        list_length: int,
        queries_path: str,
        seed: Annotated[int, Setting("decides which validation queries are taken")],
    ) -> None:
        self._data = data = context.datamodule
        check_k(list_length, len(data.catalog))
        self._list_length, self._max_test_queries = list_length, max_test_queries
        self._queries_path = Path(queries_path)
        val, test = (data.pairs[name].where(places_of_queries(data.pairs[name])) for name in ("val", "test"))
        if len(val) > max_val_queries:
            val = val.where(np.sort(np.random.default_rng(seed).permutation(len(val))[:max_val_queries]))
        self._num_all_queries = len(test)
        self.queries = {"val": val, "test": self._sampled(test)}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Fit what is fitted to validation queries."""
        queries, ranker = self.queries["val"], ranker_of(pl_module)
        rated = None if ranker.listener is None else rated_pairs(self._data)
        ranker.fit_to(self._data.histories(queries), queries.following, rated)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log `val/<metric>`."""
        if len(queries := self.queries["val"]):
            ranker = ranker_of(pl_module)
            ranks = self.chosen_ranks(ranker, queries)
            means = _means(ranking.accuracy(ranks)) | _means(self._by_newness(ranker, queries, ranks))
            pl_module.log_dict({f"val/{name}": mean for name, mean in means.items()}, batch_size=1)

    def chosen_ranks(self, ranker: Ranker, queries: Pairs) -> _Ranks:
        """Rank validation queries each way that tracks already heard could be ranked; the model takes the best."""
        return ranker.context.repeats.choose(lambda: self._ranks(ranker, queries, "val"), ndcg)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log `test/<metric>` with floors and intervals, and write the queries."""
        queries, means = self.queries["test"], {"num_all_queries": float(self._num_all_queries)}
        means |= {"num_queries": float(len(queries)), "num_sessions": float(len(np.unique(queries.session)))}
        if len(queries):
            found, per_query = self.measure(ranker_of(pl_module), "test")
            means |= found
            write_whole(self._queries_path, lambda partial: per_query.to_parquet(partial, index=False))
        pl_module.log_dict({f"test/{name}": mean for name, mean in means.items()}, batch_size=1)

    def measure(self, ranker: Ranker, label: str) -> tuple[dict[str, float], pd.DataFrame]:
        """Rank the queries of a split, `val` or `test`, and compute all metrics of the ranks.

        Returns:
            Means by name, with half the widths of their intervals and with floors; and a line for each query with its
            rank and metrics.
        """
        queries, ids = self.queries[label], self._data.catalog.track_ids
        ranks = self._ranks(ranker, queries, label)
        accuracy, by_newness = ranking.accuracy(ranks), self._by_newness(ranker, queries, ranks)
        beyond, covered = self._beyond_accuracy(ranker, queries)
        means = _means(accuracy) | _means(by_newness) | _means(beyond) | ranking.by_position(accuracy, queries.length)
        means |= ranking.half_widths(pd.concat([accuracy, by_newness], axis=1), queries.session)
        means[f"coverage_at_{self._list_length}"] = covered
        if not by_newness.empty:
            sizes = {group: by_newness[f"{group}_recall_at_10"].notna().sum() for group in ranking.NEWNESS}
            means |= {f"num_{group}_queries": float(size) for group, size in sizes.items()}
            means["num_new_tracks"] = float(self._data.new_tracks.sum())
        means |= self._floors(queries, lambda of: _means(ranking.accuracy(of)))
        means |= self._of_every_target(ranker, label)
        about = {"session": queries.session, "previous": ids[queries.previous], "following": ids[queries.following]}
        per_query = pd.DataFrame({**about, "position": queries.length, "rank": ranks})
        return means, pd.concat([per_query, accuracy, by_newness, beyond], axis=1)

    def _of_every_target(self, ranker: Ranker, label: str) -> dict[str, float]:
        """The metrics of every event after the first, of a sample of whole sessions as large as that of the queries."""
        targets = self._sampled(self._data.data.events_of(label))
        found = ranking.every_target(self._ranks(ranker, targets, "every target", every=True))
        means = _means(found) | ranking.half_widths(found, targets.session)
        means["num_every_target_queries"] = float(len(targets))
        return means | self._floors(targets, lambda of: _means(ranking.every_target(of)), every=True)

    def _floors(self, queries: Pairs, metrics: _Metrics, *, every: bool = False) -> dict[str, float]:
        """The metrics of two simple rules: by plays, and by counts of training pairs.

        Args:
            metrics: from ranks to means by name.
            every: whether the previous track is a candidate too.

        Returns:
            By `<name>_<rule>_floor`.
        """
        previous, following, plays = queries.previous, queries.following, self._data.vocabulary.plays
        ranks = {"popular": ranks_by_plays(plays, None if every else previous, following)}
        if len(train := self._data.pairs["train"]):
            pairs = train.previous, train.following
            ranks["counts"] = ranks_by_counts(pairs, len(plays), previous, following, every=every)
        return {f"{name}_{rule}_floor": mean for rule, of in ranks.items() for name, mean in metrics(of).items()}

    def _sampled(self, targets: Pairs) -> Pairs:
        if self._max_test_queries is None or not len(targets):
            return targets
        return targets.where(ranking.sample_sessions(targets.session, self._max_test_queries))

    def _ranks(self, ranker: Ranker, queries: Pairs, label: str, **how: Any) -> _Ranks:
        """Rank the queries; `how` is for `Ranker.ranks`."""
        histories = self._data.histories(queries)
        with torch.inference_mode(), progress(f"ranking {label} queries", len(queries)) as advance:
            return ranker.ranks(histories, queries.following, advance, **how)

    def _by_newness(self, ranker: Ranker, queries: Pairs, ranks: np.ndarray) -> pd.DataFrame:
        """The metrics of queries with and without new tracks; no columns where no query has a new track."""
        is_new = self._data.new_tracks
        previous_is_new, next_is_new = is_new[queries.previous], is_new[queries.following]
        if not (previous_is_new | next_is_new).any():
            return pd.DataFrame(index=range(len(queries)))
        among = self._ranks(ranker, queries.where(next_is_new), "new", among=is_new)
        return ranking.by_newness(ranks, among, previous_is_new=previous_is_new, next_is_new=next_is_new)

    def _beyond_accuracy(self, ranker: Ranker, queries: Pairs) -> tuple[pd.DataFrame, float]:
        catalog, num = self._data.catalog, self._list_length
        distinct, place = np.unique(queries.previous, return_inverse=True)
        with torch.inference_mode():
            lists, _ = ranker.lists(num, distinct).collect()
        same = ranking.same_artist(distinct, lists, catalog.artist_of)[place]
        popularity = ranking.popularity_rank(lists, self._data.vocabulary.plays)[place]
        per_query = pd.DataFrame({f"same_artist_at_{num}": same, f"popularity_rank_at_{num}": popularity})
        return per_query, ranking.coverage(lists, len(catalog))


def _means(per_query: pd.DataFrame) -> dict[str, float]:
    """The mean of each column that has a value."""
    return {str(name): float(mean) for name, mean in per_query.mean().dropna().items()}


def measured(
    ranker: Ranker, datamodule: PairDataModule, label: str, settings: Mapping[str, Any]
) -> tuple[dict[str, float], pd.DataFrame]:
    """The metrics that a run reports of a model.

    Args:
        label: `val` or `test`.
        settings: `callbacks.ranking` of the config.

    Returns:
        See `RankingMetrics.measure`; the means are rounded as Lightning does.

    Raises:
        InputError: the split has no queries.
    """
    given = {name: value for name, value in settings.items() if not name.startswith("_")}
    metrics = RankingMetrics(RunContext(datamodule=datamodule), **given)
    if not len(metrics.queries[label]):
        raise InputError(f"{datamodule.path} has no {label} queries: no pair has a share of {ranking.LIKED} or more")
    means, queries = metrics.measure(ranker, label)
    return {name: float(np.float32(value)) for name, value in means.items()}, queries


def check_monitor_mode(metric: str, mode: str) -> None:
    """Refuse a mode that would keep the worst epoch.

    Args:
        metric: name of the metric that chooses the best epoch.
        mode: `max` or `min`.

    Raises:
        InputError: the mode is neither `max` nor `min`, or it contradicts the direction of the metric.
    """
    better = direction(metric) or "max"
    if mode not in ("max", "min") or (mode != better and direction(metric)):
        raise InputError(f"monitor.mode={mode} would keep the worst epoch by {metric}; use monitor.mode={better}")


def check_monitor(monitor: str, datamodule: PairDataModule, *, is_ranked: bool, is_played: bool = False) -> None:
    """Refuse a metric that cannot choose the best epoch, before anything is trained.

    Args:
        is_ranked: whether `RankingMetrics` is among the callbacks.
        is_played: whether lists are played to simulated listeners.

    Raises:
        InputError: it is none that is known, or cannot be computed.
    """
    ranked, shares = "", ""
    if not is_ranked:
        ranked = "callbacks.ranking, which is left out"
    elif not len(places_of_queries(datamodule.pairs["val"])):
        ranked = f"a validation pair with a share of {ranking.LIKED} or more"
    if datamodule.vocabulary.mean_played_ratio is None:
        shares = "shares played, and the source gives none"
    missing = {"val/loss": "", "val/mse": shares, "val/mae": shares}
    missing |= {f"val/{name}": ranked for name in ranking.ACCURACY}
    missing[VAL_TIME] = "" if is_played else "callbacks.listening, and logs of a simulated world (datamodule=simulated)"
    if monitor not in missing:
        raise InputError(f"monitor.metric must be one of {', '.join(missing)}, got {monitor}")
    if needs := missing[monitor]:
        says = f"monitor.metric={monitor} cannot be computed: it needs {needs}"
        raise InputError(f"{says}; for a model with a loss use monitor.metric=val/loss monitor.mode=min")
