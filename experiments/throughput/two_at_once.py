"""How much two trainings at once slow each other down: python experiments/throughput/two_at_once.py

Prints the seconds of four epochs of the run of `make train`, alone and beside another one, by GOMP_SPINCOUNT: how often
a waiting thread checks for its end before it sleeps (libgomp's default: 300,000).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import SMALLEST, Study, sized
from src.runs.provenance import ROOT

STUDY = Study(__file__, __doc__)
RUN = ("logger=none", "callbacks.lineage.model=false", "callbacks.plots=null", "callbacks.export=null",
       *sized(("trainer.max_epochs=4",), (*SMALLEST, "datamodule.prepare.sessions=500")))  # fmt: skip


def main() -> None:
    STUDY.parse()
    print(f"{'spins':>8}  {'alone, s':>8}  {'one of two at once, s':>21}")
    for spins in sized((300_000, 10_000, 1_000), (10_000,)):
        print(f"{spins:8,}  {seconds(spins, 1):8.1f}  {seconds(spins, 2):21.1f}", flush=True)


def seconds(spins: int, at_once: int) -> float:
    """Fit time of the slowest of `at_once` parallel trainings."""
    with tempfile.TemporaryDirectory() as parent:
        folders = [Path(parent) / str(number) for number in range(at_once)]
        env = {**os.environ, "GOMP_SPINCOUNT": str(spins)}
        running = [
            subprocess.Popen(
                [sys.executable, "train.py", *RUN, f"hydra.run.dir={folder}"],
                cwd=ROOT, env=env, stdout=subprocess.DEVNULL,
            )
            for folder in folders
        ]  # fmt: skip
        if any(one.wait() for one in running):
            sys.exit("a training failed; its error is printed above")
        return max(float(json.loads((one / "metrics.json").read_text())["fit_seconds"]) for one in folders)


if __name__ == "__main__":
    STUDY.run(main)
