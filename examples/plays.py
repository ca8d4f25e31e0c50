"""Writes examples/plays.csv, plays as an app exports them: python examples/plays.py [file]

Listeners, artists and titles are invented: `simulate.py` plays two weeks of a small world, and each play becomes a row.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
WORLD = ["world.num_tracks=200", "world.num_listeners=60", "world.taste.length=5.5", "days=14", "sessions=60"]
ARMS = "arms={C: random, T1: sticky_artist, T2: true_neighbours}"
COLUMNS = ["listener", "played_at", "song", "artist", "seconds_played", "length"]


def read_lines(path: Path) -> pd.DataFrame:
    """A file with a JSON object in each line."""
    return pd.DataFrame(map(json.loads, path.read_text(encoding="utf-8").splitlines()))


def rows_of(run: Path) -> pd.DataFrame:
    """A row for each play that `simulate.py` has logged in `run`, in the order of time."""
    plays = pd.concat(map(read_lines, run.glob("logs/*/data.json"))).sort_values(["user", "timestamp"])
    tracks = read_lines(run / "tracks.json")
    tracks["length"] = np.random.default_rng(0).integers(140, 320, len(tracks))  # in the world all are equally long
    plays = plays.merge(tracks, on="track", validate="many_to_one").rename(columns={"title": "song"})
    plays["listener"] = "listener " + plays["user"].astype(str)
    plays["seconds_played"] = (plays["time"] * plays["length"]).round().astype(int)
    session = (plays["message"] == "last").cumsum().shift(fill_value=0)
    earlier = (plays["seconds_played"] + 1).groupby(session).cumsum() - plays["seconds_played"]
    began = plays.groupby(session)["timestamp"].transform("first") // 1000 + earlier
    plays["played_at"] = pd.to_datetime(began, unit="s")
    return plays.sort_values(["played_at", "user"])[COLUMNS]


def main() -> None:
    """Simulate, and write the file."""
    [target] = sys.argv[1:] or [str(ROOT / "examples" / "plays.csv")]
    with tempfile.TemporaryDirectory() as folder:
        words = [ARMS, *WORLD, f"hydra.run.dir={folder}/run"]
        subprocess.run([sys.executable, str(ROOT / "simulate.py"), *words], check=True, stdout=subprocess.DEVNULL)
        rows_of(Path(folder) / "run").to_csv(target, index=False)


if __name__ == "__main__":
    main()
