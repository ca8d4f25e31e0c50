"""Off-policy estimates from logs: slow loops, the truth of the simulator, and broken propensities."""

import json
import re
import shutil
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from segue.errors import InputError
from segue.runs.profiles import ENTRY, Profiles
from segue.simulation.listener import listen, start
from segue.simulation.policies import Oracle, Policy, Popular, Random, StickyArtist
from segue.simulation.world import World
from segue.statistics.discovery import DISCOVERY
from segue.statistics.intervals import LEVEL
from segue.verdicts.offpolicy.behaviours import Candidate, LogFolder
from segue.verdicts.offpolicy.decisions import read_decisions
from segue.verdicts.offpolicy.estimate_report import arm_names, estimate_table, known_table, remarks, write_estimate
from segue.verdicts.offpolicy.estimates import OffPolicyLog
from segue.verdicts.offpolicy.estimators import snips
from tests.verdicts.offpolicy.played import edit, lists, neighbours, opened, settings, simulate

MIXED = ("C", "T1", "T2", "T3")


@pytest.fixture(scope="module")
def mixed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The traffic of the default logs for training: half random, a quarter each of the two others."""
    run = tmp_path_factory.mktemp("mixed") / "run"
    policies = [
        Random(world=world),
        Random(world=world),
        StickyArtist(world=world),
        Popular(num_tracks=100, world=world),
    ]
    simulate(world, run, dict(zip(MIXED, policies, strict=True)), seed=2)
    neighbours(world, run / "candidate.jsonl")
    return run


def sessions_of(run: Path) -> list[list[dict[str, Any]]]:
    open_sessions, done = defaultdict(list), []
    for line in (run / "logs/day-1/data.json").read_text().splitlines():
        event = json.loads(line)
        open_sessions[event["user"]].append(event)
        if event["message"] == "last":
            done.append(open_sessions.pop(event["user"]))
    return done


def slow_weights(world: World, session: list[dict[str, Any]], shares: dict[str, float]) -> list[float]:
    """Weights of all steps of a session for the candidate, whose list has the next 150 tracks of the catalogue."""
    catalog, weights, of_arms, of_candidate = world.catalog, list[float](), dict(shares), 1.0
    size, top = np.bincount(catalog.artist_of), set(world.top_tracks[:100].tolist())
    rows = catalog.rows_of(np.array([event["track"] for event in session])).tolist()
    for previous, following in pairwise(rows):
        others = size[catalog.artist_of[previous]] - 1
        is_other = catalog.artist_of[previous] == catalog.artist_of[following] and previous != following
        of_arms["C"] *= 1 / len(catalog)
        of_arms["T1"] *= 1 / len(catalog)
        of_arms["T2"] *= is_other / others if others else 1 / len(catalog)
        of_arms["T3"] *= (following in top) / 100
        of_candidate *= ((following - previous) % len(catalog) in range(1, 151)) / 150
        weights.append(of_candidate / sum(of_arms.values()))
    return weights


def slow_square(world: World, row: int, shares: dict[str, float]) -> float:
    """Mean of w² of a first decision over the tracks that could have been logged."""
    artist_of, num, top = world.catalog.artist_of.tolist(), len(world.catalog), set(world.top_tracks[:100].tolist())
    others, total = artist_of.count(artist_of[row]) - 1, 0.0
    for following in ((row + step) % num for step in range(1, 151)):
        by_artist = (artist_of[following] == artist_of[row]) / others if others else 1 / num
        logged = (shares["C"] + shares["T1"]) / num + shares["T2"] * by_artist + shares["T3"] * (following in top) / 100
        total += (1 / 150) ** 2 / logged
    return total


def test_estimates_are_those_of_slow_loops(world: World, mixed: Path, tmp_path: Path) -> None:
    folder, log = opened(mixed)
    sessions = sessions_of(mixed)
    num_of_arm = {arm: sum(s[0]["experiments"]["TEST"] == arm for s in sessions) for arm in MIXED}
    shares = {arm: num / len(sessions) for arm, num in num_of_arm.items()}
    weights = [slow_weights(world, session, shares) for session in sessions]
    first, users = np.array([w[0] for w in weights]), np.array([s[0]["user"] for s in sessions])
    wide = neighbours(world, tmp_path / "wide.jsonl", num=150)
    candidate = folder.candidate(Candidate(name="lists", file=wide))
    found = log.estimate(candidate, settings(min_session_weight=0.0))
    begins = world.catalog.rows_of(np.array([session[0]["track"] for session in sessions])).tolist()
    squares = {row: slow_square(world, row, shares) for row in set(begins)}
    square = float(np.mean([squares[row] for row in begins]))
    expected = snips(first, np.array([s[1]["time"] for s in sessions]), users, LEVEL, expected_square=square)
    assert found.first_step_snips.value == pytest.approx(expected.value, rel=1e-9)
    assert found.first_step_snips.lower == pytest.approx(expected.lower, rel=1e-9)
    assert found.num_sessions == len(sessions)
    played, true = slow_discovery(world, sessions)
    for name, one in found.first_step_known.items():
        assert one.mean == pytest.approx(np.nanmean(true[name]), rel=1e-9)
        assert found.metrics()[f"offline/first_step_{name}"] == one.mean
        assert one.lower < one.mean < one.upper
    assert list(found.first_step_known) == list(DISCOVERY)
    known = known_table(found, log, "lists")
    assert known is not None
    names = [(name.replace("_", " "), one) for name in DISCOVERY for one in ("lists", *MIXED)]
    assert [(row[0], row[1]) for row in known.rows] == names
    of_same_name = known_table(found, log, "C")
    assert of_same_name is not None
    assert [row[2:] for row in of_same_name.rows] == [row[2:] for row in known.rows]
    for metric, arm, share, _ in known.rows:
        if arm in MIXED:
            own = [session[0]["experiments"]["TEST"] == arm for session in sessions]
            assert float(str(share)) == pytest.approx(np.nanmean(played[str(metric).replace(" ", "_")][own]), abs=6e-4)
    longest = max(map(len, sessions))
    value = 1.0
    for step in range(1, longest):
        clipped = [min(w[min(step, len(w)) - 1], 100.0) for w in weights]
        rewards = [s[step]["time"] if step < len(s) else 0.0 for s in sessions]
        value += sum(w * r for w, r in zip(clipped, rewards, strict=True)) / sum(clipped)
    assert found.session_snips is not None
    assert found.session_snips.value == pytest.approx(value, rel=1e-9)
    assert found.session_mean_weight == pytest.approx(np.mean([min(w[-1], 100.0) for w in weights]), rel=1e-9)


def slow_discovery(
    world: World, sessions: list[list[dict[str, Any]]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Whether the second track of each session was known before, and the share of the candidate's list that was.

    NaN in the first session of a user.
    """
    played, true = ({name: np.full(len(sessions), np.nan) for name in DISCOVERY} for _ in range(2))
    past = defaultdict[int, dict[str, set[int]]](lambda: {name: set() for name in DISCOVERY})
    for number in sorted(range(len(sessions)), key=lambda number: int(sessions[number][0]["timestamp"])):
        session, own = sessions[number], past[sessions[number][0]["user"]]
        rows = world.catalog.rows_of(np.array([event["track"] for event in session])).tolist()
        for name in DISCOVERY if own["share_heard"] else ():
            numbers = world.catalog.artist_of if name == "share_known_artist" else np.arange(len(world.catalog))
            listed = [numbers[(rows[0] + step) % len(world.catalog)] in own[name] for step in range(1, 151)]
            played[name][number], true[name][number] = numbers[rows[1]] in own[name], np.mean(listed)
        for row, event in zip(rows, session, strict=True):
            own["share_heard"].add(row)
            if event["time"] >= 0.8:
                own["share_known"].add(row)
                own["share_known_artist"].add(int(world.catalog.artist_of[row]))
    return played, true


