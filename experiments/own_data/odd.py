"""What does counting odd plays add to reading: python experiments/own_data/odd.py

Five million plays in the layout of Last.fm-1K are read with it and without it, in turn, three times each. Without it no
play is counted as early, of the future, of a machine or of a long session, and `policies.until` is null. Cost: ten
minutes, and a GB of disk for temporary files.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest.mock import patch

import duckdb
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.own_data.size import LASTFM, PLAYS
from experiments.studying import Study, sized
from segue.reports.markdown import table
from segue.runs.provenance import ROOT
from segue.terminal.hydra_parts import know_defaults

STUDY = Study(__file__, __doc__)
NUMBERS = {"plays": sized(5_000_000, 3_000), "per_user": sized(5_000, 300), "tracks": sized(400_000, 99)}
REPEATS = sized(3, 1)


def cpu_s(path: Path, *, counts: bool) -> float:
    """Seconds of CPU from the file to pairs."""
    words = ["datamodule=lastfm_1k", f"datamodule.path={path}", f"run_dir={path.parent}/run"]
    words += ["datamodule.policies.until=null"] * (not counts)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        data = instantiate(compose("train", words).datamodule, _convert_="all")
    began = time.process_time()
    if counts:
        data.setup()
    else:
        with patch("segue.datamodules.pairs.sessions.count_odd", lambda *_, **__: {}):
            data.setup()
    return time.process_time() - began


def main() -> None:
    """Write the plays, read them, and write the table."""
    STUDY.parse()
    know_defaults()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "userid-timestamp-artid-artname-traid-traname.tsv")
        duckdb.sql(LASTFM.format(plays=PLAYS.format(**NUMBERS), file=path))
        cpu_s(path, counts=True)  # libraries are loaded
        found = [(cpu_s(path, counts=True), cpu_s(path, counts=False)) for _ in range(REPEATS)]
    rows = [[f"{with_s:.1f}", f"{without_s:.1f}", f"{with_s / without_s:.3f}"] for with_s, without_s in found]
    ratio = median(with_s / without_s for with_s, without_s in found)
    STUDY.write_record("odd.json", {"numbers": NUMBERS, "seconds": found, "ratio": ratio, **STUDY.provenance()})
    STUDY.write_table("odd.md", table(["CPU, s", "without, CPU, s", "ratio"], rows, "rrr"))


if __name__ == "__main__":
    STUDY.run(main)
