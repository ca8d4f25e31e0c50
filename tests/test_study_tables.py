"""Tables of studies: what is compared with what, and with which correction."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

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
