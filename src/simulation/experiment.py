"""A simulated experiment: its arms, days and event logs, and the means of each arm. U listeners, C sums of each."""

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import InitVar, asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float64

from segue.assignment import check_arms
from segue.atomic import write_record
from segue.errors import InputError
from segue.runs.profiles import DAY_MS, Profiles, days_to_move
from segue.runs.profiles import FILE as PROFILES
from segue.settings import Setting, settings
from segue.simulation.arm_profiles import ArmProfiles
from segue.simulation.event_lines import Events, write_events
from segue.simulation.habits import Habits
from segue.simulation.listener import WHOLE
from segue.simulation.memory import Memory
from segue.simulation.past_days import past_days
from segue.simulation.policies import Policy
from segue.simulation.traffic import NO_HABITS, Day, Outcome, Players, Plays
from segue.simulation.world import World
from segue.simulation.world_files import WORLD_FILES, write_world
from segue.statistics.discovery import DISCOVERY, Discovery
from segue.statistics.intervals import LEVEL, MeanInterval

NumSessions = Annotated[int, Setting("number of sessions per day, over all arms", least=1, most=100_000_000)]
TrackSeconds = Annotated[float, Setting("duration of a track, in seconds", above=0, most=86_400)]

RELEASE = "release.json"
"""The file beside the log of a day that describes what was recommended."""
RECORD = "simulation.json"
"""The file of a run with the means of its arms; the next run begins with what it says."""

ArmReport = Callable[[str, int, float], None]
"""Receives the progress of an arm: its name, the sessions completed since the last call, its mean time per session."""

ArmProgress = Callable[[Mapping[str, int]], AbstractContextManager[ArmReport]]
"""Opens the display of the progress, given the number of sessions planned for each arm."""


@settings()
@dataclass(frozen=True, kw_only=True)
class Plan:
    """The sessions of some days.

    Args:
        experiment: its name in the log; with the listener it decides the arm.
        first_day: date of the first day, such as 2026-01-05.
        habits: what listeners do because of earlier days; None for nothing.
    """

    experiment: str
    sessions: NumSessions
    days: Annotated[int, Setting("number of days", least=1, most=1000)] = 1
    workers: Annotated[int, Setting("number of processes; does not change the result", least=1, most=256)] = 1
    seed: Annotated[int, Setting("of the traffic; the world has its own, world.seed", least=0)]
    first_day: str
    track_seconds: TrackSeconds
    habits: Habits | None = None
    write_logs: Annotated[bool, Setting("false: only simulation.json is written")] = True

    def __post_init__(self) -> None:
        if not self.experiment:
            raise InputError("experiment is empty; choose a name with experiment=<name>: it decides the arms")

    @property
    def midnight(self) -> int:
        """Start of the first day, in milliseconds since 1970.

        Raises:
            InputError: `first_day` is no date.
        """
        try:
            return round(datetime.fromisoformat(str(self.first_day)).replace(tzinfo=UTC).timestamp() * 1000)
        except ValueError:
            raise InputError(f"first_day must be a date such as 2026-01-05, got {self.first_day!r}") from None

    @property
    def track_ms(self) -> int:
        """Duration of a track that is played in full, in milliseconds."""
        return round(self.track_seconds * 1000)


def run_experiment(
    world: World,
    policies: Mapping[str, Policy],
    plan: Plan,
    folder: Path,
    *,
    after: Path | None = None,
    provenance: Mapping[str, str] | None = None,
    progress: ArmProgress = lambda _: nullcontext(lambda *_: None),
) -> dict[str, Any]:
    """Simulate the sessions of some days; write the files of the world, `logs/day-<n>/data.json` and `simulation.json`.

    If it is interrupted or a policy fails, the logs contain complete sessions only, and `simulation.json` describes
    them with `"complete": false`.

    Args:
        world: the world of the listeners.
        policies: the policy of each arm, by its name.
        plan: the days and their sessions.
        folder: the run folder; created if missing.
        after: run folder of a previous run to continue; its logs are linked into `folder`.
        provenance: command, commit and versions, by name.
        progress: shows the progress.

    Returns:
        The content of `simulation.json`.

    Raises:
        InputError: a setting is out of range, the folder is used, or a policy fails.
    """
    arms, first_midnight = check_arms(policies), plan.midnight
    for policy in policies.values():
        policy.check()
    before: dict[str, Any] = {"last_day": 0, "next_midnight": first_midnight}
    if after:
        before = _previous(after, world, plan.experiment, arms)
    how: dict[str, Any] = {"sessions": plan.sessions, "experiment": plan.experiment, "arms": arms, "seed": plan.seed}
    days = [Day.plan(world, day=before["last_day"] + number, **how) for number in range(1, plan.days + 1)]
    _reserve(folder)
    write_world(world, folder)
    results = _Results(world, policies, plan, folder, provenance or {}, before)
    results.learn(after)
    how = {"keep_events": plan.write_logs, "memory": results.memory, "habits": results.habits}
    players = Players(world, list(policies.values()), workers=plan.workers, **how)
    planned = np.bincount(days[0].arm_of, sum(day.num_visits for day in days)).astype(int).tolist()
    sums = np.zeros((len(arms), 2))  # sessions of each arm until now, and hundredths that were played in them
    with players, progress(dict(zip(arms, planned, strict=True))) as report, ThreadPoolExecutor(1) as writer:
        for day in days:
            outcomes, is_complete = list[Outcome](), False
            try:
                for outcome in players.play(day.shards, results.midnight):
                    outcomes.append(outcome)
                    new, arm = len(outcome.plays.users), outcome.arm
                    sums[arm] += new, outcome.plays.hundredths.sum()
                    report(arms[arm], new, float(sums[arm, 1] / WHOLE / max(sums[arm, 0], 1)))
                    if outcome.problem:
                        raise InputError(outcome.problem)
                is_complete = day is days[-1]
            finally:  # in a thread, which Ctrl-C does not stop: the log and the record of a day are written together
                writer.submit(results.finish, day, outcomes, is_complete=is_complete).result()
    return results.record


