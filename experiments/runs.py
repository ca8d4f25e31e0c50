"""What studies share: the runs they are made of, and their tables."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.runs.provenance import provenance
from src.statistics.intervals import MeanInterval
from src.terminal.markdown import table as markdown_table

ROOT = Path(__file__).resolve().parents[1]
RECORD = {"simulate": "simulation.json", "train": "metrics.json", "abtest": "abtest.json"}

ALONE = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**33), "MALLOC_ARENA_MAX": "1"}
"""One core, and memory that is kept from step to step: a dense gradient is else fetched anew from the system each time,
which takes longer than to compute it."""

BEGUN = provenance(ROOT)
"""Before a study writes its first result, which would make the checkout another one than the commit."""

Job = tuple[str, Path, tuple[str, ...]]
"""A verb, its run folder, and the words after it."""


def run(verb: str, folder: Path, *words: str) -> Path:
    """Run a verb, unless its folder has the result of an earlier time; so a study that was stopped goes on."""
    if not (folder / RECORD[verb]).exists():
        _clear(folder)
        print(f"— {folder.name}", flush=True)
        subprocess.run(_command(verb, folder, words), cwd=ROOT, check=True)
    return folder


def run_all(jobs: Iterable[Job], *, at_once: int | None = None) -> list[Path]:
    """`run` for each of the jobs, as many at once as there are cores, each with one of them.

    Raises:
        CalledProcessError: a job failed; the others that had begun are finished first.
    """
    jobs = list(jobs)
    missing = [job for job in jobs if not (job[1] / RECORD[job[0]]).exists()]

    def one(job: Job) -> None:
        verb, folder, words = job
        _clear(folder)
        command, env = _command(verb, folder, words), {**os.environ, **ALONE}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout + done.stderr, file=sys.stderr)
            done.check_returncode()
        print(f"— {folder.parent.name}/{folder.name}", flush=True)

    with ThreadPoolExecutor(at_once or os.cpu_count()) as pool:
        try:
            list(pool.map(one, missing))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [folder for _, folder, _ in jobs]


def _clear(folder: Path) -> None:
    """What a run that was stopped has left: no verb would begin in a folder that is in use."""
    shutil.rmtree(folder, ignore_errors=True)


def _command(verb: str, folder: Path, words: Iterable[str]) -> list[str]:
    return [sys.executable, f"{verb}.py", *words, f"hydra.run.dir={folder}"]


def slug(name: str) -> str:
    """A name as a folder that Hydra's grammar can say."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", name.replace("α", "alpha").replace("½", "half"))


def validation(folder: Path) -> dict[str, float]:
    """What may choose: the metrics of a run on its validation sessions, and no others."""
    return {name: value for name, value in _metrics(folder).items() if name.startswith("val/")}


def tested(folder: Path) -> dict[str, float]:
    """The metrics of a run on its test sessions: to be told of what validation has chosen."""
    return {name: value for name, value in _metrics(folder).items() if name.startswith("test/")}


def _metrics(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def commit(*folders: Path) -> str:
    """At which runs were made, in 12 digits; more than one where a study went on after a change."""
    found = []
    for folder in folders:
        [record] = [file for name in ("config.yaml", "simulation.json") if (file := folder / name).exists()]
        text = record.read_text(encoding="utf-8")
        dirty = re.search(r'git_dirty"?: "?true', text)
        found += [one[:12] + "-dirty" * bool(dirty) for one in re.findall(r'git_commit"?: "?(\w+)', text)]
    return "+".join(dict.fromkeys(found))


def interval(values: pd.Series) -> tuple[float, float, float]:
    """Mean with Student's 95 % interval over seeds; without one where there is a single seed."""
    over_seeds = MeanInterval.of(values.to_numpy(np.float64), 0.95)
    return over_seeds.mean, over_seeds.lower, over_seeds.upper


def write_results(folder: Path, table: pd.DataFrame, readable: pd.DataFrame, part: str = "") -> None:
    """`results.csv`, `results.md` and `provenance.json`: the command, the commit and the versions.

    Of a part of a study they are called by its name.
    """
    name, head = part or "results", f"{part}_" if part else ""
    table.to_csv(folder / f"{name}.csv", index=False)
    (folder / f"{name}.md").write_text(markdown(readable) + "\n", encoding="utf-8")
    (folder / f"{head}provenance.json").write_text(json.dumps(BEGUN, indent=2) + "\n", encoding="utf-8")


def standing(file: Path) -> list[dict[str, Any]]:
    """Rows that an earlier run of a study has written, to be gone on from: run folders stay on the machine."""
    if not file.exists():
        return []
    rows = pd.read_csv(file).to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]


def has(rows: Iterable[Mapping[str, Any]], **cell: Any) -> bool:
    """Whether there are rows of a cell of the table, for example `seed=1`."""
    return any(all(row[key] == value for key, value in cell.items()) for row in rows)


def markdown(table: pd.DataFrame) -> str:
    """A table for people; the first two columns are names."""
    rows = [
        ["" if pd.isna(value) else value if isinstance(value, str) else f"{value:.4g}" for value in row]
        for row in table.astype(object).to_numpy().tolist()
    ]
    columns = [str(column) for column in table.columns]
    return "\n".join(markdown_table(columns, rows, "ll" + "r" * (len(columns) - 2)))
