"""Ranking metrics over the whole catalogue, the same for every model."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int64
from pytorch_lightning import Callback, LightningModule, Trainer

from segue.atomic import write_whole
from segue.callbacks.query_sample import rated_pairs
from segue.callbacks.run_context import RunContext, ranker_of
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.pairs.pairs import Pairs, slices
from segue.errors import InputError
from segue.models.first_tracks import ranks_of_first_tracks
from segue.models.listener_part import own_plays
from segue.models.ranker import Ranker
from segue.models.repeats import ARTISTS
from segue.models.retrieval.ranks import ndcg, ranks_by_counts, ranks_by_plays, ranks_of_scores
from segue.reports.progress import progress
from segue.runs.recommendations import check_k
from segue.settings import Setting, settings
from segue.statistics import ranking
from segue.statistics.direction import direction
from segue.statistics.online import VAL_TIME


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
        ranks: rank of the track that followed each test query, from 1; None before the test, and without queries.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        max_val_queries: Annotated[
            int, Setting("validate on this many queries, the first in a seeded order, or on all there are", least=1)
        ],
        max_test_queries: Annotated[
            int | None,
            Setting(
                "test on a sample of sessions with at most this many queries, the same for every model and seed",
                least=1,
                hint="null ranks all",
            ),
        ],
        list_length: int,
        queries_path: str,
        seed: Annotated[int, Setting("decides which validation queries are taken")],
    ) -> None:
        self._context, datamodule = context, context.datamodule
        check_k(list_length, len(datamodule.catalog))
        self._list_length, self._queries_path = list_length, Path(queries_path)
        self._vocabulary, self._train = datamodule.vocabulary, datamodule.pairs["train"]
        val, test = (datamodule.pairs[name] for name in ("val", "test"))
        of_val, of_test = _places_of_queries(val), _places_of_queries(test)
        if len(of_val) > max_val_queries:
            of_val = of_val[np.sort(np.random.default_rng(seed).permutation(len(of_val))[:max_val_queries])]
        self._num_all_queries, self._max_test_queries = len(of_test), max_test_queries
        self.ranks: np.ndarray | None = None
        self.queries = {"val": val.where(of_val), "test": self._sampled(test.where(of_test))}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Fit what is fitted to validation queries."""
        queries, data = self.queries["val"], self._context.datamodule
        rated = rated_pairs(data) if ranker_of(pl_module).listener is not None else None
        ranker_of(pl_module).fit_to(data.histories(queries), queries.following, rated)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log `val/<metric>`."""
        if len(queries := self.queries["val"]):
            ranker = ranker_of(pl_module)
            ranks = self.chosen_ranks(ranker, queries)
            metrics = [ranking.accuracy(ranks), self._by_newness(ranker, queries, ranks)]
            means = pd.concat(metrics, axis=1).mean().dropna()
            pl_module.log_dict({f"val/{name}": float(mean) for name, mean in means.items()}, batch_size=1)

    def chosen_ranks(self, ranker: Ranker, queries: Pairs) -> Float64[np.ndarray, "Q"]:
        """Rank validation queries each way that tracks already heard could be ranked; the model takes the best."""
        repeats = ranker.context.repeats
        ranks = repeats.tried(lambda: self._ranks(ranker, queries, "val"), lambda of: ndcg(of).mean())
        if len(ranks) > 1:
            repeats.choose({way: float(ndcg(of).mean()) for way, of in ranks.items()})
        return ranks[ARTISTS if repeats.by_artist else repeats.used]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log `test/<metric>` with floors and intervals, and write the queries."""
        queries = self.queries["test"]
        num_sessions = len(np.unique(queries.session))
        sizes = {"queries": len(queries), "sessions": num_sessions, "all_queries": self._num_all_queries}
        pl_module.log_dict({f"test/num_{name}": float(size) for name, size in sizes.items()})
        if not len(queries):
            return
        means, per_query = self.measure(ranker_of(pl_module), "test")
        self.ranks = per_query["rank"].to_numpy()
        pl_module.log_dict({f"test/{name}": mean for name, mean in means.items()}, batch_size=1)  # means are complete
        write_whole(self._queries_path, lambda partial: per_query.to_parquet(partial, index=False))

    def measure(self, ranker: Ranker, label: str) -> tuple[dict[str, float], pd.DataFrame]:
        """Rank the queries of a split, `val` or `test`, and compute all metrics of the ranks.

        Returns:
            Means by name, with half the widths of their intervals and with floors; and a line for each query with its
            rank and metrics.
        """
        queries, known = self.queries[label], self._vocabulary
        ranks = self._ranks(ranker, queries, label)
        metrics = ranking.accuracy(ranks)
        beyond, covered = self._beyond_accuracy(ranker, queries)
        by_newness = self._by_newness(ranker, queries, ranks)
        per_query = pd.concat([metrics, by_newness, beyond], axis=1)
        means = {
            **{str(name): float(mean) for name, mean in per_query.mean().dropna().items()},
            **ranking.half_widths(per_query[[*metrics, *by_newness]], queries.session),
            **ranking.by_position(metrics, queries.length),
            f"coverage_at_{self._list_length}": covered,
        }
        if not by_newness.empty:
            means["num_new_tracks"] = float(self._context.datamodule.new_tracks.sum())
            for group in ranking.NEWNESS:
                means[f"num_{group}_queries"] = float(by_newness[f"{group}_recall_at_10"].notna().sum())

        # every event after the first of a random sample of whole sessions, as large as that of the queries
        targets = self._sampled(self._context.datamodule.data.events_of(label, first=False))
        every = ranking.every_target(self._ranks(ranker, targets, "every target", every=True))
        means |= {str(name): float(mean) for name, mean in every.mean().items()}
        means |= ranking.half_widths(every, targets.session) | {"num_every_target_queries": float(len(targets))}
        for metrics_of, some, is_every in ((ranking.accuracy, queries, False), (ranking.every_target, targets, True)):
            for floor, of in self._floors(ranker, some, every=is_every).items():
                means |= {f"{name}_{floor}_floor": float(mean) for name, mean in metrics_of(of).mean().items()}
        means |= self._of_first_tracks(ranker, label)
        ids = known.catalog.track_ids
        head = {"session": queries.session, "previous": ids[queries.previous], "following": ids[queries.following]}
        return means, pd.concat([pd.DataFrame({**head, "position": queries.length, "rank": ranks}), per_query], axis=1)

    def _of_first_tracks(self, ranker: Ranker, label: str) -> dict[str, float]:
        """The metrics of the first tracks of sessions, by the listener's own past; none where no past is known."""
        firsts = self._context.datamodule.data.events_of(label, first=True)
        firsts = self._sampled(firsts.where(ranking.is_liked(firsts.played_ratio)))
        histories = self._context.datamodule.histories(firsts)
        if ranker.listener is None or ranker.scorer is None or histories.timeline is None or not len(firsts):
            return {}
        plays = self._vocabulary.plays
        with torch.inference_mode():
            found = ranks_of_first_tracks(ranker.scorer, ranker.listener, plays, histories, firsts.following)
        means = {"num_first_tracks": float(len(firsts))}
        for floor, of in {"": found, **self._floors(ranker, firsts, every=True, first=True)}.items():
            by_name = ranking.by_position(ranking.accuracy(of), firsts.length)
            means |= {name + f"_{floor}_floor" * bool(floor): mean for name, mean in by_name.items()}
        return means

    def _floors(
        self, ranker: Ranker, queries: Pairs, *, every: bool, first: bool = False
    ) -> dict[str, Float64[np.ndarray, "Q"]]:
        """The ranks of simple rules: by plays, by counts of pairs, by new plays, by the listener's own plays.

        Args:
            every: whether the previous track is a candidate too.
            first: whether they are first tracks, of which neither pairs nor the newest days say anything.
        """
        known, train, histories = self._vocabulary, self._train, self._context.datamodule.histories(queries)
        candidates: Any = (None if every else queries.previous, queries.following)
        floors = {"popular": ranks_by_plays(known.plays, *candidates)}
        if len(train) and not first:
            floors["counts"] = ranks_by_counts(
                ((train.previous[part], train.following[part]) for part in slices(len(train))),
                len(known.plays),
                queries.previous,
                queries.following,
                every=every,
            )
        if known.calendar is not None and known.calendar.newest_days is not None and not first:  # otherwise popular
            floors["recent"] = ranks_by_plays(known.recent, *candidates)
        if ranker.listener is None or histories.timeline is None:
            return floors

        def own(half_life: bool, some: np.ndarray) -> Any:
            return own_plays(histories.where(some), len(known.plays), half_life=half_life)

        for name, half_life in (("own", False), ("own_recent", True)):
            floors[name] = ranks_of_scores(partial(own, half_life), known.plays, *candidates)
        return floors

    def _sampled(self, targets: Pairs) -> Pairs:
        if self._max_test_queries is None or not len(targets):
            return targets
        return targets.where(ranking.sample_sessions(targets.session, self._max_test_queries))

    def _ranks(
        self, ranker: Ranker, queries: Pairs, label: str, *, among: np.ndarray | None = None, every: bool = False
    ) -> Float64[np.ndarray, "Q"]:
        """Rank the queries."""
        histories = self._context.datamodule.histories(queries)
        with torch.inference_mode(), progress(f"ranking {label} queries", len(queries)) as advance:
            return ranker.ranks(histories, queries.following, advance, among=among, every=every)

    def _by_newness(self, ranker: Ranker, queries: Pairs, ranks: np.ndarray) -> pd.DataFrame:
        """The metrics of queries with and without new tracks; no columns where no query has a new track."""
        is_new = self._context.datamodule.new_tracks
        previous_is_new, next_is_new = is_new[queries.previous], is_new[queries.following]
        if not (previous_is_new | next_is_new).any():
            return pd.DataFrame(index=range(len(queries)))
        among = self._ranks(ranker, queries.where(next_is_new), "new", among=is_new)
        return ranking.by_newness(ranks, among, previous_is_new=previous_is_new, next_is_new=next_is_new)

    def _beyond_accuracy(self, ranker: Ranker, queries: Pairs) -> tuple[pd.DataFrame, float]:
        catalog, plays = self._vocabulary.catalog, self._vocabulary.plays
        distinct, place = np.unique(queries.previous, return_inverse=True)
        with torch.inference_mode():
            lists, _ = ranker.lists(self._list_length, distinct).collect()
        per_query = {
            f"same_artist_at_{self._list_length}": ranking.same_artist(distinct, lists, catalog.artist_of)[place],
            f"popularity_rank_at_{self._list_length}": ranking.popularity_rank(lists, plays)[place],
        }
        return pd.DataFrame(per_query), ranking.coverage(lists, len(catalog))


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
    if mode not in ("max", "min"):
        raise InputError(f"monitor.mode must be max or min, got {mode}")
    if (better := direction(metric)) and mode != better:
        best = {"max": "highest", "min": "lowest"}[better]
        says = f"monitor.mode={mode} would keep the worst epoch: the {best} {metric} is the best"
        raise InputError(f"{says}; use monitor.mode={better}")