@dataclass(eq=False)
class _Results:
    """What is known when a day begins, and what is written when it ends.

    Args:
        before: the record of the run before.

    Attributes:
        midnight: start of the day, in milliseconds since 1970.
        record: what `simulation.json` has.
    """

    world: World
    policies: Mapping[str, Policy]
    plan: Plan
    folder: Path
    provenance: Mapping[str, str]
    before: InitVar[Mapping[str, Any]]

    def __post_init__(self, before: Mapping[str, Any]) -> None:
        plan, people = self.plan, self.world.listeners
        self.habits, self._started_s = plan.habits or NO_HABITS, time.perf_counter()
        self._release = describe_release(self.world, plan.experiment, self.policies)
        self._discovery = Discovery(len(self.world.catalog), self.world.catalog.artist_of)
        self._sums, self._fallbacks = np.zeros((4 + len(DISCOVERY), len(people))), Counter[int]()
        num_past = max(self.habits.num_past, *(policy.num_past for policy in self.policies.values()))
        self.midnight, self.memory = before["next_midnight"], Memory.empty(len(people), num_past)
        self.memory.has_left[:] = np.isin(people.user_ids, np.array(before.get("left", []), people.user_ids.dtype))
        self.record: dict[str, Any] = {"experiment": plan.experiment, "world": self.world.digest(), "seed": plan.seed}
        self.record |= {"days": []} | ({"habits": asdict(self.habits)} if self.habits != NO_HABITS else {})

    def learn(self, after: Path | None) -> None:
        """Learn what listeners have heard before the first day.

        Args:
            after: folder of the run before, whose logs are linked into that of this run.
        """
        own = [policy for policy in self.policies.values() if policy.profiles]
        # arms of a run that continues another may have learned from its logs, which are read below
        folders = [after] if after else [Path(policy.description["file"]).parent for policy in own]
        if folders and (file := folders[0] / PROFILES).is_file():
            heard = Profiles.read(file)
            newest_ms = int(heard.entries["last_ms"].max(initial=0))
            heard.entries["last_ms"] -= DAY_MS * days_to_move(newest_ms, self.midnight)
            heard.write(self.folder / PROFILES)
            ArmProfiles(heard, self.world).tell(self._discovery)
        profiles = [policy.profiles for policy in own if policy.profiles]
        for day, plays, time_ms in past_days(_link_logs(after, self.folder / "logs") if after else [], self.world):
            self._tally(plays)
            for one in profiles:
                one.learn(plays.users.repeat(plays.lengths), plays.tracks, plays.shares, time_ms)
            listeners, first = np.unique(plays.users, return_index=True)
            self.memory.add(listeners, np.add.reduceat(plays.lengths, first), plays.tracks, plays.shares, day)
        for one in profiles:
            one.prepare(self.midnight, self.plan.track_ms)

    def _tally(self, plays: Plays) -> Float64[np.ndarray, "C U"]:
        """Sums of each listener: sessions, tracks, hundredths played, plays that count for discovery, those known."""
        users, count = plays.users, partial(np.bincount, minlength=len(self.world.listeners))
        sums = [count(users), count(users, plays.lengths), count(users, plays.hundredths)]
        owners, visits = (one.repeat(plays.lengths * bool(len(plays.tracks))) for one in (users, plays.visits))
        counted, known = self._discovery.of_plays(owners, plays.tracks, plays.shares / WHOLE, visits)
        return np.array([*sums, *(count(owners[one]) for one in (counted, *known.values()))], np.float64)

    def finish(self, day: Day, outcomes: Sequence[Outcome], *, is_complete: bool) -> None:
        """Write the log of a day, if logs are written, and the record of all days until then."""
        plays, record, plan = Plays.join([one.plays for one in outcomes]), self.record, self.plan
        day_start, self.midnight = self.midnight, self.midnight + DAY_MS
        if plan.write_logs:
            plays = day.in_order(plays)
            events = Events.of(plays, plan=day, midnight=day_start, track_ms=plan.track_ms)
            self.midnight = events.next_midnight(day_start)
            path = self.folder / "logs" / f"day-{day.day}" / "data.json"
            labels = [json.dumps({plan.experiment: arm}, ensure_ascii=False) for arm in self.policies]
            write_events(events, self.world, labels, path, release=self._release["version"])
            write_record(self._release, path.with_name(RELEASE))
        of_day, arms_of_day, has_left = self._tally(plays), {}, self.memory.has_left
        self._sums += of_day
        for outcome in outcomes:
            self._fallbacks[outcome.arm] += outcome.fallbacks
        record["arms"] = {}
        for number, arm in enumerate(self.policies):
            rows, fallbacks = day.arm_of == number, {"fallbacks": self._fallbacks[number]}
            left = {"left": int(has_left[rows].sum()), "population": int(rows.sum())} if self.habits.leaving else {}
            arms_of_day[arm] = _means(of_day[:, rows]) | left
            record["arms"][arm] = _means(self._sums[:, rows]) | fallbacks | left
        record["days"].append({"day": day.day, "arms": arms_of_day})
        if has_left.any():
            record["left"] = self.world.listeners.user_ids[has_left].tolist()
        record["seconds"] = time.perf_counter() - self._started_s
        record["steps_per_second"] = sum(one["steps"] for one in record["arms"].values()) / record["seconds"]
        record |= {"last_day": day.day, "next_midnight": self.midnight, "complete": is_complete}
        write_record({**record, "provenance": dict(self.provenance)}, self.folder / RECORD)


