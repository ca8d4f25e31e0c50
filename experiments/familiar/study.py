"""What does the listener's own past give, and what does it cost in discovery?

    python experiments/familiar/study.py    trains a model for each world in outputs/familiar, then writes results

Cost: see README.md. Expected: listeners play longer the more of what is played they know.

u listeners of a world.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.playing import QUICK, world_of
from experiments.studying import SMALL_WORLD, Study, append_rows, read_rows, sized, train
from segue.reports.markdown import table
from segue.runs.profiles import FILE as PROFILES
from segue.runs.profiles import Profiles
from segue.simulation.arm_profiles import ArmProfiles
from segue.simulation.listener import Crowd
from segue.simulation.listening import TRACK_MS, Heard, KnownBefore, ListeningTest, Recommend
from segue.simulation.policies import Lists, recommended
from segue.simulation.world import World
from segue.statistics.discovery import DISCOVERY
from segue.statistics.intervals import MeanInterval

STUDY = Study(__file__, __doc__)
WORLDS = sized((21, 22, 23), (21,))
"""Seeds; those that the trial of the issue was tuned on are 11 and 12."""
SEEDS = (1,)
LOGGED, PLAYED = sized((50_000, 10_000), (400, 400))
"""Sessions of the logs and of the listening test, of which half are reported."""
ARMS: Mapping[str, Mapping[str, Any]] = {
    "session": {"context": "session"},
    **{
        f"listener, {familiar:g}": {"context": "listener", "familiar": familiar} for familiar in (1, 0.75, 0.5, 0.25, 0)
    },
}
"""How each arm is served; all are of the same run, with the same picking."""
PICKING: Mapping[str, Any] = {"pick": "ranked", "artist_gap": 100, "num_lists": 4}
KEY = ("world", "seed", "arm")


def words_of(world: int) -> tuple[str, ...]:
    """The words of a world."""
    return *sized(("world=small",), SMALL_WORLD), f"world.seed={world}"


def run_of(world: int, seed: int) -> Path:
    """The folder of a run; it is trained if it is not there."""
    folder = STUDY.work / f"{world}-{seed}"
    if not (folder / "metrics.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        data = ("datamodule=simulated", f"datamodule.prepare.sessions={LOGGED}", *words_of(world))
        train(*QUICK, *data, "context=listener", f"seed={seed}", f"hydra.run.dir={folder}")
    return folder


def by(arm: Lists) -> Recommend:
    """An arm as a listening test asks it."""

    def recommend(crowd: Crowd, draws: Float64[np.ndarray, "S"]) -> Any:
        if len(crowd.tracks) == 1:
            arm.begin(crowd, np.random.default_rng(0))
        return arm.choose(crowd, draws)

    return recommend


def play(world: World, run: Path) -> dict[str, Heard]:
    """What the same sessions hear from each arm."""
    test = ListeningTest(world, sessions=PLAYED, seed=1, hits=100)
    known = KnownBefore(ArmProfiles(Profiles.read(run / PROFILES), world), world)
    heard = {}
    for name, how in ARMS.items():
        arm = recommended(path=str(run / "recommendations.jsonl"), world=world, **PICKING, **how)
        arm.prepare(0, TRACK_MS)
        heard[name] = test.play(by(arm), "test", known)
    return heard


def lines_of(world: int, seed: int) -> list[dict[str, Any]]:
    """A line for each arm of a run; the change is that against the session alone, of the same listeners."""
    heard = play(world_of(*words_of(world)), run_of(world, seed))
    base, lines = heard["session"].time, []
    for name, one in heard.items():
        change = MeanInterval.of((one.time - base) / base.mean(), 0.95)
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


def report() -> None:
    """Write the tables and the picture."""
    rows = read_rows(STUDY.folder / "results.csv")
    worlds = sorted({int(row["world"]) for row in rows})
    lines = [f"Means over {len({row['seed'] for row in rows})} seeds. Written by `{STUDY.command}`.", ""]
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
        points = [means(rows, world, arm) for arm in ARMS]
        known, change = zip(*((one["share_known"], 100 * one["change"]) for one in points), strict=True)
        (line,) = axes.plot(known[1:], change[1:], "o-", label=f"listener, world {world}")
        axes.plot(known[0], change[0], "s", color=line.get_color(), label=f"session, world {world}")
        if world == worlds[0]:
            for arm, x, y in zip(list(ARMS)[1:], known[1:], change[1:], strict=True):
                note = f"familiar={arm.split()[1]}"
                axes.annotate(note, (x, y), textcoords="offset points", xytext=(6, -10), fontsize=8)
    axes.set(xlabel="share_known: of the tracks played", ylabel="time per session against the session alone, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    STUDY.write_figure("curve.png", figure)


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument("--only", choices=["report"])
    given = STUDY.parse(parser)
    path = STUDY.folder / "results.csv"
    for seed in SEEDS if given.only is None else ():
        for world in WORLDS:
            if not any(row["world"] == str(world) and row["seed"] == str(seed) for row in read_rows(path)):
                append_rows(path, lines_of(world, seed))
    report()


if __name__ == "__main__":
    STUDY.run(main)
