"""The report, again: python experiments/four_heads/study.py

Five models by the published recipe, seeds × traffic × pairings; each seed's models meet the same listeners in an A/B
test against contextual. Then α from 0 to 1, and one more night of each model's own traffic. A study that was stopped
goes on where it was. Writes results.csv, results.md, results.png and provenance.json beside this file.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from experiments.runs import markdown, run, run_all  # noqa: E402
from src.provenance import provenance  # noqa: E402

HERE, RUNS = Path(__file__).parent, ROOT / "outputs" / "four_heads"
MODELS = ("contextual", "track", "artist", "mean", "convex")
SEEDS = (1, 2, 3, 4, 5)
TRAFFIC = {
    "random": "arms={C: random}",
    "mixed": "arms={C: random, T1: random, T2: sticky_artist, T3: popular}",
}
PAIRINGS = ("first", "consecutive")
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8)
"""Those that no head is named for; 0, 0.5, 0.9 and 1 are artist, mean, convex and track."""

LOGGED, PLAYED = 200_000, 20_000
"""Sessions of the traffic that is learned from, and of each arm of an A/B test."""

WORLD = "world=published"
HEADS = {"artist": 0.0, "mean": 0.5, "convex": 0.9, "track": 1.0}
COLOURS = dict(zip(MODELS, ("#e07a1f", "#8d5a97", "#5a9367", "#b0a03c", "#2a6f97"), strict=True))
mpl.use("agg")


def main() -> None:
    rows: list[dict[str, Any]] = []
    for traffic, arms in TRAFFIC.items():
        logs = run("simulate", RUNS / traffic, WORLD, arms, f"sessions={LOGGED}", "experiment=LOGGED", "seed=11")
        for pairing in PAIRINGS:
            rows += met(f"{traffic} {pairing}", logs, pairing, {model: (f"model={model}",) for model in MODELS})
    mixed = RUNS / "mixed"
    alphas = {f"α={alpha}": ("model=convex", f"model.alpha={alpha}") for alpha in ALPHAS}
    rows += met("mixed first", mixed, "first", alphas, called="alphas")
    rows += one_more_night(mixed)
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "results.csv", index=False)
    readable = summary(table)
    (HERE / "results.md").write_text(markdown(readable) + "\n", encoding="utf-8")
    (HERE / "provenance.json").write_text(json.dumps(provenance(ROOT), indent=2) + "\n")
    draw(readable)
    print(readable.to_string(index=False))


def trained(setting: str, logs: Path, pairing: str, name: str, words: tuple[str, ...], seed: int) -> tuple[Any, ...]:
    """A job of `run_all`."""
    folder = RUNS / setting.replace(" ", "_") / f"{name}_{seed}"
    data = ("datamodule=botify", f"datamodule.path={logs}", f"datamodule.pairing={pairing}")
    quick = ("callbacks.ranking.max_val_queries=1000", "callbacks.plots=null", "logger=none")
    return "train", folder, "experiment=published", *words, *data, *quick, f"seed={seed}"


def met(
    setting: str, logs: Path, pairing: str, models: dict[str, tuple[str, ...]], called: str = "heads"
) -> list[dict[str, Any]]:
    """Train on the logs, then an A/B test for each seed; a row for each model and seed."""
    jobs = {(m, s): trained(setting, logs, pairing, m, words, s) for m, words in models.items() for s in SEEDS}
    run_all(jobs.values())
    base = {s: RUNS / setting.replace(" ", "_") / f"contextual_{s}" for s in SEEDS}
    rows = []
    for seed in SEEDS:
        others = {model: jobs[model, seed][1] for model in models if model != "contextual"}
        verdict = played(f"{setting} {called}", seed, {"contextual": base[seed], **others})
        for model, effect in verdict.items():
            folder = {"contextual": base[seed], **others}[model]
            if model == "contextual" and called != "heads":
                continue
            metrics = json.loads((folder / "metrics.json").read_text())
            offline = {name: metrics.get(name) for name in OFFLINE}
            rows.append({"setting": setting, "model": model, "seed": seed, **effect, **offline})
    return rows


OFFLINE = ("test/mse", "test/mse_mean_floor", "test/recall_at_10", "test/ndcg_at_10", "test/coverage_at_10",
           "test/popularity_rank_at_10", "epochs")  # fmt: skip


def played(setting: str, seed: int, lists: dict[str, Path]) -> dict[str, dict[str, float]]:
    """An A/B test of the lists against the first of them, each arm picking uniformly among 50 as published."""
    folder = RUNS / "abtests" / f"{setting.replace(' ', '_')}_{seed}"
    names = list(lists)
    arms = ", ".join(
        f"{'C' if number == 0 else f'T{number}'}: {lists[name]}/recommendations.jsonl"
        for number, name in enumerate(names)
    )
    words = (f"sessions={PLAYED * len(names)}", f"experiment=HEADS{seed}", f"seed={100 + seed}")
    logs = run("simulate", folder / "played", WORLD, f"arms={{{arms}}}", *words)
    verdict = run("abtest", folder / "verdict", f"logs={logs}/logs", "analysis.bootstrap_rounds=0")
    effects = [
        e
        for e in json.loads((verdict / "abtest.json").read_text())["effects"]
        if e["metric"] == "mean_time_per_session"
    ]
    found = {names[0]: {"time": effects[0]["control_mean"], "lift": 0.0}}
    for effect in effects:
        name = names[int(effect["treatment"][1:])]
        found[name] = {
            "time": effect["treatment_mean"],
            "lift": effect["effect_percent"],
            "lower": effect["relative_lower_percent"],
            "upper": effect["relative_upper_percent"],
        }
    return found


def one_more_night(before: Path) -> list[dict[str, Any]]:
    """Each model's own traffic of a day more, all sessions its own; then it learns from both days."""
    rows: list[dict[str, Any]] = []
    jobs = {}
    for model in MODELS:
        for seed in SEEDS:
            lists = RUNS / "mixed_first" / f"{model}_{seed}" / "recommendations.jsonl"
            own = run(
                "simulate", RUNS / "nights" / f"{model}_{seed}", WORLD, f"arms={{C: {lists}}}", f"after={before}",
                f"sessions={LOGGED // 2}", "experiment=NIGHT", f"seed={200 + seed}",
            )  # fmt: skip
            jobs[model, seed] = trained("mixed first night", own, "first", model, (f"model={model}",), seed)
    run_all(jobs.values())
    for seed in SEEDS:
        folders = {model: jobs[model, seed][1] for model in MODELS}
        for model, effect in played("mixed first night", seed, folders).items():
            metrics = json.loads((folders[model] / "metrics.json").read_text())
            offline = {name: metrics.get(name) for name in OFFLINE}
            rows.append({"setting": "mixed first, a night more", "model": model, "seed": seed, **effect, **offline})
    return rows


