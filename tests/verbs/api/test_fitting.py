"""A fitted model: the numbers of the verb, recommendations, and the manners of scikit-learn."""

import copy
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import segue
from segue.histories import Histories
from segue.statistics.ranking import ndcg_at
from segue.verbs.api.calling import Folder, _remove
from segue.verbs.train import train
from tests.conftest import ROOT, new_store

CSV = ROOT / "examples" / "plays.csv"
BARE: dict[str, Any] = {"callbacks__plots": None}
OPTIONS: dict[str, Any] = {**BARE, "trainer__max_epochs": 2, "model__dim": 8}
TIMES = ("seconds", "time/")


@pytest.fixture(scope="module")
def session(plays: segue.Plays) -> segue.Recommender:
    return segue.fit(plays, context="session", **OPTIONS)


@pytest.fixture(scope="module")
def rules(plays: segue.Plays) -> segue.Recommender:
    return segue.fit(plays, model="rules", context="last", **BARE)


def test_it_has_the_numbers_of_the_command(session: segue.Recommender, plays: segue.Plays, tmp_path: Path) -> None:
    words = ["datamodule=table", f"datamodule.path={CSV}", "logger=none", f"hydra.run.dir={tmp_path}"]
    train([*words, "context=session", "trainer.max_epochs=2", "model.dim=8", "callbacks.plots=null"])
    fitted = session
    of_command = json.loads((tmp_path / "metrics.json").read_text())
    found = {name: value for name, value in of_command.items() if not any(time in name for time in TIMES) and value}
    assert {name: fitted.metrics[name] for name in found} == found
    assert (tmp_path / "recommendations.jsonl").read_bytes() == (fitted.folder / "recommendations.jsonl").read_bytes()
    evaluated = fitted.evaluate(plays)
    names = [name for name in evaluated.metrics if f"test/{name}" in of_command]
    assert len(names) > 20
    assert {name: evaluated.metrics[name] for name in names} == {name: of_command[f"test/{name}"] for name in names}
    validated = fitted.evaluate(plays, split="val").metrics
    assert validated["ndcg_at_10"] == of_command["val/ndcg_at_10"]


def test_floors_and_rivals_are_lines_with_the_same_queries(rules: segue.Recommender, plays: segue.Plays) -> None:
    found = rules.evaluate(plays, rivals=["popular"])
    assert list(found.table.index)[1:] == ["popular (floor)", "counts (floor)", "popular"]
    popular, floor = found.table.loc["popular"], found.table.loc["popular (floor)"]
    assert popular["recall_at_10"] == floor["recall_at_10"]
    assert popular["recall_at_10_lower"] < popular["recall_at_10"] < popular["recall_at_10_upper"]
    assert np.isnan(floor["recall_at_10_lower"])
    assert "[" in repr(found)
    assert "<table" in found._repr_html_()


def test_rivals_of_a_model_of_the_order_have_the_session_as_their_query() -> None:
    once: dict[str, Any] = {**OPTIONS, "trainer__max_epochs": 1, "refit": "none"}
    some = segue.read_plays(pd.read_csv(CSV).iloc[:2000])
    model = segue.fit(some, model="gru4rec", context__encoder__dim=8, **once)
    found = model.evaluate(some, rivals=["rules"])
    alone = segue.fit(some, model="rules", context="session", refit="none", **BARE)
    assert found.table.loc["rules", "ndcg_at_10"] == alone.metrics["test/ndcg_at_10"]


def test_after_one_track_it_recommends_its_exported_list(rules: segue.Recommender) -> None:
    for line in (rules.folder / "recommendations.jsonl").read_text().splitlines()[:20]:
        exported = json.loads(line)
        found = rules.next(exported["track"], k=len(exported["recommendations"]))
        assert found["id"].tolist() == exported["recommendations"]
        assert found["score"].to_numpy() == pytest.approx(exported["scores"], abs=1e-6)


def test_a_session_counts(session: segue.Recommender) -> None:
    ids = session.tracks["id"].tolist()
    alone, after = session.next(ids[0], k=20), session.next([ids[5], ids[9], ids[0]], k=20)
    assert list(after.columns) == ["id", "title", "artist", "score"]
    assert after["score"].is_monotonic_decreasing
    assert not after.equals(alone)
    assert not session.next([ids[5], ids[0]], played=[0.0, 1.0]).equals(
        session.next([ids[5], ids[0]], played=[1.0, 1.0])
    )
    assert session.next(np.array(ids[:3], object)).equals(session.next(ids[:3]))


