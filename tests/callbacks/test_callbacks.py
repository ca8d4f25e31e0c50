from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.callbacks.export import Export
from src.callbacks.progress import TrainingProgress
from src.callbacks.ranking import Ranking
from src.datamodules.pair_datamodule import PairDataModule
from src.errors import InputError
from tests.conftest import event, write_lines, write_tracks

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
        Export(ring, path=str(tmp_path / "r.jsonl"), k=0)


@pytest.mark.parametrize("epochs", [0, -1])
def test_training_without_an_epoch_is_refused(ring: PairDataModule, epochs: int) -> None:
    with pytest.raises(InputError, match=f"max_epochs must be a whole number of at least 1, got {epochs}"):
        TrainingProgress(ring, monitor="val/loss", mode="min", max_epochs=epochs)