def interval(values: pd.Series) -> tuple[float, float, float]:
    """Mean and 95 % t interval over seeds."""
    mean, half = values.mean(), stats.t.ppf(0.975, len(values) - 1) * values.sem() if len(values) > 1 else np.nan
    return float(mean), float(mean - half), float(mean + half)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A line a setting and model: time per session, lift over contextual with its interval over seeds."""
    rows = []
    for (setting, model), part in table.groupby(["setting", "model"], sort=False):
        time, lift = interval(part["time"]), interval(part["lift"])
        sure = int((part["lower"] > 0).sum()) if "lower" in part else 0
        rows.append(
            {
                "setting": setting,
                "model": model,
                "time": time[0], "time_lower": time[1], "time_upper": time[2],
                "lift": lift[0], "lift_lower": lift[1], "lift_upper": lift[2],
                "better in": f"{sure} of {len(part)}",
                **{name: part[name].mean() for name in OFFLINE},
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> None:
    from matplotlib import pyplot as plt

    settings = list(dict.fromkeys(table["setting"]))
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.4), width_ratios=(3, 2))
    for number, (model, colour) in enumerate(COLOURS.items()):
        own = table[table["model"] == model].set_index("setting").reindex(settings)
        bars = [own["time"] - own["time_lower"], own["time_upper"] - own["time"]]
        places = np.arange(len(settings)) + 0.14 * (number - 2)
        axes[0].errorbar(places, own["time"], yerr=bars, fmt="o", capsize=3, color=colour, label=model)
    axes[0].set_xticks(range(len(settings)), [s.replace(", ", ",\n") for s in settings], fontsize=8)
    axes[0].set(ylabel="mean time per session", title="five models by traffic and pairing")
    axes[0].legend(frameon=False, fontsize=8)
    own = table[table["setting"] == "mixed first"].set_index("model")
    alphas = {HEADS.get(name, float(name[2:]) if name.startswith("α=") else np.nan): name for name in own.index}
    alphas = {alpha: name for alpha, name in sorted(alphas.items()) if alpha == alpha}
    line = own.loc[list(alphas.values())]
    axes[1].errorbar(
        list(alphas), line["lift"], yerr=[line["lift"] - line["lift_lower"], line["lift_upper"] - line["lift"]],
        fmt="o-", capsize=3, color=COLOURS["convex"],
    )  # fmt: skip
    axes[1].axhline(0, color=COLOURS["contextual"], linewidth=1)
    axes[1].axhline(16, color="#888", linewidth=1, linestyle=":")
    axes[1].annotate("published: +16 %", (0.02, 16), fontsize=8, va="bottom")
    axes[1].set(xlabel="α", ylabel="% over contextual", title="the mix, mixed traffic, pairs first")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(HERE / "results.png", dpi=130)


if __name__ == "__main__":
    main()
