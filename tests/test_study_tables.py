"""Tables of studies: what is compared with what, and with which correction."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from experiments.ab_calibration import study as calibration
from experiments.attributes import tables as attributes
from experiments.online import study as online


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_default_is_compared_with_each_rival_in_the_same_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under uniform picking, and each with the picking that is best for it on average; one value for each world."""
    worlds, picks = (1, 2, 3, 4), ("uniform", "ranked")
    rivals = ("rules", "popular")
    rng = np.random.default_rng(0)
    time = {(model, pick): rng.uniform(3, 9, len(worlds)) for model in (online.DEFAULT, *rivals) for pick in picks}
    best = {model: max(picks, key=lambda pick: time[model, pick].mean()) for model in (online.DEFAULT, *rivals)}
    assert set(best.values()) == set(picks)
    monkeypatch.setattr(online, "TRIALS", dict.fromkeys((online.DEFAULT, *rivals), ((),)))
    rows = [(*key, world, value) for key, values in time.items() for world, value in zip(worlds, values, strict=True)]
    frame = pd.DataFrame(rows, columns=["model", "pick", "world", "time"]).sample(frac=1, random_state=1)

    def compared(rival: str, own: str, other: str) -> list[str]:
        gains = 100 * (time[online.DEFAULT, own] / time[rival, other] - 1)
        low, high = stats.t.interval(0.95, len(worlds) - 1, gains.mean(), stats.sem(gains))
        return [f"{value:+.1f}" for value in (gains.mean(), low, high)]

    expected = [
        [
            rival,
            *compared(rival, "uniform", "uniform"),
            best[rival],
            *compared(rival, best[online.DEFAULT], best[rival]),
        ]
        for rival in rivals
    ]
    table = [cells(line) for line in online.against(frame) if line.startswith("|")][2:]
    assert table == sorted(expected, key=lambda row: float(row[1]))


def test_the_page_of_the_online_study_has_the_rows_that_it_writes_now_and_no_others() -> None:
    frame = pd.read_csv(online.RESULTS)
    main, every = frame[frame.part == "fresh"], frame[frame.part.isin(["fresh", "reference"])]
    tables = online.by_pick(every), online.against(main), online.growth(frame), online.settings(frame)
    written = {line for table in tables for line in table if line.startswith("|")}
    page = online.RESULTS.with_name("results.md").read_text(encoding="utf-8").splitlines()
    assert {line for line in page if line.startswith("|")} == written


def test_the_set_ups_of_the_study_of_attributes_are_one_family_of_tests(tmp_path: Path) -> None:
    """Differences as those of a t-test by hand, their p-values corrected by statsmodels."""
    rng = np.random.default_rng(0)
    session, base = np.arange(200), rng.random(200)
    shifts = {"first": 0.018, "second": 0.012, "third": 0.0}
    values = {attributes.BASE: base} | {name: base + rng.normal(shift, 0.08, 200) for name, shift in shifts.items()}
    for setup, of_query in values.items():
        np.savez(tmp_path / f"{attributes.name_of(setup)}_0_1.npz", session=session, ndcg=of_query)
    rows = attributes._differences(tmp_path, list(shifts), [attributes.BASE], ["ndcg"])
    alone = [stats.ttest_1samp(values[name] - base, 0).pvalue for name in shifts]
    corrected = multipletests(alone, method="holm")[1]
    assert min(alone) < 0.05
    assert [row[-1] for row in rows] == [f"{p_value:.2g}" for p_value in corrected]
    assert [row[1] for row in rows] == [f"{(values[name] - base).mean():+.4f}" for name in shifts]


def test_the_calibration_without_the_gate_still_corrects_the_secondary_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three tests the smallest p-value counts three times."""
    bounds = {name: SimpleNamespace(lower_percent=np.nan, p_value=0.9) for name in calibration.METHODS.values() if name}
    found = []
    for p_values in ((0.9, 0.02, 0.4, 0.6), (0.9, 0.4, 0.016, 0.6), (0.04, 0.9, 0.9, 0.9)):
        others = {"lower_percent": np.nan, "decision": "unclear", "is_clear": False}
        effects = [SimpleNamespace(p_value=p_value, **bounds, **others) for p_value in p_values]
        analysis = SimpleNamespace(effects=effects, effect=lambda *_, first=effects[0]: first)
        monkeypatch.setattr(calibration, "NUM_EXPERIMENTS", 1)
        monkeypatch.setattr(calibration, "draw_users", lambda *_: (None, None))
        monkeypatch.setattr(calibration, "analyse", lambda *_, analysis=analysis: analysis)
        people = calibration.Population(sessions=None, tracks=None, time=None, before=None)
        alarms = dict(calibration.effects_piece(people, np.random.default_rng(0), 0))
        found.append(alarms["any false alarm, without the gate"])
    assert found == [False, True, True]
