"""The best pair model that keeps the idea: python experiments/recipe/study.py

Five parts, of which each may be run alone (`--only world|many|real|goals|fresh`); a study that was stopped goes on
where it was.

world   every lever moved alone from the default, on logs of world=published: validation, then what listeners do
many    some of them with the logs and listeners of goals, which has the default
real    the same by validation on radio and playlists; test sessions are not looked at
goals   the default with all logs against what the published recipe makes of them, by how an arm picks, and yardsticks
fresh   the goals again in a world, and from logs, that nothing was ever tuned on

Every arm is played to all listeners, in a simulation of its own: arms differ by what they recommend and not by whom.
What stands in the tables is not run again but with `--anew`.
Writes <part>.md, its numbers as .csv and <part>_provenance.json; verdicts and pictures of goals and fresh.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import matplotlib as mpl
import numpy as np
import pandas as pd
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from experiments.four_heads.study import FEW, MANY, PLAYED, TRAFFIC, WORLD, logged  # noqa: E402
from experiments.four_heads.study import RUNS as PUBLISHED  # noqa: E402
from experiments.four_heads.study import trained as published  # noqa: E402
from experiments.runs import (  # noqa: E402
    Job,
    commit,
    has,
    interval,
    markdown,
    run,
    run_all,
    slug,
    standing,
    validation,
    write_results,
)

HERE, RUNS = Path(__file__).parent, ROOT / "outputs" / "recipe"
SEEDS = (1, 2, 3, 4, 5)
PARTS = ("world", "many", "real", "goals", "fresh")
TRY = "experiments.recipe.levers."
AVERAGED = (f"+callbacks.averaging={{_target_: {TRY}AveragedWeights, decay: 0.99}}",)
NO_DROPOUT = ("model.track_dropout=0", "model.dropout=0")
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
    "two tables": (f"model._target_={TRY}TwoTables",),
    "item bias": ("model.item_bias=true",),
    "item bias in training alone": (f"model._target_={TRY}ItemBiasInTraining", "+model.weight=0"),
    "item bias, half of it in lists": (f"model._target_={TRY}ItemBiasInTraining", "+model.weight=0.5"),
    "listeners all alike": ("loss.with_shares.listener_spread=0",),
    "no dropout of tracks": ("model.track_dropout=0",),
    "no dropout of numbers": ("model.dropout=0",),
    "no dropout": NO_DROPOUT,
    "dropout of tracks 0.4": ("model.track_dropout=0.4",),
    "dropout of numbers 0.4": ("model.dropout=0.4",),
    "dim 16": ("model.dim=16",),
    "dim 64": ("model.dim=64",),
    "initial spread 1": ("model.init_std=1",),
    "weight decay 1e-5": ("optimizer.weight_decay=1e-5",),
    "Adam with momentum": ("optimizer=adam",),
    "loss mse": ("loss=mse",),
    "loss softmax": ("loss=softmax",),
    "loss bce and softmax": (f"loss.with_shares._target_={TRY}BCEAndSoftmax", "+loss.with_shares.softmax=0.1",
                             "+loss.with_shares.temperature=0.15"),
    "rare tracks count more": (f"loss.with_shares._target_={TRY}BCEByRarity", "+loss.with_shares.power=0.5"),
    "harder negatives": (f"loss.with_shares._target_={TRY}BCEAgainstNearest", "+loss.with_shares.weight=0.1",
                         "+loss.with_shares.drawn=4"),
    "averaged weights": AVERAGED,
    "mean of two starts": (f"model._target_={TRY}MeanOfTwo", f"loss.with_shares._target_={TRY}BCEOfBoth"),
    "α = ½, artist as prior": (f"model._target_={TRY}ArtistPrior", "model.alpha=0.5"),
    "α = ½, artist as prior, no dropout": (f"model._target_={TRY}ArtistPrior", "model.alpha=0.5", *NO_DROPOUT),
    "artist as prior, averaged weights": (f"model._target_={TRY}ArtistPrior", *AVERAGED),
    "pairs consecutive": ("datamodule.pairing=consecutive",),
    "pairs window 3": ("datamodule.pairing=window",),
    "pairs first, decay 0.9": (f"datamodule._target_={TRY}DecayingPairs", "+datamodule.decay=0.9"),
    "pairs window 10, decay 0.8": (f"datamodule._target_={TRY}DecayingPairs", "+datamodule.decay=0.8",
                                   "datamodule.pairing=window", "datamodule.window=10"),
}  # fmt: skip
OFTEN = ("no dropout of tracks", "no dropout", "no dropout of numbers", "α = ½, artist as prior, no dropout")
"""Levers, and levers together, of which it has to be known what they do where there is more to learn from."""
REAL: dict[str, tuple[str, ...]] = {
    "dim 32": (),
    **{name: LEVERS[name] for name in ("α = 0.9", "tracks alone", "artist as prior", "order counts", "no dropout")},
    "dim 128, dropout of tracks": ("model.dim=128", "model.track_dropout=0.2"),
    "two tables, dot product": ("model=contextual", "model.dim=32", "model.item_bias=auto", "model.dropout=0.2"),
    "no item bias": ("model.item_bias=false",),
    "logq 0": ("loss.without_shares.logq=0",),
    "dim 128": ("model.dim=128",),
    "harder negatives": (f"loss.without_shares._target_={TRY}SoftmaxAgainstNearest",
                         "+loss.without_shares.hardness=0.3"),
    "averaged weights": AVERAGED,
    "dim 128, order counts, averaged weights": ("model.dim=128", "model.order_std=0.1", *AVERAGED),
}  # fmt: skip
"""Moved from a width of 32, which was the default until this table, and no dropout of tracks. Windows are not among
them: they would change what is asked in validation."""
RANDOM = "random traffic alone"
QUICK = ("callbacks.plots=null", "callbacks.lineage.model=false", "logger=none",
         "callbacks.early_stopping.patience=5", "callbacks.checkpoint.save_last=false")  # fmt: skip
PICKS = {
    f"{pick}{f', gap {gap}' if gap else ''}": {"pick": pick, "artist_gap": gap}
    for pick, gap in (("uniform", 0), ("uniform", 3), ("weighted", 0), ("weighted", 3), ("ranked", 0), ("ranked", 3),
                      ("ranked", 10))
}  # fmt: skip
YARDSTICKS = ("random", "sticky_artist", "popular", "true_neighbours")
PUBLISHED_HEADS = ("contextual", "convex")
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in YARDSTICKS},
    **{f"published {name}": (name, {}) for name in PUBLISHED_HEADS},
    **{f"published contextual, {pick}": ("contextual", PICKS[pick]) for pick in ("ranked", "ranked, gap 3")},
    **{f"default, {pick}": ("default", how) for pick, how in PICKS.items()},
    "oracle": ("oracle", {}),
}
"""Of the goals: the run whose lists an arm plays, or the simulator's word for a recommender, and how it picks."""
mpl.use("agg")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--rounds", type=int, default=len(SEEDS), help="seeds")
    asked.add_argument("--only", choices=PARTS)
    asked.add_argument("--anew", action="store_true", help="do not go on from what stands in the tables")
    given = asked.parse_args()
    for part in PARTS if given.only is None else (given.only,):
        rows = [] if given.anew else standing(HERE / f"{part}.csv")
        seeds = SEEDS[: given.rounds]
        if part == "world":
            on_the_world(part, {**LEVERS, RANDOM: ()}, FEW, 2 * PLAYED, seeds, rows)
        elif part == "many":
            on_the_world(part, {name: LEVERS[name] for name in OFTEN}, MANY, PLAYED, seeds, rows)
        elif part == "real":
            on_real_data(seeds, rows)
        elif missing := {
            seed: arms for seed in seeds if (arms := [arm for arm in ARMS if not has(rows, arm=arm, seed=seed)])
        }:
            goals(known_world() if part == "goals" else fresh_world(), missing, rows)
        print(f"results      {HERE / part}.md; with --anew nothing is taken from it")


