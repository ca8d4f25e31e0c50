"""How long do large histories take from files to pairs, and how much memory?

    python experiments/own_data/size.py                        both cases, then size.md
    python experiments/own_data/size.py --case Last.fm-1K      one of them
    python experiments/own_data/size.py --only report          only size.md, from size.json

Cost: ten minutes, and 25 GB of disk for temporary files. Each case is written, read in a process of
its own, and recorded in size.json. A stopped study continues with the case that is missing.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, run_python, sized
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "size.json"

PLAYS = """
    SELECT user, start + 600000 * (place // 12) * 12 + 210000 * (place % 12) AS time_ms, track
    FROM (SELECT range // {per_user} AS user, range % {per_user} AS place,
                 1100000000000 + 86400000 * (range // {per_user} % 365) AS start,
                 CAST(floor({tracks} * power((hash(range) % 1000003) / 1000003.0, 3)) AS BIGINT) AS track
          FROM range({plays}))"""
"""Sessions of twelve plays; few tracks have many plays. The hash stands in for random numbers."""

LASTFM = """
    COPY (SELECT printf('user_%06d', user) AS u, strftime(make_timestamp(time_ms * 1000), '%Y-%m-%dT%H:%M:%SZ') AS t,
                 CASE WHEN artist % 10 < 9 THEN md5('a' || artist)::UUID::VARCHAR END AS m, 'Artist ' || artist AS a,
                 CASE WHEN track % 10 < 8 THEN md5('t' || track)::UUID::VARCHAR END AS n, 'Track ' || track AS s
          FROM (SELECT *, track // 8 AS artist FROM ({plays})) ORDER BY user, time_ms DESC)
    TO '{file}' (DELIMITER '\\t', HEADER false, QUOTE '', ESCAPE '')"""

PARQUET = """
    COPY (SELECT CAST(user AS UINTEGER) AS uid, CAST(time_ms // 1000 AS UINTEGER) AS timestamp,
                 CAST(track AS UINTEGER) AS item_id, CAST(hash(track, time_ms) % 101 AS USMALLINT) AS played_ratio_pct
          FROM ({plays})) TO '{file}' (FORMAT parquet)"""

CASES: dict[str, dict[str, Any]] = {
    "Last.fm-1K": {
        "file": "userid-timestamp-artid-artname-traid-traname.tsv",
        "query": LASTFM,
        "numbers": sized(
            {"plays": 19_150_868, "per_user": 19_306, "tracks": 1_500_000},
            {"plays": 3_000, "per_user": 300, "tracks": 99},
        ),
        "words": ["datamodule=lastfm_1k"],
    },
    "Parquet": {
        "file": "plays.parquet",
        "query": PARQUET,
        "numbers": sized(
            {"plays": 100_000_000, "per_user": 1_000, "tracks": 1_000_000},
            {"plays": 3_000, "per_user": 300, "tracks": 99},
        ),
        "words": ["datamodule=table", "datamodule.units.timestamp=s"],
    },
}
"""What is written, and how it is read."""


def measure(name: str, folder: Path) -> dict[str, float]:
    """Write the files of a case, and read them in a process of its own.

    Returns:
        Sizes, seconds from the files to pairs (imports of libraries are not counted), and the largest memory.
    """
    case = CASES[name]
    file = folder / str(case["file"])
    if not file.exists():
        plays = PLAYS.format(**case["numbers"])
        partial = file.with_suffix(".part")
        with duckdb.connect(config={"temp_directory": str(folder / "spill"), "memory_limit": "6GB"}) as database:
            database.execute(str(case["query"]).format(plays=plays, file=partial))
        partial.rename(file)
    words = [*case["words"], f"datamodule.path={file}", f"run_dir={folder}/run"]
    printed = run_python(["experiments/own_data/reading.py", *words])
    return {**json.loads(printed.splitlines()[-1]), "file GB": round(file.stat().st_size / 1e9, 2)}


def report(results: dict[str, dict[str, float]]) -> list[str]:
    """The results as a table of Markdown."""
    names = ["rows", "file GB", "sessions", "pairs", "tracks", "seconds", "GB"]
    rows = [[name, *(f"{found[column]:,}" for column in names)] for name, found in results.items()]
    head = ["case", "rows", "file, GB", "sessions", "pairs", "tracks", "seconds", "memory, GB"]
    return table(head, rows, "lrrrrrrr")


def main() -> None:
    """Measure what is missing, and write the report."""
    parser = STUDY.parser()
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--only", choices=["report"])
    parser.add_argument("--folder", type=Path, help="keeps the files here; by default they are deleted")
    given = STUDY.parse(parser)
    results = json.loads(RESULTS.read_text(encoding="utf-8"))["results"] if RESULTS.exists() else {}
    for name in [] if given.only else given.case or [name for name in CASES if name not in results]:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}: writing {CASES[name]['numbers']['plays']:,} plays and reading them", flush=True)
            place = given.folder or Path(folder)
            place.mkdir(parents=True, exist_ok=True)
            results[name] = measure(name, place)
        STUDY.write_record("size.json", {"results": results, **STUDY.provenance()})
    STUDY.write_table("size.md", report(results))


if __name__ == "__main__":
    STUDY.run(main)
