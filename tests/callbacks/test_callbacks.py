from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, create_autospec

import pytest
import torch
from pytorch_lightning import Trainer

from src.callbacks.export import Export
from src.callbacks.progress import TrainingProgress
from src.callbacks.ranking import Ranking
from src.datamodules.pair_datamodule import PairDataModule
from src.errors import InputError
from src.models.heads import TwoTableDot
from src.models.pair_ranker import PairRanker
from src.recommendations import Recommendations
from tests.conftest import NUM_RING_TRACKS, event, write_lines, write_tracks

Make = Callable[..., PairDataModule]


def ranking_of(datamodule: PairDataModule, tmp_path: Path, **changes: Any) -> Ranking:
    usual: dict[str, Any] = {
        "max_val_queries": 10_000,
        "list_length": 10,
        "queries_path": str(tmp_path / "queries.parquet"),
        "monitor": "val/ndcg_at_10",
        "seed": 1,
    }
    return Ranking(datamodule, **{**usual, **changes})


def export_of(datamodule: PairDataModule, tmp_path: Path, **changes: Any) -> Export:
    usual: dict[str, Any] = {"path": str(tmp_path / "r.jsonl"), "k": 5, "index": "auto", "recall": 0.9}
    return Export(datamodule, **{**usual, "approximate_above": NUM_RING_TRACKS, **changes})


@pytest.fixture
def disliked(datamodule_of: Make, tmp_path: Path) -> PairDataModule:
    """Nobody hears half of what follows, so no pair is a query."""
    write_tracks(tmp_path, range(20))
    lines = [event(n, 1000 * n + step, 100 + (n + step) % 20, 0.3) for n in range(20) for step in range(3)]
    write_lines(tmp_path / "logs" / "data.json", lines)
    datamodule = datamodule_of(tmp_path)
    datamodule.setup()
    return datamodule


def test_validation_takes_a_seeded_part_of_many_queries(ring: PairDataModule, tmp_path: Path) -> None:
    whole = ranking_of(ring, tmp_path).queries["val"]
    parts = [ranking_of(ring, tmp_path, max_val_queries=20, seed=seed).queries for seed in (1, 1, 2)]
    assert [len(part["val"]) for part in parts] == [20, 20, 20]
    rows = [list(zip(part["val"].session, part["val"].following, strict=True)) for part in parts]
    assert rows[0] == rows[1] != rows[2]
    assert len(whole) > 20
    assert len(parts[0]["test"]) == len(ranking_of(ring, tmp_path).queries["test"])


def test_a_ranking_monitor_without_queries_is_refused_before_training(disliked: PairDataModule, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"monitor.metric=val/mrr cannot be computed.*use monitor.metric=val/loss"):
        ranking_of(disliked, tmp_path, monitor="val/mrr")
    assert len(ranking_of(disliked, tmp_path, monitor="val/loss").queries["val"]) == 0


def test_lists_longer_than_the_catalogue_are_refused_before_training(ring: PairDataModule, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="k must be a whole number of at least 1 and at most 59"):
        ranking_of(ring, tmp_path, list_length=60)
    with pytest.raises(InputError, match="k must be a whole number of at least 1 and at most 59"):
        export_of(ring, tmp_path, k=0)


@pytest.mark.parametrize("epochs", [0, -1])
def test_training_without_an_epoch_is_refused(ring: PairDataModule, epochs: int) -> None:
    with pytest.raises(InputError, match=f"max_epochs must be a whole number of at least 1, got {epochs}"):
        TrainingProgress(ring, monitor="val/loss", mode="min", max_epochs=epochs)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"index": "flat"}, "callbacks.export.index must be one of auto, exact, approximate, got 'flat'"),
        ({"recall": 1.5}, "callbacks.export.recall must be a number above 0 and at most 1, got 1.5"),
        ({"approximate_above": -1}, "approximate_above must be a whole number of at least 0, got -1"),
    ],
)
def test_an_index_that_there_is_not_is_refused(
    ring: PairDataModule, tmp_path: Path, wrong: dict[str, Any], line: str
) -> None:
    with pytest.raises(InputError, match=line):
        export_of(ring, tmp_path, **wrong)


@pytest.mark.parametrize(
    ("changes", "approximate"),
    [
        ({}, False),
        ({"approximate_above": NUM_RING_TRACKS - 1}, True),
        ({"approximate_above": NUM_RING_TRACKS - 1, "index": "exact"}, False),
        ({"index": "approximate"}, True),
    ],
)
def test_lists_of_large_catalogues_are_approximate_and_say_how_much_they_hold(
    ring: PairDataModule,
    tmp_path: Path,
    changes: dict[str, Any],
    approximate: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    table = torch.randn(NUM_RING_TRACKS, 4)
    trainer = create_autospec(Trainer, instance=True, callback_metrics={}, loggers=[MagicMock()])
    scorer = create_autospec(TwoTableDot, instance=True)
    scorer.query_vectors.return_value = scorer.item_vectors.return_value = table
    model = create_autospec(PairRanker, instance=True, scorer=scorer, _plays=ring.vocabulary.plays)
    model.top.side_effect = partial(PairRanker.top, model)
    model.approximate_top.side_effect = partial(PairRanker.approximate_top, model)
    export_of(ring, tmp_path, **changes).on_test_end(trainer, model)
    lists = Recommendations.read(tmp_path / "r.jsonl", ring.catalog)
    assert (lists.rows >= 0).all()
    assert ("recommendations are approximate" in capsys.readouterr().out) == approximate
    assert list(trainer.callback_metrics) == ["export/recall_at_5"] * approximate
    if approximate:
        recall = float(trainer.callback_metrics["export/recall_at_5"])
        assert 0.9 <= recall <= 1
        trainer.loggers[0].log_metrics.assert_called_once_with({"export/recall_at_5": pytest.approx(recall)})
