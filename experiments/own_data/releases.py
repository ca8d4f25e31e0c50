"""How long does a release of a million tracks take to load, with texts as ids and with whole numbers?

    python experiments/own_data/releases.py                   releases.csv, then releases.md
    python experiments/own_data/releases.py --only report     only releases.md, from releases.csv

Cost: a quarter of an hour on one core, and 8 GB of disk for temporary files. Each load is a process of its own; the
cases take turns. The next night is a load into the store of the first one: 1 % of the tracks are new, 1 % are kept.
"""

import json
import sys
import tempfile
from pathlib import Path
from uuid import UUID

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, append_rows, run_python, sized
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "releases.csv"
TRACKS, K, ROUNDS = sized((1_000_000, 50, 2), (2_000, 5, 1))
IDS = ("whole numbers", "texts of 36 bytes")
NIGHTS = ("first", "next")


def write(path: Path, ids: list[int] | list[str], first: int) -> None:
    """Lists of random candidates with scores, as a training run writes them; tracks `first` … in any order."""
    rng = np.random.default_rng(first)
    numbers = first + rng.permutation(TRACKS)
    strata = (TRACKS - 1) // K
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, TRACKS, 10_000):
            rows = np.arange(start, min(start + 10_000, TRACKS))
            steps = 1 + rng.integers(0, strata, (len(rows), K)) + strata * np.arange(K)
            scores = -np.sort(-rng.random((len(rows), K))).round(6)
            lists = numbers[(rows[:, None] + steps) % TRACKS]
            for number, own, given in zip(numbers[rows].tolist(), lists.tolist(), scores.tolist(), strict=True):
                line = {"artist": f"Artist {number // 8}", "title": f"Title {number}", "track": ids[number]}
                file.write(json.dumps(line | {"recommendations": [ids[one] for one in own], "scores": given}) + "\n")


def measure(folder: Path) -> None:
    """Rows of releases.csv."""
    num = TRACKS + TRACKS // 100
    digits = np.random.default_rng(7).integers(0, 2**63, (num, 2)).tolist()
    texts = [str(UUID(int=(high << 64) + low)) for high, low in digits]
    of_kind: dict[str, list[int] | list[str]] = dict(zip(IDS, (list(range(num)), texts), strict=True))
    for kind, ids in of_kind.items():
        for night, first in zip(NIGHTS, (0, TRACKS // 100), strict=True):
            if not (path := folder / f"{kind} {night}.jsonl").exists():
                write(path, ids, first)
    for number in range(ROUNDS):
        for kind in IDS:
            with tempfile.TemporaryDirectory(dir=folder) as store:
                for night in NIGHTS:
                    words = ["experiments/own_data/loading.py", str(folder / f"{kind} {night}.jsonl"), store]
                    found = json.loads(run_python(words).splitlines()[-1])
                    append_rows(RESULTS, [{"ids": kind, "night": night, "round": number, **found}])
                    print(kind, night, found, flush=True)
    STUDY.write_provenance("releases_provenance.json")


def report() -> list[str]:
    """The medians as a table of Markdown."""
    medians, rows = pd.read_csv(RESULTS).groupby(["ids", "night"]).median().to_dict("index"), []
    for ids in IDS:
        for night in NIGHTS:
            own = medians[ids, night]
            times = f"{own['cpu'] / medians[IDS[0], night]['cpu']:.2f}"
            rows.append([ids, night, f"{own['seconds']:.1f}", f"{own['cpu']:.1f}", times, f"{own['GB']:.2f}"])
    head = ["ids", "night", "seconds", "CPU, s", "CPU, times whole numbers", "memory, GB"]
    return table(head, rows, "llrrrr")


def main() -> None:
    """Measure, and write the report."""
    parser = STUDY.parser()
    parser.add_argument("--only", choices=["report"])
    parser.add_argument("--folder", type=Path, help="keeps the files here; by default they are deleted")
    given = STUDY.parse(parser)
    if not given.only:
        RESULTS.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            place = given.folder or Path(folder)
            place.mkdir(parents=True, exist_ok=True)
            measure(place)
    STUDY.write_table("releases.md", report())


if __name__ == "__main__":
    STUDY.run(main)
