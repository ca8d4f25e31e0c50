"""The report, again: python experiments/four_heads/study.py

Five models by the published recipe; those of a seed meet the same listeners in one A/B test against contextual. First
with mixed traffic and pairs of the first track; then, with fewer sessions to learn from, by traffic, pairing, α and one
more night of each model's own traffic, seed by seed; then in other worlds. A study that was stopped goes on where it
was; `--seeds`, `--rounds` and `--worlds` say how many seeds the three parts have. What stands in results.csv is not
run again but with `--anew`. Writes results.csv, results.md, results.png and provenance.json beside this file.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from experiments.runs import Job, commit, has, interval, run, run_all, slug, standing, tested, write_results  # noqa: E402

HERE, RUNS = Path(__file__).parent, ROOT / "outputs" / "four_heads"
WORLD = "world=published"
MODELS = ("contextual", "track", "artist", "mean", "convex")
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8)
"""Those that no head is named for; 0, 0.5, 0.9 and 1 are artist, mean, convex and track."""
HEADS = {"artist": 0.0, "mean": 0.5, "convex": 0.9, "track": 1.0}
SEEDS = (1, 2, 3, 4, 5)
TRAFFIC = {
    "mixed": "arms={C: random, T1: random, T2: sticky_artist, T3: popular}",
    "random": "arms={C: random}",
}
WORLDS = {
    "another world of the same kind": ("world.seed=2",),
    "a world where an artist's tracks differ": ("world.taste.artist=0.17", "world.taste.track=0.48"),
    "a world where artists tell their genre alone": ("world.taste.artist=0", "world.taste.track=0.51"),
}
"""Weights of artist and track in a track's direction; the published world has 0.48 and 0.17, as much together."""
NIGHT = "mixed traffic and a night of its own, pairs first"
MANY, FEW = 200_000, 50_000
"""Sessions that are learned from. With many, contextual is what it was in the report (5.35); a run takes minutes."""
PLAYED = 20_000
"""Sessions of each arm of an A/B test."""
MOST_ARMS = 10
"""That one A/B test may have; the rest meets the same control in another one, of the same listeners."""
BEYOND = ("test/mse", "test/mse_mean_floor", "test/recall_at_10", "test/ndcg_at_10",
          "test/coverage_at_10", "test/popularity_rank_at_10")  # fmt: skip
COLOURS = dict(zip(MODELS, ("#e07a1f", "#8d5a97", "#5a9367", "#b0a03c", "#2a6f97"), strict=True))
mpl.use("agg")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--seeds", type=int, default=len(SEEDS), help="of the first part")
    asked.add_argument("--rounds", type=int, default=len(SEEDS), help="seeds of the second part")
    asked.add_argument("--worlds", type=int, default=3, help="seeds of the third part")
    asked.add_argument("--anew", action="store_true", help="do not go on from what stands in the tables")
    given = asked.parse_args()
    rows = [] if given.anew else standing(HERE / "results.csv")
    heads: dict[str, tuple[str, ...]] = {model: (f"model={model}",) for model in MODELS}
    alphas: dict[str, tuple[str, ...]] = {f"α={alpha}": ("model=convex", f"model.alpha={alpha}") for alpha in ALPHAS}
    first = [
        seed
        for seed in SEEDS[: given.seeds]
        if not has(rows, setting=met_in("mixed", "first"), sessions=MANY, seed=seed)
    ]
    if first:
        logs = logged("mixed", MANY)
        run_all(  # the longest first
            trained(RUNS / f"mixed_first_{MANY}" / f"{model}_{seed}", logs, "first", words, seed)
            for model, words in heads.items()
            for seed in first
        )
    for seed in first:
        rows += met(met_in("mixed", "first"), logged("mixed", MANY), MANY, "first", heads, seed)
        show(rows)
    for seed in SEEDS[: given.rounds]:
        for traffic, pairing, models in (
            ("mixed", "first", heads | alphas),
            ("random", "first", heads),
            ("mixed", "consecutive", heads),
            ("random", "consecutive", heads),
        ):
            if not has(rows, setting=met_in(traffic, pairing), sessions=FEW, seed=seed):
                rows += met(met_in(traffic, pairing), logged(traffic, FEW), FEW, pairing, models, seed)
                show(rows)
        if not has(rows, setting=NIGHT, seed=seed):
            rows += one_more_night(seed)
            show(rows)
    for seed in SEEDS[: given.worlds]:
        for setting, world in WORLDS.items():
            if not has(rows, setting=setting, seed=seed):
                rows += met(setting, logged("mixed", FEW, world), FEW, "first", heads, seed, world)
                show(rows)
    print(f"results      {HERE / 'results.md'}; with --anew nothing is taken from it")


