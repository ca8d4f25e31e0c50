"""A simulated experiment: its arms, days and event logs, and the means of each arm."""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial, reduce
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Int64

from segue.assignment import check_arms
from segue.errors import InputError
from segue.runs.atomic import write_record, write_whole
from segue.runs.profiles import FILE as PROFILES
from segue.runs.profiles import Profiles, days_to_move
from segue.settings import Setting, settings
from segue.simulation.arm_profiles import ArmProfiles
from segue.simulation.event_lines import DAY_MS, Events, Names, write_events
from segue.simulation.habits import Habits
from segue.simulation.listener import WHOLE
from segue.simulation.memory import Memory
from segue.simulation.past_days import past_days
from segue.simulation.policies import Policy
from segue.simulation.traffic import NO_HABITS, Day, Players, Plays, delayed_interrupt
from segue.simulation.world import World
from segue.simulation.world_files import WORLD_FILES, write_world
from segue.statistics.discovery import DISCOVERY, Discovery
from segue.statistics.intervals import LEVEL, MeanInterval

NumSessions = Annotated[int, Setting("number of sessions per day, over all arms", least=1, most=100_000_000)]
TrackSeconds = Annotated[float, Setting("duration of a track, in seconds", above=0, most=86_400)]

RELEASE = "release.json"
"""The file beside the log of a day that describes what was recommended."""

LEFT = "left.json"
"""The file with the ids of the listeners who have left for good, if any has."""

ArmReport = Callable[[str, int, float], None]
"""Receives the progress of an arm: its name, the sessions completed since the last call, its mean time per session."""

ArmProgress = Callable[[Mapping[str, int]], AbstractContextManager[ArmReport]]
"""Opens the display of the progress, given the number of sessions planned for each arm."""


class Tally:
    """Sums over the sessions of each listener: sessions, tracks and time, and what was known before.

    Args:
        num_listeners: number of listeners of the world (U).
    """

    def __init__(self, num_listeners: int) -> None:
        self.sessions, self.tracks = np.zeros((2, num_listeners), np.int64)
        self.hundredths = np.zeros(num_listeners)
        self.asked = np.zeros(num_listeners, np.int64)
        self.known = {name: np.zeros(num_listeners, np.int64) for name in DISCOVERY}

    def add(self, plays: Plays) -> None:
        """Add sessions to the sums."""
        num = len(self.sessions)
        self.sessions += np.bincount(plays.users, minlength=num)
        self.tracks += np.bincount(plays.users, plays.lengths, minlength=num).astype(np.int64)
        self.hundredths += np.bincount(plays.users, plays.hundredths, minlength=num)

    def add_discovery(
        self, users: Int64[np.ndarray, "E"], counted: Bool[np.ndarray, "E"], known: Mapping[str, Bool[np.ndarray, "E"]]
    ) -> None:
        """Add what was known of plays; see `Discovery.of_plays`.

        Args:
            users: row of the listener of each play.
            counted: which plays count.
            known: which of them were known, by the name of the metric.
        """
        self.asked += np.bincount(users[counted], minlength=len(self.asked))
        for name, one in known.items():
            self.known[name] += np.bincount(users[one], minlength=len(self.asked))

    def mean_time(self, chosen: Int64[np.ndarray, "u"]) -> float:
        """Mean time of the sessions of some listeners, in tracks played in full; for the display of the progress."""
        return float(self.hundredths[chosen].sum() / WHOLE / max(self.sessions[chosen].sum(), 1))

    def summary(self, chosen: Int64[np.ndarray, "u"]) -> dict[str, int | float]:
        """Means over the listeners of an arm with their intervals. The unit is the listener.

        Args:
            chosen: rows of the listeners of the arm.

        Returns:
            The summary of an arm as in `simulation.json`. Time is in tracks played in full.
        """
        active = chosen[self.sessions[chosen] > 0]
        sessions, tracks = self.sessions[active], self.tracks[active]
        num_sessions, num_steps = int(sessions.sum()), int((tracks - sessions).sum())
        summary: dict[str, int | float] = {"listeners": len(active), "sessions": num_sessions, "steps": num_steps}
        returned = chosen[self.asked[chosen] > 0]
        means = {
            "mean_time_per_session": self.hundredths[active] / WHOLE / sessions,
            "mean_tracks_per_session": tracks / sessions,
            **{name: self.known[name][returned] / self.asked[returned] for name in DISCOVERY if len(returned)},
        }
        for name, of_listeners in means.items():
            interval = MeanInterval.of(of_listeners, LEVEL)
            summary |= {name: interval.mean, f"{name}_lower": interval.lower, f"{name}_upper": interval.upper}
        return {**summary, "returning_listeners": len(returned)} if len(returned) else summary


