"""Does the report of 2023 hold: is convex (α = 0.9) the best of four heads, and 16 % better than contextual?

    python experiments/four_heads/study.py                     the missing pieces, then results.md and results.png
    python experiments/four_heads/study.py --minutes 60        starts no piece after an hour; the next call continues
    python experiments/four_heads/study.py --only report       only results.md and results.png

Five models by the published recipe, trained on four amounts of mixed traffic in three worlds that were not used to
calibrate the world, five seeds each; then α from 0.1 to 0.8. All models of a world are played to the same listeners,
uniform picking. One line of results.csv is one training. Few sessions come first.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.playing import LEVEL, Piece, main_of
from experiments.studying import Study, sized
from segue.reports.markdown import table
from segue.statistics.intervals import MeanInterval

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "results.csv"
WORLDS, SEEDS = sized((11, 12, 13), (11,)), sized((1, 2, 3, 4, 5), (1,))
SESSIONS = sized((5_000, 20_000, 50_000, 200_000), (500,))
MODELS = sized(("contextual", "track", "artist", "mean", "convex"), ("contextual", "convex"))
ALPHAS = sized((0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8), (0.4,))
"""Those that no head is named for; 0, 0.5, 0.9 and 1 are artist, mean, convex and track."""
RECIPE = ("experiment=published", "callbacks.ranking.max_val_queries=100")
"""The loss chooses the epoch; ranking 2,000 queries after each one would take longer than training."""
OF_HEADS = {"artist": 0.0, "mean": 0.5, "convex": 0.9, "track": 1.0}
ALPHA_SESSIONS = sized(50_000, 500)


def heads() -> Iterator[Piece]:
    """The five models; with few sessions first."""
    for sessions in SESSIONS:
        for seed in SEEDS:
            for world in WORLDS:
                for model in MODELS:
                    yield piece("heads", model, (f"model={model}",), world, sessions, seed)


def alphas() -> Iterator[Piece]:
    """The values between the heads."""
    for seed in SEEDS:
        for world in WORLDS:
            for alpha in ALPHAS:
                words = ("model=convex", f"model.alpha={alpha}")
                yield piece("alpha", f"convex {alpha}", words, world, ALPHA_SESSIONS, seed)


def piece(part: str, model: str, words: tuple[str, ...], world: int, sessions: int, seed: int) -> Piece:
    """A training by the published recipe, uniform picking."""
    return Piece(
        part=part, model=model, words=(*RECIPE, *words), world=world, sessions=sessions, seed=seed,
        picks=("uniform",),
    )  # fmt: skip


def over_contextual(frame: pd.DataFrame) -> pd.DataFrame:
    """Gain of each training over contextual in the same world, with the same sessions and the same seed, in percent."""
    place = ["world", "sessions", "seed"]
    rival = frame[frame.model == "contextual"].set_index(place).time.rename("rival")
    both = frame.join(rival, on=place, how="inner")
    return both.assign(gain=100 * (both.time / both.rival - 1))


def report() -> None:
    """Write results.md and results.png."""
    frame = pd.read_csv(RESULTS)
    gains = over_contextual(frame[frame.part == "heads"])
    lines = ["# Results", "", f"Written by `{STUDY.command}`.", "", "## Five models", ""]
    rows: list[list[str]] = []
    for (sessions, model), one in gains.groupby(["sessions", "model"]):
        of_worlds = one.groupby("world").gain.mean()
        interval = MeanInterval.of(of_worlds.to_numpy(), LEVEL)
        limits = [f"{interval.lower:+.0f}", f"{interval.upper:+.0f}"] if len(of_worlds) > 1 else ["–", "–"]
        shown = [f"{interval.mean:+.0f}", *limits]
        row = [f"{sessions:,}", str(model), str(len(one)), f"{one.time.mean():.2f}"]
        rows.append([*row, *(["", "", ""] if model == "contextual" else shown), f"{one.coverage.mean():.3f}"])
    head = ["sessions", "model", "trainings", "time per session", "over contextual, %", "lower", "upper", "coverage"]
    lines += [*table(head, rows, "rlrrrrrr"), "", "Intervals: Student's, a value for each world.", ""]
    lines += ["## Each world", "", *each_world(gains), "", "## α", "", *of_alpha(frame), ""]
    STUDY.write_table("results.md", lines)
    draw(frame)
    STUDY.write_provenance()


def each_world(gains: pd.DataFrame) -> list[str]:
    """Time of each model in each world, and the best of the four heads."""
    rows: list[list[str]] = []
    for (sessions, world), one in gains.groupby(["sessions", "world"]):
        means = one.groupby("model").time.mean().reindex(MODELS)
        of_heads = means.drop("contextual")
        rows.append([f"{sessions:,}", str(world), *(f"{mean:.2f}" for mean in means), str(of_heads.idxmax())])
    return table(["sessions", "world.seed", *MODELS, "best head"], rows, "r" * (2 + len(MODELS)) + "l")


def alpha_curve(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean time for each α (rows) and world (columns)."""
    few = frame[frame.sessions == ALPHA_SESSIONS]
    inner = few[few.part == "alpha"]
    values = pd.concat(
        [
            inner.assign(alpha=inner.model.str.removeprefix("convex ").astype(float)),
            few[few.model.isin(OF_HEADS)].assign(alpha=lambda one: one.model.map(OF_HEADS)),
        ]
    )
    return values.pivot_table(index="alpha", columns="world", values="time")


def of_alpha(frame: pd.DataFrame) -> list[str]:
    """The α curve, with 50,000 sessions."""
    curve = alpha_curve(frame)
    rows = [
        [f"{alpha:.1f}", *("–" if np.isnan(value) else f"{value:.2f}" for value in line)]
        for alpha, line in zip(curve.index, curve.to_numpy(), strict=True)
    ]
    return table(["α", *(f"world.seed={world}" for world in curve)], rows, "r" + "r" * len(curve.columns))


def draw(frame: pd.DataFrame) -> None:
    """Time over the amount of traffic, each model a line and each world a dot; and the α curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    of_heads = over_contextual(frame[frame.part == "heads"])
    for model in MODELS:
        of_worlds = of_heads[of_heads.model == model].groupby(["sessions", "world"], as_index=False).time.mean()
        mean = of_worlds.groupby("sessions").time.mean()
        [line] = left.plot(mean.index, mean, label=model)
        left.plot(of_worlds.sessions, of_worlds.time, "o", color=line.get_color(), markersize=3)
    left.set(xscale="log", xlabel="sessions that are learned from", ylabel="mean time per session, in tracks")
    left.set_xticks(SESSIONS, [f"{sessions:,}" for sessions in SESSIONS])
    left.minorticks_off()
    left.legend()
    curve = alpha_curve(frame)
    for world in curve:
        right.plot(curve.index, curve[world], "o-", markersize=3, label=f"world.seed={world}")
    right.set(xlabel="α, share of the track cosine", title=f"{ALPHA_SESSIONS:,} sessions")
    if len(curve):
        right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    STUDY.write_figure("results.png", figure)


if __name__ == "__main__":
    STUDY.run(lambda: main_of(STUDY, parts={"heads": heads, "alpha": alphas}, path=RESULTS, report=report))
