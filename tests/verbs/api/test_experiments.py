"""Comparison, simulation and A/B test from Python: the results of the verbs."""

import doctest
import json
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import segue
from segue.verbs.abtest import abtest
from tests.conftest import ROOT

CSV = ROOT / "examples" / "plays.csv"
BARE: dict[str, Any] = {"callbacks__plots": None, "refit": "none"}
QUICK: dict[str, Any] = {**BARE, "trainer__max_epochs": 1}


@pytest.fixture(scope="module")
def models(plays: segue.Plays) -> list[segue.Recommender]:
    heads = [segue.fit(plays, seed=seed, **QUICK, model__dim=8) for seed in (1, 2)]
    return [*heads, segue.fit(plays, model="popular", **BARE)]


def test_models_that_differ_in_the_seed_are_one_set_up(models: list[segue.Recommender]) -> None:
    found = segue.compare(models)
    assert len(found.table) == 2
    assert "is best by" in found.verdict
    assert found.verdict in " ".join(repr(found).split())
    assert {path.name for path in found.folder.iterdir()} == {"comparison.json", "comparison.md", "comparison.png"}


def test_a_mapping_names_the_models(models: list[segue.Recommender], tmp_path: Path) -> None:
    found = segue.compare({"ours": models[0], "theirs": models[2]}, folder=tmp_path / "out", select="val/recall_at_10")
    assert set(found.table.index) == {"ours", "theirs"}
    assert (tmp_path / "out" / "comparison.md").is_file()


def test_what_cannot_be_compared_is_one_line(models: list[segue.Recommender]) -> None:
    with pytest.raises(segue.InputError, match="compare needs two models or more, got 1"):
        segue.compare(models[:1])
    with pytest.raises(segue.InputError, match="is named twice"):
        segue.compare(models[:1] * 2)
    with pytest.raises(segue.InputError, match="is trained on other data than"):
        segue.compare([models[2], segue.fit(segue.read_plays(CSV, session_gap_minutes=5), model="popular", **BARE)])


def test_a_simulation_is_analysed_as_the_command_does(tmp_path: Path) -> None:
    simulated = segue.simulate({"C": "random", "T1": "popular"}, sessions=600, folder=tmp_path / "simulated")
    assert list(simulated.arms.index) == ["C", "T1"]
    found = segue.abtest(simulated)
    abtest([f"logs={tmp_path / 'simulated'}", f"hydra.run.dir={tmp_path / 'verdict'}"])
    of_command = json.loads((tmp_path / "verdict" / "abtest.json").read_text())
    assert {**found.record, "provenance": None} == {**of_command, "provenance": None}
    assert found.verdict == of_command["verdicts"]
    assert len(found.effects) == len(of_command["effects"])
    assert "image/png" in found._repr_html_()


def test_a_model_is_an_arm() -> None:
    world: dict[str, Any] = {"world__num_tracks": 300, "world__num_listeners": 200}
    logs = segue.simulate({"C": "random", "T1": "sticky_artist"}, sessions=2000, **world)
    model = segue.fit(segue.read_plays(logs.folder), **QUICK, callbacks__export__k=20)
    arms = {"C": "popular", "T1": {"recommender": model, "pick": "ranked"}}
    assert len(segue.simulate(arms, sessions=300, **world).arms) == 2
    assert segue.abtest(control="popular", treatment=model, sessions=300, **world).verdict


def test_an_error_of_the_verb_is_one_line() -> None:
    with pytest.raises(segue.InputError, match="nowhere"):
        segue.abtest("nowhere")


@pytest.mark.parametrize("name", ["segue", "segue.verbs.api.plays", "segue.verbs.api.fitting"])
def test_the_examples_of_the_docstrings_are_true(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(segue, "fit", partial(segue.fit, trainer__max_epochs=1, callbacks__plots=None), raising=False)
    found = doctest.testmod(import_module(name))
    assert found.attempted > 1
    assert not found.failed
