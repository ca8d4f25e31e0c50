import json
import math
from collections.abc import Callable, Mapping
from dataclasses import astuple
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import MagicMock, create_autospec

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from segue.callbacks.assembly import build_callbacks
from segue.callbacks.ranking_metrics import RankingMetrics, check_monitor
from segue.callbacks.run_context import RunContext, RunHistory, ranker_of
from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.models.baselines.counting import Rules
from segue.models.baselines.module import Baseline
from segue.models.export import Export, Exported
from segue.reports.tables import examples_table
from segue.runs.recommendations import Recommendations
from segue.statistics import ranking
from segue.statistics.intervals import MeanInterval
from tests.callbacks.test_pictures import baseline, ranker, trainer_of
from tests.conftest import NUM_RING_TRACKS, event, make_vocabulary, write_log
from tests.models.plain import SESSION

Make = Callable[..., PairDataModule]


def ranking_of(datamodule: PairDataModule, tmp_path: Path, **changes: Any) -> RankingMetrics:
    usual: dict[str, Any] = {"max_val_queries": 10_000, "max_test_queries": None, "list_length": 10, "seed": 1}
    usual["queries_path"] = str(tmp_path / "queries.parquet")
    return RankingMetrics(RunContext(datamodule=datamodule), **{**usual, **changes})


def export_of(datamodule: PairDataModule, tmp_path: Path, **changes: Any) -> Export:
    usual: dict[str, Any] = {"path": str(tmp_path / "r.jsonl"), "k": 5, "index": "auto", "recall": 0.9}
    return Export(len(datamodule.catalog), **{**usual, **changes})


def export(datamodule: PairDataModule, tmp_path: Path, model: LightningModule, **changes: Any) -> Exported:
    """What an export of a model writes."""
    return export_of(datamodule, tmp_path, **changes).write(ranker_of(model), datamodule.vocabulary, lambda _: None)


@pytest.fixture
def disliked(read_of: Make, tmp_path: Path) -> PairDataModule:
    """Nobody hears half of what follows, so no pair is a query."""
    lines = [event(n, 1000 * n + step, 100 + (n + step) % 20, 0.3) for n in range(20) for step in range(3)]
    return read_of(write_log(tmp_path, range(20), lines))


def test_validation_takes_a_seeded_part_of_many_queries(ring: PairDataModule, tmp_path: Path) -> None:
    whole = ranking_of(ring, tmp_path).queries["val"]
    parts = [ranking_of(ring, tmp_path, max_val_queries=20, seed=seed).queries for seed in (1, 1, 2)]
    assert [len(part["val"]) for part in parts] == [20, 20, 20]
    rows = [list(zip(part["val"].session, part["val"].following, strict=True)) for part in parts]
    assert rows[0] == rows[1] != rows[2]
    assert len(whole) > 20
    assert len(parts[0]["test"]) == len(ranking_of(ring, tmp_path).queries["test"])


def test_the_test_takes_the_same_whole_sessions_for_every_seed(ring: PairDataModule, tmp_path: Path) -> None:
    whole = ranking_of(ring, tmp_path).queries["test"]
    parts = [ranking_of(ring, tmp_path, max_test_queries=50, seed=seed).queries["test"] for seed in (1, 2)]
    for one, other in zip(astuple(parts[0]), astuple(parts[1]), strict=True):
        assert np.array_equal(one, other, equal_nan=True)
    of_sessions = whole.where(np.isin(whole.session, parts[0].session))
    assert 40 < len(parts[0]) == len(of_sessions) <= 50 < len(whole)


def test_sums_are_over_all_test_pairs_and_ranks_over_the_sample(ring: PairDataModule, tmp_path: Path) -> None:
    metrics, written = [], []
    for max_test_queries in (None, 50):
        trainer, _ = trainer_of(ring, tmp_path, max_test_queries=max_test_queries)
        [of_run] = trainer.test(ranker(ring), ring, verbose=False)
        metrics.append(of_run)
        written.append(pd.read_parquet(tmp_path / "queries.parquet"))
        queries, num_queries = written[-1], of_run["test/num_queries"]
        assert num_queries == len(queries)
        assert of_run["test/num_sessions"] == queries["session"].nunique()
        interval = MeanInterval.of_clusters(queries["mrr"].to_numpy(), queries["session"].to_numpy(), 0.95)
        assert of_run["test/mrr_half_width"] == pytest.approx(interval.upper - interval.mean)
    assert not any("cold" in name or "warm" in name or "new_tracks" in name for name in metrics[0])  # there are none
    whole, part = metrics
    assert whole["test/num_all_queries"] == part["test/num_all_queries"] == whole["test/num_queries"]
    assert part["test/num_queries"] <= 50
    for name in ("loss", "mse", "mae", "mse_mean_floor"):
        assert whole[f"test/{name}"] == part[f"test/{name}"]
    chosen = written[0]["session"].isin(written[1]["session"])
    pd.testing.assert_frame_equal(written[0][chosen].reset_index(drop=True), written[1])


