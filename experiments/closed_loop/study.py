"""Three days with retraining each night: python experiments/closed_loop/study.py

Day 1 is mixed traffic, since there is no model yet. Every night after it, convex and contextual learn from all logs so
far; the day after they meet random. The ceilings are played beside, their logs are not learned from.
Writes results.csv, results.md, results.png and provenance.json beside this file.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from experiments.runs import run, write_results  # noqa: E402

HERE, RUNS = Path(__file__).parent, ROOT / "outputs" / "closed_loop"
DAYS = (2, 3, 4)
MODELS = ("contextual", "convex")
COLOURS = {
    "random": "#9a9a9a",
    "contextual": "#e07a1f",
    "convex": "#2a6f97",
    "popular": "#b8b8d1",
    "true_neighbours": "#5a9367",
    "oracle": "#333333",
}
mpl.use("agg")


def rows_of(folder: Path, day: int, names: list[str]) -> list[dict[str, float | str]]:
    days = json.loads((folder / "simulation.json").read_text())["days"]
    arms = next(entry["arms"] for entry in days if entry["day"] == day)
    kept = ("sessions", "mean_time_per_session", "mean_time_per_session_lower", "mean_time_per_session_upper")
    return [
        {"day": day - 1, "recommender": name, **{key: arm[key] for key in kept}}
        for name, arm in zip(names, arms.values(), strict=True)
    ]


def main() -> None:
    mixed = "arms={C: random, T1: random, T2: sticky_artist, T3: popular}"
    logs = run("simulate", RUNS / "day1", mixed, "sessions=20000", "experiment=MIXED")
    rows: list[dict[str, float | str]] = []
    for day in DAYS:
        lists = {}
        for model in MODELS:
            night = run(
                "train",
                RUNS / f"night{day - 1}_{model}",
                f"model={model}",
                "datamodule=botify",
                f"datamodule.path={logs}",
                "logger=none",
            )
            lists[model] = night / "recommendations.jsonl"
        arms = f"arms={{C: random, T1: {lists['contextual']}, T2: {lists['convex']}}}"
        after = f"after={logs}"
        logs = run("simulate", RUNS / f"day{day}", arms, after, "sessions=20000", "experiment=NIGHTLY")
        rows += rows_of(logs, day, ["random", "contextual", "convex"])
        ceilings = "arms={C: popular, T1: true_neighbours, T2: oracle}"
        beside = run(
            "simulate",
            RUNS / f"ceilings{day}",
            ceilings,
            after,
            "sessions=20000",
            "experiment=NIGHTLY",
            "write_logs=false",
        )
        rows += rows_of(beside, day, ["popular", "true_neighbours", "oracle"])
    table = pd.DataFrame(rows)
    write_results(HERE, table, readable(table))
    draw(table)
    print(readable(table).to_string(index=False))


def readable(table: pd.DataFrame) -> pd.DataFrame:
    mean, low, high = (table[f"mean_time_per_session{end}"] for end in ("", "_lower", "_upper"))
    cells = [f"{m:.2f} [{a:.2f}, {b:.2f}]" for m, a, b in zip(mean, low, high, strict=True)]
    wide = table.assign(cell=cells).pivot_table(index="recommender", columns="day", values="cell", aggfunc="first")
    wide = wide.loc[list(COLOURS)].rename(columns=lambda day: f"day {day}")
    return wide.reset_index().assign(unit="mean time per session")[["recommender", "unit", *wide.columns]]


def draw(table: pd.DataFrame) -> None:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4))
    for number, (name, colour) in enumerate(COLOURS.items()):
        own = table[table["recommender"] == name]
        mean = own["mean_time_per_session"]
        bars = [mean - own["mean_time_per_session_lower"], own["mean_time_per_session_upper"] - mean]
        axis.errorbar(
            own["day"] + 0.03 * (number - 2.5), mean, yerr=bars, color=colour, marker="o", capsize=3, label=name
        )
    axis.set(xlabel="day with models", ylabel="mean time per session", xticks=[day - 1 for day in DAYS], yscale="log")
    axis.yaxis.set_major_formatter(mpl.ticker.ScalarFormatter())
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False, bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(HERE / "results.png", dpi=130)


if __name__ == "__main__":
    main()
