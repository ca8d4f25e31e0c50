"""The published ladder against ours: python experiments/calibration/ladder.py

Plays mixed traffic for at most 2 M pairs, trains contextual on them by the published recipe, and plays the ladder, in
world=published and in world=small. Writes ladder.csv, ladder.md, ladder.png and provenance.json beside this file.
"""

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from experiments.runs import markdown, run  # noqa: E402
from src.runs.provenance import provenance  # noqa: E402

HERE, RUNS = Path(__file__).parent, ROOT / "outputs" / "calibration"
PUBLISHED = {  # mean time per session, mean tracks per session
    "random": (2.24, 7.37),
    "sticky_artist": (3.07, 7.92),
    "popular": (3.65, 8.54),
    "contextual": (5.35, 10.40),
}
SESSIONS = {"published": 285_000, "small": 280_000}  # of mixed traffic; a little under 2 M pairs
MIXED = "arms={C: random, T1: random, T2: sticky_artist, T3: popular}"
mpl.use("agg")


def affinities(folder: Path, logs: Path, arm: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """⟨track, interest⟩ of recommended tracks: the formula inverted where the share lies strictly between 0 and 1."""
    users = {user["user"]: user for user in map(json.loads, (folder / "users.json").open())}
    artist_of = {track["track"]: track["artist"] for track in map(json.loads, (folder / "tracks.json").open())}
    by_user = defaultdict(list)
    for line in logs.open():
        event = json.loads(line)
        if arm in event["experiments"].values():
            by_user[event["user"]].append(event)
    found = []
    for user, events in by_user.items():
        bias, sharpness = users[user]["consume_bias"], users[user]["consume_sharpness"]
        heard: dict[str, int] = defaultdict(int)
        first = True
        for event in sorted(events, key=lambda event: event["timestamp"]):
            artist = artist_of[event["track"]]
            liking = event["time"] / 0.8 ** heard[artist]
            if not first and 0 < event["time"] < 1 and liking < 0.995:  # above, rounding is all there is to see
                found.append(bias + np.log(liking / (1 - liking)) / sharpness)
            heard[artist] += 1
            first = event["message"] == "last"
            if first:
                heard.clear()
    return np.array(found)


def described(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    quartiles = dict(zip(("25 %", "50 %", "75 %", "max"), np.quantile(values, [0.25, 0.5, 0.75, 1]), strict=True))
    return {"mean": float(values.mean()), "sd": float(values.std()), **quartiles}


def main() -> None:
    rows: list[dict[str, Any]] = []
    spread = {"facts": {"mean": 3.4, "sd": 3.9, "25 %": 0.6, "50 %": 3.0, "75 %": 5.9, "max": 17.0}}
    for world, sessions in SESSIONS.items():
        logs = run(
            "simulate",
            RUNS / f"{world}_logs",
            f"world={world}",
            MIXED,
            f"sessions={sessions}",
            "experiment=MIXED",
            "seed=2",
        )
        model = run(
            "train",
            RUNS / f"{world}_contextual",
            "experiment=published",
            "model=contextual",
            "datamodule=botify",
            f"datamodule.path={logs}",
            "optimizer.fused=true",
            "logger=none",
        )
        lists = model / "recommendations.jsonl"
        arms = f"arms={{C: random, T1: sticky_artist, T2: popular, T3: {lists}, T4: true_neighbours, T5: oracle}}"
        played = run(
            "simulate",
            RUNS / f"{world}_ladder",
            f"world={world}",
            arms,
            "sessions=60000",
            "experiment=LADDER",
            "seed=3",
        )
        record = json.loads((played / "simulation.json").read_text())
        for name, arm in zip([*PUBLISHED, "true_neighbours", "oracle"], record["arms"].values(), strict=True):
            time, tracks = PUBLISHED.get(name, (None, None))
            rows.append(
                {
                    "world": world,
                    "arm": name,
                    "published time": time,
                    "our time": arm["mean_time_per_session"],
                    "lower": arm["mean_time_per_session_lower"],
                    "upper": arm["mean_time_per_session_upper"],
                    "off by": None if time is None else arm["mean_time_per_session"] / time - 1,
                    "published tracks": tracks,
                    "our tracks": arm["mean_tracks_per_session"],
                    "off by ": None if tracks is None else arm["mean_tracks_per_session"] / tracks - 1,
                }
            )
        spread[f"{world}, contextual"] = described(affinities(played, played / "logs" / "day-1" / "data.json", "T3"))
    real = Path(os.environ.get("SEGUE_DATA", ROOT.parent / "shared" / "data")) / "botify-2023"
    if real.is_dir():
        log = real / "logs" / "replica-1" / "data.json"
        for arm in ("C", "T1"):
            spread[f"real log, {arm}"] = described(affinities(real, log, arm))
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "ladder.csv", index=False)
    affinity = pd.DataFrame(spread).T.rename_axis("recommended tracks").reset_index()
    affinity.insert(1, "unit", "affinity")
    affinity.to_csv(HERE / "affinity.csv", index=False)
    (HERE / "ladder.md").write_text(f"{markdown(table)}\n\n{markdown(affinity)}\n", encoding="utf-8")
    (HERE / "provenance.json").write_text(json.dumps(provenance(ROOT), indent=2) + "\n")
    draw(table)
    print(table.round(3).to_string(index=False), affinity.round(2).to_string(index=False), sep="\n")


def draw(table: pd.DataFrame) -> None:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4))
    names = list(PUBLISHED)
    places = np.arange(len(names))
    published = np.array([PUBLISHED[name][0] for name in names])
    axis.fill_between([-0.5, 3.5], 0, 0, color="#dddddd", label="published, ± 10 %")
    for place, value in zip(places, published, strict=True):
        axis.fill_between([place - 0.4, place + 0.4], value * 0.9, value * 1.1, color="#dddddd", lw=0)
        axis.plot([place - 0.4, place + 0.4], [value, value], color="#555555", lw=2)
    for shift, (world, colour) in zip((-0.12, 0.12), (("published", "#2a6f97"), ("small", "#e07a1f")), strict=True):
        own = table[(table["world"] == world) & table["arm"].isin(names)].set_index("arm").loc[names]
        bars = [own["our time"] - own["lower"], own["upper"] - own["our time"]]
        axis.errorbar(
            places + shift, own["our time"], yerr=bars, fmt="o", capsize=4, color=colour, label=f"world={world}"
        )
    axis.set(ylabel="mean time per session", xticks=places, xticklabels=names, ylim=(0, None), xlim=(-0.5, 3.5))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="upper left")
    figure.tight_layout()
    figure.savefig(HERE / "ladder.png", dpi=130)


if __name__ == "__main__":
    main()
