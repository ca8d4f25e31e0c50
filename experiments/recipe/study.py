"""The best pair model that keeps the idea: python experiments/recipe/study.py

Three parts, of which each may be run alone (`--only world|real|goals`); a study that was stopped goes on where it was.

world   every lever moved alone from the default, on logs of world=published: validation, then an A/B test for each seed
real    the same by validation on radio and playlists; test sessions are not looked at
goals   the default with all logs against what the published recipe makes of them, by how an arm picks, and yardsticks

Writes world.md, real.md, goals.md, verdict.md, their numbers as .csv, results.png and provenance.json beside this file.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import matplotlib as mpl
import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from experiments.four_heads.study import FEW, MANY, MOST_ARMS, PLAYED, WORLD, logged  # noqa: E402
from experiments.four_heads.study import RUNS as PUBLISHED  # noqa: E402
from experiments.four_heads.study import trained as published  # noqa: E402
from experiments.runs import Job, interval, markdown, run, run_all, slug, validation, write_results  # noqa: E402

HERE, RUNS = Path(__file__).parent, ROOT / "outputs" / "recipe"
SEEDS = (1, 2, 3, 4, 5)
TRY = "experiments.recipe.levers."
LEVERS: dict[str, tuple[str, ...]] = {
    "default": (),
    "α = 0.9": ("model.alpha=0.9",),
    "α = ½": ("model.alpha=0.5",),
    "tracks alone": ("model=track",),
    "artists alone": ("model=artist",),
    "α by count": (f"model._target_={TRY}AlphaByCount",),
    "artist as prior": (f"model._target_={TRY}ArtistPrior",),
    "order counts": ("model.order_std=0.1",),
    "two tables, dot product": ("model=contextual", "model.dim=32", "model.dropout=0.2"),
    "item bias": ("model.item_bias=true",),
    "item bias in training alone": (f"model._target_={TRY}ItemBiasInTraining",),
    "listeners all alike": ("loss.with_shares.listener_spread=0",),
    "no dropout": ("model.dropout=0",),
    "dropout 0.4": ("model.dropout=0.4",),
    "dim 16": ("model.dim=16",),
    "dim 64": ("model.dim=64",),
    "initial spread 1": ("model.init_std=1",),
    "weight decay 1e-5": ("optimizer.weight_decay=1e-5",),
    "Adam with momentum": ("optimizer=adam",),
    "loss mse": ("loss=mse",),
    "loss softmax": ("loss=softmax",),
    "loss bce and softmax": (f"loss.with_shares._target_={TRY}BCEAndSoftmax", "+loss.with_shares.softmax=0.1",
                             "+loss.with_shares.temperature=0.15"),
    "pairs consecutive": ("datamodule.pairing=consecutive",),
    "pairs window 3": ("datamodule.pairing=window",),
}  # fmt: skip
REAL: dict[str, tuple[str, ...]] = {
    **{
        name: LEVERS[name]
        for name in ("default", "α = 0.9", "tracks alone", "artist as prior", "order counts", "no dropout")
    },
    "two tables, dot product": ("model=contextual", "model.dim=32", "model.item_bias=auto", "model.dropout=0.2"),
    "no item bias": ("model.item_bias=false",),
    "logq 0": ("loss.without_shares.logq=0",),
    "dim 128": ("model.dim=128",),
}
"""Windows are not among them: they would change what is asked in validation."""
QUICK = ("callbacks.plots=null", "callbacks.lineage.model=false", "logger=none",
         "callbacks.early_stopping.patience=5", "callbacks.checkpoint.save_last=false")  # fmt: skip
PICKS = {
    f"{pick}{f', gap {gap}' if gap else ''}": {"pick": pick, "artist_gap": gap}
    for pick, gap in (("uniform", 0), ("uniform", 3), ("weighted", 0), ("weighted", 3), ("ranked", 0), ("ranked", 3),
                      ("ranked", 10))
}  # fmt: skip
YARDSTICKS = ("random", "sticky_artist", "popular", "true_neighbours")
mpl.use("agg")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--rounds", type=int, default=len(SEEDS), help="seeds")
    asked.add_argument("--only", choices=["world", "real", "goals"])
    given = asked.parse_args()
    seeds = SEEDS[: given.rounds]
    if given.only in (None, "world"):
        on_the_world(seeds)
    if given.only in (None, "real"):
        on_real_data(seeds)
    if given.only in (None, "goals"):
        goals(seeds)


def on_world(sessions: int, name: str, words: tuple[str, ...], seed: int) -> Job:
    """Training on logs of the world."""
    data = ("datamodule=botify", f"datamodule.path={logged('mixed', sessions)}", "datamodule.batch_size=4096")
    few = "callbacks.ranking.max_val_queries=500"
    return "train", RUNS / f"world_{sessions}" / f"{slug(name)}_{seed}", (*data, *words, *QUICK, few, f"seed={seed}")


def on_the_world(seeds: tuple[int, ...]) -> None:
    """Every lever alone: what validation says, and then what listeners do."""
    rows = []
    for seed in seeds:
        jobs = {name: on_world(FEW, name, words, seed) for name, words in LEVERS.items()}
        verb, folder, words = on_world(FEW, "random traffic alone", (), seed)
        jobs["random traffic alone"] = (verb, folder, (*words, f"datamodule.path={logged('random', FEW)}"))
        jobs["default"] = on_world(FEW, "default", (), seed)
        run_all(jobs.values())
        lists = {name: folder for name, (_, folder, _) in jobs.items()}
        arms = {name: {"recommender": f"{folder}/recommendations.jsonl"} for name, folder in lists.items()}
        played = play(RUNS / f"abtest_levers_{seed}", {"random": {"recommender": "random"}, **arms}, seed)
        for name, folder in lists.items():
            metrics = validation(folder)
            chosen = {metric: metrics.get(f"val/{metric}") for metric in ("loss", "mse", "ndcg_at_10")}
            chosen["alpha"] = json.loads((folder / "metrics.json").read_text()).get("alpha")
            rows.append({"lever": name, "seed": seed, **chosen, **played[name]})
        table = pd.DataFrame(rows)
        table.to_csv(HERE / "world.csv", index=False)
        shown = ("loss", "mse", "ndcg_at_10", "alpha", "time", "heard_percent", "hits_percent")
        readable = means(table, "lever", shown).sort_values("time", ascending=False)
        (HERE / "world.md").write_text(markdown(readable) + "\n", encoding="utf-8")
        print(readable.to_string(index=False), flush=True)


def on_real_data(seeds: tuple[int, ...]) -> None:
    """Every lever alone, by validation."""
    rows = []
    for seed in seeds:
        jobs = {
            (data, name): ("train", RUNS / data / f"{slug(name)}_{seed}",
                           (f"datamodule={data}", *words, *QUICK, "callbacks.export=null", f"seed={seed}"))
            for data in ("yes", "polimi") for name, words in REAL.items()
        }  # fmt: skip
        run_all(jobs.values())
        for (data, name), (_, folder, _) in jobs.items():
            metrics = validation(folder)
            chosen = {metric: metrics[f"val/{metric}"] for metric in ("ndcg_at_10", "recall_at_10", "mrr")}
            rows.append({"data": data, "lever": name, "seed": seed, **chosen})
        table = pd.DataFrame(rows)
        table.to_csv(HERE / "real.csv", index=False)
        parts = []
        for data in table["data"].unique():
            readable = means(table[table["data"] == data], "lever", ("ndcg_at_10", "recall_at_10", "mrr"))
            readable.insert(0, "data", data)
            parts.append(readable.sort_values("ndcg_at_10", ascending=False))
        (HERE / "real.md").write_text(markdown(pd.concat(parts)) + "\n", encoding="utf-8")
        print(pd.concat(parts).to_string(index=False), flush=True)


def goals(seeds: tuple[int, ...]) -> None:
    """The default with many logs against the published recipe with the same, by how an arm picks."""
    logs, rows = logged("mixed", MANY), []
    for seed in seeds:
        folder = PUBLISHED / f"mixed_first_{MANY}"
        rivals = {
            name: published(folder / f"{name}_{seed}", logs, "first", (f"model={name}",), seed)
            for name in ("contextual", "convex")
        }
        ours = on_world(MANY, "default", (), seed)
        run_all([*rivals.values(), ours])
        arms: dict[str, dict[str, Any]] = {name: {"recommender": name} for name in YARDSTICKS}
        arms |= {
            f"published {name}": {"recommender": f"{job[1]}/recommendations.jsonl"} for name, job in rivals.items()
        }
        arms |= {
            f"published contextual, {pick}": {"recommender": f"{rivals['contextual'][1]}/recommendations.jsonl", **how}
            for pick, how in PICKS.items() if pick in ("ranked", "ranked, gap 3")
        }  # fmt: skip
        arms |= {
            f"default, {pick}": {"recommender": f"{ours[1]}/recommendations.jsonl", **how}
            for pick, how in PICKS.items()
        }
        played = play(RUNS / f"abtest_goals_{seed}", arms, seed)
        rows += [{"arm": name, "seed": seed, **row} for name, row in played.items()]
        few = {name: {"recommender": name} for name in ("random", "oracle")}
        oracle = play(RUNS / f"oracle_{seed}", few, seed, sessions=500)
        rows.append({"arm": "oracle", "seed": seed, **oracle["oracle"]})
        table = pd.DataFrame(rows)
        readable = means(table, "arm", ("time", "over_contextual_percent", "heard_percent", "hits_percent"), wide=True)
        write_results(HERE, table, readable)
        (HERE / "results.md").rename(HERE / "goals.md")
        (HERE / "results.csv").rename(HERE / "goals.csv")
        reached = verdict(table)
        (HERE / "verdict.md").write_text(markdown(reached) + "\n", encoding="utf-8")
        draw(table)
        print(readable.to_string(index=False), reached.to_string(index=False), sep="\n", flush=True)


def play(folder: Path, arms: Mapping[str, Mapping[str, Any]], seed: int, sessions: int = PLAYED) -> dict[str, Any]:
    """Mean time per session of each arm with its difference from published contextual, and what it was made of.

    `heard_percent` is the share of the catalogue that the arm's listeners were recommended at least once,
    `hits_percent` the share of recommendations that were among the 1,000 tracks played most in the logs.
    """
    top = json.loads((RUNS / f"world_{FEW}" / "default_1" / "top_tracks.json").read_text(encoding="utf-8"))
    names, found = list(arms), dict[str, dict[str, float]]()
    for part, start in enumerate(range(0, len(names), MOST_ARMS)):
        some = names[start : start + MOST_ARMS]
        found |= _played(folder / str(part), {name: arms[name] for name in some}, seed, sessions, top)
    base = found.get("published contextual", {"time": float("nan")})["time"]
    return {name: {**row, "over_contextual_percent": 100 * (row["time"] / base - 1)} for name, row in found.items()}


def _played(
    folder: Path, arms: Mapping[str, Mapping[str, Any]], seed: int, sessions: int, top: list[int]
) -> dict[str, dict[str, float]]:
    names = {("C" if not place else f"T{place}"): name for place, name in enumerate(arms)}
    said = ", ".join(
        f"{arm}: {{{', '.join(f'{key}: {value}' for key, value in arms[name].items())}}}" for arm, name in names.items()
    )
    words = (WORLD, f"arms={{{said}}}", f"sessions={sessions * len(arms)}", "experiment=RECIPE", f"seed={300 + seed}")
    logs = run("simulate", folder, *words)
    record = json.loads((folder / "simulation.json").read_text(encoding="utf-8"))["arms"]
    num_tracks = sum(1 for _ in (folder / "tracks.json").open(encoding="utf-8"))
    columns = "{recommendation: 'BIGINT', experiments: 'MAP(VARCHAR, VARCHAR)'}"
    made = duckdb.execute(
        "SELECT experiments['RECIPE'] AS arm, "
        f"100.0 * count(DISTINCT recommendation) / {num_tracks} AS heard, "
        "100.0 * avg((recommendation IN (SELECT unnest($top)))::INT) AS hits "
        f"FROM read_json('{logs}/logs/*/data.json', columns={columns}, format='newline_delimited') "
        "WHERE recommendation IS NOT NULL GROUP BY arm",
        {"top": top},
    ).df().set_index("arm")  # fmt: skip
    heard, hits = made["heard"].to_dict(), made["hits"].to_dict()
    return {
        name: {
            "time": record[arm]["mean_time_per_session"],
            "heard_percent": heard[arm],
            "hits_percent": hits[arm],
        }
        for arm, name in names.items()
    }


def means(table: pd.DataFrame, by: str, columns: tuple[str, ...], *, wide: bool = False) -> pd.DataFrame:
    """A line for each, with its seeds; with intervals of the first column, or of two where `wide`."""
    rows = []
    for name, part in table.groupby(by, sort=False):
        row: dict[str, Any] = {by: name, "seeds": len(part)}
        for place, column in enumerate(columns):
            mean, lower, upper = interval(part[column].astype(float))
            row[column] = mean
            if column == "time" or (wide and place < 2) or (column == "ndcg_at_10" and "time" not in columns):
                row |= {f"{column}_lower": lower, f"{column}_upper": upper}
        rows.append(row)
    return pd.DataFrame(rows)


def verdict(table: pd.DataFrame) -> pd.DataFrame:
    """What the issue wanted, what came out, and whether the interval over seeds is above it."""
    time = table.pivot_table(index="seed", columns="arm", values="time")
    base, best = time["published contextual"], time.filter(like="default, ").mean().idxmax()
    way = 100 * (time["default, uniform"] - time["random"]) / (time["true_neighbours"] - time["random"])
    wanted = {
        "uniform: % over published contextual": (16, 100 * (time["default, uniform"] / base - 1)),
        "uniform: % over published contextual, best recipe": (50, 100 * (time["default, uniform"] / base - 1)),
        "uniform: % of the way from random to true_neighbours": (75, way),
        f"{best}: times published contextual": (2, time[best] / base),
        f"{best}: % of the way from random to the oracle": (
            None, 100 * (time[best] - time["random"]) / (time["oracle"] - time["random"]),
        ),
    }  # fmt: skip
    rows = []
    for name, (least, values) in wanted.items():
        mean, lower, upper = interval(values)
        reached = "" if least is None else "yes" if lower >= least else "not surely" if mean >= least else "no"
        rows.append({"goal": name, "reached": reached, "wanted": least, "mean": mean, "lower": lower, "upper": upper})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> None:
    from matplotlib import pyplot as plt

    order = table.groupby("arm")["time"].mean().drop("oracle").sort_values()
    figure, axis = plt.subplots(figsize=(9, 5.5))
    for place, name in enumerate(order.index):
        mean, lower, upper = interval(table.loc[table["arm"] == name, "time"])
        kind = "#2a6f97" if name.startswith("default") else "#e07a1f" if name.startswith("published") else "#888"
        error = None if np.isnan(lower) else [[mean - lower], [upper - mean]]
        axis.errorbar(mean, place, xerr=error, fmt="o", capsize=3, color=kind)
    axis.set_yticks(range(len(order)), order.index, fontsize=8)
    axis.set(
        xlabel="mean time per session", title="the default recipe, the published one, and yardsticks", xlim=(0, None)
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(HERE / "results.png", dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
