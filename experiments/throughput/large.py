"""A whole run on a large data set: python experiments/throughput/large.py [--playlists 400000] [--checkout FOLDER]

Generates playlists (kept in outputs/throughput, reused by the next call), trains one epoch on them and measures the
seconds of each phase, processor time and peak memory. Adds a row to large.json and large.md in the folder of this file.
"""

import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import SMALLEST, Study, sized
from segue.atomic import write_whole
from segue.reports.markdown import table
from segue.runs.provenance import ROOT, provenance

STUDY = Study(__file__, __doc__)
SCENES = 300
"""Playlists keep mostly to the tracks of one scene."""
OF_ARTIST = 0.5
"""Share of the tracks that are in the scene of their artist; the others are in any scene."""
IN_SCENE = 0.8
"""Share of the tracks of a playlist that are drawn from its scene; the others are drawn from the whole catalogue."""
PHASES = {
    "reading": "config.yaml",
    "training": "checkpoints/best.ckpt",
    "testing": "test_queries.parquet",
    "lists": "top_tracks.json",
    "pictures": "plots/artists.png",
}
"""Each phase and the file that it writes last. The phases follow one another; tracking is the rest of the run."""


def generate(folder: Path, *, num_playlists: int, seed: int) -> None:
    """Write playlists of 12 tracks on average as `datamodule=polimi` reads them.

    Tracks have Zipf-like popularity; there are 0.75 tracks and 0.15 artists for each playlist.
    """
    rng = np.random.default_rng(seed)
    num_tracks, num_artists = num_playlists * 3 // 4, num_playlists * 3 // 20
    others = (num_artists * rng.random(num_tracks - num_artists) ** 2).astype(np.int64)  # some artists have many tracks
    artist = rng.permutation(np.concatenate([np.arange(num_artists), others]))
    popularity = rng.permutation(1 / np.arange(1, num_tracks + 1) ** 0.8)
    scene = rng.integers(SCENES, size=num_artists)[artist]
    scene = np.where(rng.random(num_tracks) < OF_ARTIST, scene, rng.integers(SCENES, size=num_tracks))
    by_scene = np.argsort(scene, kind="stable")
    ends = popularity[by_scene].cumsum()
    edges = np.concatenate([[0.0], ends[np.searchsorted(scene[by_scene], np.arange(SCENES), side="right") - 1]])

    lengths = 2 + rng.geometric(1 / 11, size=num_playlists) - 1
    playlist = np.repeat(np.arange(num_playlists), lengths)
    own = rng.choice(SCENES, size=num_playlists, p=np.diff(edges) / edges[-1])[playlist]
    inside = rng.random(len(playlist)) < IN_SCENE
    low, high = np.where(inside, edges[own], 0.0), np.where(inside, edges[own + 1], edges[-1])
    drawn = np.searchsorted(ends, low + (high - low) * rng.random(len(playlist)), side="right")
    track = by_scene[np.minimum(drawn, num_tracks - 1)]

    folder.mkdir(parents=True, exist_ok=True)
    albums, seconds = np.arange(num_tracks) // 10, rng.integers(120, 360, size=num_tracks)
    catalogue = {"track_id": range(num_tracks), "album_id": albums, "artist_id": artist, "duration_sec": seconds}
    lines = {"playlist_id": playlist, "track_id": track}
    for name, columns in (("tracks.csv", catalogue), ("train_sequential.csv", lines)):
        write_whole(folder / name, partial(pd.DataFrame(columns).to_csv, index=False, lineterminator="\n"))


def measure(data: Path, run: Path, checkout: Path, words: list[str]) -> dict[str, Any]:
    """Seconds of each phase of a run, its processor time and its peak memory."""
    command = [
        "train.py",
        "datamodule=polimi",
        "context=last",
        f"datamodule.path={data}",
        "model=convex",
        "counted=none",
    ]
    command += sized(("trainer.max_epochs=1",), SMALLEST)
    logger = f"logger.tracking_uri=sqlite:///{run.parent}/mlflow.db"
    started = time.time()
    subprocess.run([sys.executable, *command, logger, f"hydra.run.dir={run}", *words], cwd=checkout, check=True)
    ended, used = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    ends = [started, *((run / name).stat().st_mtime for name in PHASES.values()), ended]
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    kept = ("test/num_queries", "test/num_all_queries", "test/num_sessions", "test/ndcg_at_10", "export/recall_at_50")
    return {
        "seconds": dict(zip([*PHASES, "tracking"], np.diff(ends).round(1).tolist(), strict=True)),
        "total_s": round(ended - started, 1),
        "processor_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_gb": round(used.ru_maxrss / 2**20, 2),
        "metrics": {name: metrics[name] for name in kept if name in metrics},
    }


def report(rows: list[dict[str, Any]]) -> list[str]:
    head = ["commit", "playlists", "queries", *rows[0]["seconds"], "total, s", "processor, s", "peak, GiB"]
    lines = [
        [row["commit"][:7], f"{row['playlists']:,}", f"{row['metrics']['test/num_queries']:,.0f}"]
        + [f"{seconds:.0f}" for seconds in (*row["seconds"].values(), row["total_s"], row["processor_s"])]
        + [f"{row['peak_gb']:.1f}"]
        for row in rows
    ]
    return table(head, lines, "l" + "r" * (len(head) - 1))


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument(
        "--playlists", type=int, default=sized(400_000, 500), help="number of playlists; tracks are 0.75 of it"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the playlists")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="the clone whose train.py runs")
    parser.add_argument("words", nargs="*", help="more settings for train.py")
    options = STUDY.parse(parser)
    data = STUDY.work / "large" / f"{options.playlists}-{options.seed}"
    if not (data / "train_sequential.csv").exists():  # it is written last
        generate(data, num_playlists=options.playlists, seed=options.seed)
    run = data / time.strftime("run-%Y-%m-%d_%H-%M-%S")
    origin = STUDY.provenance() if options.checkout == ROOT else provenance(options.checkout)
    row = {"commit": origin["git_commit"], "playlists": options.playlists, "words": options.words}
    row |= {**measure(data, run, options.checkout.resolve(), options.words), "provenance": origin}
    path = STUDY.folder / "large.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    key = ("commit", "playlists", "words")
    rows = [one for one in rows if [one[name] for name in key] != [row[name] for name in key]] + [row]
    STUDY.write_record("large.json", {"runs": rows})
    STUDY.write_table("large.md", report(rows))


if __name__ == "__main__":
    STUDY.run(main)