def test_a_candidate_that_draws_any_track_plays_the_share_of_the_catalogue_that_is_known(
    world: World, mixed: Path
) -> None:
    folder, log = opened(mixed)
    found = log.estimate(folder.candidate(Candidate(name="random")), settings()).first_step_known
    some, every = log.decisions.where(log.decisions.has_past), np.arange(len(world.catalog))
    assert 0 < len(some) < len(log.decisions)
    for name, known in some.known(np.tile(every, (len(some), 1))).items():
        assert found[name].mean == pytest.approx(known.mean(), rel=0.05)
    first = log.decisions.where(~log.decisions.has_past)
    assert not any(known.any() for known in first.known(np.tile(every, (len(first), 1))).values())
    alone = OffPolicyLog(first, folder).estimate(folder.candidate(Candidate(name="random")), settings())
    assert (alone.first_step_known, known_table(alone, log, "random")) == ({}, None)


@pytest.mark.parametrize("is_before", [True, False])
def test_what_was_heard_before_the_log_is_known_in_the_first_session_too(
    world: World, mixed: Path, is_before: bool
) -> None:
    """A track with a later play is left out: the listener may have heard it first in the log, or after it."""
    _, log = opened(mixed)
    first = log.decisions.where(~log.decisions.has_past)
    entries = np.zeros(1, ENTRY)
    entries["last_ms"] = log.decisions.times_ms.min() - is_before
    entries["track"], entries["plays"], entries["best"] = world.catalog.keys[7], 1, 0.5
    Profiles.of(first.users[:1], entries).write(mixed / "profiles.npz")
    try:
        _, again = opened(mixed)
    finally:
        (mixed / "profiles.npz").unlink()
    of_user = again.decisions.where(again.decisions.users == first.users[0])
    known = of_user.known(np.full((len(of_user), 1), 7))
    assert of_user.has_past.all() == is_before
    assert known["share_heard"].all() == is_before
    assert not known["share_known"][0, 0]
    assert again.decisions.has_past.sum() == log.decisions.has_past.sum() + is_before


