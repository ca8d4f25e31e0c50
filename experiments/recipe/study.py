"""Which settings of the default recipe validate best on logs alone, and do listeners agree?

    python experiments/recipe/study.py                    the missing pieces, then results.md and results.png
    python experiments/recipe/study.py --minutes 30       starts no piece after half an hour; the next call continues

Each setting differs from the default in one thing. It is trained on logs of the world of seed 0, where validation
chooses, and played to listeners of that world who were kept for validation, to see whether validation is right. The
chosen setting and the default are then trained and played in worlds that chose nothing. One line of results.csv is one
training.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.playing import LEVEL, Piece, main_of
from experiments.studying import Study, sized
from segue.reports.markdown import table
from segue.statistics.intervals import MeanInterval

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "results.csv"
WORLD, FRESH = 0, sized((11, 12, 13, 14, 15), (11,))
SEEDS, SESSIONS = sized((1, 2, 3), (1,)), sized(20_000, 500)
FORMER, DEFAULT = "former default", "default"
_FORMER = {"model.shrinkage": "0", "model.item_bias": "false", "model.init_std": "0.1"}
_CHANGES: Mapping[str, Mapping[str, str]] = {
    FORMER: {},
    "dim 16": {"model.dim": "16"},
    "dim 64": {"model.dim": "64"},
    "dim 128": {"model.dim": "128"},
    "dropout 0": {"model.dropout": "0"},
    "dropout 0.1": {"model.dropout": "0.1"},
    "dropout 0.4": {"model.dropout": "0.4"},
    "track dropout 0": {"model.track_dropout": "0"},
    "track dropout 0.4": {"model.track_dropout": "0.4"},
    "track dropout 0.6": {"model.track_dropout": "0.6"},
    "initial spread 0.03": {"model.init_std": "0.03"},
    "initial spread 0.3": {"model.init_std": "0.3"},
    "α 0.1": {"model.alpha": "0.1"},
    "α 0.3": {"model.alpha": "0.3"},
    "α 0.5": {"model.alpha": "0.5"},
    "α 0.7": {"model.alpha": "0.7"},
    "α 0.9": {"model.alpha": "0.9"},
    "item bias": {"model.item_bias": "true"},
    "mse": {"loss": "mse"},
    "learning rate × 0.5": {"optimizer.lr": "0.005"},
    "learning rate × 2": {"optimizer.lr": "0.02"},
    "consecutive pairs": {"datamodule.pairing": "consecutive"},
    "α 0.5, dim 64": {"model.alpha": "0.5", "model.dim": "64"},
    "α 0.5, dropout 0": {"model.alpha": "0.5", "model.dropout": "0"},
    "α 0.5, dim 64, dropout 0": {"model.alpha": "0.5", "model.dim": "64", "model.dropout": "0"},
    "dim 64, dropout 0": {"model.dim": "64", "model.dropout": "0"},
    "track dropout 0.4, dropout 0": {"model.track_dropout": "0.4", "model.dropout": "0"},
    "α 0.5, dim 64, track dropout 0.4": {"model.alpha": "0.5", "model.dim": "64", "model.track_dropout": "0.4"},
    "shrinkage 0.5": {"model.shrinkage": "0.5"},
    "shrinkage 0.5, spread 0.03": {"model.shrinkage": "0.5", "model.init_std": "0.03"},
    "shrinkage 1, spread 0.03": {"model.shrinkage": "1", "model.init_std": "0.03"},
    DEFAULT: {"model.shrinkage": "0.5", "model.init_std": "0.03", "model.item_bias": "true"},
}
SETTINGS: Mapping[str, tuple[str, ...]] = {
    name: tuple(f"{key}={value}" for key, value in {**_FORMER, **change}.items())
    for name, change in _CHANGES.items()
    if sized(True, name in (FORMER, DEFAULT))
}
"""Settings by name: one change of the former default each, combinations of what listeners liked, and shrinkage."""
NAMED_BELOW = 4.9
"""In the picture the names of settings with more time would overlap."""
NEAR = 0.3
"""Settings whose time is at most this much below the best are trained with all seeds."""
OTHER_PAIRS = ("consecutive pairs",)
"""They validate on other pairs, therefore their metrics are not comparable with those of the rest."""
METRICS = {"val_loss": -1, "val_mse": -1, "val_ndcg_at_10": 1}
"""What validation says, and whether more is better."""


def trials() -> Iterator[Piece]:
    """Each setting in the world that chooses."""
    for name, words in SETTINGS.items():
        yield piece("trial", name, words, WORLD, SEEDS[0], "val")


def again() -> Iterator[Piece]:
    """The default, and the settings that are near the best or that a metric of validation chooses, with other seeds."""
    first = of_settings()
    near = first.index[first.time > first.time.max() - NEAR]
    by_metric = [(sign * first[metric]).idxmax() for metric, sign in METRICS.items()]
    for seed in SEEDS[1:]:
        for name in dict.fromkeys([FORMER, *near, *by_metric]):
            yield piece("trial", name, SETTINGS[name], WORLD, seed, "val")


def fresh() -> Iterator[Piece]:
    """The default, the setting that validates best, and the one that listeners of the choosing world like best."""
    tried = lines_of("trial").groupby("model").time.agg(["mean", "count"])
    liked = tried["mean"][tried["count"] == len(SEEDS)].idxmax()
    names = dict.fromkeys([FORMER, DEFAULT, str(of_settings().val_mse.idxmin()), str(liked)])
    for world in FRESH:
        for name in names:
            yield piece("fresh", name, SETTINGS[name], world, 1, "test")


def piece(part: str, name: str, words: tuple[str, ...], world: int, seed: int, listeners: str) -> Piece:
    """A training of convex by the default recipe with other settings, uniform picking."""
    return Piece(
        part=part, model=name, words=("model=convex", *words), world=world, sessions=SESSIONS, seed=seed,
        picks=("uniform",), listeners=listeners,
    )  # fmt: skip


def lines_of(part: str) -> pd.DataFrame:
    """The lines of a part."""
    frame = pd.read_csv(RESULTS)
    return frame[frame.part == part]


def of_settings() -> pd.DataFrame:
    """A row for each setting whose validation is comparable, with the first seed, which all have."""
    frame = lines_of("trial")
    frame = frame[frame.seed == SEEDS[0]]
    means = frame.groupby("model")[["time", "coverage", "hits", *METRICS]].mean()
    return means.drop(index=[name for name in OTHER_PAIRS if name in means.index])


def report() -> None:
    """Write results.md and results.png."""
    of_seeds, comparable = lines_of("trial").groupby("model"), of_settings()
    means = of_seeds[["time", "coverage", "hits", *METRICS]].mean()
    spread, count = of_seeds["time"].std(), of_seeds["time"].count()
    lines = ["# Results", "", f"Written by `{STUDY.command}`.", ""]
    lines += [f"## {len(means)} settings in one world", ""]
    rows: list[list[str]] = []
    for name in map(str, means.sort_values("time", ascending=False).index):
        line = means.loc[name]
        validation = ["", "", ""] if name in OTHER_PAIRS else [f"{line[metric]:.4f}" for metric in METRICS]
        gain = f"{line['time'] - means['time'][FORMER]:+.2f}"
        seeds = ["" if np.isnan(spread[name]) else f"{spread[name]:.2f}", str(count[name])]
        rows.append([name, *validation, f"{line['time']:.2f}", gain, *seeds, f"{line.coverage:.2f}"])
    head = [
        "setting",
        "val/loss",
        "val/mse",
        "val/ndcg@10",
        "time per session",
        "minus former",
        "sd of seeds",
        "seeds",
        "coverage",
    ]
    lines += [*table(head, rows, "lrrrrrrrr"), "", "## Is validation right?", ""]
    times = comparable["time"]
    same_loss = comparable.drop(index=["mse"], errors="ignore")
    rows = []
    for metric, sign in METRICS.items():
        of = same_loss if metric == "val_loss" else comparable
        agreed = kendalltau(sign * of[metric], times[of.index])
        best = (sign * of[metric]).idxmax()
        rows.append([metric.replace("_", "/", 1), f"{agreed.statistic:.2f}", f"{agreed.pvalue:.3f}", str(best)])
    lines += [*table(["metric", "Kendall's τ with the time", "p", "it chooses"], rows, "lrrl"), ""]
    lines += ["## Worlds that chose nothing", "", *of_worlds(), ""]
    STUDY.write_table("results.md", lines)
    draw(comparable)
    STUDY.write_provenance()


def of_worlds() -> list[str]:
    """Time per session in each fresh world, and the gain over the former default with its interval over worlds."""
    times = lines_of("fresh").pivot_table(index="model", columns="world", values="time")
    rows: list[list[str]] = []
    for name, line in times.iterrows():
        gains = 100 * (line / times.loc[FORMER] - 1).to_numpy()
        shown = ["", "", ""]
        if name != FORMER and len(gains) > 1:
            interval = MeanInterval.of(gains, LEVEL)
            shown = [f"{interval.mean:+.1f}", f"{interval.lower:+.1f}", f"{interval.upper:+.1f}"]
        rows.append([str(name), *(f"{value:.2f}" for value in line), *shown])
    head = ["setting", *(f"world.seed={world}" for world in times), "over former default, %", "lower", "upper"]
    return table(head, rows, "l" + "r" * (len(head) - 1))


def draw(means: pd.DataFrame) -> None:
    """Time per session over the validation error, a dot for each setting with the loss of the default."""
    from matplotlib.figure import Figure

    means = means.drop(index=["mse"], errors="ignore")
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(means.val_mse, means["time"], "o", color="#9a9a9a")
    for name, error, time in zip(map(str, means.index), means.val_mse, means["time"], strict=True):
        if name in (DEFAULT, FORMER) or time < NAMED_BELOW:
            axes.annotate(name, (error, time), (6, -3), textcoords="offset points", fontsize=8)
    chosen = means.loc[[name for name in (FORMER, DEFAULT) if name in means.index]]
    axes.plot(chosen.val_mse, chosen["time"], "o", color="#2a6f97")
    axes.set(xlabel="val/mse, from logs alone", ylabel="mean time per session, in tracks")
    axes.grid(alpha=0.3)
    STUDY.write_figure("results.png", figure)


PARTS = {"trial": trials, "again": again, "fresh": fresh}

if __name__ == "__main__":
    STUDY.run(lambda: main_of(STUDY, parts=PARTS, path=RESULTS, report=report))
