"""The study of nowplaying: trials of its rivals."""

from pathlib import Path
from typing import Any

import pytest

from experiments.published import trials
from experiments.published.trials import Stage, Tried, chosen, settings

NETWORKS = [name for name, tried in trials.MODELS.items() if tried.library is not None]


def test_the_best_of_a_stage_are_trained_in_the_next_and_a_stopped_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "TRIALS", tmp_path / "trials.csv")
    name, stages = NETWORKS[0], (Stage(4, 8), Stage(2, 2), Stage(1))
    monkeypatch.setitem(trials.MODELS, name, trials.MODELS[name]._replace(stages=stages))
    values = {8: [0.1, 0.4, 0.2, 0.3], 2: [0.0, 0.4, 0.0, 0.5], 1: [0.0, 0.0, 0.0, 0.6]}
    ran: list[tuple[int, int]] = []

    def fit(_: str, number: int, stage: Stage) -> dict[str, Any]:
        if len(ran) == 3:
            ran.append((0, 0))
            raise KeyboardInterrupt
        ran.append((number, stage.share))
        return {"val_ndcg_at_10": values[stage.share][number], "epoch": 2, "fit_s": 1.0, "decided": "{}"}

    monkeypatch.setattr(trials, "_try", fit)
    with pytest.raises(KeyboardInterrupt):
        chosen(name, lambda: "c")
    best = chosen(name, lambda: "c")
    assert ran == [(0, 8), (1, 8), (2, 8), (0, 0), (3, 8), (1, 2), (3, 2), (3, 1)]
    assert (best["trial"], best["val_ndcg_at_10"], best["settings"]) == ("3", "0.6", " ".join(settings(name, 3)))
    assert chosen(name, lambda: "c") == best  # of the file
    assert len(ran) == 8


@pytest.mark.parametrize("name", trials.MODELS)
def test_trials_start_with_known_settings_and_leave_artists_out(name: str) -> None:
    tried: Tried = trials.MODELS[name]
    every = [settings(name, number) for number in range(tried.stages[0].trials)]
    assert [" ".join(one) for one in every[: len(tried.first)]] == list(tried.first)
    assert len(set(every)) == len(every)
    assert not [one for of in every for one in of if "artist" in one]
