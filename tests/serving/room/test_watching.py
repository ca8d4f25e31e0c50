"""The experiment of the room has the numbers of `abtest.py`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from segue.serving.room.watching import NUM_POINTS, watch
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.log import read_users
from segue.verdicts.abtest.settings import AnalysisSettings
from tests.conftest import ROOT, write_lines
from tests.verdicts.abtest.test_log import session

ARMS = {"C": "popular", "T1": "run:1"}
DAY = 86_400_000


def write_log(folder: Path, num_users: int) -> Path:
    rng = np.random.default_rng(0)
    lines: list[Any] = []
    for user in range(num_users):
        arm = "T1" if user % 2 else "C"
        for day in range(2):
            shares = tuple(rng.random(int(rng.integers(2, 6)) + 2 * (arm == "T1")).round(3).tolist())
            lines += session(user, day * DAY + int(rng.integers(1000, DAY // 2)), shares, arm=arm)
    write_lines(folder / "worker-1" / "data.json", lines)
    return folder


def test_the_numbers_are_those_of_abtest(tmp_path: Path) -> None:
    found = watch(write_log(tmp_path, 160), "TEST", ARMS)
    config: Any = OmegaConf.load(ROOT / "conf" / "abtest.yaml")
    given: Any = OmegaConf.to_container(config.analysis, resolve=False)
    settings = AnalysisSettings(**{name: value for name, value in given.items() if name != "_target_"})
    reading = {name: config[name] for name in ("max_rejected", "interleaved", "session_gap_minutes", "unfinished")}
    record = analyse(read_users(tmp_path, experiment="TEST", **reading), settings).record()
    assert found["state"] == "running"
    assert found["verdicts"] == record["verdicts"]
    assert found["exposed"] == list(record["exposed"].values())
    for own, other in zip(found["effects"], record["effects"], strict=True):
        expected = {
            name: None if isinstance(other[name], float) and np.isnan(other[name]) else other[name] for name in own
        }
        assert own == expected
    assert [one["part"] for one in found["days"]] == ["day 1", "day 2"]


def test_the_course_ends_where_the_analysis_is_and_its_interval_narrows(tmp_path: Path) -> None:
    found = watch(write_log(tmp_path, 160), "TEST", ARMS)
    now = next(one for one in found["effects"] if one["metric"] == found["primary"])
    curve = found["course"]["arms"]["T1"]
    assert len(found["course"]["times_ms"]) == len(curve["effect"]) == NUM_POINTS
    assert curve["effect"][0] is None  # too few users
    assert curve["effect"][-1] == pytest.approx(now["effect_percent"])
    assert curve["lower"][-1] == pytest.approx(now["always_valid_lower_percent"])
    widths = [up - low for up, low in zip(curve["upper"], curve["lower"], strict=True) if up is not None]
    assert widths[-1] < widths[0]


def test_few_users_one_arm_or_no_log_show_no_effect(tmp_path: Path) -> None:
    early = watch(write_log(tmp_path / "early", 40), "TEST", ARMS)
    assert early["state"] == "early"
    assert early["exposed"] == [20, 20]
    assert not {"effects", "verdicts", "course"} & early.keys()
    assert watch(tmp_path / "none", "TEST", ARMS)["state"] == "quiet"
    assert watch(tmp_path / "early", "TEST", {"C": "popular"})["state"] == "alone"
    assert watch(tmp_path / "early", "OTHER", ARMS)["state"] == "quiet"