def _means(sums: Float64[np.ndarray, "C u"]) -> dict[str, int | float]:
    """Means over the listeners of an arm with their intervals, as in `simulation.json`. The unit is the listener.

    Args:
        sums: of each listener of the arm, see `_Results`.
    """
    sessions, tracks, hundredths, *_ = sums[:, sums[0] > 0]
    asked, *known = sums[3:, sums[3] > 0]
    values = {"mean_time_per_session": hundredths / WHOLE / sessions, "mean_tracks_per_session": tracks / sessions}
    if len(asked):
        values |= {name: one / asked for name, one in zip(DISCOVERY, known, strict=True)}
    found: dict[str, int | float] = {"listeners": len(sessions), "sessions": int(sessions.sum())}
    found["steps"] = int((tracks - sessions).sum())
    for name, of_listeners in values.items():
        interval = MeanInterval.of(of_listeners, LEVEL)
        found |= {name: interval.mean, f"{name}_lower": interval.lower, f"{name}_upper": interval.upper}
    return found | ({"returning_listeners": len(asked)} if len(asked) else {})


def _previous(folder: Path, world: World, experiment: str, arms: Sequence[str]) -> dict[str, Any]:
    """The record of the run before; its world, and its arms if it is the same experiment, must be those of this run."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_bytes())
        digest, num_arms, _ = record["world"], len(record["arms"]), (record["last_day"], record["next_midnight"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        says = f"cannot read {folder / RECORD} ({error}); name the run folder of a completed simulate.py"
        raise InputError(f"after={folder}: {says}") from None
    if digest != world.digest():
        raise InputError(
            f"after={folder}: that run has another world; choose the same one with world= and its settings"
        )
    if record["experiment"] == experiment and num_arms != len(arms):
        raise InputError(
            f"after={folder}: experiment {experiment} has {num_arms} arms there and {len(arms)} here; "
            "listeners would change arms within it; choose another name with experiment=<name>"
        )
    return record


def _reserve(folder: Path) -> None:
    """Refuse a folder that is used, and reserve it for this run."""
    folder.mkdir(parents=True, exist_ok=True)
    if taken := [name for name in ("logs", RECORD, PROFILES, *WORLD_FILES) if (folder / name).exists()]:
        raise InputError(f"{folder} already has {taken[0]}; choose another folder with hydra.run.dir=<folder>")
    write_record({"complete": False}, folder / RECORD)


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


def _link_logs(before: Path, into: Path) -> list[Path]:
    """Link the logs of previous days (hard links use no space), or copy them where links are not possible.

    Returns:
        The folders of these logs.
    """
    if (before / "logs").is_dir():
        shutil.copytree(before / "logs", into, copy_function=_link)
    return [path.parent for path in into.glob("*/data.json")]


def _link(file: str, target: str) -> None:
    try:
        os.link(file, target)
    except OSError:  # another file system
        shutil.copyfile(file, target)
