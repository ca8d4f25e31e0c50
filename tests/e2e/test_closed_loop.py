"""The month in a closed loop (`examples/closed_loop`): its order, its table, what a stop leaves; without trainings."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.e2e.running import script


class Loop:
    """The script, whose commands write what it looks for.

    Args:
        folder: of the month.
        monkeypatch: replaces what the script calls.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = script("examples/closed_loop/month.py")
        self.calls, self.stops_at, self.upper = list[list[str]](), "", {"night-2": -0.1}
        monkeypatch.setattr(self.module.segue, "load", self.load)
        monkeypatch.setattr(self.module.subprocess, "run", self.run)
        monkeypatch.setattr(sys, "argv", ["month.py", "--folder", str(folder), "--days", "3"])

    def run(self, command: list[str], **_: Any) -> Any:
        words = command[len(self.module.SEGUE) :]
        run = Path(next(word for word in words if word.startswith("hydra.run.dir=")).partition("=")[2])
        self.calls.append(words)
        assert not run.exists(), "what a killed command has left is removed"
        run.mkdir(parents=True)
        if run.name == self.stops_at:
            (run / "simulation.json").write_text('{"complete": false}')
            return SimpleNamespace(returncode=1, stdout="it was stopped")
        day = int(run.name.rpartition("-")[2])
        arm = {"population": 100, "left": 4 * day, "mean_time_per_session": 5.0 + day, "share_known": 0.1}
        record = {"complete": True, "arms": dict.fromkeys(("C", "T1", "T2"), arm)}
        (run / "simulation.json").write_text(json.dumps(record))
        (run / "model_card.md").touch()
        return SimpleNamespace(returncode=0, stdout="")

    def load(self, run: Path) -> Any:
        upper = self.upper.get(run.name, 0.1)
        return SimpleNamespace(gain_over=lambda _: SimpleNamespace(lower=-0.2, upper=upper))

    def names(self) -> list[str]:
        return [call[-1].rpartition("/")[2] for call in self.calls]


def test_each_day_is_played_from_the_night_before_and_a_stopped_month_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = Loop(tmp_path, monkeypatch)
    loop.stops_at = "day-2"
    with pytest.raises(SystemExit):
        loop.module.main()
    assert loop.names() == ["day-0", "night-0", "day-1", "night-1", "day-2"]
    loop.stops_at, loop.calls = "", []
    loop.module.main()
    assert loop.names() == ["day-2", "night-2", "day-3"]
    assert "night-2: ndcg@10 [-0.2000, -0.1000] beside night-1; night-1 is served" in capsys.readouterr().out
    first, trained, last = loop.calls
    assert f"after={tmp_path / 'day-1'}" in first
    assert first.count("habits.leaving=0.05") == 1
    for played in (first, last):  # the second night is worse
        (arms,) = [word for word in played if word.startswith("arms=")]
        assert arms.count(f'recommender: "{tmp_path / "night-1"}"') == 3
        assert [f"familiar: {share}" in arms for share in (0.0, 0.5, 1.0)] == [True] * 3
    assert trained[:2] == ["train", "datamodule=botify"]
    assert f"datamodule.path={tmp_path / 'day-2'}" in trained
    rows = json.loads((tmp_path / "month.json").read_text())
    assert [row["familiar"] for row in rows] == [0.0, 0.5, 1.0]
    half_width = pytest.approx(1.96 * (0.88 * 0.12 / 100) ** 0.5)
    assert rows[0] == {
        "familiar": 0.0, "listeners": 100, "left": 12, "retained": 0.88, "half_width": half_width,
        "mean_time_per_session": 7.0, "share_known": pytest.approx(0.1),
    }  # fmt: skip
    table = loop.module.main() or capsys.readouterr().out  # nothing is played again
    assert "     0.0         100     12          88.0   6.4" in table


def test_the_habits_of_the_month_are_those_of_listeners() -> None:
    from segue.simulation.habits import Habits

    given = script("examples/closed_loop/month.py").HABITS
    habits = Habits(**{name: float(value) for name, value in given.items()})
    assert all(vars(habits).values()), "each of them is on"