@dataclass(frozen=True)
class Place:
    """A world and logs of it.

    Args:
        name: of the part.
        world: words that say which world.
        logs: what is learned from.
        published: where the published recipe's models lie.
        best_pick: the arm that is known to pick best.
    """

    name: str
    world: tuple[str, ...]
    logs: Path
    published: Path
    best_pick: str | None = None


def known_world() -> Place:
    """The world and the logs of `four_heads`."""
    return Place("goals", (WORLD,), logged("mixed", MANY), PUBLISHED / f"mixed_first_{MANY}")


def fresh_world() -> Place:
    """What nothing was tuned on."""
    words = (WORLD, "world.seed=2")
    told = (*words, TRAFFIC["mixed"], f"sessions={MANY}", "experiment=LOGGED", "seed=12")
    logs = run("simulate", RUNS / "fresh", *told)
    return Place("fresh", words, logs, RUNS / "fresh_published", best_pick="default, ranked, gap 10")


def on_world(logs: Path, folder: Path, words: tuple[str, ...], seed: int) -> Job:
    """Training on logs of a world."""
    data = ("datamodule=botify", f"datamodule.path={logs}", "datamodule.batch_size=4096")
    few = "callbacks.ranking.max_val_queries=500"
    return "train", folder.with_name(f"{folder.name}_{seed}"), (*data, *words, *QUICK, few, f"seed={seed}")


