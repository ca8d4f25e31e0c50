"""What does the session bring in fresh worlds, over the last track with the same model and its best picking?

    python experiments/online/sessions.py                  the missing pieces, then sessions.md and sessions.png
    python experiments/online/sessions.py --minutes 30     starts no piece after half an hour; the next call continues
    python experiments/online/sessions.py --only report    only sessions.md and sessions.png

Each head is trained with context=last, and its lists are played in two ways: the list of the last track, and the best
of the lists for a session query, although the model was trained without sessions. The default is trained on the same
logs with context=session too. Settings were chosen in the world of TUNED, by the
listeners kept for validation. One line of sessions.csv is one way in one world.
"""

import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.playing import LEVEL, Piece, folder_of, main_of, the_test, the_world, train, world_words
from experiments.studying import Study, sized
from segue.reports.markdown import table
from segue.runs.session_vectors import FILE, SessionVectors
from segue.simulation.listening import Heard
from segue.simulation.policies import Lists
from segue.statistics.intervals import MeanInterval

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "sessions.csv"
TUNED, FRESH, SESSIONS = 0, sized((21, 22, 23, 24, 25), (21,)), sized(50_000, 500)
"""Seed of the world in which settings are chosen, of those that are reported, and sessions of their logs."""
PICKS: Mapping[str, tuple[str, int]] = {
    "uniform": ("uniform", 0),
    "weighted": ("weighted", 0),
    "ranked": ("ranked", 0),
    "ranked, gap 10": ("ranked", 10),
    "ranked, gap 100": ("ranked", 100),
}
"""How a track is chosen: the rule, and `artist_gap`."""
SHORT = ("ranked", "ranked, gap 10", "ranked, gap 100")
"""Those of a session query, which never repeat a track; the list of the last track is played under all."""
_HEADS: Mapping[str, tuple[str, ...]] = {
    "convex (default)": (),
    "convex α = 0.9": ("model.alpha=0.9",),
    "mean": ("model=mean",),
    "artist": ("model=artist", "model.track_dropout=0"),
    "track": ("model=track", "model.track_dropout=0"),
    "contextual, softmax": ("model=contextual", "loss=softmax", "model.item_bias=true"),
}
DEFAULT = "convex (default)"
HEADS = {name: _HEADS[name] for name in sized(tuple(_HEADS), (DEFAULT, "artist"))}
_LEARNED = tuple(f"context.{name}" for name in ("trains_on=session", "decay=learned", "skipped=learned"))
_FIXED = ("context.trains_on=session",)
_TRIALS: Mapping[str, tuple[str, ...]] = {
    "learned": (*_LEARNED, "model.shrinkage=0"),
    "learned, shrinkage": _LEARNED,
    "fixed": (*_FIXED, "model.shrinkage=0"),
    "fixed, shrinkage": _FIXED,
    "fixed, shrinkage, skipped -1": (*_FIXED, "context.skipped=-1"),
    "fixed, shrinkage, decay .7": (*_FIXED, "context.decay=0.7"),
}
TRIALS = {name: _TRIALS[name] for name in sized(tuple(_TRIALS), ("learned",))}
"""Settings with which the default head is trained with the session; `fixed` are the numbers of the recipe `shares`."""
MORE = ((0.5, 1.0, -1.0, 100), (0.5, 1.0, -0.6, 20), (0.3, 0.3, -0.6, 20))
"""Session queries beside the grid, as in `Query`."""
LAST, QUERY, SESSION = "last", "last, session query", "session"
"""The contexts of the table: `QUERY` is the session query of a model that was trained with `context=last`."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """The numbers of a session query.

    Args:
        decay: factor for each track further back, in the part of the tracks.
        others: the same for all other parts.
        skipped: weight of a track of which nothing was played.
        max_length: number of newest tracks that count.
    """

    decay: float
    others: float
    skipped: float
    max_length: int


NUMBERS = tuple(field.name for field in fields(Query))
CHOSEN = Query(decay=0.5, others=1.0, skipped=-0.6, max_length=100)
"""Those of the recipe `shares`. The default is level with a decay of 0, with which heads of tracks have no session."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to play a trained model.

    Args:
        context: LAST, QUERY or SESSION.
        pick: name in PICKS.
        num_lists: number of last tracks whose lists are searched.
        query: the session query, of QUERY.
    """

    context: str
    pick: str
    num_lists: int = 4
    query: Query | None = None


def ways_of(context: str, picks: Iterable[str], **more: Any) -> list[Way]:
    """A way for each picking."""
    return [Way(context=context, pick=pick, **more) for pick in picks]


def grid() -> list[Way]:
    """The ways of a model that was trained with `context=last`: its lists, and session queries."""
    numbers = sized((*itertools.product((0.0, 0.5, 0.9), (0.7, 1.0), (1.0, 0.0, -0.6), (100,)), *MORE), MORE[:1])
    queries = (
        Query(decay=decay, others=others, skipped=skipped, max_length=max_length)
        for decay, others, skipped, max_length in numbers
    )
    return [*ways_of(LAST, PICKS), *(Way(context=QUERY, pick="ranked, gap 100", query=query) for query in queries)]


def of_heads() -> list[Way]:
    """The ways in which the decay of tracks is chosen with all heads."""
    queries = (replace(CHOSEN, decay=decay) for decay in (0.0, 0.5, 0.9))
    ways = (Way(context=QUERY, pick="ranked, gap 100", query=query) for query in queries)
    return [*ways_of(LAST, ("ranked, gap 10", "ranked, gap 100")), *ways]


def lists_of(way: Way, folder: Path, world: int) -> Lists:
    """The policy of a way."""
    path, (rule, gap) = str(folder / "recommendations.jsonl"), PICKS[way.pick]
    given: dict[str, Any] = {"path": path, "pick": rule, "artist_gap": gap, "world": the_world(world)}
    how = {"context": "last"} if way.context == LAST else {"context": "session", "num_lists": way.num_lists}
    return Lists.of(**given, **how)


def with_query(way: Way, folder: Path, world: int) -> Path:
    """A folder with the lists of a run and the vectors of a session query of fixed numbers."""
    made = folder / "query"
    made.mkdir(exist_ok=True)
    catalog = the_world(world).catalog
    vectors = SessionVectors.read(folder / FILE, catalog)
    query = way.query
    assert query is not None
    decays = np.array([query.decay if part == "track" else query.others for part in vectors.parts], np.float32)
    ages = decays[:, None] ** np.arange(query.max_length, dtype=np.float32)
    numbers: dict[str, Any] = {"age_weights": ages, "skipped": query.skipped}
    changed = replace(vectors, context="session", **numbers)
    changed.write(made / FILE, catalog)
    if not (made / "recommendations.jsonl").exists():
        os.link(folder / "recommendations.jsonl", made / "recommendations.jsonl")
    return made


def play(way: Way, folder: Path, piece: Piece) -> Heard:
    """What the listeners of a world hear."""
    run = folder / ("session" if way.context == SESSION else "last")
    if way.context == QUERY:
        run = with_query(way, run, piece.world)
    return the_test(piece.world).play(lists_of(way, run, piece.world).choose, piece.listeners)


def run_piece(study: Study, piece: Piece) -> list[dict[str, Any]]:
    """Train a head with each context that is played, and play it; gains are over the first of the ways.

    The settings of TRIALS are those of `context=session` alone.

    Returns:
        A line for each way.
    """
    ways = next(its for one, its in (tuning() if piece.part == "tune" else fresh()) if one == piece)
    folder, seconds = folder_of(study, piece), dict[str, float]()
    for context in sorted({way.context.split(",")[0] for way in ways}):
        words = piece.words if context == SESSION else HEADS.get(piece.model, HEADS[DEFAULT])
        data = ("datamodule=simulated", f"datamodule.prepare.sessions={piece.sessions}", *world_words(piece.world))
        seconds[context] = train((*data, f"context={context}", *words, f"seed={piece.seed}"), folder / context)
    heard, lines = [play(way, folder, piece) for way in ways], list[dict[str, Any]]()
    for way, one in zip(ways, heard, strict=True):
        interval = MeanInterval.of(one.time, LEVEL)
        gain = MeanInterval.of(one.time - heard[0].time, LEVEL)  # the same listeners in the same order
        numbers = (interval.mean, interval.lower, interval.upper, gain.mean, gain.lower, gain.upper)
        shares = (one.coverage, one.share_of_hits, one.share_of_same_artist)
        query = vars(way.query).values() if way.query else [""] * len(NUMBERS)
        of_way = (way.context, way.pick, way.num_lists, *query)
        values = [*piece.key, *of_way, *(f"{number:.6g}" for number in (*numbers, *shares))]
        more = [one.fallbacks, f"{seconds[way.context.split(',')[0]]:.0f}", study.commit()]
        lines.append(dict(zip(COLUMNS, [*values, *more], strict=True)))
    shutil.rmtree(folder)
    return lines


COLUMNS = (
    "part", "model", "world", "sessions", "seed", "context", "pick", "num_lists", "decay", "others", "skipped",
    "max_length", "time", "lower", "upper", "gain", "gain_lower", "gain_upper", "coverage", "hits", "same_artist",
    "fallbacks", "train_s", "commit",
)  # fmt: skip


def piece(part: str, model: str, words: tuple[str, ...], world: int) -> Piece:
    """A head in a world."""
    return Piece(
        part=part, model=model, words=words, world=world, sessions=SESSIONS, seed=1, picks=(),
        listeners="val" if part == "tune" else "test",
    )  # fmt: skip


def best(lines: pd.DataFrame) -> dict[str, Any]:
    """The line with the longest time."""
    return {str(name): value for name, value in lines.sort_values("time").iloc[-1].items()}


def chosen() -> tuple[str, tuple[Way, ...]]:
    """Name of the best setting of `context=session`, and the ways that are reported: the first is the base of gains."""
    tuned = pd.read_csv(RESULTS)[lambda lines: lines.part == "tune"]
    last = best(tuned[(tuned.context == LAST) & (tuned.model == "last")])
    session = best(tuned[tuned.model.str.startswith("session")])
    base = Way(context=LAST, pick=str(last["pick"]))
    others = [way for way in ways_of(LAST, PICKS) if way != base]
    ways = [base, *others, *ways_of(QUERY, SHORT, query=CHOSEN), *ways_of(SESSION, SHORT)]
    return str(session["model"]).removeprefix("session, "), tuple(ways)


def tuning() -> Iterator[tuple[Piece, tuple[Way, ...]]]:
    """The default head: session queries of the model trained without, and settings of the model trained with it."""
    yield piece("tune", "last", HEADS[DEFAULT], TUNED), tuple(grid())
    for head, words in HEADS.items():
        if head != DEFAULT:
            yield piece("tune", head, words, TUNED), tuple(of_heads())
    for name, words in TRIALS.items():
        yield piece("tune", f"session, {name}", (*HEADS[DEFAULT], *words), TUNED), tuple(ways_of(SESSION, SHORT))


def fresh() -> Iterator[tuple[Piece, tuple[Way, ...]]]:
    """All heads, the default first, in each fresh world; only the default is trained with the session too."""
    setting, ways = chosen()
    of_others = tuple(way for way in ways if way.context != SESSION)
    for model, words in HEADS.items():
        for world in FRESH:
            own = ways if model == DEFAULT else of_others
            yield piece("fresh", model, (*words, *TRIALS[setting]), world), own


def report() -> None:
    """Write sessions.md, and sessions.png if a fresh world is there."""
    lines = pd.read_csv(RESULTS)
    main = lines[lines.part == "fresh"]
    text = ["# The session in fresh worlds", "", f"Written by `{STUDY.command}`.", ""]
    for model, own in main.groupby("model", sort=False):
        text += [f"## {model}, {own.world.nunique()} fresh worlds, {SESSIONS:,} sessions of mixed traffic", ""]
        text += [*by_way(own), ""]
    if main.empty:
        text += ["No fresh world has been read yet.", ""]
    text += ["## The default over the others", "", *over(main), ""]
    text += ["## Settings, in the world of seed 0, listeners kept for validation", "", *settings(lines), ""]
    STUDY.write_table("sessions.md", text)
    if not main.empty:
        draw(main[main.model == DEFAULT])
    STUDY.write_provenance("sessions_provenance.json")


def by_way(own: pd.DataFrame) -> list[str]:
    """Mean time of each way, and its gain over `context=last` with the picking that is best for it in these worlds.

    A gain is a mean over worlds of the relative difference; its interval is Student's, a value for each world.
    """
    time = own.pivot_table(index=["context", "pick"], columns="world", values="time").dropna()  # ways of all worlds
    means = time.mean(axis="columns")
    base = str(means[LAST].idxmax())
    rows, of_base = list[list[str]](), time.to_numpy()[list(time.index.to_flat_index()).index((LAST, base))]
    for way, times in zip(time.index.to_flat_index(), time.to_numpy(), strict=True):
        gain = MeanInterval.of(100 * (times / of_base - 1), LEVEL)
        numbers = [f"{value:+.1f}" for value in (gain.mean, gain.lower, gain.upper)]
        rows.append([*map(str, way), f"{times.mean():.2f}", *numbers])
    rows.sort(key=lambda cells: -float(cells[2]))
    head = ["context", "pick", "time per session", "over the best picking of last, %", "lower", "upper"]
    return table(head, rows, "llrrrr")


def over(main: pd.DataFrame) -> list[str]:
    """Gain of the default over each other model: the list of the last track, uniform picking, Student's intervals."""
    some = main[(main.context == LAST) & (main["pick"] == "uniform")]
    time = some.pivot_table(index="world", columns="model", values="time", sort=False)
    rows = []
    for model in time.columns.drop(DEFAULT):
        gain = MeanInterval.of(100 * (time[DEFAULT] / time[model] - 1).to_numpy(), LEVEL)
        numbers = [f"{value:+.1f}" for value in (gain.mean, gain.lower, gain.upper)]
        rows.append([str(model), f"{time[model].mean():.2f}", *numbers])
    return table(["model", "time per session", "default over it, %", "lower", "upper"], rows, "lrrrr")


