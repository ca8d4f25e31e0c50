"""How long the lists of all tracks take with approximate search, and how much of the exact lists they hold.

python experiments/scale/lists.py --tracks 1000000 --kind clustered      # appends a line to lists.csv
"""

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.models.retrieval.approximate import approximate_top_k

HERE = Path(__file__).parent
WIDTH, K, RECALL, OF_A_CLUSTER, SPREAD = 64, 50, 0.95, 200, 0.7


def vectors(tracks: int, kind: str) -> Float32[np.ndarray, "N V"]:
    """Vectors of length 1: `random` ones, or `clustered` ones, about 200 around each of random centres."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((tracks, WIDTH), np.float32)
    if kind == "clustered":
        centres = rng.standard_normal((max(1, tracks // OF_A_CLUSTER), WIDTH), np.float32)
        table = centres[rng.integers(0, len(centres), tracks)] + np.float32(SPREAD) * table
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tracks", type=int, required=True)
    parser.add_argument("--kind", choices=["random", "clustered"], required=True)
    given = parser.parse_args(words)
    table = torch.from_numpy(vectors(given.tracks, given.kind))
    plays = np.random.default_rng(1).zipf(1.5, given.tracks).clip(max=10**6)
    started, used = time.perf_counter(), time.process_time()
    *_, recall = approximate_top_k(
        queries=table, items=table, query_rows=torch.arange(given.tracks), k=K, plays=plays, recall=RECALL
    )
    line = {
        "kind": given.kind,
        "tracks": given.tracks,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - used, 1),
        "recall": round(recall, 4),
    }
    path = HERE / "lists.csv"
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(line), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(line)
    print(line)


if __name__ == "__main__":
    main()