def on_the_world(
    part: str,
    levers: Mapping[str, tuple[str, ...]],
    learned: int,
    played: int,
    seeds: Iterable[int],
    rows: list[dict[str, Any]],
) -> None:
    """What validation says of every lever, and then what listeners do. Adds to `rows`.

    Args:
        part: of the study.
        levers: names and words.
        learned: sessions that are learned from.
        played: sessions of an arm.
        seeds: of training and listeners.
        rows: those that are there.
    """
    for seed in seeds:
        missing = [name for name in levers if not has(rows, lever=name, seed=seed)]
        if not missing:
            continue
        below = RUNS / f"world_{learned}"
        jobs = {
            name: on_world(logged("random" if name == RANDOM else "mixed", learned), below / slug(name), words, seed)
            for name, words in levers.items()
            if name in {next(iter(levers)), *missing}  # the first one's logs say what a hit is
        }
        run_all(jobs.values())
        lists = {name: folder for name, (_, folder, _) in jobs.items()}
        arms = {name: {"recommender": f"{lists[name]}/recommendations.jsonl"} for name in missing}
        heard = play(RUNS / f"{part}_{seed}", arms, (WORLD,), played, seed, lists[next(iter(levers))])
        for name in missing:
            folder = lists[name]
            metrics = validation(folder)
            chosen = {metric: metrics.get(f"val/{metric}") for metric in ("loss", "mse", "ndcg_at_10")}
            chosen["alpha"] = json.loads((folder / "metrics.json").read_text()).get("alpha")
            made_at = {"commit": commit(folder, RUNS / f"{part}_{seed}" / slug(name))}
            rows.append({"lever": name, "seed": seed, **chosen, **heard[name], **made_at})
        table = pd.DataFrame(rows)
        shown = ("loss", "mse", "ndcg_at_10", "alpha", "time", "heard_percent", "hits_percent")
        readable = means(table, "lever", shown).sort_values("time", ascending=False)
        write_results(HERE, table, readable, part)
        print(readable.to_string(index=False), flush=True)
    if not np.isnan(chance := by_chance(rows)):
        print(f"by chance two levers differ by less than {chance:.2f} in time, 95 times of 100")


def by_chance(rows: list[dict[str, Any]]) -> float:
    """Fisher's least significant difference of two levers' mean times, by the spread that levers and seeds leave.

    NaN for one seed.
    """
    time = pd.DataFrame(rows).pivot_table(index="lever", columns="seed", values="time").dropna()
    left = time.sub(time.mean(axis=1), axis=0).sub(time.mean(axis=0), axis=1) + time.to_numpy().mean()
    freedom = (time.shape[0] - 1) * (time.shape[1] - 1)
    if not freedom:
        return float("nan")
    variance = float((left.to_numpy() ** 2).sum()) / freedom
    return float(stats.t.ppf(0.975, freedom) * np.sqrt(2 * variance / time.shape[1]))


def on_real_data(seeds: Iterable[int], rows: list[dict[str, Any]]) -> None:
    """Every lever alone, by validation. Adds to `rows`."""
    for seed in seeds:
        jobs = {
            (data, name): ("train", RUNS / data / f"{slug(name)}_{seed}",
                           (f"datamodule={data}", "model.dim=32", *words, *QUICK, "callbacks.export=null",
                            f"seed={seed}"))
            for data in ("yes", "polimi") for name, words in REAL.items()
            if not has(rows, data=data, lever=name, seed=seed)
        }  # fmt: skip
        if not jobs:
            continue
        run_all(jobs.values())
        for (data, name), (_, folder, _) in jobs.items():
            metrics = validation(folder)
            chosen = {metric: metrics[f"val/{metric}"] for metric in ("ndcg_at_10", "recall_at_10", "mrr")}
            rows.append({"data": data, "lever": name, "seed": seed, **chosen, "commit": commit(folder)})
        table = pd.DataFrame(rows)
        parts = []
        for data in table["data"].unique():
            readable = means(table[table["data"] == data], "lever", ("ndcg_at_10", "recall_at_10", "mrr"))
            readable.insert(0, "data", data)
            parts.append(readable.sort_values("ndcg_at_10", ascending=False))
        write_results(HERE, table, pd.concat(parts), "real")
        print(pd.concat(parts).to_string(index=False), flush=True)


