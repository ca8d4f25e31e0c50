"""Look for the taste of the published world: python experiments/calibration/search.py minutes=60

Draws tastes at random. Those whose random, sticky and popular arms come within a tenth of the published ladder are
played in full: mixed traffic, a contextual model by the published recipe but 32 wide (a third of the time, and near
enough to choose by), and its arm. Writes search.csv beside this file, the nearest first. ladder.py judges the winner.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.calibration.ladder import MIXED, PUBLISHED, SESSIONS
from experiments.runs import ROOT, run
from src.simulation.experiment import Tally
from src.simulation.policies import Policy, Popular, Random, StickyArtist
from src.simulation.traffic import SHARD, Task, play
from src.simulation.world import Taste, World, generate
from src.terminal.console import console

HERE, RUNS = Path(__file__).parent, ROOT / "outputs" / "calibration_search"
CHEAP = ("random", "popular", "sticky_artist")
NEAR = 0.1


def ladder(world: World, sessions: int) -> dict[str, float]:
    """Mean time per session of each cheap arm, until one is out of reach."""
    policies: dict[str, Policy] = {
        "random": Random(world=world),
        "popular": Popular(num_tracks=100, world=world),
        "sticky_artist": StickyArtist(world=world),
    }
    times: dict[str, float] = {}
    for name in CHEAP:
        users = np.random.default_rng(1).integers(len(world.listeners), size=sessions)
        tally = Tally(len(world.listeners))
        for number, part in enumerate(np.array_split(users, -(-sessions // SHARD))):
            task = Task(arm=0, users=part, num_visits=np.ones_like(part), waves=range(1), seed=number, key=())
            for plays in play(world, policies[name], [task], keep_events=False):
                tally.add(plays)
        times[name] = float(tally.hundredths.sum() / tally.sessions.sum() / 100)
        if abs(times[name] / PUBLISHED[name][0] - 1) > NEAR + 1 / sessions**0.5:
            break
    return times


def draw(rng: np.random.Generator) -> Taste:
    """A taste at random, from the part of the space in which coarser rounds found the contextual arm high enough."""
    genre, track, dim = rng.uniform(0.45, 0.75), rng.uniform(0.02, 0.5), int(rng.choice([4, 5, 6, 7]))
    return Taste(
        num_genres=int(rng.choice([12, 16, 20, 30, 40])),
        dim=dim,
        base=round(rng.uniform(-0.8, -0.1), 2),
        charm=round(rng.uniform(0.6, 1.1), 2),
        reach=round(rng.uniform(3.4, 4.4) * dim**0.5, 1),
        genre=round(genre**0.5, 2),
        artist=round(((1 - genre) * (1 - track)) ** 0.5, 2),
        track=round(((1 - genre) * track) ** 0.5, 2),
        mainstream=round(rng.uniform(0, 1.5), 2),
    )


def contextual(taste: Taste, name: str) -> float:
    """Mean time per session of a narrow contextual model."""
    world = ["world=published", *(f"world.taste.{key}={value}" for key, value in vars(taste).items())]
    logs = run(
        "simulate", RUNS / f"{name}_logs", *world, MIXED, f"sessions={SESSIONS['published']}", "experiment=MIXED"
    )
    words = "experiment=published", "model=contextual", "model.dim=32", "optimizer.fused=true", "logger=none"
    model = run("train", RUNS / f"{name}_model", *words, "datamodule=botify", f"datamodule.path={logs}")
    arms = f"arms={{C: {model / 'recommendations.jsonl'}}}"
    played = run("simulate", RUNS / f"{name}_played", *world, arms, "sessions=10000", "write_logs=false")
    shutil.rmtree(logs / "logs")  # 400 MB each
    return float(json.loads((played / "simulation.json").read_text())["arms"]["C"]["mean_time_per_session"])


def main() -> None:
    minutes = float(dict(word.split("=") for word in sys.argv[1:]).get("minutes", 60))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("simulate", ["world=published"]).world
    settings = {name: config[name] for name in config if name not in ("_target_", "taste", "num_listeners")}
    rng, rows, tried, end = np.random.default_rng(0), [], 0, time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        taste, tried = draw(rng), tried + 1
        if len(ladder(generate(**settings, num_listeners=600, taste=taste), 2000)) < len(CHEAP):
            continue
        times = ladder(generate(**settings, num_listeners=config.num_listeners, taste=taste), 10_000)
        if len(times) < len(CHEAP):
            continue
        times["contextual"] = contextual(taste, f"{tried}")
        off = max(abs(value / PUBLISHED[name][0] - 1) for name, value in times.items())
        rows.append({"off": off, **times, **vars(taste)})
        pd.DataFrame(rows).sort_values("off").round(3).to_csv(HERE / "search.csv", index=False)
        console.print(f"{tried} tried, {len(rows)} played in full, best off by {min(row['off'] for row in rows):.1%}")


if __name__ == "__main__":
    main()
