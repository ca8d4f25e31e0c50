"""What does the listener's own past give, and what does it cost in discovery?

    python experiments/familiar/study.py    trains a model for each world in outputs/familiar, then writes results

Cost: see README.md. Expected: listeners play longer the more of what is played they know.

S sessions, U listeners of a world, u those of the test.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.playing import QUICK, world_of
from experiments.studying import SMALL_WORLD, Study, append_rows, read_rows, sized, train
from segue.catalog import keys_of
from segue.picking.last_ten import NUM_PLAYS
from segue.picking.places import uniform_place
from segue.reports.markdown import table
from segue.runs.profiles import DAY_MS, Profiles, entries_of_events
from segue.runs.profiles import FILE as PROFILES
from segue.simulation.arm_profiles import ArmProfiles
from segue.simulation.listener import PAST, WHOLE, Crowd, durations, listen, start
from segue.simulation.listening import TRACK_MS, Heard, KnownBefore, ListeningTest, Recommend
from segue.simulation.policies import Lists, recommended
from segue.simulation.traffic import planned_ms
from segue.simulation.world import World
from segue.statistics.discovery import DISCOVERY
from segue.statistics.intervals import LEVEL, MeanInterval

STUDY = Study(__file__, __doc__)
WORLDS = sized((31, 32, 33), (31,))
"""Seeds; those that the fit of the weights was tuned on are 11 and 12."""
SEEDS = sized((1, 2, 3, 4, 5), (1,))
LOGGED, EARLIER, PLAYED = sized((50_000, 10, 4_000), (400, 2, 400))
"""Sessions of the logs, earlier sessions of each listener, and sessions of the listening test, half are reported."""
SHARES = (1, 0.75, 0.5, 0.25, 0)
"""Those of `familiar`, of which 1 is the default."""
SESSION, CONTROL, NEW, OF_LOGS = "session", "control of 2026", "listener, new", "listener, logs alone"
ARMS: Mapping[str, Mapping[str, Any]] = {
    SESSION: {"context": "session"},
    **{f"listener, {familiar:g}": {"context": "listener", "familiar": familiar} for familiar in SHARES},
    OF_LOGS: {"context": "listener"},
    NEW: {"context": "listener"},
    CONTROL: {"context": "last_ten"},
}
"""How each arm is served; all are of the same run. `OF_LOGS` does not know the earlier sessions, and for `NEW` all
listeners are new."""
PICKING: Mapping[str, Any] = {"pick": "ranked", "artist_gap": 100, "num_lists": 4}
KEY = ("world", "seed", "arm")


def words_of(world: int) -> tuple[str, ...]:
    """The words of a world."""
    return *sized(("world=small",), SMALL_WORLD), f"world.seed={world}"


def run_of(study: Study, world: int, seed: int) -> Path:
    """The folder of a run among the files of a script; it is trained if it is not there."""
    folder = study.work / f"{world}-{seed}"
    if not (folder / "metrics.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        data = ("datamodule=simulated", f"datamodule.prepare.sessions={LOGGED}", *words_of(world))
        train(*QUICK, *data, "context=listener", f"seed={seed}", f"hydra.run.dir={folder}")
    return folder


def plays_of(crowd: Crowd, midnight: int) -> tuple[np.ndarray, ...]:
    """Listener, track, share and time of each play of sessions that have ended.

    Args:
        crowd: the sessions.
        midnight: start of their day, in milliseconds since 1970.
    """
    time_ms = midnight + crowd.started_ms + durations(crowd.shares, TRACK_MS).cumsum(0)
    columns = np.broadcast_to(crowd.users, time_ms.shape), crowd.tracks.astype(np.int64), crowd.shares, time_ms
    return tuple(column.T.ravel() for column in columns)


def earlier_plays(world: World, run: Path, users: Int64[np.ndarray, "u"]) -> tuple[np.ndarray, ...]:
    """What listeners heard after the logs, one session a day, with the session alone as the query: see `plays_of`.

    Args:
        world: the world.
        run: the folder of the run.
        users: rows of the listeners.
    """
    arm, rng, parts = served(run, world, SESSION), np.random.default_rng(2), list[tuple[np.ndarray, ...]]()
    newest_ms = int(Profiles.read(run / PROFILES).entries["last_ms"].max())
    for day in range(1, 1 + EARLIER):
        interests, tracks, times = rng.random((3, len(users)))
        crowd = start(world, users, interests, tracks, started_ms=planned_ms(times))
        while len(crowd):
            chosen = arm.choose(crowd, rng.random(len(crowd)))
            chosen = np.where(chosen < 0, uniform_place(rng.random(len(crowd)), len(world.catalog)), chosen)
            crowd = listen(world, crowd, chosen, rng.random(len(crowd)))
            parts.append(plays_of(crowd.where(crowd.budget <= 0), newest_ms + day * DAY_MS))
            crowd = crowd.where(crowd.budget > 0)
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def last_plays(plays: tuple[np.ndarray, ...], num_listeners: int) -> tuple[np.ndarray, ...]:
    """The last plays of each listener, as a crowd has them: tracks, shares and ages, 10 × U, the newest first."""
    listener, track, share, time_ms = (column[np.lexsort((-plays[3], plays[0]))] for column in plays)
    age = np.arange(len(listener)) - listener.searchsorted(listener)
    found = np.full((NUM_PLAYS, num_listeners), -1, np.int32), *np.zeros((2, NUM_PLAYS, num_listeners), np.int32)
    some = age < NUM_PLAYS
    for of_all, column in zip(found, (track, share, (time_ms.max() - time_ms) // DAY_MS), strict=True):
        of_all[age[some], listener[some]] = column[some]
    return found


def served(run: Path, world: World, name: str) -> Lists:
    """An arm of a run."""
    return recommended(path=str(run / "recommendations.jsonl"), world=world, **PICKING, **ARMS[name])


def by(arm: Lists, past: tuple[np.ndarray, ...]) -> Recommend:
    """An arm as a listening test asks it.

    Args:
        arm: the arm.
        past: see `last_plays`.
    """
    rng = np.random.default_rng(0)

    def recommend(crowd: Crowd, draws: Float64[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
        if len(crowd.tracks) == 1:
            arm.begin(crowd, rng)
        if not arm.num_past:
            return arm.choose(crowd, draws)
        of_crowd = {name: one[:, crowd.users] for name, one in zip(PAST, past, strict=True)}
        return arm.recommend(replace(crowd, **of_crowd)).tracks

    return recommend


def play(world: World, run: Path) -> dict[str, Heard]:
    """What the same sessions hear from each arm."""
    test = ListeningTest(world, sessions=PLAYED, seed=1, hits=100)
    plays = earlier_plays(world, run, test.listeners("test"))
    of_run, past = Profiles.read(run / PROFILES), last_plays(plays, len(world.listeners))
    listener, track, share, time_ms = plays
    keys = keys_of(world.listeners.user_ids)[listener], world.catalog.keys[track]
    later = Profiles.of(*entries_of_events(*keys, (share / WHOLE).astype(np.float32), time_ms))
    profiles, folders = of_run.continued_by(later), {NEW: run / NEW, OF_LOGS: run}
    known, heard = KnownBefore(ArmProfiles(profiles, world), world), dict[str, Heard]()
    for folder in (run / NEW, run / "known"):
        folder.mkdir(exist_ok=True)
        for name in ("recommendations.jsonl", "vectors.npz"):
            shutil.copy(run / name, folder)
    profiles.write(run / "known" / PROFILES)
    for name in ARMS:
        arm = served(folders.get(name, run / "known"), world, name)
        arm.prepare(0, TRACK_MS)
        heard[name] = test.play(by(arm, past), "test", known)
    return heard


def lines_of(world: int, seed: int) -> list[dict[str, Any]]:
    """A line for each arm of a run; the change is that against the session alone, of the same listeners."""
    print(f"world {world}, seed {seed}", flush=True)
    heard = play(world_of(*words_of(world)), run_of(STUDY, world, seed))
    base, lines = heard[SESSION].time, []
    for name, one in heard.items():
        change = MeanInterval.of((one.time - base) / base.mean(), LEVEL)
        numbers = one.time.mean(), change.mean, change.lower, change.upper, *(one.discovery[name] for name in DISCOVERY)
        named = zip(
            ("time", "change", "lower", "upper", *DISCOVERY), (f"{value:.6g}" for value in numbers), strict=True
        )
        lines.append({**dict(zip(KEY, (world, seed, name), strict=True)), **dict(named), "commit": STUDY.commit()})
    return lines


def means(rows: Sequence[Mapping[str, str]], world: int, arm: str) -> dict[str, float]:
    """The mean of each number over the seeds of a world."""
    own = [row for row in rows if row["world"] == str(world) and row["arm"] == arm]
    return {name: float(np.mean([float(row[name]) for row in own])) for name in ("time", "change", *DISCOVERY)}


def aims_of(rows: Sequence[Mapping[str, str]], world: int) -> dict[str, float]:
    """What was aimed at, in per cent: changes against the session, and against the control.

    At a share of known tracks, the curve of `familiar` is interpolated.
    """
    session, control, curve = (
        [means(rows, world, arm) for arm in arms]
        for arms in ((SESSION,), (CONTROL,), [f"listener, {familiar:g}" for familiar in sorted(SHARES)])
    )
    known, change = ([one[name] for one in curve] for name in ("share_known", "change"))
    return {
        "learned (aim: +15)": 100 * change[-1],
        "learned, against the control of 2026 (aim: +25)": 100 * (curve[-1]["time"] / control[0]["time"] - 1),
        "at the share_known of the session (aim: +3)": 100 * float(np.interp(session[0]["share_known"], known, change)),
        "at share_known 0.5 (aim: −6 at most)": 100 * float(np.interp(0.5, known, change)),
        "new listeners (aim: within the interval)": 100 * means(rows, world, NEW)["change"],
    }


def aims_of_seeds(rows: Sequence[Mapping[str, str]], world: int) -> dict[str, MeanInterval]:
    """The mean of each aim over the seeds of training, with its interval."""
    by_seed = [[row for row in rows if row["seed"] == seed] for seed in sorted({row["seed"] for row in rows})]
    of_seeds = [aims_of(some, world) for some in by_seed if any(row["world"] == str(world) for row in some)]
    return {name: MeanInterval.of(np.array([one[name] for one in of_seeds]), LEVEL) for name in of_seeds[0]}


def report() -> None:
    """Write the tables and the picture."""
    rows = read_rows(STUDY.folder / "results.csv")
    worlds = sorted({int(row["world"]) for row in rows})
    lines = [f"Means over {len({row['seed'] for row in rows})} seeds. Written by `{STUDY.command}`.", ""]
    lines += ["## Aims", "", "Change of the time per session, in per cent, with its 95 % interval over seeds.", ""]
    aims = [aims_of_seeds(rows, world) for world in worlds]
    cells = [
        [name, *(f"{one[name].mean:+.1f} ({one[name].lower:+.1f} to {one[name].upper:+.1f})" for one in aims)]
        for name in aims[0]
    ]
    lines += [*table(["", *(f"world {world}" for world in worlds)], cells, "l" + "r" * len(worlds)), ""]
    for world in worlds:
        lines += [f"## World {world}", ""]
        cells = [
            [arm, f"{one['time']:.2f}", f"{100 * one['change']:+.1f}", *(f"{one[name]:.3f}" for name in DISCOVERY)]
            for arm, one in ((arm, means(rows, world, arm)) for arm in ARMS)
        ]
        lines += [*table(["arm", "time per session", "change, %", *DISCOVERY], cells, "lrrrrr"), ""]
    STUDY.write_table("results.md", lines)
    draw(rows, worlds)
    STUDY.write_provenance()


def draw(rows: Sequence[Mapping[str, str]], worlds: Sequence[int]) -> None:
    """The curve: time against the share of known tracks, for each world."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for world in worlds:
        points = [means(rows, world, arm) for arm in (SESSION, *(f"listener, {familiar:g}" for familiar in SHARES))]
        known, change = zip(*((one["share_known"], 100 * one["change"]) for one in points), strict=True)
        (line,) = axes.plot(known[1:], change[1:], "o-", label=f"listener, world {world}")
        axes.plot(known[0], change[0], "s", color=line.get_color(), label=f"session, world {world}")
        if world == worlds[0]:
            for familiar, x, y in zip(SHARES, known[1:], change[1:], strict=True):
                axes.annotate(f"familiar={familiar:g}", (x, y), textcoords="offset points", xytext=(6, -10), fontsize=8)
    axes.set(xlabel="share_known: of the tracks played", ylabel="time per session against the session alone, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    STUDY.write_figure("curve.png", figure)


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument("--only", choices=["report"])
    given = STUDY.parse(parser)
    path = STUDY.folder / "results.csv"
    done = {(int(row["world"]), int(row["seed"])) for row in read_rows(path)}
    missing = [(world, seed) for seed in SEEDS for world in WORLDS if (world, seed) not in done]
    with ProcessPoolExecutor(sized(2, 1)) as pool:
        for played in as_completed(pool.submit(lines_of, *one) for one in missing if given.only is None):
            append_rows(path, played.result())
    report()


if __name__ == "__main__":
    STUDY.run(main)
