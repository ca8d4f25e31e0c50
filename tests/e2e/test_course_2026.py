"""The homework of the course of 2026 (`examples/course_2026`): the whole command at a small size, and its result."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.e2e.forks import fork_command
from tests.e2e.running import script


def test_one_command_goes_from_the_log_to_the_result_and_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    course = script("examples/course_2026/course.py")
    monkeypatch.setattr(course, "SEGUE", fork_command("-m", "segue"))
    monkeypatch.setattr(course, "QUICK", (*course.QUICK, "trainer.max_epochs=1"))
    monkeypatch.setattr(sys, "argv", ["course.py", "--folder", "out", "--sessions", "300", "--episodes", "300"])
    course.main()
    result = json.loads((tmp_path / "out/ab_result.json").read_text())
    analysis = json.loads((tmp_path / "out/ab/abtest.json").read_text())
    release = json.loads((tmp_path / "out/ab/logs/day-1/release.json").read_text())
    assert release["arms"]["C"]["policy"] == "control_2026:Control"
    lists = (tmp_path / "out/control/recommendations.jsonl").read_text().splitlines()
    assert {*json.loads(lists[0])} >= {"item_id", "recommendations"}
    assert max(len(json.loads(line)["recommendations"]) for line in lists) == 10
    (time,) = [one for one in result["all_effects"] if one["metric"] == "mean_time_per_session"]
    expected = next(one for one in analysis["effects"] if one["metric"] == "mean_time_per_session")
    assert time == {
        "treatment": "T1", "metric": "mean_time_per_session", "effect_pct": round(expected["effect_percent"], 2),
        "lower_pct": round(expected["lower_percent"], 2), "upper_pct": round(expected["upper_percent"], 2),
        "control_mean": round(expected["control_mean"], 4), "treatment_mean": round(expected["treatment_mean"], 4),
        "significant": expected["significant"],
    }  # fmt: skip
    assert course.ab_result({"effects": [{**expected, "effect_percent": None}]}) == {"all_effects": []}
    monkeypatch.setattr(course, "SEGUE", ["false"])
    (tmp_path / "out/ab_result.json").unlink()
    course.main()
    assert json.loads((tmp_path / "out/ab_result.json").read_text()) == result
    (tmp_path / "out/ab/abtest.json").unlink()
    with pytest.raises(SystemExit):
        course.main()
    assert not (tmp_path / "out/ab").exists(), "what a step that was stopped has left is removed"
    command = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(command)[:3] == ["$", "segue", "abtest"]
