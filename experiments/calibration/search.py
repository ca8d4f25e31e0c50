"""Choose the parameters of the published world: python experiments/calibration/search.py

1. 60 draws from the box below, each in one world; those near the targets in three worlds (seeds 0, 1, 2).
2. 12 draws around the best of these.
3. 8 draws, each around the best so far.

The arms are random, sticky, popular and near_hits, which takes the place of contextual because it needs no training: it
knows which hits are near. ladder.py trains contextual. Each candidate is a row of search.csv beside this file; a
stopped search goes on where it was. The last line printed is the choice for conf/taste/published.yaml. The fresh seeds
of ladder.py and its held-out arms are not used.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.calibration.measures import measure, simulate
from experiments.calibration.targets import CHOSEN_BY
from src.simulation.listener import Crowd
from src.simulation.policies import Policy, Popular, Random, StickyArtist
from src.simulation.world import Taste, World, generate

RESULTS = Path(__file__).parent / "search.csv"
SEEDS, DRAWS, NEARBY, NEARER = (0, 1, 2), 60, 12, 8
LISTENERS, PLAYED = 1_500, 6_000
BOX = {
    "length": (3.9, 4.5),
    "length_by_fame": (0.08, 0.18),
    "style": (0.22, 0.5),
    "track": (0.25, 0.42),
    "mainstream": (0.4, 0.7),
}
STYLE_DIMS, OWN_DIMS = (4, 5, 6), (20, 30, 40, 60)
"""The box: about 400 wider draws, which were not recorded, found nothing outside of it."""

TOO_FAR = 1.2
"""Distance in the first world above which a candidate is not played in the others."""


class NearHits(Policy):
    """One of the 50 tracks nearest to the last track among the 120 most played: contextual, if it learned perfectly.

    Args:
        world: the world whose tracks are recommended.
    """

    is_stateless = True

    def __init__(self, *, world: World) -> None:
        super().__init__(world=world)
        self._hits = world.top_tracks[:120]

    def recommend(self, crowd: Crowd) -> Any:
        """Recommend the next track of each session."""
        affinity = self.world.embeddings[crowd.current] @ self.world.embeddings[self._hits].T
        best = np.argpartition(-affinity, 50, axis=1)[:, :50]
        return self._hits[best[np.arange(len(crowd)), self.rng.integers(50, size=len(crowd))]]


def build_world(parameters: dict[str, Any], *, seed: int, num_listeners: int) -> World:
    """A world of the published size."""
    return generate(
        seed=seed,
        num_tracks=50_000,
        num_listeners=num_listeners,
        num_interests=3,
        artist_popularity=0.95,
        track_popularity=0.9,
        taste=Taste(**parameters),
    )


def distance(measured: dict[str, float]) -> float:
    """The distances to the targets, in tolerances, as the eighth root of the mean of their eighth powers.

    It is near the largest one and takes account of the others.
    """
    offs = np.array([target.off(measured[f"{target.arm} {target.measure}"]) for target in CHOSEN_BY])
    return float((offs**8).mean() ** 0.125)


def play_arms(world: World, arms: dict[str, Policy], sessions: int) -> dict[str, float]:
    """The measures of each arm, with its name before each key."""
    measured: dict[str, float] = {}
    for number, (arm, policy) in enumerate(arms.items()):
        own = measure(simulate(world, policy, sessions=sessions, seed=number))
        measured |= {f"{arm} {name}": value for name, value in own.items()}
    return measured


def cheap_arms(world: World) -> dict[str, Policy]:
    """The arms that need no training."""
    return {
        "random": Random(world=world),
        "sticky": StickyArtist(world=world),
        "popular": Popular(num_tracks=100, world=world),
    }


def cheaply(parameters: dict[str, Any]) -> dict[str, float]:
    """Mean measures over the worlds; of the first world alone if it is too far."""
    found: list[dict[str, float]] = []
    for seed in SEEDS:
        world = build_world(parameters, seed=seed, num_listeners=LISTENERS)
        found.append(play_arms(world, {**cheap_arms(world), "contextual": NearHits(world=world)}, PLAYED))
        if distance(found[0]) > TOO_FAR:
            break
    return mean(found)


def mean(found: list[dict[str, Any]]) -> dict[str, float]:
    """Means over worlds, and their number."""
    return {"worlds": len(found), **{name: float(np.mean([one[name] for one in found])) for name in found[0]}}


def draw(rng: np.random.Generator) -> dict[str, Any]:
    """Parameters at random, from the box."""
    numbers = {name: round(float(rng.uniform(*ends)), 3) for name, ends in BOX.items()}
    return {**numbers, "style_dim": int(rng.choice(STYLE_DIMS)), "own_dim": int(rng.choice(OWN_DIMS))}


def draw_near(best: dict[str, Any], rng: np.random.Generator, spread: float) -> dict[str, Any]:
    """Parameters near the best ones; the standard deviation is a part of the box."""
    numbers = {name: round(best[name] + float(rng.normal()) * (b - a) * spread, 3) for name, (a, b) in BOX.items()}
    style_dim = best["style_dim"] + int(rng.integers(-1, 2))
    return {**numbers, "style_dim": max(2, style_dim), "own_dim": int(rng.choice(OWN_DIMS))}


class Record:
    """The candidates so far, in search.csv."""

    def __init__(self) -> None:
        records = pd.read_csv(RESULTS).to_dict("records") if RESULTS.exists() else []
        self.rows: list[dict[str, Any]] = [{str(name): value for name, value in row.items()} for row in records]

    def add(self, stage: str, number: int, parameters: dict[str, Any], measured: dict[str, float]) -> None:
        """Append a candidate and write the file."""
        row = {"stage": stage, "number": number, "distance": distance(measured), **parameters, **measured}
        self.rows.append(row)
        pd.DataFrame(self.rows).round(4).to_csv(RESULTS, index=False)
        print(stage, number, f"distance {row['distance']:.2f}", parameters, flush=True)

    def has(self, stage: str, number: int) -> bool:
        """Whether a candidate was measured."""
        return any(row["stage"] == stage and row["number"] == number for row in self.rows)

    def best(self, stages: tuple[str, ...], num: int) -> list[dict[str, Any]]:
        """Parameters of the candidates with the smallest distance over all worlds."""
        rows = [row for row in self.rows if row["stage"] in stages and row["worlds"] == len(SEEDS)]
        rows.sort(key=lambda row: row["distance"])
        return [{name: row[name] for name in Taste.__dataclass_fields__} for row in rows[:num]]


def main() -> None:
    record = Record()
    rng = np.random.default_rng(0)
    for number, parameters in enumerate([draw(rng) for _ in range(DRAWS)]):
        if not record.has("box", number):
            record.add("box", number, parameters, cheaply(parameters))
    best = record.best(("box",), 1)[0]
    for number, parameters in enumerate([draw_near(best, rng, 1 / 12) for _ in range(NEARBY)]):
        if not record.has("near", number):
            record.add("near", number, parameters, cheaply(parameters))
    for number in range(NEARER):
        if not record.has("nearer", number):
            best = record.best(("box", "near", "nearer"), 1)[0]
            parameters = draw_near(best, np.random.default_rng([1, number]), 1 / 8)
            record.add("nearer", number, parameters, cheaply(parameters))
    print("choice", record.best(("box", "near", "nearer"), 1)[0])


if __name__ == "__main__":
    main()
