"""Logs of arms that know their listeners, and candidates that do: what was heard before is computed from the log."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.runs.catalog_files import write_catalog
from segue.runs.profiles import DAY_MS, ENTRY, Profiles
from segue.simulation.policies import Random
from segue.simulation.world import World
from segue.verdicts.offpolicy import decisions
from segue.verdicts.offpolicy.behaviours import LogFolder, candidate_of
from segue.verdicts.offpolicy.decisions import read_decisions
from segue.verdicts.offpolicy.estimates import EstimateSettings, OffPolicyLog
from tests.conftest import make_catalog
from tests.serving.test_app import Running, drive
from tests.serving.test_listeners import NUM, listener_release, memory
from tests.simulation.running import MIDNIGHT, run
from tests.simulation.test_arm_profiles import an_arm, write_profiles, write_run
from tests.verdicts.offpolicy.played import first_decisions

NOBODY = Profiles.of(np.empty(0, np.int64), np.zeros(0, ENTRY))
RULES: dict[str, Any] = {"max_rejected": 0.01, "session_gap_minutes": 30.0}
LOOSE = EstimateSettings(min_effective_sample_size=2, max_without_support=1, min_session_weight=0)
HOW: dict[str, Any] = {"pick": "weighted", "artist_gap": 1, "num_lists": 2, "familiar": 0.5}
WEIGHTS = {"heard": 1.0, "share": 2.0, "last_day": -1.0, "artist_plays": 0.3}


def log_of(folder: Path) -> tuple[OffPolicyLog, LogFolder]:
    beside = LogFolder.open(folder)
    return OffPolicyLog(read_decisions(folder, beside.catalog, **RULES), beside), beside


def heard_before(world: World, folder: Path, time_ms: int) -> None:
    """Profiles of the run: what one listener loved."""
    write_profiles(world, folder, 0, (211, 1.0, time_ms), (214, 0.9, time_ms))


@pytest.mark.parametrize("days_ago", [3, -40])
def test_an_arm_that_knows_its_listeners_is_computed_again(world: World, tmp_path: Path, days_ago: int) -> None:
    """At every step, with what its run knew before, which the simulator moves to a time before the log."""
    heard_before(world, write_run(world, tmp_path, **WEIGHTS), MIDNIGHT - days_ago * DAY_MS)
    run(world, tmp_path / "run", policies={"C": an_arm(world, tmp_path, **HOW)}, sessions=300, days=2)
    log, beside = log_of(tmp_path / "run")
    assert (log.is_mixture, log.different, log.arms_left_out) == (True, 0, [])
    if days_ago > 0:  # a candidate begins with what its run knew before the log
        given = {"recommender": str(tmp_path / "r.jsonl"), **HOW}
        found = log.estimate(beside.candidate(candidate_of(given, locate=Path)), LOOSE)
        assert found.session_mean_weight == pytest.approx(1, abs=1e-6)
        own = log.decisions
        assert found.first_step_snips.value == pytest.approx(own.shares[own.first + 1].mean(), abs=1e-6)


def test_the_arm_of_a_service_is_computed_again_from_its_log(tmp_path: Path) -> None:
    """Sessions of three listeners, who hear what is recommended and skip some of it. One of them did not consent."""
    release = listener_release(tmp_path / "store", pick="weighted", heard=2.0, share=1.0, artist_plays=0.5)

    async def work(service: Running) -> None:
        for number in range(60):
            track, user = 100 + 5 * number % NUM, number % 3
            for step in range(4):
                call, body = "next" if step < 3 else "last", {"track": track, "time": (number + step) % 3 / 2}
                body |= {"remember": False} if user == 2 or number in (3, 6) else {}
                answer = await service.ask("POST", f"/{call}/{user}", json.dumps(body).encode())
                track = answer.json().get("track")

    drive(release, tmp_path, work, profiles=memory(tmp_path), with_propensity=True)
    write_catalog(make_catalog([0] * 6 + [1] * 6), tmp_path / "tracks.json")
    log, beside = log_of(tmp_path)
    assert beside.is_served
    assert (len(log.decisions), log.is_mixture, log.different) == (60, True, 0)
    known = beside.behaviour(*log.decisions.settings[log.decisions.setting[0]])
    assert known is not None
    found = log.estimate(known, LOOSE)
    assert found.session_mean_weight == pytest.approx(1, abs=1e-6)


def test_an_arm_that_knew_more_than_the_log_says_is_left_out(world: World, tmp_path: Path) -> None:
    folder = write_run(world, tmp_path, share=5.0)
    arms = {"C": Random(world=world), "T1": an_arm(world, folder, pick="weighted", artist_gap=0, num_lists=1)}
    run(world, tmp_path / "run", policies=arms, sessions=600)
    assert log_of(tmp_path / "run")[0].arms_left_out == []
    [log_file] = (tmp_path / "run/logs").rglob("data.json")
    lines = log_file.read_text().splitlines(keepends=True)
    log_file.write_text("".join(lines[len(lines) // 2 :]))  # as after a rotation
    log, _ = log_of(tmp_path / "run")
    assert log.is_mixture
    assert log.arms_left_out == ['{"TEST":"T1"}']


def test_a_candidate_that_knows_the_listener_has_its_true_value(world: World, tmp_path: Path) -> None:
    """Played by the simulator in as many sessions as the log has, by a policy that is near enough for a like past."""
    folder, how = write_run(world, tmp_path, share=2.0, artist_plays=0.5), {"artist_gap": 0, "num_lists": 1}
    heard_before(world, folder, MIDNIGHT - 3 * DAY_MS)
    logging = an_arm(world, folder, pick="uniform", familiar=0.5, **how)
    run(world, tmp_path / "log", policies={"C": logging}, sessions=1500)
    log, beside = log_of(tmp_path / "log")
    for familiar in (1.0, 0.5):
        own: dict[str, Any] = {"pick": "weighted", "familiar": familiar, **how}
        candidate = beside.candidate(candidate_of({"recommender": str(folder / "r.jsonl"), **own}, locate=Path))
        estimate = log.estimate(candidate, LOOSE).first_step_snips
        run(world, tmp_path / f"{familiar}", policies={"C": an_arm(world, folder, **own)}, sessions=1500, seed=7)
        truth = log_of(tmp_path / f"{familiar}")[0].decisions
        assert estimate.lower < truth.shares[truth.first + 1].mean() < estimate.upper
        assert estimate.upper - estimate.lower < 0.15


def test_what_a_run_learned_from_the_log_itself_is_no_past_of_a_candidate(world: World, tmp_path: Path) -> None:
    folder = write_run(world, tmp_path, **WEIGHTS)
    run(world, tmp_path / "run", policies={"C": an_arm(world, folder, **HOW)}, sessions=200)
    _, beside = log_of(tmp_path / "run")
    given = candidate_of({"recommender": str(folder / "r.jsonl"), **HOW}, locate=Path)
    sessions = read_decisions(tmp_path / "run", beside.catalog, **RULES)
    without = sessions.profiles(beside.candidate(given).before, is_older=False)
    heard_before(world, folder, MIDNIGHT + 5 * DAY_MS)
    after = beside.candidate(given)
    assert len(after.before.listeners)
    np.testing.assert_array_equal(sessions.profiles(after.before, is_older=False), without)


def test_a_profile_has_the_last_plays_of_a_listener_with_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, however many are summed together: sessions after 0, 4 and 9 plays, of which 6 count at most."""
    one = first_decisions([7, 8, 7], [0, 0, 0])
    plays: dict[str, Any] = {"tracks": np.arange(16) % 5, "times_ms": MIDNIGHT + np.arange(16) * DAY_MS}
    plays |= {"is_kept": np.ones(16, bool)}
    plays |= dict.fromkeys(("shares", "propensities"), np.full(16, 0.5))
    some = replace(one, **plays, first=np.array([0, 5, 15]), num_before=np.array([0, 4, 9]))
    monkeypatch.setattr(decisions, "MOST_PLAYS", 6)
    for at_once in (1, 5, 1000):
        monkeypatch.setattr(decisions, "_PLAYS_AT_ONCE", at_once)
        found = some.profiles(NOBODY, is_older=False)
        last = [dict(line[line["plays"] > 0][["track", "last_ms"]].tolist()) for line in found]
        heard = [{track: (ms - MIDNIGHT) // DAY_MS for track, ms in one.items()} for one in last]
        assert heard == [{}, {1: 1, 2: 2, 3: 3, 4: 4}, {0: 10, 1: 11, 2: 12, 3: 13, 4: 14}]
        assert (found["plays"][2] > 1).sum() == 1, "of the last six plays two are of the same track"


@pytest.mark.parametrize("is_kept", [True, False])
def test_the_last_plays_of_a_session_that_was_not_kept_are_its_own(is_kept: bool) -> None:
    one = first_decisions([7, 7], [0, 0])
    plays: dict[str, Any] = dict.fromkeys(("shares", "propensities"), np.full(4, 0.5))
    plays |= {"tracks": np.arange(4), "times_ms": np.arange(4), "is_kept": np.array([True, True, is_kept, is_kept])}
    some = replace(one, first=np.array([0, 2]), num_before=np.array([0, 2]), **plays)
    assert some.last_plays(1).rows[1, :3].tolist() == ([2, 1, 0] if is_kept else [2, -1, -1])