def test_an_explanation_adds_up_to_the_score(session: segue.Recommender) -> None:
    heard = session.tracks["id"].tolist()[:4]
    found = session.next(heard, k=3)
    for track, score in zip(found["id"], found["score"], strict=True):
        explained = session.explain(heard, track)
        assert explained["added"].sum() == pytest.approx(score, abs=1e-5)
        assert set(explained["part"]) == {"track", "artist", "bias"}
        assert set(explained["part"][explained["id"].isna()]) == {"bias"}


def test_artists_have_neighbours(session: segue.Recommender) -> None:
    artist = session.tracks["artist"][0]
    found = session.similar_artists(artist, k=5)
    assert len(found) == 5
    assert artist not in set(found["artist"])
    assert found["score"].is_monotonic_decreasing


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_recommends_the_same(session: segue.Recommender, again: Any) -> None:
    ids = session.tracks["id"].tolist()[:3]
    other = again(session)
    assert other.next(ids).equals(session.next(ids))
    assert repr(other) == repr(session)


def test_it_is_saved_and_loaded(session: segue.Recommender, plays: segue.Plays, tmp_path: Path) -> None:
    ids = session.tracks["id"].tolist()[:3]
    loaded = segue.load(session.save(tmp_path / "run"))
    assert loaded.get_params() == session.get_params()
    assert loaded.next(ids).equals(session.next(ids))
    assert loaded.evaluate(plays).metrics == session.evaluate(plays).metrics
    with pytest.raises(segue.InputError, match="run has files already"):
        session.save(tmp_path / "run")


def test_a_run_cannot_vouch_for_its_own_classes(session: segue.Recommender, tmp_path: Path) -> None:
    config = session.save(tmp_path / "run") / "config.yaml"
    text = config.read_text().replace("_target_: segue.models.contexts.Session", "_target_: os.system")
    config.write_text(text.replace("trust: null", "trust: os"))
    with pytest.raises(segue.InputError, match=r"its settings build os\.system, which is not in conf/"):
        segue.load(tmp_path / "run").next(session.tracks["id"][0])


def test_a_saved_run_is_resumed_in_another_place(
    session: segue.Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "trainer__max_epochs": 1, "refit": "none"}
    begun = segue.fit(CSV, context="session", folder=tmp_path / "begun", **options)
    begun.save(tmp_path / "moved")
    shutil.rmtree(tmp_path / "begun")
    monkeypatch.chdir(tmp_path)
    shutil.copy(CSV, "copy.csv")
    train(["resume=moved", "trainer.max_epochs=2", "datamodule.path=copy.csv"])
    resumed, whole = segue.load("moved").metrics, session.metrics
    assert resumed["epochs"] == whole["epochs"] == 2
    assert {name: one for name, one in resumed.items() if name.startswith("test/")} == {
        name: one for name, one in whole.items() if name.startswith("test/")
    }


OWN = """
from segue.models.baselines.counting import Popular

class Mine(Popular):
    pass
"""