def goals(place: Place, missing: Mapping[int, list[str]], rows: list[dict[str, Any]]) -> None:
    """The default with many logs against the published recipe with the same, by how an arm picks. Adds to `rows`.

    Args:
        place: a world and its logs.
        missing: arms by seed, of which there are no rows.
        rows: those that are there.
    """
    below = RUNS / (f"world_{MANY}" if place.name == "goals" else place.name + "_default")
    for seed, arms in missing.items():
        runs = {
            name: published(place.published / f"{name}_{seed}", place.logs, "first", (f"model={name}",), seed)
            for name in PUBLISHED_HEADS
        } | {"default": on_world(place.logs, below / "default", (), seed)}
        run_all(runs[name] for name in runs if name == "default" or name in {ARMS[arm][0] for arm in arms})
        lists = {name: f"{folder}/recommendations.jsonl" for name, (_, folder, _) in runs.items()}
        for folder, sessions, together in (
            (RUNS / f"{place.name}_{seed}", PLAYED, [arm for arm in arms if arm != "oracle"]),
            (RUNS / f"{place.name}_oracle_{seed}", 500, [arm for arm in arms if arm == "oracle"]),
        ):
            how = {arm: {"recommender": lists.get(ARMS[arm][0], ARMS[arm][0]), **ARMS[arm][1]} for arm in together}
            played = play(folder, how, place.world, sessions, seed, runs["default"][1])
            rows += [{"arm": arm, "seed": seed, **played[arm], "commit": commit(folder / slug(arm))} for arm in played]
        rows[:] = [row for row in rows if row["arm"] in ARMS]
        rows.sort(key=lambda row: (row["seed"], list(ARMS).index(row["arm"])))
        base = {row["seed"]: row["time"] for row in rows if row["arm"] == "published contextual"}
        for row in rows:
            row["over_contextual_percent"] = 100 * (row["time"] / base.get(row["seed"], float("nan")) - 1)
        table = pd.DataFrame(rows)
        readable = means(table, "arm", ("time", "over_contextual_percent", "heard_percent", "hits_percent"), wide=True)
        write_results(HERE, table, readable, place.name)
        reached = verdict(table, place.best_pick)
        (HERE / f"{place.name}_verdict.md").write_text(markdown(reached) + "\n", encoding="utf-8")
        draw(table, HERE / f"{place.name}.png")
        print(readable.to_string(index=False), reached.to_string(index=False), sep="\n", flush=True)


def play(
    folder: Path,
    arms: Mapping[str, Mapping[str, Any]],
    world: tuple[str, ...],
    sessions: int,
    seed: int,
    trained: Path,
) -> dict[str, dict[str, float]]:
    """Mean time per session of each arm, and what it was made of.

    `heard_percent` is the share of the catalogue that was recommended at least once, `hits_percent` the share of
    recommendations that were among the 1,000 tracks played most in the logs that `trained`, a run, learned from.
    """
    jobs: dict[str, Job] = {}
    for name, arm in arms.items():
        said = ", ".join(f"{key}: {value}" for key, value in arm.items())
        words = (*world, f"arms={{C: {{{said}}}}}", f"sessions={sessions}", f"seed={300 + seed}")
        jobs[name] = ("simulate", folder / slug(name), words)
    run_all(jobs.values())
    top = json.loads((trained / "top_tracks.json").read_text(encoding="utf-8"))
    return {name: _listened(folder, top) for name, (_, folder, _) in jobs.items()}


def _listened(folder: Path, top: list[int]) -> dict[str, float]:
    found = folder / "listened.json"
    if not found.exists():
        logs = f"{folder}/logs/*/data.json"
        [(heard, hits)] = duckdb.execute(
            "SELECT count(DISTINCT recommendation), 100.0 * avg((recommendation IN (SELECT unnest($top)))::INT) "
            f"FROM read_json('{logs}', columns={{recommendation: 'BIGINT'}}, format='newline_delimited') "
            "WHERE recommendation IS NOT NULL",
            {"top": top},
        ).fetchall()
        num_tracks = sum(1 for _ in (folder / "tracks.json").open(encoding="utf-8"))
        found.write_text(json.dumps({"heard_percent": 100 * heard / num_tracks, "hits_percent": hits}))
        shutil.rmtree(folder / "logs")  # a gigabyte a seed
    arm = json.loads((folder / "simulation.json").read_text(encoding="utf-8"))["arms"]["C"]
    return {"time": arm["mean_time_per_session"], **json.loads(found.read_text())}


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


def verdict(table: pd.DataFrame, best: str | None) -> pd.DataFrame:
    """What the issue wanted, what came out, and whether the interval over seeds is above it.

    Args:
        table: arms by seed.
        best: the arm of the default that picks best, where that was known before; else this table chooses it.
    """
    time = table.pivot_table(index="seed", columns="arm", values="time")
    base, best = time["published contextual"], best or str(time.filter(like="default, ").mean().idxmax())
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
        mean, lower, upper = interval(values.dropna())  # a seed may lack arms that are still to come
        reached = "" if least is None else "yes" if lower >= least else "not surely" if mean >= least else "no"
        rows.append({"goal": name, "reached": reached, "wanted": least, "mean": mean, "lower": lower, "upper": upper})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, file: Path) -> None:
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
    figure.savefig(file, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