def met_in(traffic: str, pairing: str) -> str:
    """The name of a setting."""
    return f"{traffic} traffic, pairs {pairing}"


def logged(traffic: str, sessions: int, world: tuple[str, ...] = ()) -> Path:
    """What is learned from; the same for all seeds."""
    words = (WORLD, *world, TRAFFIC[traffic], f"sessions={sessions}", "experiment=LOGGED", "seed=11")
    return run("simulate", RUNS / "_".join([traffic, str(sessions), *map(slug, world)]), *words)


def met(
    setting: str,
    logs: Path,
    sessions: int,
    pairing: str,
    models: dict[str, tuple[str, ...]],
    seed: int,
    world: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Models trained on the same logs, then played against contextual; a row for each."""
    traffic, *rest = logs.name.split("_")
    folder = RUNS / "_".join([traffic, pairing, *rest])
    jobs = {
        name: trained(folder / f"{slug(name)}_{seed}", logs, pairing, words, seed) for name, words in models.items()
    }
    run_all(jobs.values())
    folders = {name: job[1] for name, job in jobs.items()}
    return judged(setting, sessions, seed, folders, folder / f"abtest_{seed}", world)


def one_more_night(seed: int) -> list[dict[str, Any]]:
    """Every model gets a day more of traffic, all of it its own, and learns again from both days."""
    before, folder = logged("mixed", FEW), RUNS / f"night_{FEW}"
    day = {  # whose rows may stand in the table where its runs are not on this machine
        model: trained(RUNS / f"mixed_first_{FEW}" / f"{model}_{seed}", before, "first", (f"model={model}",), seed)
        for model in MODELS
    }
    run_all(day.values())
    jobs = {}
    for model in MODELS:
        lists = day[model][1] / "recommendations.jsonl"
        own = run(
            "simulate", folder / f"logs_{model}_{seed}", WORLD, f"arms={{C: {lists}}}", f"after={before}",
            f"sessions={FEW}", "experiment=NIGHT", f"seed={200 + seed}",
        )  # fmt: skip
        jobs[model] = trained(folder / f"{model}_{seed}", own, "first", (f"model={model}",), seed)
    run_all(jobs.values())
    folders = {name: job[1] for name, job in jobs.items()}
    return judged(NIGHT, 2 * FEW, seed, folders, folder / f"abtest_{seed}")


def trained(folder: Path, logs: Path, pairing: str, words: tuple[str, ...], seed: int) -> Job:
    """A job of `run_all`. A fused step is the same step; what is left out does not touch the weights."""
    data = ("datamodule=botify", f"datamodule.path={logs}", f"datamodule.pairing={pairing}")
    quick = (
        "optimizer.fused=true", "callbacks.ranking.max_val_queries=500", "callbacks.plots=null", "logger=none",
        "callbacks.checkpoint.save_last=false", "+callbacks.checkpoint.save_weights_only=true",
    )  # fmt: skip
    return "train", folder, ("experiment=published", *words, *data, *quick, f"seed={seed}")


def judged(
    setting: str, sessions: int, seed: int, folders: dict[str, Path], folder: Path, world: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """A/B tests of the lists against those of contextual, each arm picking uniformly among 50 as published."""
    control, *others = folders
    rows: list[dict[str, Any]] = []
    for part, start in enumerate(range(0, len(others), MOST_ARMS - 1)):
        names = [control, *others[start : start + MOST_ARMS - 1]]
        where = folder.with_name(f"{folder.name}_{part}") if part else folder
        tested_now = {name: folders[name] for name in names}
        rows += _one_test(setting, sessions, seed, tested_now, where, world)[bool(part) :]
    return rows


def _one_test(
    setting: str, sessions: int, seed: int, folders: dict[str, Path], folder: Path, world: tuple[str, ...]
) -> list[dict[str, Any]]:
    names = list(folders)
    arms = {"C" if not place else f"T{place}": name for place, name in enumerate(names)}
    files = ", ".join(f"{arm}: {folders[name]}/recommendations.jsonl" for arm, name in arms.items())
    words = (f"sessions={PLAYED * len(names)}", f"experiment=HEADS{seed}", f"seed={100 + seed}")
    logs = run("simulate", folder / "played", WORLD, *world, f"arms={{{files}}}", *words)
    verdict = run("abtest", folder / "verdict", f"logs={logs}/logs", "analysis.bootstrap_rounds=0")
    effects = {
        e["treatment"]: e
        for e in json.loads((verdict / "abtest.json").read_text())["effects"]
        if e["metric"] == "mean_time_per_session"
    }
    rows = []
    for arm, name in arms.items():
        effect = effects.get(arm, {})
        time = effect.get("treatment_mean", next(iter(effects.values()))["control_mean"])
        lift = {"lift": effect.get("effect_percent"), "lower": effect.get("relative_lower_percent")}
        row = {"setting": setting, "sessions": sessions, "model": name, "seed": seed, "time": time, **lift}
        row |= {metric: tested(folders[name]).get(metric) for metric in BEYOND}
        rows.append(row | {"commit": commit(folders[name], logs)})
    return rows


def show(rows: Iterable[dict[str, Any]]) -> None:
    """Write what there is so far."""
    table = pd.DataFrame(rows).astype({"lift": float, "lower": float})
    readable = summary(table)
    write_results(HERE, table, readable)
    draw(readable)
    print(readable.iloc[:, :9].to_string(index=False), flush=True)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A line a setting and model: time per session, and lift over contextual, with intervals over seeds."""
    rows = []
    for (setting, sessions, model), part in table.groupby(["setting", "sessions", "model"], sort=False):
        time, lift = interval(part["time"]), interval(part["lift"])
        rows.append(
            {
                "setting": f"{setting}, {sessions:,} sessions",
                "model": model,
                "seeds": len(part),
                "time": time[0], "time_lower": time[1], "time_upper": time[2],
                "lift_percent": lift[0], "lift_lower": lift[1], "lift_upper": lift[2],
                "surely_better_in": int((part["lower"] > 0).sum()),
                **{name.removeprefix("test/"): part[name].mean() for name in BEYOND},
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> None:
    from matplotlib import pyplot as plt

    settings = list(dict.fromkeys(table["setting"]))
    first = table[table["setting"] == f"mixed traffic, pairs first, {FEW:,} sessions"].set_index("model")
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.8), width_ratios=(3, 2))
    if first.empty:  # the second part is still to come
        plt.close(figure)
        figure, axes = plt.subplots(1, 1, figsize=(6.5, 4.4), squeeze=False)
        axes = axes[0]
    for number, (model, colour) in enumerate(COLOURS.items()):
        own = table[table["model"] == model].set_index("setting").reindex(settings)
        bars = [own["time"] - own["time_lower"], own["time_upper"] - own["time"]]
        places = np.arange(len(settings)) + 0.14 * (number - 2)
        axes[0].errorbar(places, own["time"], yerr=bars, fmt="o", capsize=3, color=colour, label=model)
    axes[0].set_xticks(range(len(settings)), [textwrap.fill(setting, 14) for setting in settings], fontsize=6)
    axes[0].set(ylabel="mean time per session", title="five models by what they learn from", ylim=(2, None))
    axes[0].legend(frameon=False, fontsize=8)
    if len(axes) == 2:
        _draw_alphas(axes[1], first, table)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(HERE / "results.png", dpi=130)
    plt.close(figure)


def _draw_alphas(axis: Any, first: pd.DataFrame, table: pd.DataFrame) -> None:
    alphas = {HEADS.get(name, float(name[2:]) if name.startswith("α=") else np.nan): name for name in first.index}
    alphas = {alpha: name for alpha, name in sorted(alphas.items()) if alpha == alpha}
    line = first.loc[list(alphas.values())]
    bars = [line["time"] - line["time_lower"], line["time_upper"] - line["time"]]
    axis.errorbar(list(alphas), line["time"], yerr=bars, fmt="o-", capsize=3, color=COLOURS["convex"])
    many = table[table["setting"] == f"mixed traffic, pairs first, {MANY:,} sessions"].set_index("model")["time"]
    for sessions, height in ((FEW, first.loc["contextual", "time"]), (MANY, many["contextual"])):
        axis.axhline(height, color=COLOURS["contextual"], linewidth=1)
        axis.annotate(f"contextual, {sessions:,} sessions", (1.0, height), fontsize=8, va="bottom", ha="right")
    axis.set(xlabel="α", ylabel="mean time per session", title=f"the mix, mixed traffic, pairs first, {FEW:,} sessions")


if __name__ == "__main__":
    main()
