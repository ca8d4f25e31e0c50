"""Look for the taste of the published world: draw tastes at random, keep the nearest to the published ladder.

    python experiments/calibration/search.py minutes=20

Writes `search.csv`, a line for each taste whose ladder came near enough to be played in full.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.console import ROOT, console
from src.simulation.experiment import Tally
from src.simulation.policies import Policy, Popular, Random, StickyArtist
from src.simulation.traffic import SHARD, Task, play
from src.simulation.world import Taste, World, generate

HERE = Path(__file__).parent
PUBLISHED = {"random": 2.24, "sticky_artist": 3.07, "popular": 3.65}


def ladder(world: World, sessions: int) -> dict[str, float]:
    """Mean time per session of each arm, until one is out of reach."""
    policies: dict[str, Policy] = {
        "random": Random(world=world),
        "popular": Popular(num_tracks=100, world=world),
        "sticky_artist": StickyArtist(world=world),
    }
    times: dict[str, float] = {}
    for name, policy in policies.items():
        users = np.random.default_rng(1).integers(len(world.listeners), size=sessions)
        tally = Tally(len(world.listeners))
        for number, part in enumerate(np.array_split(users, -(-sessions // SHARD))):
            task = Task(arm=0, users=part, num_visits=np.ones_like(part), waves=range(1), seed=number, key=())
            for plays in play(world, policy, task, keep_events=False):
                tally.add(plays)
        times[name] = float(tally.hundredths.sum() / tally.sessions.sum() / 100)
        if abs(times[name] / PUBLISHED[name] - 1) > 0.2:
            break
    return times


def draw(rng: np.random.Generator) -> Taste:
    """A taste at random, of the part of the space in which a coarser search found anything."""
    genre_share, track_share = rng.uniform(0.3, 0.65), rng.uniform(0.02, 0.35)
    return Taste(
        num_genres=int(rng.choice([12, 16, 20, 30, 40])),
        dim=int(rng.choice([7, 8, 9, 10, 12])),
        base=round(rng.uniform(0, 0.5), 2),
        charm=round(rng.uniform(0, 0.5), 2),
        reach=round(rng.uniform(9, 15), 1),
        genre=round(genre_share**0.5, 2),
        artist=round(((1 - genre_share) * (1 - track_share)) ** 0.5, 2),
        track=round(((1 - genre_share) * track_share) ** 0.5, 2),
        mainstream=round(rng.uniform(0.5, 2.5), 2),
    )


def main() -> None:
    minutes = float(dict(word.split("=") for word in sys.argv[1:]).get("minutes", 20))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("simulate", ["world=published"]).world
    settings = {name: config[name] for name in config if name not in ("_target_", "taste", "num_listeners")}
    rng, rows, tried, end = np.random.default_rng(0), [], 0, time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        taste, tried = draw(rng), tried + 1
        small = generate(**settings, num_listeners=600, taste=taste)
        if len(ladder(small, 2000)) < len(PUBLISHED):
            continue
        world = generate(**settings, num_listeners=config.num_listeners, taste=taste)
        times = ladder(world, 10_000)
        if len(times) < len(PUBLISHED):
            continue
        known, neighbours = world._neighbours
        same = (world.catalog.artist_of[neighbours] == world.catalog.artist_of[known][:, None]).mean()
        off = max(abs(times[name] / wanted - 1) for name, wanted in PUBLISHED.items())
        rows.append({"off": off, **times, "first_of_same_artist": same, **vars(taste)})
        pd.DataFrame(rows).sort_values("off").round(3).to_csv(HERE / "search.csv", index=False)
        console.print(f"{tried} tried, {len(rows)} near, best {min(row['off'] for row in rows):.3f}")


if __name__ == "__main__":
    main()
