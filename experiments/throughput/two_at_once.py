"""How much two trainings at once slow each other down: python experiments/throughput/two_at_once.py

Prints the seconds of four epochs of the run of `make train`, alone and beside another one, by GOMP_SPINCOUNT: how often
a waiting thread checks for its end before it sleeps (libgomp's default: 300,000).
"""

import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, sized, train

STUDY = Study(__file__, __doc__)
RUN = ("logger=none", "callbacks.lineage.model=false", "callbacks.plots=null", "callbacks.export=null",
       *sized(("trainer.max_epochs=4",), ("datamodule.prepare.sessions=500",)))  # fmt: skip


def main() -> None:
    STUDY.parse()
    print(f"{'spins':>8}  {'alone, s':>8}  {'one of two at once, s':>21}")
    for spins in sized((300_000, 10_000, 1_000), (10_000,)):
        os.environ["GOMP_SPINCOUNT"] = str(spins)  # of the processes that are started below
        print(f"{spins:8,}  {seconds(1):8.1f}  {seconds(2):21.1f}", flush=True)


def seconds(at_once: int) -> float:
    """Fit time of the slowest of `at_once` parallel trainings."""
    with tempfile.TemporaryDirectory() as parent, ProcessPoolExecutor(at_once) as pool:
        return max(pool.map(fit_s, [Path(parent) / str(number) for number in range(at_once)]))


def fit_s(folder: Path) -> float:
    """Fit time of a training."""
    train(*RUN, f"hydra.run.dir={folder}", threads=None)
    return float(json.loads((folder / "metrics.json").read_text())["fit_seconds"])


if __name__ == "__main__":
    STUDY.run(main)