def settings(lines: pd.DataFrame) -> list[str]:
    """What was tried; gains are over the list of the last track, uniform, for the model trained without sessions."""
    tuned = lines[lines.part == "tune"]
    names, numbers = tuned[["model", "context", "pick"]], tuned[[*NUMBERS]]
    times = tuned[["time", "lower", "upper"]]
    rows = [
        [
            *map(str, of),
            *("" if np.isnan(value) else f"{value:g}" for value in given),
            *(f"{value:.2f}" for value in found),
        ]
        for of, given, found in zip(names.to_numpy(), numbers.to_numpy(), times.to_numpy(), strict=True)
    ]
    return table(["model", "context", "pick", *NUMBERS, "time", "lower", "upper"], rows, "lllrrrrrrr")


def draw(main: pd.DataFrame) -> None:
    """A row for each way: its mean over the worlds, and each world."""
    from matplotlib.figure import Figure

    named = main.assign(way=main.context + ": " + main["pick"])
    means = named.groupby("way").time.mean().sort_values()
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(means, means.index, "o")
    axes.plot(named.time, named.way, "|", color="grey", label="each world")
    axes.set(xlabel="mean time per session, in tracks", title=f"{DEFAULT}, {main.world.nunique()} fresh worlds")
    axes.grid(axis="x", alpha=0.3)
    STUDY.write_figure("sessions.png", figure)


def pieces_of(of_part: Callable[[], Iterator[tuple[Piece, tuple[Way, ...]]]]) -> Callable[[], list[Piece]]:
    """The pieces of a part, without their ways."""
    return lambda: [one for one, _ in of_part()]


PARTS = {"tune": pieces_of(tuning), "fresh": pieces_of(fresh)}

if __name__ == "__main__":
    STUDY.run(lambda: main_of(STUDY, parts=PARTS, path=RESULTS, report=report, run=run_piece))
