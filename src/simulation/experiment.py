"""A simulated experiment: its arms, days and event logs, and the means of each arm."""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float64, Int64

from segue.assignment import check_arms
from segue.atomic import write_record, write_whole
from segue.errors import InputError
from segue.runs.profiles import FILE as PROFILES
from segue.runs.profiles import Profiles, days_to_move
from segue.settings import Setting, settings
from segue.simulation.arm_profiles import ArmProfiles
from segue.simulation.event_lines import DAY_MS, Events, write_events
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

_NOBODY = np.zeros(0, np.int64)

ArmReport = Callable[[str, int, float], None]
"""Receives the progress of an arm: its name, the sessions completed since the last call, its mean time per session."""

ArmProgress = Callable[[Mapping[str, int]], AbstractContextManager[ArmReport]]
"""Opens the display of the progress, given the number of sessions planned for each arm."""


@settings()
@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The sessions of some days.

    Args:
        first_day: date of the first day, such as 2026-01-05.
        habits: what listeners do because of earlier days; None for nothing.
    """

    sessions: NumSessions
    days: Annotated[int, Setting("number of days", least=1, most=1000)] = 1
    workers: Annotated[int, Setting("number of processes; does not change the result", least=1, most=256)] = 1
    seed: Annotated[int, Setting("of the traffic; the world has its own, world.seed", least=0)]
    first_day: str
    track_seconds: TrackSeconds
    habits: Habits | None = None

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


def tally(
    num_listeners: int,
    plays: Plays,
    asked: Int64[np.ndarray, "a"] = _NOBODY,
    known: Sequence[Int64[np.ndarray, "k"]] = (_NOBODY,) * len(DISCOVERY),
) -> Float64[np.ndarray, "C U"]:
    """Sums of each listener: sessions, tracks, hundredths played, plays that were counted, and those that were known.

    Args:
        num_listeners: number of listeners of the world (U).
        plays: their sessions.
        asked: row of the listener of each play that counts for discovery; see `Discovery.of_plays`.
        known: the same of those that were known, for each metric of DISCOVERY.
    """
    count = partial(np.bincount, minlength=num_listeners)
    of_sessions = count(plays.users), count(plays.users, plays.lengths), count(plays.users, plays.hundredths)
    return np.stack([*of_sessions, *map(count, (asked, *known))]).astype(np.float64)


def summary(sums: Float64[np.ndarray, "C u"]) -> dict[str, int | float]:
    """Means over the listeners of an arm with their intervals, as in `simulation.json`. The unit is the listener.

    Args:
        sums: of each listener of the arm, see `tally`.
    """
    sessions, tracks, hundredths, *_ = sums[:, sums[0] > 0]
    _, _, _, asked, *known = sums[:, sums[3] > 0]
    means = {"mean_time_per_session": hundredths / WHOLE / sessions, "mean_tracks_per_session": tracks / sessions}
    if len(asked):
        means |= {name: one / asked for name, one in zip(DISCOVERY, known, strict=True)}
    found: dict[str, int | float] = {"listeners": len(sessions), "sessions": int(sessions.sum())}
    found["steps"] = int((tracks - sessions).sum())
    for name, of_listeners in means.items():
        interval = MeanInterval.of(of_listeners, LEVEL)
        found |= {name: interval.mean, f"{name}_lower": interval.lower, f"{name}_upper": interval.upper}
    return found | ({"returning_listeners": len(asked)} if len(asked) else {})


def _previous(folder: Path, world: World, experiment: str, arms: Sequence[str]) -> dict[str, Any]:
    """The record of the run before; its world, and its arms if it is the same experiment, must be those of this run."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_bytes())
        digest, num_arms, _ = record["world"], len(record["arms"]), (record["last_day"], record["next_midnight"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"after={folder}: cannot read {path} ({error}); name the run folder of a completed simulate.py"
        ) from None
    if digest != world.digest():
        raise InputError(
            f"after={folder}: that run has another world ({digest}, this one is {world.digest()}); "
            "choose the same world with world= and its settings"
        )
    if record["experiment"] == experiment and num_arms != len(arms):
        raise InputError(
            f"after={folder}: experiment {experiment} has {num_arms} arms there and {len(arms)} here; "
            "listeners would change arms within it; choose another name with experiment=<name>"
        )
    return dict(record)


@settings()
def run_experiment(
    traffic: Traffic,
    *,
    world: World,
    policies: Mapping[str, Policy],
    experiment: str,
    folder: Path,
    write_logs: Annotated[bool, Setting("false: only simulation.json is written")] = True,
    after: Path | None = None,
    provenance: Mapping[str, str] | None = None,
    progress: ArmProgress = lambda _: nullcontext(lambda *_: None),
) -> dict[str, Any]:
    """Simulate the sessions of some days; write the files of the world, `logs/day-<n>/data.json` and `simulation.json`.

    If it is interrupted or a policy fails, the logs contain complete sessions only, and `simulation.json` describes
    them with `"complete": false`.

    Args:
        traffic: the days and their sessions.
        world: the world of the listeners.
        policies: the policy of each arm, by its name.
        experiment: name of the experiment, in the log and for the assignment.
        folder: the run folder; created if missing.
        after: run folder of a previous run to continue; its logs are linked into `folder`.
        provenance: command, commit and versions, by name.
        progress: shows the progress.

    Returns:
        The content of `simulation.json`.

    Raises:
        InputError: a setting is out of range, the folder is used, or a policy fails.
    """
    arms = check_arms(policies)
    if not experiment:
        raise InputError(
            "experiment is empty; choose a name with experiment=<name>, because it decides the arm of each listener"
        )
    before: dict[str, Any] = {"last_day": 0, "next_midnight": traffic.midnight}
    for policy in policies.values():
        policy.check()
    if after:
        before = _previous(after, world, experiment, arms)
    how: dict[str, Any] = {"sessions": traffic.sessions, "experiment": experiment, "arms": arms, "seed": traffic.seed}
    plans = [Day.plan(world, day=before["last_day"] + number, **how) for number in range(1, traffic.days + 1)]
    _reserve(folder)
    write_world(world, folder)
    results = _Results(traffic, world, policies, experiment, folder, writes_logs=write_logs)
    results.begin(before, after)
    players = Players(
        world,
        list(policies.values()),
        workers=traffic.workers,
        keep_events=write_logs,
        memory=results.memory,
        habits=results.habits,
    )
    rows_of = {arm: np.flatnonzero(plans[0].arm_of == number) for number, arm in enumerate(arms)}
    planned = {arm: sum(int(plan.num_visits[rows].sum()) for plan in plans) for arm, rows in rows_of.items()}
    num_sessions, hundredths = Counter[str](), Counter[str]()
    with players, progress(planned) as report, ThreadPoolExecutor(1) as writer:
        for plan in plans:
            outcomes: list[Outcome] = []
            stopped: BaseException | None = None
            try:
                for outcome in players.play(plan.shards, results.midnight):
                    outcomes.append(outcome)
                    arm, num = arms[outcome.arm], len(outcome.plays.users)
                    num_sessions[arm] += num
                    hundredths[arm] += int(outcome.plays.hundredths.sum())
                    report(arm, num, hundredths[arm] / WHOLE / max(num_sessions[arm], 1))
                    if outcome.problem:
                        stopped = InputError(outcome.problem)
                        break
            except KeyboardInterrupt as error:
                stopped = error
            # in a thread, which Ctrl-C does not stop: the log and the record of a day are written together
            is_complete = plan is plans[-1] and stopped is None
            writer.submit(results.finish, plan, outcomes, is_complete, provenance or {}).result()
            if stopped:
                raise stopped
    return results.record


class _Results:
    """What is known when a day begins, and what is written when it ends."""

    def __init__(
        self,
        traffic: Traffic,
        world: World,
        policies: Mapping[str, Policy],
        experiment: str,
        folder: Path,
        *,
        writes_logs: bool,
    ) -> None:
        self._traffic, self._world, self._policies, self._folder = traffic, world, policies, folder
        self._writes_logs, self.habits = writes_logs, traffic.habits or NO_HABITS
        self._labels = [json.dumps({experiment: arm}, ensure_ascii=False) for arm in policies]
        self._release = describe_release(world, experiment, policies)
        self._discovery = Discovery(len(world.catalog), world.catalog.artist_of)
        self._total, self._fallbacks = np.zeros((3 + 1 + len(DISCOVERY), len(world.listeners))), Counter[str]()
        self._started_s = time.perf_counter()
        self.record: dict[str, Any] = {
            "experiment": experiment,
            "world": world.digest(),
            "seed": traffic.seed,
            "days": [],
        }
        self.record |= {"habits": asdict(self.habits)} if self.habits != NO_HABITS else {}
        self.memory: Memory | None = None

    def begin(self, before: Mapping[str, Any], after: Path | None) -> None:
        """Learn what listeners have heard before the first day, and who of them has left.

        Args:
            before: the record of the run before.
            after: its folder, whose logs are linked into that of this run.
        """
        world, self.midnight = self._world, before["next_midnight"]
        num_remembered = max(self.habits.num_past, *(policy.num_past for policy in self._policies.values()))
        if num_remembered or self.habits.leaving or before.get("left"):
            self.memory, ids = Memory.empty(len(world.listeners), num_remembered), world.listeners.user_ids
            self.memory.has_left[:] = np.isin(ids, np.array(before.get("left", []), ids.dtype))
        # arms of a run that continues another may have learned from its logs, which are read below
        of_arms = (policy.description["file"] for policy in self._policies.values() if policy.profiles)
        file = after / PROFILES if after else next((Path(path).with_name(PROFILES) for path in of_arms), None)
        if file and file.is_file():
            heard = Profiles.read(file)
            newest_ms = int(heard.entries["last_ms"].max(initial=0))
            heard.entries["last_ms"] -= DAY_MS * days_to_move(newest_ms, self.midnight)
            heard.write(self._folder / PROFILES)
            ArmProfiles(heard, world).tell(self._discovery)
        profiles = [policy.profiles for policy in self._policies.values() if policy.profiles]
        logs = _link_logs(after, self._folder / "logs") if after else []
        for day, plays, time_ms in past_days(logs if self._writes_logs or profiles or self.memory else [], world):
            self._discover(plays)
            for one in profiles:
                one.learn(plays.users.repeat(plays.lengths), plays.tracks, plays.shares, time_ms)
            if self.memory:
                listeners, first = np.unique(plays.users, return_index=True)
                self.memory.add(listeners, np.add.reduceat(plays.lengths, first), plays.tracks, plays.shares, day)
        for one in profiles:
            one.prepare(self.midnight, self._traffic.track_ms)

    def _discover(self, plays: Plays) -> tuple[Int64[np.ndarray, "a"], list[Int64[np.ndarray, "k"]]]:
        users, visits = plays.users.repeat(plays.lengths), plays.visits.repeat(plays.lengths)
        counted, known = self._discovery.of_plays(users, plays.tracks, plays.shares / WHOLE, visits)
        return users[counted], [users[one] for one in known.values()]

    def finish(self, plan: Day, outcomes: Sequence[Outcome], is_complete: bool, provenance: Mapping[str, str]) -> None:
        """Write the log of a day, if logs are written, and the record of all days until then."""
        plays, world = Plays.join([one.plays for one in outcomes]), self._world
        known: tuple[Any, ...] = ()
        day_start, self.midnight = self.midnight, self.midnight + DAY_MS
        if self._writes_logs:
            plays = plan.in_order(plays)
            events = Events.of(plays, plan=plan, midnight=day_start, track_ms=self._traffic.track_ms)
            self.midnight = events.next_midnight(day_start)
            path = self._folder / "logs" / f"day-{plan.day}" / "data.json"
            write_events(events, world, self._labels, path, release=self._release["version"])
            write_record(self._release, path.with_name(RELEASE))
            known = self._discover(plays)
        sums, record, num_steps = tally(len(world.listeners), plays, *known), self.record, 0
        self._total += sums
        arms_of_day, record["arms"] = {}, {}
        for number, arm in enumerate(self._policies):
            rows = np.flatnonzero(plan.arm_of == number)
            left = {}
            if self.memory and self.habits.leaving:
                left = {"left": int(self.memory.has_left[rows].sum()), "population": len(rows)}
            self._fallbacks[arm] += sum(one.fallbacks for one in outcomes if one.arm == number)
            arms_of_day[arm] = summary(sums[:, rows]) | left
            record["arms"][arm] = summary(self._total[:, rows]) | {"fallbacks": self._fallbacks[arm]} | left
            num_steps += record["arms"][arm]["steps"]
        record["days"].append({"day": plan.day, "arms": arms_of_day})
        if self.memory and self.memory.has_left.any():
            record["left"] = world.listeners.user_ids[self.memory.has_left].tolist()
        record["seconds"] = time.perf_counter() - self._started_s
        record["steps_per_second"] = num_steps / record["seconds"]
        record |= {"last_day": plan.day, "next_midnight": self.midnight, "complete": is_complete}
        write_record({**record, "provenance": dict(provenance)}, self._folder / RECORD)


def _reserve(folder: Path) -> None:
    """Refuse a folder that is used, and reserve it for this run."""
    folder.mkdir(parents=True, exist_ok=True)
    if taken := [name for name in ("logs", PROFILES, *WORLD_FILES) if (folder / name).exists()]:
        raise InputError(f"{folder} already has {taken[0]}; choose another folder with hydra.run.dir=<folder>")
    try:
        with (folder / RECORD).open("x", encoding="utf-8") as file:
            file.write('{"complete": false}\n')
    except FileExistsError:
        raise InputError(f"{folder} holds a run already; choose another folder with hydra.run.dir=<folder>") from None


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
    logs = sorted(path.parent for path in before.glob("logs/*/data.json"))
    for folder in logs:
        (into / folder.name).mkdir(parents=True, exist_ok=True)
        for file in (*folder.glob("data.json*"), *folder.glob(RELEASE)):
            target = into / folder.name / file.name
            try:
                target.hardlink_to(file)
            except OSError:  # another file system
                write_whole(target, partial(shutil.copyfile, file))
    return logs
