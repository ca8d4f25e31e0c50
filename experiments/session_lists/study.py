"""How many lists must be searched for a session, and what is lost against the search of the whole catalogue?

    python experiments/session_lists/study.py    trains three models in outputs/session_lists, then writes results

Cost: ten minutes on two idle cores. Expected: a few lists hold nearly all of the best tracks, because the list of the
last track alone does.

Q queries, N tracks, K tracks of a list, H tracks of a history.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int32, Int64
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, available, data_of, sized, train
from segue.picking.places import PICKS, at
from segue.picking.session_query import SessionQuery
from segue.picking.session_search import SessionSearch, best, union
from segue.reports.markdown import table
from segue.runs.atomic import write_whole
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE, SessionVectors
from segue.simulation.listener import WHOLE, Crowd
from segue.simulation.listening import ListeningTest, Recommend
from segue.simulation.mixed_logs import world_of
from segue.simulation.policies import session_candidates
from segue.simulation.world import World

STUDY = Study(__file__, __doc__)
DATA = sized(("simulated", "yes", "polimi"), ("simulated",))
NUM_LISTS = sized((1, 2, 3, 4, 5, 6, 8, 10), (1, 4))
NUM_QUERIES, NUM_SESSIONS = sized((6000, 6000), (100, 100))
BLOCK = 256


def run_of(data: str) -> Path:
    """The folder of a run; it is trained if it is not there."""
    folder = STUDY.work / data
    if not (folder / FILE).exists():
        words = [f"datamodule={data}", "context=session", "model=convex", "trainer.max_epochs=4", "logger=none"]
        words += ["callbacks.plots=null", "callbacks.off_policy=null", f"hydra.run.dir={folder}"]
        train(*words, *sized((), ("datamodule.prepare.sessions=500",)), threads=None)
    return folder


def shares_found(full: Int32[np.ndarray, "Q K"], found: Int32[np.ndarray, "Q k"], num: int) -> float:
    """Mean share of the first `num` of the full search that a search of lists finds."""
    return float((full[:, :num, None] == found[:, None, :]).any(2).mean())


def of_queries(data: Any, vectors: SessionVectors, lists: Int32[np.ndarray, "N K"]) -> Iterator[dict[str, float]]:
    """For each number of lists what is found of the full search, and the recall of the next tracks of the test set."""
    pairs = data.pairs["test"]
    chosen = np.random.default_rng(0).permutation(len(pairs.following)) < NUM_QUERIES
    following, histories = pairs.following[chosen][:, None], data.histories(pairs).where(chosen)
    rows, shares = histories.newest(max(vectors.max_length, max(NUM_LISTS)))
    queries, k = SessionQuery(vectors).of(rows, shares), lists.shape[1]
    full = np.concatenate([best_of_all(vectors, queries[b], rows[b], k) for b in blocks(len(rows))])
    for num in NUM_LISTS:
        parts = []
        for block in blocks(len(rows)):
            candidates, heard = union(lists, rows[block, :num]), rows[block].astype(np.int32)
            parts.append(best(vectors, queries[block], candidates, heard, may_repeat=False, k=k))
        found = np.concatenate(parts)
        yield {
            "num_lists": num,
            "best": shares_found(full, found[:, :1], 1),
            "top_10": shares_found(full, found, 10),
            "top_50": shares_found(full, found, 50),
            "recall_at_10": float((found[:, :10] == following).any(1).mean()),
            "recall_at_10_of_all": float((full[:, :10] == following).any(1).mean()),
        }


def blocks(num: int) -> list[slice]:
    return [slice(first, first + BLOCK) for first in range(0, num, BLOCK)]


def best_of_all(vectors: SessionVectors, queries: Any, rows: Int64[np.ndarray, "Q H"], k: int) -> Any:
    """The K best of the whole catalogue that were not heard."""
    scores = queries @ vectors.items.T
    line, age = (rows >= 0).nonzero()
    scores[line, rows[line, age]] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)


def recommends(vectors: SessionVectors, lists: Any, num: int | None, how: str) -> Recommend:
    """A recommender that searches some lists, or all tracks."""

    def recommend(crowd: Crowd, draws: Float64[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
        if num is None:
            rows = crowd.tracks[::-1].T.astype(np.int64)
            shares = crowd.shares[::-1].T.astype(np.float32) / np.float32(WHOLE)
            found = best_of_all(vectors, SessionQuery(vectors).of(rows, shares), rows, lists.shape[1])
        else:
            search = SessionSearch(vectors, lists, num_lists=num, may_repeat=False, artist_of=np.arange(len(lists)))
            found = session_candidates(search, crowd, k=lists.shape[1])
        return at(found, PICKS[how].pick(found >= 0, draws), -1).astype(np.int64)

    return recommend


def online(world: World, vectors: SessionVectors, lists: Any, columns: Callable[[str, Any], None]) -> None:
    """Mean time per session of simulated listeners, the same sessions for every number of lists."""
    test = ListeningTest(world, sessions=NUM_SESSIONS, seed=7, hits=100)
    for how in ("ranked", "uniform"):
        times = [test.play(recommends(vectors, lists, num, how), "test").time.mean() for num in (*NUM_LISTS, None)]
        columns(f"time_{how}", times[:-1])
        columns(f"time_{how}_of_all", times[-1])


def measure(name: str, folder: Path) -> pd.DataFrame:
    config = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(config, "run_dir", str(folder), force_add=True)
    data = data_of(config)
    vectors = SessionVectors.read(folder / FILE, data.catalog)
    lists = Recommendations.read(folder / "recommendations.jsonl", data.catalog).rows.astype(np.int32)
    frame = pd.DataFrame(of_queries(data, vectors, lists))
    if (world := world_of(data.prepared_by)) is not None:
        online(world, vectors, lists, frame.__setitem__)
    return frame.assign(data=name, tracks=len(data.catalog))


def main() -> None:
    STUDY.parse()
    frames = [measure(data, run_of(data)) for data in available(*DATA)]
    results = pd.concat(frames, ignore_index=True)
    write_whole(STUDY.folder / "results.csv", lambda partial: results.round(6).to_csv(partial, index=False))
    lines = ["Of the search of the whole catalogue, 1 is all. Written by `study.py`.\n"]
    for name, frame in results.groupby("data", sort=False):
        shown = frame.drop(columns=["data", "tracks"]).dropna(axis=1).set_index("num_lists")
        text = [
            [str(num), *(f"{value:.3f}" for value in row)]
            for num, row in zip(shown.index, shown.to_numpy(), strict=True)
        ]
        lines += [f"## {name}\n", f"{int(frame['tracks'].iloc[0]):,} tracks.\n"]
        lines += [*table(["num_lists", *shown.columns], text, "r" * (1 + shown.shape[1])), ""]
    STUDY.write_table("results.md", lines)
    STUDY.write_provenance()


if __name__ == "__main__":
    STUDY.run(main)