def p_value_of_mixture(log: OffPolicyLog, num_tracks: int) -> float:
    """Of a chi-square test of the first recommendations against the probabilities of the mixture of all arms."""
    sessions = log.decisions
    chances = log.mixture(np.arange(len(sessions)), np.tile(np.arange(num_tracks), (len(sessions), 1)))
    assert chances.sum(1) == pytest.approx(np.ones(len(sessions)))
    expected, found = chances.sum(0), np.bincount(sessions.tracks[sessions.first + 1], minlength=num_tracks)
    order = np.argsort(expected)
    parts = [(found[some].sum(), expected[some].sum()) for some in np.array_split(order, 40)]
    return float(chisquare([one for one, _ in parts], [other for _, other in parts]).pvalue)


def test_the_probabilities_of_a_mixture_of_arms_are_the_frequencies_in_the_log(world: World, mixed: Path) -> None:
    _, log = opened(mixed)
    assert p_value_of_mixture(log, len(world.catalog)) > 1e-4
    release = mixed / "logs/day-1/release.json"
    text = release.read_text()
    release.write_text(text.replace('"num_tracks": 100', '"num_tracks": 60'))  # the propensities of T3 are then wrong
    try:
        with pytest.raises(InputError, match="sessions have another propensity than their release"):
            opened(mixed)
    finally:
        release.write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"familiar": 7}, r"release.json: arms.T3.familiar must be a number .*at most 1 or learned, got 7"),
        ({"artist_gap": "many"}, r"arms.T3.artist_gap must be a whole number .*got 'many'"),
        ({"num_tracks": "many"}, "release.json describes no release .*; leave its logs out"),
        ({"familiar": "learned"}, ""),
    ],
)
def test_a_wrong_value_in_a_release_is_one_line(mixed: Path, change: dict[str, Any], message: str) -> None:
    path = mixed / "logs/day-1/release.json"
    text = path.read_text()
    head = json.loads(text)
    head["arms"]["T3"] |= change
    path.write_text(json.dumps(head))
    try:
        with pytest.raises(InputError, match=message) if message else nullcontext():
            opened(mixed)
        path.write_text(json.dumps(head | {"provenance": 5}))
        with pytest.raises(InputError, match=r"release.json describes no release"):
            opened(mixed)
    finally:
        path.write_text(text)


@pytest.mark.parametrize("name", ["random", "popular", "sticky_artist", "uniform", "weighted"])
def test_the_truth_is_in_the_interval(world: World, mixed: Path, name: str) -> None:
    """At this fixed seed; how often it is, experiments/off_policy measures."""
    folder, log = opened(mixed)
    file, policy = mixed / "candidate.jsonl", None
    words: dict[str, Policy] = {
        "random": Random(world=world),
        "popular": Popular(num_tracks=100, world=world),
        "sticky_artist": StickyArtist(world=world),
    }
    if (policy := words.get(name)) is None:
        policy = lists(world, file, name, 1)
        candidate = folder.candidate(Candidate(name="lists", pick=name, artist_gap=1, file=file))
    else:
        candidate = folder.candidate(Candidate(name=name))
    found = log.estimate(candidate, settings())
    rng = np.random.default_rng(0)
    crowd = start(world, rng.integers(len(world.listeners), size=20_000), rng.random(20_000), rng.random(20_000))
    policy.begin(crowd, rng)
    truth = listen(world, crowd, policy.recommend(crowd).tracks, rng.random(20_000)).shares[-1].mean() / 100
    for estimate in (found.first_step_snips, found.first_step_dr):
        assert estimate.lower < truth < estimate.upper
        assert estimate.upper - estimate.lower < 0.5
    assert found.share_without_support == 0
    if name in words:
        assert found.session_snips is not None
    else:
        assert found.session_snips is None, "its sessions are not in the log"
        assert "offline/session_snips" not in found.metrics()


