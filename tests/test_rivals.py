"""The study of rivals: trials, the file of pieces, and ranks by vectors of other libraries."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from experiments.rivals import fitting, rank_files, study, tables
from experiments.rivals.fitting import Fitted
from experiments.rivals.sequence_parts import QUERIES_AT_ONCE, Task, cut, query_arrays, ranks_by_vectors, softmax_loss
from experiments.rivals.spaces import DATA, MODELS, Log, Model, settings_of
from experiments.studying import append_rows, read_rows
from tests.contracts.building import composed

IN_PROCESS = [name for name, model in MODELS.items() if model.kind in ("counting", "head")]


@pytest.mark.parametrize("name", IN_PROCESS)
def test_the_words_of_every_trial_compose(name: str) -> None:
    model, data = MODELS[name], next(iter(MODELS[name].of_data), "yes")
    words = [*DATA[data], *model.words, *model.of_data.get(data, ()), *settings_of(data, name, 1)]
    assert composed(*words).model._target_


@pytest.mark.parametrize("name", MODELS)
def test_trials_are_drawn_from_the_space_and_are_the_same_in_every_process(name: str) -> None:
    assert settings_of("yes", name, 0) == ()
    drawn = dict(setting.split("=") for setting in settings_of("yes", name, 3))
    assert dict(setting.split("=") for setting in settings_of("yes", name, 3)) == drawn
    assert drawn.keys() == MODELS[name].space.keys()
    for key, choices in MODELS[name].space.items():
        if isinstance(choices, list):
            assert drawn[key] in map(str, choices)
        else:
            low, high = (choices.low, choices.high) if isinstance(choices, Log) else choices
            assert 0.999 * low <= float(drawn[key]) <= 1.001 * high


def test_a_stopped_study_goes_on_with_the_missing_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "PIECES", tmp_path / "pieces.csv")
    monkeypatch.setattr(study, "RANKS", tmp_path)

    def left() -> list[tuple[str, ...]]:
        return [piece.key for piece in study.missing("yes", "convex, session", trials=2, hours=1, seeds=2)]

    assert [key[2:] for key in left()] == [("trial", "0"), ("trial", "1"), ("final", "1"), ("final", "2")]
    for number, value in (("0", "0.1"), ("1", "0.3")):
        line = dict.fromkeys(study.COLUMNS, "")
        line |= {"data": "yes", "model": "convex, session", "part": "trial", "number": number, "val_ndcg_at_10": value}
        append_rows(study.PIECES, [{**line, "settings": f"dim={number}", "fit_s": "1800"}])
    assert [key[2:] for key in left()] == [("final", "1"), ("final", "2")]
    more = study.missing("yes", "convex, session", trials=9, hours=1, seeds=1)
    assert [piece.part for piece in more] == ["final"]  # the trials took an hour: there is no third one
    assert study.chosen("yes", "convex, session") == ("dim=1",)
    for number, settings in (("1", "dim=1"), ("2", "dim=0")):
        line = {**dict.fromkeys(study.COLUMNS, ""), "data": "yes", "model": "convex, session", "part": "final"}
        append_rows(study.PIECES, [{**line, "number": number, "settings": settings}])
    [first, second] = study.missing("yes", "convex, session", trials=2, hours=1, seeds=2)  # their ranks are not here
    for piece in (first, second):
        piece.ranks_path.parent.mkdir(parents=True, exist_ok=True)
        piece.ranks_path.touch()
    assert [key[2:] for key in left()] == [("final", "2")]  # of a trial that is not the best any more


def test_networks_have_short_trials_and_the_best_are_trained_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "PIECES", tmp_path / "pieces.csv")
    monkeypatch.setattr(study, "RANKS", tmp_path)

    def fit(_: str, __: Model, settings: Sequence[str], *, seed: int, tests: bool, epochs: int) -> Fitted:
        """Trial 1 is the best of the short ones, and trial 4 of those to the end."""
        assert seed == 1
        number = next(number for number in range(6) if settings_of("yes", "SASRec", number) == tuple(settings))
        value = [0.1, 0.6, 0.2, 0.4, 0.5, 0.3][number] if epochs < 10 else {1: 0.7, 3: 0.6, 4: 0.8}[number]
        ranks = np.array([1.0, 5.0]) if tests else None
        return Fitted(val={"ndcg_at_10": value}, ranks=ranks, fit_s=1800, query_ms=1, curve=[(900, 0.2), (1800, value)])

    monkeypatch.setattr(study, "CURVES", tmp_path / "curves.csv")
    monkeypatch.setattr(study, "fit", fit)
    monkeypatch.setattr(study, "queries_table", lambda _: pd.DataFrame({"session": [0, 1]}))
    ran = []
    for piece in study.missing("yes", "SASRec", trials=6, hours=8, seeds=1):
        study.run(piece)
        ran.append(piece.key[2:])
    assert ran == [*(("short", str(number)) for number in range(6)), *(("trial", nth) for nth in "143"), ("final", "1")]
    assert study.chosen("yes", "SASRec") == settings_of("yes", "SASRec", 4)
    result = tables.results("yes", study.known(), tmp_path)["SASRec"]
    assert (result.trials, result.val) == (6, 0.8)
    epochs = [(row["seed"], row["epoch"], row["val_ndcg_at_10"]) for row in read_rows(study.CURVES)]
    assert epochs == [("1", "1", "0.2"), ("1", "2", "0.8")]  # of the final run alone
    assert not [*study.missing("yes", "SASRec", trials=9, hours=4.5, seeds=1)]  # nine trials took 4.5 hours


def test_the_softmax_of_the_networks_is_that_of_torch() -> None:
    rng = np.random.default_rng(0)
    queries, tracks = (torch.from_numpy(rng.normal(size=size)).requires_grad_() for size in ((600, 4), (9, 4)))
    following = torch.from_numpy(rng.integers(9, size=600))
    losses = cross_entropy(queries @ tracks.T, following), softmax_loss(queries, tracks, following)
    assert_close(*losses)
    for left, right in zip(*(torch.autograd.grad(3 * loss, (queries, tracks)) for loss in losses), strict=True):
        assert_close(left, right)


def test_long_sessions_are_cut_so_that_each_track_follows_once() -> None:
    assert [piece.tolist() for piece in cut(torch.arange(8), 3)] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]]
    assert [piece.tolist() for piece in cut(torch.arange(4), 3)] == [[0, 1, 2, 3]]
    assert not cut(torch.arange(1), 3)


def slow_rank(
    query: np.ndarray, vectors: dict[int, np.ndarray], heard: set[int], previous: int, following: int, plays: np.ndarray
) -> float:
    """Known tracks by score, then unknown ones by plays, then those heard, by plays; ties share their mean rank."""

    def key(track: int) -> tuple[int, float]:
        if track in heard:
            return 0, float(plays[track])
        return (2, float(query @ vectors[track])) if track in vectors and query.any() else (1, float(plays[track]))

    keys = [key(track) for track in range(len(plays)) if track != previous]
    better, equal = sum(other > key(following) for other in keys), keys.count(key(following))
    return better + (1 + equal) / 2


def made_queries(num_queries: int, num_tracks: int) -> dict[str, Any]:
    """Queries and tracks whose scores and plays tie often; sessions of 1 to 8 tracks that come again."""
    rng = np.random.default_rng(0)
    history = rng.integers(num_tracks, size=(num_queries, 8))
    history[np.arange(8) >= rng.integers(1, 9, size=(num_queries, 1))] = -1
    following = (history[:, 0] + rng.integers(1, num_tracks, num_queries)) % num_tracks
    comes_again = (rng.random(num_queries) < 0.5) & (history[:, 5] >= 0) & (history[:, 5] != history[:, 0])
    item_rows = np.arange(0, num_tracks - num_tracks // 4)
    return {
        "queries": rng.integers(-1, 2, size=(num_queries, 2)).astype(np.float32),
        "items": rng.integers(-2, 3, size=(len(item_rows), 2)).astype(np.float32),
        "item_rows": item_rows,
        "history_val": history,
        "previous_val": history[:, 0],
        "following_val": np.where(comes_again, history[:, 5], following),
        "plays": rng.integers(4, size=num_tracks),
    }


def slow_ranks(made: dict[str, Any], within: int) -> np.ndarray:
    vectors = dict(zip(made["item_rows"].tolist(), made["items"], strict=True))
    lines = zip(made["queries"], made["history_val"].tolist(), made["following_val"].tolist(), strict=True)
    return np.array(
        [
            slow_rank(query, vectors, set(history[:within]) - {-1}, history[0], following, made["plays"])
            for query, history, following in lines
        ]
    )


@pytest.mark.parametrize("within", [0, 3, 8])
def test_ranks_by_vectors_are_those_of_a_slow_loop_with_ties(within: int) -> None:
    made = made_queries(num_queries=QUERIES_AT_ONCE + 100, num_tracks=12)
    ranks = ranks_by_vectors(
        made["queries"],
        items=made["items"],
        item_rows=made["item_rows"],
        **query_arrays({**made, "within": np.array(within)}, "val"),
    )
    assert np.array_equal(ranks, slow_ranks(made, within))
    assert np.mean(ranks % 1 == 0.5) > 0.2  # even numbers of tracks tie


@pytest.mark.parametrize("within", [0, 3, 8])
def test_a_network_stops_early_by_the_rule_for_tracks_heard_that_ranks_it(
    within: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_queries(num_queries=300, num_tracks=40)
    np.savez(tmp_path / "sessions.npz", **made, within=np.array(within))
    (tmp_path / "settings.json").write_text('{"seed": 1, "max_epochs": 40}', encoding="utf-8")
    task = task_in(tmp_path, monkeypatch)
    assert not task.is_finished(torch.nn.Linear(1, 1), made["queries"], made["item_rows"], made["items"], 0.0)
    values = {width: np.mean([ndcg(rank) for rank in slow_ranks(made, width)]) for width in (0, 3, 8)}
    assert task.best == pytest.approx(values[within], abs=1e-12)
    assert len({round(value, 4) for value in values.values()}) == 3  # with another window it is another number


def ndcg(rank: float) -> float:
    return 1 / math.log2(1 + rank) if rank <= 10 else 0.0


def task_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr(sys, "argv", ["model.py", str(folder)])
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # other tests share the process
    return Task({})


@pytest.mark.parametrize(("rule", "within"), [("auto", 3), ("always", 0)])
def test_networks_learn_the_rule_of_the_data_and_early_stopping_sees_the_final_metric(
    rule: str, within: int, ring_logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segue.models.repeats.MOST_REPEATED", 1.0)
    monkeypatch.setattr("segue.models.repeats.seldom_repeated", lambda *_: 3)
    source = "datamodule=botify", f"datamodule.path={ring_logs}", "datamodule.pairing=consecutive"
    monkeypatch.setitem(DATA, f"ring {rule}", (*source, "context=session", f"context.repeats={rule}"))
    monkeypatch.setattr(fitting, "OUTPUTS", tmp_path)
    early = []

    def train(path: Path, _: str, arrays: dict[str, Any], __: dict[str, Any]) -> None:
        """A network that learns nothing."""
        rng = np.random.default_rng(0)
        rows = np.unique(arrays["track"])
        queries = {part: rng.normal(size=(len(arrays[f"following_{part}"]), 4)) for part in ("val", "test")}
        items = rng.normal(size=(len(rows), 4))
        np.savez(tmp_path / "sessions.npz", **arrays)
        (tmp_path / "settings.json").write_text('{"seed": 1, "max_epochs": 40}', encoding="utf-8")
        task = task_in(tmp_path, monkeypatch)
        task.is_finished(torch.nn.Linear(1, 1), queries["val"], rows, items, 0.0)
        early.append((int(arrays["within"]), task.best))
        path.parent.mkdir()
        of_parts: dict[str, Any] = {f"queries_{part}": vectors for part, vectors in queries.items()}
        np.savez(path, **of_parts, items=items, item_rows=rows, fit_s=1.0, curve=task.curve)

    monkeypatch.setattr(fitting, "_keep_vectors", train)
    fitted = fitting.fit(f"ring {rule}", MODELS["GRU4Rec"], ("layers=1",), seed=1, tests=True)
    [(learned, best)] = early
    assert learned == within
    assert best == pytest.approx(fitted.val["ndcg_at_10"], abs=1e-12)
    assert [value for _, value in fitted.curve] == [best]


def write_runs(folder: Path, runs: dict[str, tuple[float, Sequence[float]]]) -> dict[tuple[str, ...], dict[str, str]]:
    """Final runs on yes with a validation metric and ranks; the lines of `pieces.csv`."""
    some = next(iter(runs.values()))[1]
    columns = ("session", "num_heard", "session_length", "plays_of_newest", "plays_of_next")
    queries = pd.DataFrame(dict.fromkeys(columns, np.arange(len(some))))
    rank_files.write_queries(rank_files.queries_path(folder, "yes"), queries)
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for model, (val, ranks) in runs.items():
        rank_files.write_ranks(rank_files.ranks_path(folder, "yes", model, "1"), np.asarray(ranks))
        line = {"val_ndcg_at_10": str(val), "fit_s": "1", "query_ms": "1", "commit": "abc"}
        lines["yes", model, "final", "1"] = line
    return lines


def test_the_best_rival_is_chosen_by_validation(tmp_path: Path) -> None:
    """STAN validates best; on test VSTAN is before it."""
    runs: dict[str, tuple[float, Sequence[float]]] = {
        "convex, default": (0.4, [1, 2, 2, 3]),
        "STAN": (0.3, [3, 2, 4.5, 9]),
        "VSTAN": (0.2, [1, 1, 2, 1]),
    }
    tables.write(tmp_path, write_runs(tmp_path, runs), tmp_path)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    ours, theirs = (np.mean([ndcg(rank) for rank in runs[model][1]]) for model in ("convex, default", "STAN"))
    assert f"| yes | convex, default | STAN | ndcg@10 | {ours - theirs:+.4f} |" in text
    assert "| convex, default | VSTAN |" not in text


def test_ranks_are_read_as_they_were_written(tmp_path: Path) -> None:
    ranks = np.array([1.0, 4.5, 16_628.0, 100_000.5])
    rank_files.write_ranks(tmp_path / "data" / "ranks.parquet", ranks)
    assert np.array_equal(rank_files.read_ranks(tmp_path / "data" / "ranks.parquet"), ranks)


def test_a_run_counts_if_its_ranks_are_there(tmp_path: Path) -> None:
    lines = write_runs(tmp_path, {"SASRec": (0.3, [1, 4.5])})
    lines["yes", "SASRec", "final", "2"] = {**lines["yes", "SASRec", "final", "1"], "val_ndcg_at_10": "0.9"}
    lines["yes", "EASE", "final", "1"] = lines["yes", "SASRec", "final", "1"]
    [(model, result)] = tables.results("yes", lines, tmp_path).items()
    assert (model, result.val, len(result.values["ndcg@10"])) == ("SASRec", 0.3, 1)
    assert result.values["ndcg@10"][0] == pytest.approx([ndcg(1), ndcg(4.5)])
    tables.write(tmp_path, lines, tmp_path)
    assert "\nLeft out, without ranks in `ranks/`: EASE.\n" in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_ranks_in_the_repository(tmp_path: Path) -> None:
    tables.write(tmp_path, study.known(), rank_files.RANKS)
    written = (study.HERE / "results.md").read_text(encoding="utf-8")
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == written


def test_the_files_of_ranks_stay_small() -> None:
    sizes = [path.stat().st_size for path in rank_files.RANKS.rglob("*.parquet")]
    assert 0 < max(sizes) <= 1e6
    assert sum(sizes) <= 5e6
