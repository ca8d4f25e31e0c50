"""What do ids that are texts of 36 bytes cost, against whole numbers?

    python experiments/own_data/ids.py --plays 4000000         each of four files three times, then ids.md
    python experiments/own_data/ids.py --only report           only ids.md, from ids.json

Cost: with 4,000,000 plays five minutes and 1 GB of disk for temporary files. The same plays are written as csv and as
Parquet, with whole numbers and with UUIDs as ids of users and tracks. The files take turns, each in a process of its
own; the fastest time and the largest memory of each count.
"""

import json
import sys
import tempfile
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.own_data.size import PLAYS
from experiments.studying import Study, run_python, sized
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
IDS = {
    "whole numbers": "user, track",
    "texts": "md5('u' || user)::UUID::VARCHAR AS user, md5('t' || track)::UUID::VARCHAR AS track",
}
FORMATS = ("csv", "parquet")
REPEATS = sized(3, 1)


def write_files(plays: int, folder: Path) -> dict[str, Path]:
    """Write the plays in each format and with each kind of ids; returns the files by their names in the table."""
    found = {}
    rows = PLAYS.format(plays=plays, per_user=1_000, tracks=max(plays // 20, 99))
    for kind, ids in IDS.items():
        for format_ in FORMATS:
            file = found[f"{format_}, {kind}"] = folder / f"{kind.replace(' ', '_')}.{format_}"
            share = "(hash(track, time_ms) % 101) / 100.0 AS played_ratio"
            duckdb.execute(f"COPY (SELECT {ids}, time_ms AS timestamp, {share} FROM ({rows})) TO '{file}'")
    return found


def measure(file: Path, folder: Path) -> dict[str, float]:
    """Read a file once, in a process of its own."""
    words = ["datamodule=table", "datamodule.units.timestamp=ms", f"datamodule.path={file}", f"run_dir={folder}/run"]
    printed = run_python(["experiments/own_data/reading.py", *words])
    return {**json.loads(printed.splitlines()[-1]), "file GB": round(file.stat().st_size / 1e9, 2)}


def best(runs: list[dict[str, float]]) -> dict[str, float]:
    """The fastest time and the largest memory of some runs of a file."""
    least = {name: min(run[name] for run in runs) for name in ("seconds", "CPU s")}
    return {**runs[0], **least, "GB": max(run["GB"] for run in runs)}


def report(results: dict[str, dict[str, float]]) -> list[str]:
    """The results as a table of Markdown, with the cost of texts as ratios."""
    names = ["rows", "file GB", "tracks", "seconds", "CPU s", "GB"]
    rows = []
    for name, found in results.items():
        whole = results[f"{name.partition(',')[0]}, whole numbers"]
        ratios = [f"{found[column] / whole[column]:.2f}" for column in ("seconds", "CPU s", "GB")]
        rows.append([name, *(f"{found[column]:,}" for column in names), *ratios])
    ratios = ["seconds, ratio", "CPU, ratio", "memory, ratio"]
    head = ["file", "rows", "size, GB", "tracks", "seconds", "seconds of CPU", "memory, GB", *ratios]
    return table(head, rows, "lrrrrrrrrr")


def main() -> None:
    """Measure, and write the report."""
    parser = STUDY.parser()
    parser.add_argument("--plays", type=int, default=sized(19_150_868, 3_000))
    parser.add_argument("--only", choices=["report"])
    given = STUDY.parse(parser)
    if given.only:
        results = json.loads((STUDY.home / "ids.json").read_text(encoding="utf-8"))["results"]
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = write_files(given.plays, folder)
            runs = [{name: measure(file, folder) for name, file in files.items()} for _ in range(REPEATS)]
        results = {name: best([run[name] for run in runs]) for name in files}
        STUDY.write_record("ids.json", {"results": results, **STUDY.provenance()})
    STUDY.write_table("ids.md", report(results))


if __name__ == "__main__":
    STUDY.run(main)
