"""What does counting odd plays add to reading: python experiments/own_data/odd.py

Five million plays in the layout of Last.fm-1K are read with it and without it, twice each, in changing order.
Without it no play is counted as early, of the future, of a machine or of a long session, and `policies.until` is null.
The last column is measured in the readings with it, and varies less. Cost: three minutes, and a GB of disk.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
from hydra.utils import instantiate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.own_data.size import LASTFM, PLAYS
from experiments.studying import Study, composed, sized
from segue.datamodules.pairs.odd_plays import count_odd
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
NUMBERS = {"plays": sized(5_000_000, 3_000), "per_user": sized(5_000, 300), "tracks": sized(400_000, 99)}
REPEATS = sized(2, 1)


def read(path: Path, *, counts: bool) -> tuple[float, float]:
    """Seconds of CPU from the file to pairs, and those of them in which odd plays are counted."""
    words = ["datamodule=lastfm_1k", f"datamodule.path={path}", f"run_dir={path.parent}/run"]
    words += ["datamodule.policies.until=null"] * (not counts)
    data = instantiate(composed("train", *words).datamodule, _convert_="all")
    counting_s = 0.0

    def count(*given: Any, **more: Any) -> dict[str, int]:
        nonlocal counting_s
        began = time.process_time()
        found = count_odd(*given, **more) if counts else {}
        counting_s += time.process_time() - began
        return found

    began = time.process_time()
    with patch("segue.datamodules.pairs.sessions.count_odd", count):
        data.setup()
    return time.process_time() - began, counting_s


def main() -> None:
    """Write the plays, read them, and write the table."""
    STUDY.parse()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "userid-timestamp-artid-artname-traid-traname.tsv")
        duckdb.sql(LASTFM.format(plays=PLAYS.format(**NUMBERS), file=path))
        read(path, counts=True)  # libraries are loaded
        found = []
        for repeat in range(REPEATS):
            seconds = {counts: read(path, counts=counts) for counts in (repeat % 2 == 0, repeat % 2 == 1)}
            found.append((*seconds[True], seconds[False][0]))
    rows = [
        [f"{with_s:.1f}", f"{without_s:.1f}", f"{with_s / without_s:.2f}", f"{counting_s / (with_s - counting_s):.3f}"]
        for with_s, counting_s, without_s in found
    ]
    STUDY.write_record("odd.json", {"numbers": NUMBERS, "seconds": found, **STUDY.provenance()})
    STUDY.write_table("odd.md", table(["CPU, s", "without, CPU, s", "ratio", "counting / the rest"], rows, "rrrr"))


if __name__ == "__main__":
    STUDY.run(main)