def copy(run: Path, to: Path, change: Any) -> Path:
    (to / "logs" / "day-1").mkdir(parents=True)
    for name in ("tracks.json", "top_tracks.json", "logs/day-1/data.json", "logs/day-1/release.json"):
        (to / name).write_bytes((run / name).read_bytes())
    edit(to / "logs/day-1/data.json", change)
    return to


def doubled(line: str) -> str:
    return re.sub(r'"propensity": ([\d.e-]+)', lambda found: f'"propensity": {float(found[1]) * 2}', line)


def test_a_broken_propensity_is_noticed(mixed: Path, tmp_path: Path) -> None:
    lines = (mixed / "logs/day-1/data.json").read_text().splitlines()
    first_of_a_session = next(number for number, line in enumerate(lines) if '"next"' in line)
    one = copy(mixed, tmp_path / "one", lambda number, line: doubled(line) if number == first_of_a_session else line)
    folder, log = opened(one)
    assert log.different == 1
    assert len(log.decisions) == len(opened(mixed)[1].decisions) - 1
    found = log.estimate(folder.candidate(Candidate(name="random")), settings())
    assert "Left out, because a propensity is not that of its release: 1 sessions." in remarks(found)
    everything = copy(mixed, tmp_path / "all", lambda _, line: doubled(line))
    message = (
        r"1500 of 1500 sessions have another propensity than their release, such as .* instead of .* in the session "
        r"that began at \d+ ms"
    )
    with pytest.raises(InputError, match=message):
        opened(everything)


def test_a_candidate_without_support_is_refused(world: World, tmp_path: Path) -> None:
    simulate(world, tmp_path / "run", {"C": StickyArtist(world=world), "T1": Popular(num_tracks=10, world=world)})
    file = neighbours(world, tmp_path / "far.jsonl", step=37)
    folder, log = opened(tmp_path / "run")
    far = folder.candidate(Candidate(name="lists", file=file))
    with pytest.raises(InputError, match=r"no support for 8\d\.\d% of the candidate's picks, more than estimate.max_w"):
        log.estimate(far, settings())
    with pytest.raises(InputError, match=r"no support for 100.0% of the candidate's picks"):
        log.estimate(folder.candidate(Candidate(name="random")), settings())
    popular = log.estimate(folder.candidate(Candidate(name="popular")), settings(max_without_support=1))
    assert 0.7 < popular.share_without_support < 0.9, "only 10 of its 100 tracks, and those of the artist"


def test_a_log_that_is_worth_too_little_is_refused(mixed: Path) -> None:
    folder, log = opened(mixed)
    candidate = folder.candidate(Candidate(name="lists", pick="ranked", file=mixed / "candidate.jsonl"))
    with pytest.raises(
        InputError, match=r"worth [\d.]+ sessions of the candidate \(effective sample size\), less than"
    ):
        log.estimate(candidate, settings(min_effective_sample_size=1000))


def test_arms_that_are_not_known_are_left_out_or_trusted_if_none_is(world: World, tmp_path: Path) -> None:
    simulate(world, tmp_path / "some", {"C": Random(world=world), "T1": Oracle(world=world)}, sessions=300)
    folder, log = opened(tmp_path / "some")
    random = folder.candidate(Candidate(name="random"))
    found = log.estimate(random, settings())
    assert found.is_mixture
    assert found.arms_left_out == ['{"TEST":"T1"}']
    assert "Left out, because their recommender is not known: T1." in remarks(found)
    assert found.first_step_snips.effective_sample_size == pytest.approx(len(log.decisions)), "all weights are equal"
    (tmp_path / "some/logs/day-1/release.json").unlink()
    folder, log = opened(tmp_path / "some")
    assert not log.is_mixture
    with pytest.raises(InputError, match="no support for"):
        log.estimate(random, settings())
    found = log.estimate(random, settings(max_without_support=1.0))
    assert 0.3 < found.share_without_support < 0.7, "half of the sessions are of an arm that picks one track"
    assert "assume that every arm can recommend every track" in " ".join(remarks(found))


def test_a_log_without_a_session_that_can_be_used_is_refused(mixed: Path, tmp_path: Path) -> None:
    some = copy(
        mixed,
        tmp_path / "run",
        lambda number, line: line if number % 2 else re.sub(r'"time": [\d.]+', '"time": 2', line),
    )
    folder = opened(mixed)[0]
    decisions = read_decisions(some / "logs", folder.catalog, max_rejected=0.0, session_gap_minutes=30)
    with pytest.raises(InputError, match=r"none of 1500 sessions can be used: [\d,]+ sessions with a share below 0"):
        OffPolicyLog(decisions.where(np.zeros(len(decisions), bool)), folder)