@pytest.mark.parametrize("make", [ranker, baseline])
def test_every_event_after_the_first_is_a_target_and_every_track_a_candidate(
    make: Callable[[PairDataModule], Any], read_of: Make, tmp_path: Path
) -> None:
    """The metrics of published tables, against loops over the sessions of the test; some tracks follow themselves."""
    rng = np.random.default_rng(0)
    sessions = [rng.integers(3 * (n % 10), 12 + 3 * (n % 10), rng.integers(1, 6)).tolist() for n in range(200)]
    lines = [
        event(n, 10**7 * n + step, 100 + track, rng.choice([0.3, 1.0]), "last" if step == len(tracks) - 1 else "next")
        for n, tracks in enumerate(sessions)
        for step, track in enumerate(tracks)
    ]
    datamodule = read_of(write_log(tmp_path, range(40), lines))
    model = make(datamodule).eval()
    if model.scorer is None:
        model.on_train_start()
    found, _ = ranking_of(datamodule, tmp_path, list_length=2).measure(model, "test")
    assert datamodule.data.part is not None
    in_test = np.flatnonzero(datamodule.data.part == 2).tolist()
    of_train = [sessions[n] for n in np.flatnonzero(datamodule.data.part == 0).tolist()]
    targets = [pair for n in in_test for pair in pairwise(sessions[n])]
    assert any(previous == following for previous, following in targets)
    assert found["num_every_target_queries"] == len(targets)
    plays = np.bincount([track for tracks in of_train for track in tracks], minlength=40)
    counts = np.zeros((40, 40))
    for tracks in of_train:
        for previous, following in pairwise(tracks):
            counts[previous, following] += 1
    rows = datamodule.catalog.rows_of(np.arange(100, 140))
    if model.scorer is None:
        own = plays + 10**6 * np.eye(40)  # each artist has one track, which comes first
    else:
        with torch.inference_mode():
            own = (model.scorer.query_vectors() @ model.scorer.item_vectors().T).numpy()[np.ix_(rows, rows)]
    for ending, scores in {"": own, "_popular_floor": np.tile(plays, (40, 1)), "_counts_floor": counts}.items():
        ranks = []
        for previous, following in targets:
            margin = 1e-6 * max(1, abs(scores[previous, following]))
            off = scores[previous] - scores[previous, following]
            ranks.append(((off > margin).sum() + 1 + (off >= -margin).sum()) / 2)
        assert found[f"every_target_p_at_20{ending}"] == pytest.approx(np.mean([rank <= 20 for rank in ranks]))
        gains = [1 / rank * (rank <= 20) for rank in ranks]
        assert found[f"every_target_mrr_at_20{ending}"] == pytest.approx(np.mean(gains))
    assert 0 < found["every_target_mrr_at_20_half_width"] < 1


def test_validation_chooses_the_boosts_where_they_are_better(read_of: Make, tmp_path: Path) -> None:
    """In half of the sessions the first track comes again at the third place."""
    rng = np.random.default_rng(0)
    track = rng.permuted(np.tile(np.arange(30), (1500, 1)), axis=1)[:, :3]
    track[:, 2] = np.where(rng.random(1500) < 0.5, track[:, 0], track[:, 2])
    lines = [
        event(n, 10**7 * n + step, 100 + row, 1.0, "last" if step == 2 else "next")
        for n, rows in enumerate(track.tolist())
        for step, row in enumerate(rows)
    ]
    datamodule = read_of(write_log(tmp_path, range(30), lines))
    context = partial(SESSION, max_length=20, decay=0.8, repeats="auto")
    model = Baseline(
        vocabulary=datamodule.vocabulary, model=partial(Rules, window=1), context=context, monitor="val/mrr"
    )
    model.on_train_start()
    metrics = ranking_of(datamodule, tmp_path)
    queries = metrics.queries["val"]
    ranks = metrics.chosen_ranks(ranker_of(model), queries)
    repeats = model.context.repeats
    assert repeats.compared is not None
    assert repeats.compared["boosts"] == pytest.approx(ranking.ndcg_at(ranks, 10).mean())
    repeats.used = "always"
    ruled = model.ranks(datamodule.histories(queries), queries.following, lambda _: None)
    assert repeats.compared["always"] == pytest.approx(ranking.ndcg_at(ruled, 10).mean())
    assert repeats.compared["boosts"] > repeats.compared["always"] + 0.1
    assert np.array_equal(metrics.chosen_ranks(ranker_of(model), queries), ranks)
    assert repeats.used == "boosts"


