"""The study of time to quality: its curves and table; contenders are trained and judged as in a run of train.py."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate

from experiments.studying import composed, data_of
from experiments.throughput import quality_clock, quality_contenders
from experiments.throughput.quality import CONTENDERS, DATA, OURS, draw, rows_of, table, words_of
from experiments.throughput.quality_clock import LIMIT_S, Clock
from experiments.throughput.quality_contenders import Point, Trial, is_finished
from segue.statistics.ranking import ndcg_at

CURVES: dict[str, dict[str, list[Point]]] = {
    "yes": {
        OURS: [(1.0, 0.02), (2.0, 0.05), (4.0, 0.1)],
        "ALS": [(2.0, 0.01), (3.0, 0.039), (6.0, 0.04)],
        "rules": [(0.1, 0.2)],
    }
}


def test_a_row_compares_the_times_to_the_same_value() -> None:
    segue, als, rules = rows_of(CURVES)
    assert (segue["best"], segue["share_s"], segue["all_s"], segue["share_ratio"]) == (0.1, 4.0, 4.0, None)
    assert (als["share_s"], als["share_segue_s"], als["share_ratio"]) == (3.0, 2.0, 1.5)  # 0.95 × 0.04 = 0.038
    assert (als["all_s"], als["all_segue_s"], als["all_ratio"]) == (6.0, 2.0, 3.0)
    assert (rules["all_s"], rules["all_segue_s"], rules["all_ratio"]) == (0.1, None, None)


def test_rows_become_a_table_and_a_picture(tmp_path: Path) -> None:
    text = table(rows_of(CURVES))
    assert "| yes | ALS | 6 | 0.0400 | 3 | 2 | 1.5 | 6 | 2 | 3 |" in text
    assert "| yes | rules | 0.1 | 0.2000 | 0.1 | not reached |  | 0.1 | not reached |  |" in text
    draw(CURVES).savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_without_a_curve_of_segue_there_is_nothing_to_compare() -> None:
    assert "| yes | rules | 0.1 | 0.2000 | 0.1 |  |  | 0.1 |  |  |" in table(rows_of({"yes": {"rules": [(0.1, 0.2)]}}))


@pytest.mark.parametrize(
    ("points", "finished"),
    [
        ([(LIMIT_S, 0.1)], True),
        ([(1.0, 0.1), (29.0, 0.05)], False),
        ([(1.0, 0.1), (31.0, 0.05)], True),
        ([(20.0, 0.1), (59.0, 0.05)], False),
        ([(20.0, 0.1), (61.0, 0.05)], True),
    ],
)
def test_a_contender_ends_at_the_limit_or_when_it_no_longer_improves(points: list[Point], finished: bool) -> None:
    assert is_finished(points) is finished


def test_the_clock_stands_still_in_evaluations_and_they_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock()
    assert not clock.is_due
    now[0] = 108.0
    assert clock.is_due
    with clock.evaluation() as seconds:
        now[0] = 1000.0
    assert (seconds, clock.seconds, clock.is_due) == (8.0, 8.0, False)
    now[0] = 1002.0  # 1.25 times 8 s
    assert clock.is_due


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_composes_with_settings_that_were_chosen(data: str, name: str, tmp_path: Path) -> None:
    words = words_of(data, name, CONTENDERS[name])
    config = composed("train", *words, f"run_dir={tmp_path}")
    assert config.model._target_.startswith("segue.models.heads" if name == OURS else "segue.models.baselines")
    chosen = [word.removeprefix("model.").split("=") for word in words if word.startswith("model.")]
    assert bool(chosen) is (name != OURS)
    assert all(str(config.model[key]) == value for key, value in chosen)


@pytest.fixture(scope="module")
def ring_trial(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trial]:
    folder = tmp_path_factory.mktemp("quality")
    source = ["datamodule=botify", f"datamodule.path={ring_logs}", "datamodule.pairing=consecutive"]
    source.append(f"run_dir={folder}")
    datamodule = data_of(composed("train", *source))
    return lambda *words: Trial(composed("train", *source, *words), datamodule)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (quality_contenders.item2vec, ["model=item2vec", "model.epochs=3", "model.subsample=0"]),
        (quality_contenders.als, ["model=als", "model.epochs=3", "model.artist_weight=0.1"]),
        (quality_contenders.bpr, ["model=bpr", "model.epochs=3", "model.similarity=inner"]),
        (quality_contenders.counting, ["model=rules"]),
    ],
)
def test_a_rival_ends_with_the_value_of_the_baseline_that_train_py_trains(
    train: Callable[[Trial], None],
    words: list[str],
    ring_trial: Callable[..., Trial],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # as the baselines; with more, vectors depend on the threads
    monkeypatch.setattr(quality_clock, "FIRST_S", 0.0)
    trial = ring_trial(*words)
    baseline = instantiate(trial.config.ranker, _convert_="all")(vocabulary=trial.vocabulary)
    baseline.on_train_start()
    train(trial)
    assert trial.points[-1][1] == pytest.approx(ndcg_at(trial.ranks_by(baseline), 10).mean(), abs=1e-9)
    assert trial.points[-1][1] > 0


def test_segue_is_trained_and_evaluated_between_batches(
    ring_trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality_clock, "FIRST_S", 0.0)
    monkeypatch.setattr(quality_clock, "GROWTH", 0.0)  # after each batch, however long it took
    trial = ring_trial("model=convex", "recipe=playlists", "trainer.max_epochs=6")
    quality_contenders.ours(trial)
    seconds, values = zip(*trial.points, strict=True)
    assert len(seconds) == 6 * len(trial.datamodule.train_dataloader()) + 1  # and once at the end
    assert np.all(np.diff(seconds) > 0)
    assert values[-1] > values[0] + 0.1