def check_monitor(monitor: str, datamodule: PairDataModule, *, is_ranked: bool) -> None:
    """Refuse a metric that cannot choose the best epoch, before anything is trained.

    Args:
        is_ranked: whether `RankingMetrics` is among the callbacks.

    Raises:
        InputError: it is none that is known, or cannot be computed.
    """
    by_ranking = [f"val/{name}" for name in ranking.accuracy(np.empty(0))]
    known = ["val/loss", "val/mse", "val/mae", *by_ranking, VAL_TIME]
    if monitor not in known:
        raise InputError(f"monitor.metric must be one of {', '.join(known)}, got {monitor}")
    why, other = "", "; use monitor.metric=val/loss monitor.mode=min"
    if monitor in ("val/mse", "val/mae") and datamodule.vocabulary.mean_played_ratio is None:
        why, other = "the source gives no shares played", ""
    elif monitor in by_ranking and not is_ranked:
        why = "callbacks.ranking, which does it, is left out; keep it, or, for a model with a loss"
        other = other.replace(";", ",")
    elif monitor in by_ranking and not len(_places_of_queries(datamodule.pairs["val"])):
        why = f"no validation pair has a share of {ranking.LIKED} or more"
    if why:
        raise InputError(f"monitor.metric={monitor} cannot be computed: {why}{other}")


def _places_of_queries(pairs: Pairs) -> Int64[np.ndarray, "Q"]:
    """Which pairs are queries."""
    found = [
        np.flatnonzero(ranking.is_query(pairs.previous[part], pairs.following[part], pairs.played_ratio[part]))
        + part.start
        for part in slices(len(pairs))
    ]
    return np.concatenate([np.empty(0, np.int64), *found])