@pytest.mark.parametrize("make", [ranker, baseline])
def test_queries_with_new_tracks_are_measured_apart(
    read_of: Make, ring_logs: Path, tmp_path: Path, make: Callable[[PairDataModule], LightningModule]
) -> None:
    """The oracle: scores of every pair of tracks, sorted in a loop."""
    cold = read_of(ring_logs, cold_share=0.3)
    trainer, _ = trainer_of(cold, tmp_path)
    model = make(cold)
    [validated] = trainer.validate(model, cold, verbose=False)
    assert {f"val/{name}" for name in ranking.BY_NEWNESS} <= set(validated)
    [metrics] = trainer.test(model, cold, verbose=False)
    is_new, queries = cold.new_tracks, pd.read_parquet(tmp_path / "queries.parquet")
    assert metrics["test/num_new_tracks"] == is_new.sum() == round(0.3 * NUM_RING_TRACKS)
    rows = cold.catalog.rows_of
    previous, following = rows(queries["previous"].to_numpy()), rows(queries["following"].to_numpy())
    groups = {
        "warm": ~is_new[previous] & ~is_new[following],
        "cold_previous": is_new[previous],
        "cold_next": is_new[following],
        "cold_among": is_new[following],
    }
    with torch.inference_mode():
        lists, scores = ranker_of(model).lists(NUM_RING_TRACKS - 1).collect()
    plays = cold.vocabulary.plays if make is baseline else np.zeros(NUM_RING_TRACKS)
    for group, chosen in groups.items():
        assert metrics[f"test/num_{group}_queries"] == chosen.sum() > 0
        hits = []
        for query, target in zip(previous[chosen].tolist(), following[chosen].tolist(), strict=True):
            score = dict(zip(lists[query].tolist(), scores[query].tolist(), strict=True))
            if group == "cold_among":
                score = {row: value for row, value in score.items() if is_new[row]}
            key = {row: (round(value, 6), plays[row]) for row, value in score.items()}
            above = sum(value > key[target] for value in key.values())
            tied = sum(value == key[target] for value in key.values())
            hits.append(above + (1 + tied) / 2 <= 10)
        assert queries[f"{group}_recall_at_10"].notna().to_numpy().tolist() == chosen.tolist()
        assert metrics[f"test/{group}_recall_at_10"] == pytest.approx(np.mean(hits), abs=0.02), group
        assert f"test/{group}_recall_at_10_half_width" in metrics


def test_a_monitor_that_cannot_be_computed_is_refused_before_training(
    disliked: PairDataModule, ring: PairDataModule
) -> None:
    with pytest.raises(
        InputError, match=r"val/mrr cannot be computed: it needs a validation pair.*use monitor.metric="
    ):
        check_monitor("val/mrr", disliked, is_ranked=True)
    with pytest.raises(InputError, match=r"it needs callbacks.ranking, which is left out"):
        check_monitor("val/mrr", ring, is_ranked=False)
    check_monitor("val/mrr", ring, is_ranked=True)
    check_monitor("val/loss", disliked, is_ranked=False)