def _previous(folder: Path, world: World, experiment: str, arms: Sequence[str]) -> tuple[int, int, list[Path]]:
    """The end of a previous run, after which a run continues.

    Args:
        folder: the run folder of `simulate.py`.
        world: the world of the new run; must be that of the previous run.
        experiment: name of the experiment of the new run.
        arms: names of the arms of the new run.

    Returns:
        Number of its last day, start of the next day in milliseconds since 1970, and the folders of its logs.

    Raises:
        InputError: there is no such run, it has another world, or the same experiment with another number of arms.
    """
    path = folder / "simulation.json"
    try:
        record = json.loads(path.read_bytes())
        day, midnight, digest = int(record["last_day"]), int(record["next_midnight"]), record["world"]
        previous_name, num_arms = record["experiment"], len(record["arms"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"after={folder}: cannot read {path} ({error}); name the run folder of a completed simulate.py"
        ) from None
    if digest != world.digest():
        raise InputError(
            f"after={folder}: that run has another world ({digest}, this one is {world.digest()}); "
            "choose the same world with world= and its settings"
        )
    if previous_name == experiment and num_arms != len(arms):
        raise InputError(
            f"after={folder}: experiment {experiment} has {num_arms} arms there and {len(arms)} here; "
            "listeners would change arms within it; choose another name with experiment=<name>"
        )
    return day, midnight, sorted(path.parent for path in folder.glob("logs/*/data.json"))


@settings()
def run_experiment(
    *,
    world: World,
    policies: Mapping[str, Policy],
    experiment: str,
    sessions: NumSessions,
    days: Annotated[int, Setting("number of days", least=1, most=1000)],
    workers: Annotated[int, Setting("number of processes; does not change the result", least=1, most=256)],
    seed: Annotated[int, Setting("of the traffic; the world has its own, world.seed", least=0)],
    first_day: str,
    track_seconds: TrackSeconds,
    folder: Path,
    write_logs: Annotated[bool, Setting("false: only simulation.json is written")],
    with_propensity: Annotated[bool, Setting("next lines have propensity and release", key="log.with_propensity")],
    after: Path | None,
    provenance: Mapping[str, str],
    progress: ArmProgress,
    habits: Habits | None = None,
) -> dict[str, Any]:
    """Simulate the sessions of some days; write the files of the world, `logs/day-<n>/data.json` and `simulation.json`.

    If it is interrupted or a policy fails, the logs contain complete sessions only, and `simulation.json` describes
    them with `"complete": false`.

    Args:
        world: the world of the listeners.
        policies: the policy of each arm, by its name.
        experiment: name of the experiment, in the log and for the assignment.
        first_day: date of the first day, such as 2026-01-05.
        folder: the run folder; created if missing.
        after: run folder of a previous run to continue; its logs are linked into `folder`.
        provenance: command, commit and versions, by name.
        progress: shows the progress.
        habits: what listeners do because of earlier days; None for nothing.

    Returns:
        The content of `simulation.json`.

    Raises:
        InputError: a setting is out of range, the folder is used, or a policy fails.
    """
    arms, habits = check_arms(policies), habits or NO_HABITS
    if not experiment:
        raise InputError(
            "experiment is empty; choose a name with experiment=<name>, because it decides the arm of each listener"
        )
    try:
        first_midnight = round(datetime.fromisoformat(str(first_day)).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise InputError(f"first_day must be a date such as 2026-01-05, got {first_day!r}") from None
    for policy in policies.values():
        policy.check()
    last_day, midnight, logs = _previous(after, world, experiment, arms) if after else (0, first_midnight, [])
    plans = [
        Day.plan(world, day=last_day + 1 + number, sessions=sessions, experiment=experiment, arms=arms, seed=seed)
        for number in range(days)
    ]
    folder.mkdir(parents=True, exist_ok=True)  # and reserve it for this run
    if taken := [name for name in ("logs", PROFILES, *WORLD_FILES) if (folder / name).exists()]:
        raise InputError(f"{folder} already has {taken[0]}; choose another folder with hydra.run.dir=<folder>")
    try:
        with (folder / "simulation.json").open("x", encoding="utf-8") as file:
            file.write('{"complete": false}\n')
    except FileExistsError:
        raise InputError(f"{folder} holds a run already; choose another folder with hydra.run.dir=<folder>") from None
    write_world(world, folder)
    _link_logs(logs, folder / "logs")
    rows_of = {arm: np.flatnonzero(plans[0].arm_of == number) for number, arm in enumerate(arms)}
    planned = {arm: sum(int(plan.num_visits[rows].sum()) for plan in plans) for arm, rows in rows_of.items()}
    names = Names.of(world)
    labels = [json.dumps({experiment: arm}, ensure_ascii=False) for arm in arms]
    record: dict[str, Any] = {"experiment": experiment, "world": world.digest(), "seed": seed, "days": []}
    record |= {"habits": asdict(habits)} if habits != NO_HABITS else {}
    total, problem, fallbacks = Tally(len(world.listeners)), None, Counter[str]()
    num_remembered, memory = max(habits.num_past, *(policy.num_past for policy in policies.values())), None
    if num_remembered or habits.leaving or (after and (after / LEFT).exists()):
        memory = Memory.empty(len(world.listeners), num_remembered)
        memory.has_left[:] = _who_left(after, world)
    discovery = Discovery(len(world.catalog), world.catalog.artist_of)
    knowing = (policy.description for policy in policies.values() if "profiles" in policy.description)
    of_runs = {given["profiles"]: Path(given["file"]).with_name(PROFILES) for given in knowing}
    of_arms, earlier = _profiles_in(of_runs.values()), _profiles_in([] if after is None else [after / PROFILES])
    # arms that are trained on the logs of the run before know these too: that is not what was heard before the logs
    if before_logs := of_arms if after is None else earlier:
        of_file = reduce(Profiles.continued_by, before_logs)
        of_file.entries["last_ms"] -= DAY_MS * days_to_move(int(of_file.entries["last_ms"].max(initial=0)), midnight)
        of_file.write(folder / PROFILES)
    if before := [*of_arms, *earlier]:
        users, entries = ArmProfiles(reduce(Profiles.continued_by, before), world).entries()
        discovery.of_plays(users, entries["track"], entries["best"].astype(np.float64), np.zeros(len(users), np.int64))
    remembers = memory is not None or any(policy.learns_past for policy in policies.values())
    for day, plays, time_ms in past_days(logs if write_logs or remembers else (), world):
        users = plays.users.repeat(plays.lengths)
        for policy in policies.values():
            policy.learn(users, plays.tracks, plays.shares, time_ms)
        discovery.of_plays(users, plays.tracks, plays.shares / WHOLE, plays.visits.repeat(plays.lengths))
        if memory is not None:
            listeners, first = np.unique(plays.users, return_index=True)
            memory.add(listeners, np.add.reduceat(plays.lengths, first), plays.tracks, plays.shares, day)
    players = Players(
        world,
        [policies[arm] for arm in arms],
        workers=workers,
        keep_events=write_logs,
        with_propensity=with_propensity,
        memory=memory,
        habits=habits,
    )
    track_ms = round(track_seconds * 1000)
    for policy in policies.values():
        policy.prepare(midnight, track_ms)
    release = describe_release(world, experiment, {arm: policies[arm] for arm in arms})
    started_s = time.perf_counter()
    with players, progress(planned) as report:
        for plan in plans:
            tally, parts, interrupted = Tally(len(world.listeners)), list[Plays](), None
            try:
                for outcome in players.play(plan.shards, midnight):
                    arm, plays, problem = arms[outcome.arm], outcome.plays, outcome.problem
                    tally.add(plays)
                    total.add(plays)
                    parts.append(plays)
                    fallbacks[arm] += outcome.fallbacks
                    report(arm, len(plays.users), total.mean_time(rows_of[arm]))
                    if problem:
                        break
            except KeyboardInterrupt as error:
                interrupted = error
            with delayed_interrupt():
                day_start, midnight = midnight, midnight + DAY_MS
                if write_logs:
                    plays, of_day = plan.in_order(Plays.join(parts)), folder / "logs" / f"day-{plan.day}"
                    events = Events.of(plays, plan=plan, midnight=day_start, track_ms=track_ms)
                    version = release["version"] if with_propensity else None
                    write_events(events, names, labels, of_day / "data.json", release=version)
                    write_record(release, of_day / RELEASE)
                    midnight = events.next_midnight(day_start)
                    sessions_of = plays.visits.repeat(plays.lengths)
                    users = plays.users.repeat(plays.lengths)
                    known = discovery.of_plays(users, plays.tracks, plays.shares / WHOLE, sessions_of)
                    tally.add_discovery(users, *known)
                    total.add_discovery(users, *known)
                left = {
                    arm: {"left": int(memory.has_left[rows].sum()), "population": len(rows)}
                    if memory is not None and habits.leaving
                    else {}
                    for arm, rows in rows_of.items()
                }
                record["days"].append(
                    {"day": plan.day, "arms": {arm: tally.summary(rows) | left[arm] for arm, rows in rows_of.items()}}
                )
                record["arms"] = {
                    arm: {**total.summary(rows), "fallbacks": fallbacks[arm], **left[arm]}
                    for arm, rows in rows_of.items()
                }
                if memory is not None and memory.has_left.any():
                    write_record({"left": world.listeners.user_ids[memory.has_left].tolist()}, folder / LEFT)
                record["seconds"] = time.perf_counter() - started_s
                record["steps_per_second"] = sum(of["steps"] for of in record["arms"].values()) / record["seconds"]
                record |= {"last_day": plan.day, "next_midnight": midnight}
                record["complete"] = plan is plans[-1] and not (problem or interrupted)
                write_record({**record, "provenance": dict(provenance)}, folder / "simulation.json")
            if interrupted:
                raise interrupted
            if problem:
                raise InputError(problem)
    return record


def _profiles_in(paths: Iterable[Path]) -> list[Profiles]:
    return [Profiles.read(path) for path in paths if path.is_file()]


def _who_left(after: Path | None, world: World) -> Bool[np.ndarray, "U"]:
    if after is None or not (path := after / LEFT).exists():
        return np.zeros(len(world.listeners), bool)
    try:
        gone = {*json.loads(path.read_bytes())["left"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"after={after}: cannot read {path} ({error}); repeat that run") from None
    return np.array([user in gone for user in world.listeners.user_ids.tolist()], bool)


def describe_release(world: World, experiment: str, policies: Mapping[str, Policy]) -> dict[str, Any]:
    """Describe what is recommended in a run, so that the probability of any recommendation can be computed.

    Args:
        world: the world of the listeners.
        experiment: name of the experiment.
        policies: the policy of each arm, by its name.

    Returns:
        The content of `release.json`; `version` is a digest of the rest, without the places of files.
    """
    arms = {arm: policy.description for arm, policy in policies.items()}
    contents: dict[str, Any] = {"experiment": experiment, "world": world.digest(), "arms": arms}
    decisive = {arm: {key: value for key, value in given.items() if key != "file"} for arm, given in arms.items()}
    text = json.dumps({**contents, "arms": decisive}, sort_keys=True)
    return {"version": hashlib.blake2b(text.encode(), digest_size=6).hexdigest(), **contents}


def _link_logs(logs: Sequence[Path], into: Path) -> None:
    """Link the logs of previous days (hard links use no space), or copy them where links are not possible."""
    for folder in logs:
        (into / folder.name).mkdir(parents=True, exist_ok=True)
        for file in (*folder.glob("data.json*"), *folder.glob(RELEASE)):
            target = into / folder.name / file.name
            try:
                target.hardlink_to(file)
            except OSError:  # another file system
                write_whole(target, partial(shutil.copyfile, file))
