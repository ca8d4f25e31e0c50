"""Choose the parameters of the published world: python experiments/calibration/search.py

1. 40 draws from the box below, each in one world; those near the targets in three worlds (seeds 0, 1, 2).
2. 28 draws, each around the best so far.

The arms are random, sticky, popular and near_hits, which takes the place of contextual because it needs no training: it
knows which hits are near. Its repeats are not compared. ladder.py trains contextual. Each candidate is a row of
search.csv beside this file; a stopped search goes on where it was. The last line printed is the choice for
conf/taste/published.yaml. The fresh seeds of ladder.py and its held-out arms are not used.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.calibration.measures import measure, simulate
from experiments.calibration.targets import CHOSEN_BY
from experiments.studying import Study, sized
from segue.simulation.listener import Crowd
from segue.simulation.policies import Policy, Popular, Random, Recommended, StickyArtist
from segue.simulation.world import Taste, World, generate

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "search.csv"
SEEDS, DRAWS, NEARBY = sized(((0, 1, 2), 40, 28), ((0,), 1, 1))
TRACKS, LISTENERS, PLAYED = sized((50_000, 1_500, 6_000), (800, 100, 200))
BOX = {
    "length": (3.9, 4.5),
    "length_by_fame": (0.08, 0.18),
    "length_spread": (0.0, 0.2),
    "style": (0.22, 0.5),
    "track": (0.15, 0.4),
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
        tracks = self._hits[best[np.arange(len(crowd)), self.rng.integers(50, size=len(crowd))]]
        return Recommended(tracks, np.full(len(crowd), np.nan))


def build_world(parameters: dict[str, Any], *, seed: int) -> World:
    """A world of the published size."""
    return generate(
        seed=seed,
        num_tracks=TRACKS,
        num_listeners=LISTENERS,
        num_interests=3,
        artist_popularity=0.95,
        track_popularity=0.9,
        taste=Taste(**parameters),
    )


def distance(measured: dict[str, float]) -> float:
    """The distances to the targets, in tolerances, as the eighth root of the mean of their eighth powers.

    It is near the largest one and takes account of the others.
    """
    offs = np.array(
        [target.off(measured[f"{target.arm} {target.measure}"]) for target in CHOSEN_BY if target.measure != "repeats"]
    )
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
        world = build_world(parameters, seed=seed)
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


def draw_near(best: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Parameters near the best ones; the standard deviation is a tenth of the box."""
    moved = {name: best[name] + float(rng.normal()) * (high - low) / 10 for name, (low, high) in BOX.items()}
    numbers = {name: max(0.0, round(value, 3)) for name, value in moved.items()}
    style_dim = max(2, best["style_dim"] + int(rng.integers(-1, 2)))
    return {**numbers, "style_dim": style_dim, "own_dim": int(rng.choice(OWN_DIMS))}


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

    def best(self) -> dict[str, Any]:
        """Parameters of the candidate with the smallest distance over all worlds."""
        best = min((row for row in self.rows if row["worlds"] == len(SEEDS)), key=lambda row: float(row["distance"]))
        return {name: best[name] for name in Taste.__dataclass_fields__}


def main() -> None:
    STUDY.parse()
    record = Record()
    rng = np.random.default_rng(0)
    for number, parameters in enumerate([draw(rng) for _ in range(DRAWS)]):
        if not record.has("box", number):
            record.add("box", number, parameters, cheaply(parameters))
    for number in range(NEARBY):
        if not record.has("near", number):
            parameters = draw_near(record.best(), np.random.default_rng([1, number]))
            record.add("near", number, parameters, cheaply(parameters))
    print("choice", record.best())
    STUDY.write_provenance("search_provenance.json")


if __name__ == "__main__":
    STUDY.run(main)
