"""Are listeners of `world=catalogue` like those of a generated world, and how long does it take to generate them?

    python experiments/own_catalogue/study.py

Cost: a quarter of an hour on two cores, most of it for six trainings; a stopped study keeps the runs that it has.
"""

import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.playing import world_of
from experiments.studying import Study, available, sized, train
from segue.catalog import Catalog
from segue.reports.markdown import table
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import SessionVectors
from segue.simulation.listening import ListeningTest, from_lists, references
from segue.simulation.world import World
from segue.simulation.world_files import write_world

STUDY = Study(__file__, __doc__)
DATA = sized(("yes", "simulated"), ("simulated",))
MODELS = {"convex": ("model=convex", "seed=1"), "track": ("model=track", "seed=2"), "neighbours": ("model=neighbours",)}
"""The first one has the tastes of the worlds."""
SHARES = sized((0.0, 0.3, 1.0), (0.3,))
SESSIONS = sized(20_000, 200)
NUM_TRACKS = sized(50_000, 500)
QUICK = ("logger=none", "callbacks.plots=null", "callbacks.listening=null", "callbacks.off_policy=null")


def run_of(data: str, model: str) -> Path:
    """The folder of a run, which is trained if it is not there."""
    folder = STUDY.work / data / model
    if not (folder / "recommendations.jsonl").exists():
        train(f"datamodule={data}", *MODELS[model], *QUICK, f"hydra.run.dir={folder}", threads=None)
    return folder


def lists_of_artists(world: World) -> np.ndarray:
    """The other tracks of the artist of each track; -1 fills up."""
    artist_of = world.catalog.artist_of
    order = np.argsort(artist_of, kind="stable")
    counts = np.bincount(artist_of)
    starts = counts.cumsum() - counts
    lists = np.full((len(artist_of), max(int(counts.max()), 2)), -1)
    for row, artist in enumerate(artist_of.tolist()):
        tracks = order[starts[artist] : starts[artist] + counts[artist]]
        lists[row, : len(tracks) - 1] = tracks[tracks != row]
    return lists


def play(world: World, runs: Mapping[str, Path]) -> list[str]:
    """The mean time of each recommender, and the shares of random tracks, as cells."""
    test = ListeningTest(world, sessions=SESSIONS, seed=1, hits=100)
    arms = dict(references(world, hits=100, neighbours=50))
    arms["sticky_artist"] = from_lists(lists_of_artists(world))
    cells = [f"{test.play(arms[name], 'test').time.mean():.2f}" for name in ARMS]
    for folder in runs.values():
        lists = Recommendations.read(folder / "recommendations.jsonl", world.catalog).rows
        cells.append(f"{test.play(from_lists(lists), 'test').time.mean():.2f}")
    rng, people = np.random.default_rng(1), world.listeners
    users, tracks = rng.integers(len(people), size=100_000), rng.integers(len(world.catalog), size=100_000)
    affinity = np.einsum("nd,nd->n", world.embeddings[people.interests[users, 0]], world.embeddings[tracks])
    shares = expit((affinity - people.bias[users]) * people.sharpness[users])
    return [*cells, f"{affinity.std():.1f}", f"{(shares < 0.1).mean():.3f}", f"{(shares > 0.9).mean():.3f}"]


ARMS = ("random", "sticky_artist", "popular", "true_neighbours")


def compare() -> None:
    """The table of worlds."""
    rows = [
        [f"generated, {name}", *play(world_of(f"world={name}"), {})]
        for name in sized(("small", "published"), ("small",))
    ]
    rows = [[*row[:5], *["—"] * len(MODELS), *row[5:]] for row in rows]
    for data in available(*DATA):
        runs = {model: run_of(data, model) for model in MODELS}
        for share in SHARES:
            world = world_of("world=catalogue", f"world.tracks={runs['convex']}", f"world.model_share={share}")
            rows.append([f"{data}, model_share={share:g}", *play(world, runs)])
    head = ["world", *ARMS, *MODELS, "affinity ±", "refused", "loved"]
    STUDY.write_table("results.md", table(head, rows, "l" + "r" * (len(head) - 1)))


def write_run(folder: Path) -> None:
    """A run of many tracks whose ids are texts of 42 bytes, with lists of 50 and vectors of 64 numbers."""
    rng = np.random.default_rng(0)
    ids = [f"track:{uuid.UUID(bytes=rng.bytes(16))}" for _ in range(NUM_TRACKS)]
    artists = rng.integers(NUM_TRACKS // 4, size=NUM_TRACKS)
    titles = [f"Title {row}" for row in range(NUM_TRACKS)]
    catalog = Catalog.from_columns(ids, titles, [f"Artist {artist}" for artist in artists], source="the study")
    folder.mkdir(parents=True, exist_ok=True)
    rows = (np.arange(NUM_TRACKS)[:, None] + np.arange(1, 51)) % NUM_TRACKS
    scores, plays = rng.random(rows.shape).astype(np.float32), rng.poisson(np.exp(2 + rng.normal(size=NUM_TRACKS)))
    Recommendations(rows=rows, scores=scores, plays=plays).write(
        folder / "recommendations.jsonl", catalog, format="botify"
    )
    vectors, one = rng.normal(size=(NUM_TRACKS, 64)).astype(np.float32), np.ones(1, np.float32)
    SessionVectors(
        queries=vectors, items=vectors, parts=("track",), ends=np.array([64]), lengths=one, shares=one, powers=one,
        age_weights=one[None], skipped=0.0, boosts=np.empty(0, np.float32),
        artist_boosts=np.empty(0, np.float32), context="last",
    ).write(folder / "vectors.npz", catalog)  # fmt: skip


def measure_time() -> None:
    """The table of seconds."""
    folder = STUDY.work / "many"
    write_run(folder)
    started = [time.perf_counter()]
    world = world_of("world=catalogue", f"world.tracks={folder}")
    started.append(time.perf_counter())
    write_world(world, STUDY.work / "written")
    started.append(time.perf_counter())
    _ = world.interest_neighbours
    started.append(time.perf_counter())
    steps = ("generate", "write the files", "find the tracks nearest to interests")
    rows = [[step, f"{seconds:.1f}"] for step, seconds in zip(steps, np.diff(started), strict=True)]
    rows.append(["all", f"{started[-1] - started[0]:.1f}"])
    STUDY.write_table("seconds.md", table(["step", "s"], rows, "lr"))


def main() -> None:
    STUDY.parse()
    compare()
    measure_time()
    STUDY.write_provenance()


if __name__ == "__main__":
    STUDY.run(main)