def test_the_reward_model_can_be_fitted_on_other_sessions(mixed: Path) -> None:
    folder, log = opened(mixed)
    sessions, number = log.decisions, np.arange(len(log.decisions))
    later = OffPolicyLog(sessions.where(number >= 1000), folder, sessions.where(number < 1000))
    candidate = folder.candidate(Candidate(name="sticky_artist"))
    found, whole = later.estimate(candidate, settings()), log.estimate(candidate, settings())
    assert found.num_sessions == 500
    assert found.first_step_dr.value == pytest.approx(whole.first_step_dr.value, abs=0.1)


def test_the_report_has_the_candidate_and_the_arms_of_the_log(mixed: Path, tmp_path: Path) -> None:
    folder, log = opened(mixed)
    found = log.estimate(folder.candidate(Candidate(name="popular")), settings())
    table = estimate_table(found, log, "popular")
    rows = table.rows
    assert [row[:2] for row in rows[:2]] == [("popular", "robust"), ("popular", "SNIPS")]
    assert [row[0] for row in rows[2:]] == list(MIXED)
    assert all(len(row) == len(table.columns) for row in rows)
    of_arm = {arm: [s for s in sessions_of(mixed) if s[0]["experiments"]["TEST"] == arm] for arm in MIXED}
    means = [np.mean([session[1]["time"] for session in of_arm[arm]]) for arm in MIXED]
    assert [float(str(row[2])) for row in rows[2:]] == pytest.approx(means, abs=6e-4)
    times = [np.mean([sum(event["time"] for event in session) for session in of_arm[arm]]) for arm in MIXED]
    assert [float(str(row[4])) for row in rows[2:]] == pytest.approx(times, abs=6e-3)
    known = known_table(found, log, "popular")
    assert known is not None
    write_estimate(found, [table, known], tmp_path / "report", "popular", {"command": "test"})
    record = json.loads((tmp_path / "report/estimate.json").read_text())
    assert record["offline/first_step_dr"] == found.first_step_dr.value
    assert record["candidate"] == "popular"
    text = (tmp_path / "report/estimate.md").read_text()
    assert "| popular | SNIPS |" in text
    assert "| share known | popular |" in text
    assert "- share known: was played to at least 80 % by the same listener in an earlier session" in text
    assert "- command: test" in text


def test_the_report_says_what_was_left_out(mixed: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed, tmp_path / "run")
    path = tmp_path / "run" / "logs" / "day-1" / "data.json"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*(line for n, line in enumerate(lines) if n % 100), "x"]) + "\n", encoding="utf-8")
    folder = LogFolder.open(tmp_path / "run" / "logs")
    log = OffPolicyLog(read_decisions(folder.logs, folder.catalog, max_rejected=0.01, session_gap_minutes=30), folder)
    found = log.estimate(folder.candidate(Candidate(name="popular")), settings())
    assert found.share_left_out == pytest.approx(1 - found.num_sessions / found.num_read)
    assert found.share_left_out > 0.03
    *others, share, num_lines = remarks(found)
    assert share.startswith(f"{found.share_left_out:.1%} of the {found.num_read:,} sessions of the log are left")
    assert num_lines == "Left out: 1 lines that are not events."
    assert not any("below 30" in line for line in others)
    few = replace(found, first_step_snips=replace(found.first_step_snips, effective_sample_size=16.0))
    assert any(line.startswith("With an effective sample size below 30, fewer than 95 %") for line in remarks(few))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"clip": 0.5},
            "estimate.clip must be .* at least 1, got 0.5; train.py calls it callbacks.off_policy.settings",
        ),
        ({"min_effective_sample_size": 1}, "estimate.min_effective_sample_size must be a number of at least 2"),
        ({"max_without_support": 2}, "estimate.max_without_support must be a number of at least 0 and at most 1"),
        ({"min_session_weight": -1}, "estimate.min_session_weight must be a number of at least 0 and at most 1"),
    ],
)
def test_a_setting_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(**changes)


def test_arms_have_the_shortest_distinct_names() -> None:
    one, other, new = ('{"A":"C"}', "1"), ('{"B":"C"}', "1"), ('{"A":"C"}', "2")
    assert arm_names([one]) == ["C"]
    assert arm_names([one, other]) == ["C of A", "C of B"]
    assert arm_names([one, new]) == ["C (release 1)", "C (release 2)"]
    assert arm_names([("broken", "1")]) == ["broken"]
    assert arm_names([]) == []