@pytest.mark.parametrize(
    ("index", "num_exact", "approximate"),
    [
        ("auto", NUM_RING_TRACKS, False),
        ("auto", NUM_RING_TRACKS - 1, True),
        ("exact", NUM_RING_TRACKS - 1, False),
        ("approximate", NUM_RING_TRACKS, True),
    ],
)
def test_lists_of_large_catalogues_are_approximate_and_say_how_much_they_hold(
    ring: PairDataModule, tmp_path: Path, index: str, num_exact: int, approximate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segue.models.export.EXACT_UP_TO", num_exact)
    context, trainer = RunContext(datamodule=ring), create_autospec(Trainer, instance=True, loggers=[MagicMock()])
    chosen = {"export": lambda _: export_of(ring, tmp_path, index=index)}
    _, after_test = build_callbacks(chosen, context, monitor="val/loss")
    after_test.on_test_end(trainer, ranker(ring))
    assert (Recommendations.read(tmp_path / "r.jsonl", ring.catalog).rows >= 0).all()
    assert after_test.exported is not None
    assert after_test.exported.path == tmp_path / "r.jsonl"
    assert ("recommendations are approximate" in (after_test.exported.note or "")) == approximate
    assert list(context.history.test) == ["export/recall_at_5"] * approximate
    if approximate:
        recall = context.history.test["export/recall_at_5"]
        assert 0.9 <= recall <= 1
        trainer.loggers[0].log_metrics.assert_called_once_with({"export/recall_at_5": pytest.approx(recall)})


def test_the_tracks_that_people_see_are_at_doubling_places_by_plays() -> None:
    num_tracks = 600
    vocabulary = make_vocabulary(range(num_tracks), previous_counts=range(num_tracks))  # the last one is played most
    rows = np.tile(np.arange(7), (num_tracks, 1))
    rows[num_tracks - 2, 3:] = -1
    table = examples_table(vocabulary, rows.__getitem__)
    assert table.notes[0].startswith("tracks at places 1, 2, 4, 8, 16, 32, 64, 128, 256, 512 by plays")
    after, following = zip(*[map(str, row) for row in table.rows], strict=True)
    assert after[:3] == tuple(
        f"Title {row}\nby Artist {row}" for row in (num_tracks - 1, num_tracks - 2, num_tracks - 4)
    )
    assert following[0].splitlines() == [f"{row + 1} Title {row} by Artist {row}" for row in range(5)]
    assert len(following[1].splitlines()) == 3


# What was measured


def history_of(
    *losses: float, best: float | None = None, test: Mapping[str, float] = MappingProxyType({})
) -> RunHistory:
    """Of epochs with these losses and, where one is the best, of a test of its weights."""
    history = RunHistory()
    checkpoint = None if best is None else create_autospec(ModelCheckpoint, instance=True)
    if checkpoint is not None:
        checkpoint.monitor, checkpoint.best_model_score = "val/loss", torch.tensor(best, dtype=torch.float64)
    trainer = create_autospec(Trainer, instance=True, checkpoint_callback=checkpoint)
    for trainer.current_epoch, loss in enumerate(losses):
        trainer.callback_metrics = {"val/loss": torch.tensor(loss, dtype=torch.float64)}
        history.on_train_epoch_end(trainer, LightningModule())
    trainer.callback_metrics = {name: torch.tensor(value, dtype=torch.float64) for name, value in test.items()}
    history.on_test_end(trainer, LightningModule())
    history.clock.seconds = {"training": 1.0, "validation": 0.23456, "test": 7.0}
    return history


def test_metrics_are_of_the_epoch_whose_weights_were_tested() -> None:
    metrics = history_of(0.3, 0.2, 0.2, 0.4, best=0.2, test={"test/loss": 0.25}).metrics()
    assert metrics == {"epoch": 1, "epochs": 4, "fit_seconds": 1.235, "test/loss": 0.25, "val/loss": 0.2}
    assert list(metrics) == sorted(metrics)
    assert history_of(0.3, 0.2, 0.4).metrics()["val/loss"] == 0.4  # nothing chose the weights: of the last epoch
    untrained = history_of(test={"test/loss": 0.5}).metrics()
    assert untrained == {"epochs": 0, "fit_seconds": 1.235, "test/loss": 0.5}


def test_a_checkpoint_that_knows_of_fewer_epochs_changes_nothing() -> None:
    history, resumed = history_of(0.3, 0.2, 0.4), RunHistory()
    history.load_state_dict(history_of(0.3).state_dict())
    assert (len(history.epochs), history.fit_seconds) == (3, 1.23456)
    resumed.load_state_dict(history.state_dict())
    resumed.clock.seconds = {"training": 10.0}
    assert (resumed.epochs, resumed.fit_seconds) == (history.epochs, 11.23456)


def test_the_file_has_the_metrics_and_the_run(tmp_path: Path) -> None:
    history = history_of(0.3, test={"test/mrr": math.nan})
    record = json.loads(history.write(tmp_path, mlflow_run_id="abc").read_text())
    assert record == {**history.metrics(), "test/mrr": None, "mlflow_run_id": "abc"}
    assert list(record) == sorted(record)
    assert '"epoch": 0,' in (tmp_path / "metrics.json").read_text()
