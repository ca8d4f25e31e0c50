"""Which recommender do simulated listeners play longest, in worlds that nothing was tuned on?

    python experiments/online/study.py                     the missing pieces, then results.md and results.png
    python experiments/online/study.py --minutes 60        starts no piece after an hour; the next call continues
    python experiments/online/study.py --only report       only results.md and results.png

Each recommender is trained on 50,000 sessions of mixed traffic of a world and played to the same listeners of that
world under four pickings. The worlds of FRESH were not used to calibrate the world or to choose a setting of this
study. Settings of the others were chosen in the world of TUNED (part `tune`, four trials each, uniform picking,
listeners kept for validation); what has `(default)` in its name and the published recipe are played as they are. Part
`traffic` varies the number of sessions. Part `reference` plays the lists of the tracks that are nearest by the true
embeddings, which no recommender knows.
One line of results.csv is one recommender in one world under one picking.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.playing import LEVEL, PICKS, VALIDATION, Piece, line_of, main_of, play, run_piece, the_world
from experiments.studying import Study, read_rows, sized
from segue.reports.markdown import table
from segue.runs.recommendations import Recommendations
from segue.simulation.neighbours import nearest
from segue.statistics.intervals import MeanInterval

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "results.csv"
TUNED, FRESH = 0, sized((11, 12, 13, 14, 15), (11,))
"""Seed of the world in which settings are chosen, and of those that are reported."""
SESSIONS, TUNING_SESSIONS = sized((50_000, 20_000), (500, 400))
TRAFFIC = sized((5_000, 20_000, 200_000, 500_000), (300,))
"""Further amounts of traffic, in the first of the fresh worlds."""
PUBLISHED = ("experiment=published",)
_TRIALS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "convex (default)": ((),),
    "convex α = 0.9": ((), ("model.dim=64",), ("model.track_dropout=0.4",), ("datamodule.pairing=consecutive",)),
    "mean": ((), ("model.dim=64",), ("model.track_dropout=0.4",), ("datamodule.pairing=consecutive",)),
    "artist": ((), ("model.dim=64",), ("model.dropout=0.4",), ("datamodule.pairing=consecutive",)),
    "track": ((), ("model.dim=64",), ("model.dropout=0.4",), ("datamodule.pairing=consecutive",)),
    "mean (default)": ((),),
    "contextual, published recipe": ((),),
    "contextual, softmax": (
        (), ("loss.logq=0.5",), ("model.dropout=0.2",), ("datamodule.pairing=consecutive",),
    ),
    "popular": ((), ("callbacks.export.k=10",), ("callbacks.export.k=20",), ("callbacks.export.k=100",)),
    "sticky": ((), ("callbacks.export.k=10",), ("callbacks.export.k=20",), ("callbacks.export.k=100",)),
    "rules": ((), ("model.window=3",), ("model.reverse_weight=1",), ("model.window=30", "model.decay=1")),
    "rules with artist": tuple((f"model.artist_weight={weight}",) for weight in (0.3, 1, 3, 10)),
    "neighbours": (
        (), ("model.shrinkage=5",), ("model.norm_power=0.5",), ("model.norm_power=0", "model.length_power=1"),
    ),
    "neighbours with artist": tuple((f"model.artist_weight={weight}",) for weight in (0.01, 0.03, 0.1, 0.3)),
    "als": ((), ("model.confidence=20",), ("model.dim=32",), ("model.regularization=0.1",)),
    "item2vec": ((), ("model.negative_exponent=0.75",), ("model.window=10",), ("model.dim=32",)),
    "share means of tracks": tuple((f"model.shrinkage={shrinkage}",) for shrinkage in (1, 5, 20, 100)),
    "share means of artists": tuple((f"model.shrinkage={shrinkage}",) for shrinkage in (1, 5, 20, 100)),
}  # fmt: skip
DEFAULT, CONTEXTUAL = "convex (default)", "contextual, published recipe"
TRIALS = {name: _TRIALS[name][: sized(None, 2)] for name in sized(tuple(_TRIALS), (DEFAULT, CONTEXTUAL, "popular"))}
"""Settings that are tried for each recommender, beside those of BASE; () are the defaults."""
BASE: Mapping[str, tuple[str, ...]] = {
    "convex (default)": (),
    "convex α = 0.9": ("model.alpha=0.9",),
    "mean": ("model=mean",),
    "artist": ("model=artist", "model.track_dropout=0"),
    "track": ("model=track", "model.track_dropout=0"),
    "mean (default)": ("model=mean",),
    "contextual, published recipe": (*PUBLISHED, "model=contextual"),
    "contextual, softmax": ("model=contextual", "loss=softmax", "model.item_bias=true"),
    "popular": ("model=popular",),
    "sticky": ("model=sticky",),
    "rules": ("model=rules",),
    "rules with artist": ("model=rules",),
    "neighbours": ("model=neighbours",),
    "neighbours with artist": ("model=neighbours",),
    "als": ("model=als",),
    "item2vec": ("model=item2vec",),
    "share means of tracks": ("model=share_means",),
    "share means of artists": ("model=share_means", "model.level=artist"),
}
"""What makes each recommender, with the default recipe unless another is named."""
OURS = ("convex (default)", "convex α = 0.9", "mean", "mean (default)", "artist", "track")
REFERENCE, NEIGHBOURS = "nearest by the true embeddings", 50
"""Name and list length of the reference, which knows the world."""
GROWTH = sized((DEFAULT, "mean", CONTEXTUAL, "rules with artist", "share means of artists", "popular"), (DEFAULT,))
"""The recommenders of which the amount of traffic is varied."""


def tuning() -> Iterator[Piece]:
    """The trials; there is none for a recommender with one setting."""
    for model, trials in TRIALS.items():
        for number, words in enumerate(trials):
            if len(trials) > 1:
                name = f"{model} #{number}"
                yield Piece(
                    part="tune", model=name, words=(*BASE[model], *words), world=TUNED, sessions=TUNING_SESSIONS,
                    seed=1, picks=("uniform",), listeners="val",
                )  # fmt: skip


def chosen() -> dict[str, tuple[str, ...]]:
    """The words of each recommender with the settings that are best in the tuned world."""
    found = {line["model"]: float(line["time"]) for line in read_rows(RESULTS) if line["part"] == "tune"}
    best = {}
    for model, trials in TRIALS.items():
        times = [found.get(f"{model} #{number}", 0.0) for number in range(len(trials))]
        best[model] = (*BASE[model], *trials[int(np.argmax(times))])
    return best


def fresh() -> Iterator[Piece]:
    """The main table, one world after another."""
    for world in FRESH:
        for model, words in chosen().items():
            yield Piece(
                part="fresh", model=model, words=words, world=world, sessions=SESSIONS, seed=1, picks=tuple(PICKS)
            )


def traffic() -> Iterator[Piece]:
    """Other amounts of traffic."""
    words = chosen()
    for sessions in TRAFFIC:
        for model in GROWTH:
            yield Piece(
                part="traffic", model=model, words=words[model], world=FRESH[0], sessions=sessions, seed=1,
                picks=("uniform",),
            )  # fmt: skip


def reference() -> Iterator[Piece]:
    """Lists that no recommender can learn from logs, in each fresh world."""
    for world in FRESH:
        yield Piece(part="reference", model=REFERENCE, words=(), world=world, sessions=0, seed=1, picks=tuple(PICKS))


def run(study: Study, piece: Piece) -> list[dict[str, Any]]:
    """Train and play a piece, or play the lists of the true embeddings.

    Returns:
        A line for each picking.
    """
    if piece.part != "reference":
        return run_piece(study, piece)
    world, folder = the_world(piece.world), study.work / f"reference-{piece.world}"
    rows = nearest(world.embeddings, np.arange(len(world.catalog)), NEIGHBOURS, exclude_self=True)
    scores = np.einsum("qd,qkd->qk", world.embeddings, world.embeddings[rows])
    folder.mkdir(parents=True, exist_ok=True)
    lists = Recommendations(rows=rows, scores=scores.astype(np.float32))
    lists.write(folder / "recommendations.jsonl", world.catalog, format="botify")
    unknown = [""] * len(VALIDATION)
    lines = [line_of(study, piece, pick, play(piece, folder, pick), unknown, 0.0) for pick in piece.picks]
    shutil.rmtree(folder)
    return lines


def report() -> None:
    """Write results.md and results.png."""
    frame = pd.read_csv(RESULTS)
    main = frame[frame.part == "fresh"]
    whole = [world for world, one in main.groupby("world") if set(TRIALS) <= set(one.model)]
    main = main[main.world.isin(whole)]
    of_reference = frame[(frame.part == "reference") & frame.world.isin(whole)]
    lines = ["# Results", "", f"Written by `{STUDY.command}`.", ""]
    lines += [f"## {len(whole)} fresh worlds, {SESSIONS:,} sessions of mixed traffic", ""]
    if whole:
        lines += [*by_pick(pd.concat([main, of_reference])), "", "## Against the default", "", *against(main), ""]
    lines += ["## Amount of traffic", "", *growth(frame), "", "## Settings", "", *settings(frame), ""]
    STUDY.write_table("results.md", lines)
    if whole:
        draw(main)
    STUDY.write_provenance()


def by_pick(main: pd.DataFrame) -> list[str]:
    """Mean time per session under each picking, and what was heard under uniform picking."""
    means = main.pivot_table(index="model", columns="pick", values="time")
    order = means["uniform"].sort_values(ascending=False).index
    uniform = main[main["pick"] == "uniform"].groupby("model")
    shares, seconds = uniform[["coverage", "hits", "same_artist"]].mean(), uniform.train_s.mean()
    parts = means.loc[order, list(PICKS)], shares.loc[order], seconds[order]
    rows = [
        [str(model), *(f"{time:.2f}" for time in times), *(f"{share:.3f}" for share in heard), f"{train_s:.0f}"]
        for model, times, heard, train_s in zip(order, *(part.to_numpy() for part in parts), strict=True)
    ]
    head = ["recommender", *PICKS, "coverage", "share of hits", "same artist", "training, s"]
    return table(head, rows, "lrrrrrrrr")


def against(main: pd.DataFrame) -> list[str]:
    """Default over each rival in percent, a value for each world: the same picking, and each with its best picking."""
    rows: list[list[str]] = []
    time = main.set_index(["model", "pick", "world"]).time.sort_index()
    best = main.groupby(["model", "pick"]).time.mean().groupby("model").idxmax().map(lambda pair: pair[1])
    for model in TRIALS:
        if model == DEFAULT:
            continue
        cells = [model]
        for own, other in (("uniform", "uniform"), (best[DEFAULT], best[model])):
            gains = 100 * (time[DEFAULT, own] / time[model, other] - 1).to_numpy()
            interval = MeanInterval.of(gains, LEVEL)
            cells += [f"{value:+.1f}" for value in (interval.mean, interval.lower, interval.upper)]
        rows.append([*cells[:4], best[model], *cells[4:]])
    rows.sort(key=lambda cells: float(cells[1]))
    head = ["rival", "uniform, %", "lower", "upper", "best picking of the rival", "best pickings, %", "lower", "upper"]
    note = f"Best picking of the default: {best[DEFAULT]}. Intervals: Student's, a value for each world."
    return [*table(head, rows, "lrrrlrrr"), "", note]


def growth(frame: pd.DataFrame) -> list[str]:
    """Mean time per session for each amount of traffic, uniform picking, in one world."""
    one = frame[(frame.world == FRESH[0]) & (frame["pick"] == "uniform") & frame.part.isin(["fresh", "traffic"])]
    times = one[one.model.isin(GROWTH)].pivot_table(index="model", columns="sessions", values="time")
    rows = [
        [str(model), *("–" if np.isnan(value) else f"{value:.2f}" for value in line)]
        for model, line in zip(times.index, times.to_numpy(), strict=True)
    ]
    return table(
        ["recommender", *(f"{size:,}" for size in times.columns.astype(int).tolist())],
        rows,
        "l" + "r" * len(times.columns),
    )


def settings(frame: pd.DataFrame) -> list[str]:
    """The trials in the tuned world; the first of equal ones is chosen."""
    found = frame[frame.part == "tune"].set_index("model").time
    best, rows = chosen(), list[list[str]]()
    for model, trials in TRIALS.items():
        for number, words in enumerate(trials):
            if (name := f"{model} #{number}") in found:
                mark = "yes" if (*BASE[model], *words) == best[model] else ""
                rows.append([model, f"`{' '.join(words)}`" if words else "defaults", f"{found[name]:.2f}", mark])
    return table(["recommender", "setting", "time of listeners kept for validation", "chosen"], rows, "llrl")


def draw(main: pd.DataFrame) -> None:
    """A row for each recommender: its mean over the worlds under each picking, and each world under uniform picking."""
    from matplotlib.figure import Figure

    means = main.pivot_table(index="model", columns="pick", values="time")
    order = means["uniform"].sort_values().index
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots()
    for pick, marker in zip(PICKS, "osD^", strict=True):
        axes.plot(means.loc[order, pick], order, marker, label=pick, markersize=6)
    uniform = main[main["pick"] == "uniform"]
    axes.plot(uniform.time, uniform.model, "|", color="grey", label="uniform, each world")
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in OURS else "normal")
    axes.set(xlabel="mean time per session, in tracks", title=f"{main.world.nunique()} fresh worlds")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right")
    STUDY.write_figure("results.png", figure)


PARTS = {"tune": tuning, "fresh": fresh, "traffic": traffic, "reference": reference}

if __name__ == "__main__":
    STUDY.run(lambda: main_of(STUDY, parts=PARTS, path=RESULTS, report=report, run=run))