def test_a_baseline_of_ones_own_is_loaded_where_its_package_is_trusted(
    plays: segue.Plays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ownpackage.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    words: dict[str, Any] = {"model___target_": "ownpackage.Mine", "trust": "ownpackage", **BARE}
    own = segue.fit(plays, model="popular", **words)
    expected = own.next(own.tracks["id"][0])
    saved = own.save(tmp_path / "run")
    assert segue.load(saved, trust="ownpackage").next(own.tracks["id"][0]).equals(expected)
    with pytest.raises(segue.InputError, match=r"build ownpackage\.Mine, .* as in trust=ownpackage"):
        segue.load(saved).next(own.tracks["id"][0])


@pytest.mark.parametrize(
    "part", [{"counted": object()}, {"listener": np.ones(3)}, {"orders": (object(),)}], ids=lambda part: str(*part)
)
def test_files_for_other_programs_have_vectors_alone(
    session: segue.Recommender, tmp_path: Path, part: dict[str, Any]
) -> None:
    model = segue.load(session.folder)
    given = SimpleNamespace(**{"counted": None, "listener": None, "orders": ()} | part)
    model.__dict__["_model"] = SimpleNamespace(vectors=given)
    with pytest.raises(
        segue.InputError, match=r"format=onnx has vectors alone, and .*; train it with model=convex counted=none"
    ):
        model.export(tmp_path / "files", "onnx")
    assert not (tmp_path / "files").exists()


def test_its_vectors_are_exported(session: segue.Recommender, tmp_path: Path) -> None:
    session.export(tmp_path, "onnx")
    session.export(tmp_path, "parquet")
    files = ["item.onnx", "query.onnx", "tracks.json", "vectors.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    rows = pd.read_parquet(tmp_path / "vectors.parquet")
    assert rows["id"].tolist() == session.tracks["id"].tolist()


def test_it_has_the_manners_of_scikit_learn(session: segue.Recommender) -> None:
    clone: segue.Recommender = vars(pytest.importorskip("sklearn.base"))["clone"](session)
    assert clone.get_params() == session.get_params()
    assert repr(clone) == "Recommender(context='session', callbacks__plots=None, trainer__max_epochs=2, model__dim=8)"
    assert "not fitted" in clone._repr_html_()
    assert "test/ndcg_at_10" in session._repr_html_()
    with pytest.raises(segue.InputError, match="is not fitted; call fit"):
        clone.next(1)


def test_a_model_with_attributes_needs_no_source(tmp_path: Path) -> None:
    frame = pd.read_csv(CSV).iloc[:2000].assign(genre=lambda frame: [f"genre {len(name) % 4}" for name in frame.artist])
    plays = segue.read_plays(frame, attributes={"genre": {"kind": "value", "column": "genre"}})
    model = segue.fit(plays, model__parts=["track", "genre"], **OPTIONS)
    ids = model.tracks["id"].tolist()
    assert model.evaluate(plays).metrics["ndcg_at_10"] == model.metrics["test/ndcg_at_10"]
    del plays
    assert segue.load(model.save(tmp_path / "run")).next(ids[:2]).equals(model.next(ids[:2]))


def test_a_fit_leaves_the_program_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plays.csv").write_bytes(CSV.read_bytes())
    torch.manual_seed(5)
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGINT)
    plays = segue.read_plays("plays.csv")
    monkeypatch.chdir(tmp_path.parent)
    model = segue.fit(plays, model="popular", folder=tmp_path / "run", **BARE)
    assert model.next(model.tracks["id"][0]).shape == (10, 4)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == drawn
    assert dict(os.environ) == environment
    assert signal.getsignal(signal.SIGINT) == handler


def test_threads_wait_for_each_other() -> None:
    with ThreadPoolExecutor(2) as threads:
        digests = set(threads.map(lambda path: segue.read_plays(path).datamodule.digest(), [CSV] * 2))
    assert len(digests) == 1


def test_a_fork_does_not_remove_the_files_of_its_parent() -> None:
    folder = Folder()
    _remove(folder.path, os.open(folder.path, os.O_RDONLY), process=os.getpid() + 1)
    assert folder.path.exists()


def test_random_state_is_the_seed() -> None:
    assert segue.Recommender(random_state=7).get_params()["seed"] == 7
    with pytest.raises(segue.InputError, match="seed=3 and random_state=4 are two names of one option"):
        segue.Recommender(seed=3, random_state=4)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda model, _: model.next("zz"), "track zz is not among the 200 tracks"),
        (lambda _, plays: segue.fit(plays, run_dir="x"), "run_dir is no option of fit; folder= names the run folder"),
        (lambda model, _: model.next([]), "a session needs at least one track"),
        (lambda model, _: model.next(model.tracks["id"][0], k=200), r"k must be a whole number in \[1, 199\], got 200"),
        (lambda model, _: model.next(model.tracks["id"][0], played=[2.0]), r"must have a share in \[0, 1\] for each"),
        (lambda model, _: model.export("x", "csv"), "format must be onnx or parquet, got 'csv'"),
        (lambda _, plays: segue.fit(plays, model="convx"), 'there is no model="convx"; did you mean convex?'),
        (lambda _, plays: segue.fit(plays, model__alpa=1), "model__alpa=1: .* did you mean model__alpha[?]"),
        (lambda *_: segue.load("nowhere/run"), "there is no folder nowhere/run"),
        (lambda model, plays: segue.fit(plays, folder=model.folder), "has files already"),
    ],
)
def test_an_error_is_the_line_of_the_command_with_names_of_python(
    session: segue.Recommender, plays: segue.Plays, call: Any, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(segue.InputError, match=line) as error:
        call(session, plays)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_baseline_has_no_vectors(rules: segue.Recommender) -> None:
    first, second, *_ = rules.tracks["id"]
    with pytest.raises(segue.InputError, match="model=rules has no vectors of its own; use a head"):
        rules.similar_artists(rules.tracks["artist"][0])
    with pytest.raises(segue.InputError, match="model=rules has no vectors of its own; use a head"):
        rules.explain(first, second)


def test_plays_of_later_days_are_a_test_of_the_model_that_recommends() -> None:
    table = pd.read_csv(CSV).sort_values("played_at")
    model = segue.fit(table.iloc[:6000], model="rules", context="last", callbacks__plots=None)
    later = table.iloc[5900:].copy()
    later.loc[later.index[::50], "song"] = "A new song"
    found = model.evaluate(later)
    unknown, known = found.notes
    assert unknown == "29 of 1,430 plays are left out: the model does not know their tracks"
    assert "sessions began by 2026-01-" in known
    assert [*found.notes] == repr(found).splitlines()[1:3]
    assert "<br>".join(found.notes) in found._repr_html_()
    assert list(found.table.index)[1:] == ["popular (floor)"]
    for one in found.queries.iloc[::20].to_dict("records"):
        listed = model.next(one["previous"], k=10)["id"].tolist()
        assert (one["following"] in listed) == (one["recall_at_10"] > 0)


def test_runs_of_two_days_are_compared_on_the_newest_sessions_of_the_later_one(tmp_path: Path) -> None:
    table = pd.read_csv(CSV).sort_values("played_at")
    how: dict[str, Any] = {"model": "rules", "context": "last", "refit": "none", **BARE}
    table = table.iloc[:3000]
    served = segue.fit(table.iloc[:2000], folder=tmp_path / "served", **how)
    table.loc[table.index[2000::40], "song"] = "A new song"
    table.to_csv(tmp_path / "plays.csv", index=False)
    new = segue.fit(tmp_path / "plays.csv", **how)
    found, queries = new.gain_over(segue.load(tmp_path / "served")), new.evaluate(tmp_path / "plays.csv").queries
    known = served._evaluated
    previous, following = (known.catalog.rows_of(queries[name].tolist()) for name in ("previous", "following"))
    is_known = (previous >= 0) & (following >= 0)
    assert 0 < (~is_known).sum() < len(queries) / 2, "the served run cannot find a new song"
    ranks = known.ranker.ranks(Histories.of_tracks(previous[is_known]), following[is_known], lambda _: None)
    expected = queries["ndcg_at_10"].sum() - ndcg_at(ranks, 10).sum()
    assert found.difference == pytest.approx(expected / len(queries))
    assert found.lower < found.difference < found.upper
    with pytest.raises(segue.InputError, match="the table must be the plays of the fit, whose newest sessions test"):
        new.gain_over(served, table.iloc[:2000])
    other_ids = replace(known.catalog, track_ids=np.arange(len(known.catalog)))
    served.__dict__["_evaluated"] = replace(known, catalog=other_ids)
    with pytest.raises(segue.InputError, match="the other run knows too few of these tracks"):
        new.gain_over(served)


def test_other_plays_have_no_validation_and_no_rivals(session: segue.Recommender) -> None:
    table = pd.read_csv(CSV).iloc[:3000]
    some = segue.read_plays(table)
    with pytest.raises(segue.InputError, match="split='val' is of the plays of the fit, and the table has others"):
        session.evaluate(some, split="val")
    with pytest.raises(segue.InputError, match="rivals are fitted to the plays of the fit, and the table has others"):
        session.evaluate(some, rivals=["popular"])
    with pytest.raises(segue.InputError, match=r"none of the \d+ tracks in the table, such as \w+, is among the 200"):
        session.evaluate(table.assign(song=table["song"] + "?"))


USER = """
import pathlib, sys, segue
assert not {"torch", "pandas", "mlflow", "hydra", "numpy"} & set(sys.modules), "import segue is quick"
model = segue.fit(sys.argv[1], model="popular", callbacks__plots=None)
model.next(model.tracks["id"][0])
model.evaluate(sys.argv[1])
found = segue.abtest(segue.simulate({"C": "random", "T1": "popular"}, sessions=200, workers=1))
assert "T1" in found.verdict and "mlflow" not in sys.modules
assert not list(pathlib.Path().iterdir()), list(pathlib.Path().iterdir())
"""


def test_it_writes_nothing_where_nothing_was_named(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "user.py").write_text(USER)  # DuckDB takes `-c` for a person, who sees a bar after two seconds
    env = {
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path / "temporary"),
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(tmp_path / "user.py"), str(CSV)],
        cwd=tmp_path / "empty",
        env=env,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list((tmp_path / "temporary").glob("segue-*"))


def test_a_run_whose_folder_is_gone_is_evaluated_by_the_model_that_was_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    quick: dict[str, Any] = {"recipe": "playlists", "trainer__max_epochs": 1, "callbacks__plots": None}
    plays = segue.read_plays(pd.read_csv(CSV).iloc[:2000])
    tracked = segue.fit(plays, folder=tmp_path / "run", logger="mlflow", **quick)
    run = json.loads((tmp_path / "run/run.json").read_text())["mlflow_run_id"]
    known, first = tracked.evaluate(plays).metrics["ndcg_at_10"], tracked.tracks["id"][0]
    answer = tracked.next(first)
    shutil.rmtree(tmp_path / "run")
    loaded = segue.load(f"run:{run}")
    assert loaded.evaluate(plays).metrics["ndcg_at_10"] == pytest.approx(known, abs=1e-6)
    assert loaded.next(first).equals(answer)
