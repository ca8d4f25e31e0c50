"""The model card has what the run has, under the usual headings, and says what its numbers do not."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

from segue.verbs.training.model_card import FILE, CardData, model_card, write_model_card
from segue.verbs.training.next_steps import FinishedRun
from tests.verbs.training.test_next_steps import finished

HEADINGS = ["Model details", "Intended use", "Data", "Metrics", "Limits", "Command and versions"]
TESTED = {
    "epochs": 3,
    "fit_seconds": 1.5,
    "test/mrr": 0.25,
    "test/mrr_half_width": 0.01,
    "test/mrr_popular_floor": 0.2,
    "test/num_queries": 40.0,
    "test/num_all_queries": 90.0,
}
DATA = CardData(
    path="logs/plays.csv",
    digest="00ff",
    sizes=pd.DataFrame({"sessions": [8, 9], "tracks": [70, 77]}, index=["train", "all"], dtype="Int64"),
    span=("2026-01-05 00:00:00", "2026-02-01 00:00:00"),
    remarks=["left out     3 by min_count"],
)
ORIGIN = {"command": "python train.py model=convex", "git_commit": "abc"}


def run(metrics: dict[str, Any], **choices: str) -> FinishedRun:
    usual = {"datamodule": "table", "world": "small", "recipe": "shares", "model": "convex", "context": "session"}
    base = finished(choices={**usual, **choices}, metrics={**TESTED, **metrics})
    base.config.merge_with(OmegaConf.create({"monitor": {"metric": "val/loss"}, "seed": 7}))
    return base


def parts(**changes: Any) -> dict[str, str]:
    """The text below each heading."""
    _, _, text = model_card(run(changes.pop("metrics", {}), **changes), DATA, ORIGIN).split("---\n", 2)
    return dict(re.findall(r"^## (.+)\n\n((?:(?!## ).*\n)+)", text, re.MULTILINE))


def test_it_has_the_data_the_metrics_with_intervals_and_floors_and_the_command() -> None:
    card = parts()
    assert list(card) == HEADINGS
    assert "- run: run:3fa2c1d0\n- choices: model=convex context=session recipe=shares\n" in card["Model details"]
    assert "- epochs: 3, the best by val/loss was tested\n- training: 1.5 seconds" in card["Model details"]
    assert "the 77 tracks of one catalogue" in card["Intended use"]
    assert "- source: datamodule=table, logs/plays.csv\n- digest: 00ff\n" in card["Data"]
    assert "- time: 2026-01-05 00:00:00 to 2026-02-01 00:00:00\n" in card["Data"]
    assert "| all | 9 | 77 |\n" in card["Data"]
    assert "- left out 3 by min_count" in card["Data"]
    assert "| mrr | **0.25** | 0.01 | 0.2 | mean of 1 / rank |\n" in card["Metrics"]
    assert "- popular, a floor: ranks by plays in training" in card["Metrics"]
    assert "- command: `python train.py model=convex`\n- git_commit: `abc`" in card["Command and versions"]


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, "The test ranked 40 of 90 queries, a sample of whole sessions."),
        ({}, "this is one seed."),
        ({}, "A/B test (serve.py, abtest.py) measures what listeners play longer."),
        ({"datamodule": "simulated", "world": "large"}, "The numbers hold for the world `large`."),
    ],
)
def test_the_limits_are_those_of_the_run(changes: dict[str, Any], limit: str) -> None:
    limits = parts(**changes)["Limits"]
    assert limits.count(limit) == 1
    assert ("simulated" in limits) == ("world" in changes)


def test_what_was_not_tested_is_said() -> None:
    base = run({})
    metrics = {"epochs": 1, "fit_seconds": 0.0}
    text = model_card(FinishedRun(**{**vars(base), "metrics": metrics}), DATA, ORIGIN)
    assert "The test ranked no queries" in text


def test_its_first_block_is_what_hugging_face_reads() -> None:
    head = yaml.safe_load(model_card(run({}), DATA, ORIGIN).split("---\n")[1])
    assert (head["library_name"], head["tags"]) == ("segue", ["recommendation", "next-track", "convex"])
    [model] = head["model-index"]
    [result] = model["results"]
    assert model["name"] == "convex seed=1"
    assert {"type", "name"} == result["task"].keys() == result["dataset"].keys()
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == {"mrr": 0.25, "num_queries": 40.0, "num_all_queries": 90.0}


def test_two_runs_of_one_command_differ_in_the_seconds_alone(tmp_path: Path) -> None:
    texts = []
    for seconds in (1.5, 2.5):
        one = run({"fit_seconds": seconds})
        one.config.run_dir = str(tmp_path)
        path = write_model_card(one, DATA, ORIGIN)
        assert path == tmp_path / FILE
        texts.append(path.read_text(encoding="utf-8").splitlines())
    differ = [pair for pair in zip(*texts, strict=True) if len(set(pair)) > 1]
    assert differ == [("- training: 1.5 seconds", "- training: 2.5 seconds")]
