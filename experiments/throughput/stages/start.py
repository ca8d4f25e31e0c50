"""Start-up time of a verb: its import, and `--help`, each in a new interpreter."""

import subprocess
import sys
from functools import partial
from pathlib import Path

from experiments.studying import sized
from experiments.throughput.race import Contender, Stage, Work

VERBS = sized(("train", "compare", "simulate", "serve", "abtest"), ("abtest",))


def run_python(words: tuple[str, ...], _folder: Path, _small: bool) -> Work:
    """Run Python with these arguments, from start to end."""
    from segue.runs.provenance import ROOT

    def work() -> float:
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return 1

    return work


def python(name: str, *words: str) -> Contender:
    return Contender(name=name, prepare=partial(run_python, words))


STAGES = [
    Stage(
        name=name,
        unit="starts",
        ours=python("segue", *words),
        limits=[python("import hydra", "-c", "import hydra")],
        seconds_at_most=1.0,
    )
    for name, words in [
        *((f"{verb}.py --help", (f"{verb}.py", "--help")) for verb in VERBS),
        ("import of all verbs", ("-c", f"import {', '.join(VERBS)}")),
    ]
]
