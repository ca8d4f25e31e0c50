"""What studies share: the runs they are made of, and their tables."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
RECORD = {"simulate": "simulation.json", "train": "metrics.json", "abtest": "abtest.json"}


def run(verb: str, folder: Path, *words: str) -> Path:
    """Run a verb, unless its folder has the result of an earlier time; so a study that was stopped goes on."""
    if not (folder / RECORD[verb]).exists():
        print(f"— {folder.name}", flush=True)
        subprocess.run([sys.executable, f"{verb}.py", *words, f"hydra.run.dir={folder}"], cwd=ROOT, check=True)
    return folder


def markdown(table: pd.DataFrame) -> str:
    rows = [
        ["" if pd.isna(value) else value if isinstance(value, str) else f"{value:.4g}" for value in row]
        for row in table.astype(object).to_numpy().tolist()
    ]
    lines = [list(table.columns), ["---"] * 2 + ["--:"] * (table.shape[1] - 2), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
