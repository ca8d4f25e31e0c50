"""Is a model that learns a little each night as good as one that is trained from the beginning each day?

    python experiments/nightly/study.py           the missing nights, then results.md
    python experiments/nightly/study.py --most 2  at most two of them

Each source has a beginning and eleven days. After each of the first ten, three models are made: `nightly` goes on from
the model of the night before (`train.py from=`), `beginning` is trained from the beginning on all plays so far, and
`never` stays the model of the beginning. All three rank the plays of the next day. In the simulated world they are the
arms of the service, whose logs are the next day, and they are played to the sessions of the same listening test. A line
of results.csv is one model in one night.
"""

import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.closed_loop.study import unseen
from experiments.nightly.days import NUM_DAYS, drifting, lines_of, simulated_day, write_day
from experiments.playing import LEVEL, the_test, the_world
from experiments.studying import SMALLEST, Study, append_rows, available, read_rows, run_python, sized
from segue.histories import Histories
from segue.models.fitted import FittedModel
from segue.reports.numbers import interval
from segue.simulation.experiment import run_experiment
from segue.simulation.policies import Lists, Policy, Popular, Random, StickyArtist
from segue.statistics.intervals import MeanInterval
from segue.statistics.ranking import LIKED

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "results.csv"
NIGHTS = NUM_DAYS - 1
FIRST = sized(2, 1)
"""The first night of the means; the model of the beginning is a day old then."""
METHODS = ("nightly", "beginning", "never")
WORLD, SESSIONS, FIRST_SESSIONS = 11, sized(4_000, 200), sized(20_000, 400)
"""Seed of the simulated world, sessions of a day, and of the beginning."""
SOURCES: dict[str, tuple[str, ...]] = {
    "simulated": ("model=convex", "datamodule=botify"),
    "drifting": ("model=convex", "datamodule=table", "recipe=playlists", "context=session", "counted=none"),
    "yes": ("model=convex", "datamodule=table", "recipe=radio", "context=session", "counted=none"),
    "nowplaying": ("model=convex", "datamodule=table", "recipe=playlists", "context=session", "counted=none"),
}
"""Words of `train.py` for the model of the beginning."""
QUICK = (
    "logger=none", "callbacks.plots=null", "callbacks.listening=null", "callbacks.off_policy=null",
    "callbacks.ranking.max_val_queries=2000", "callbacks.ranking.max_test_queries=2000", "seed=1",
)  # fmt: skip
MOST_QUERIES = sized(5_000, 200)
"""Queries of a day."""


class Place(NamedTuple):
    """A night of a source; night 0 is the beginning."""

    source: str
    night: int

    @property
    def folder(self) -> Path:
        """What all nights of the source share."""
        return STUDY.work / self.source

    def run(self, method: str) -> Path:
        """The run folder of a model; that of the beginning is shared."""
        night = 0 if method == "never" else self.night
        return self.folder / (f"{method}-{night}" if night else "first")


def main() -> None:
    """Run the nights that are missing, then write the table."""
    parser = STUDY.parser()
    parser.add_argument("--most", type=int, default=99, help="at most so many nights now")
    parser.add_argument("--only", choices=SOURCES, help="nights of this source alone")
    given, rows = STUDY.parse(parser), read_rows(RESULTS)
    done = {(row["source"], int(row["night"]), row["method"]) for row in rows}
    present = ["simulated", *sized(["drifting"], []), *available("yes")]
    present += sized(["nowplaying"] * len(available("nowplaying_sessions")), [])
    sources = [name for name in present if given.only in (None, name)]
    todo = {
        Place(source, night): missing
        for source in sources
        for night in range(1, NIGHTS + 1)
        if (missing := [method for method in METHODS if (source, night, method) not in done])
    }
    for place, missing in list(todo.items())[: given.most]:
        append_rows(RESULTS, list(lines(place, missing)))
    STUDY.write_table("results.md", list(table()))


def lines(place: Place, missing: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Make the models of a night that are missing, and a line for each."""
    train(Place(place.source, 0), "beginning")
    spent = {method: (0.0, 0.0) if method == "never" else train(place, method) for method in missing}
    following = day(place.source, place.night + 1)
    for method in missing:
        run = place.run(method)
        ndcg = MeanInterval.of_clusters(*gains(run, following, pairing_first=place.source == "simulated"), LEVEL)
        heard = listened(run) if place.source == "simulated" else None
        night = json.loads((run / "night.json").read_text()) if (run / "night.json").exists() else {}
        numbers = ndcg.mean, ndcg.lower, ndcg.upper, *((heard.mean, heard.lower, heard.upper) if heard else ())
        names = ("ndcg_at_10", "ndcg_lower", "ndcg_upper", "time", "time_lower", "time_upper")
        yield {
            **place._asdict(),
            "method": method,
            **dict.fromkeys(names, ""),
            **{name: f"{number:.6f}" for name, number in zip(names, numbers, strict=False)},
            "queries": ndcg.num,
            "seconds": f"{spent[method][0]:.1f}",
            "cpu_s": f"{spent[method][1]:.1f}",
            "verdict": night.get("verdict", ""),
            "commit": STUDY.commit(),
        }


def train(place: Place, method: str) -> tuple[float, float]:
    """Train a model unless its run exists.

    Returns:
        Seconds, and seconds of the processor, of the command; they are kept beside the run.
    """
    run, kept = place.run(method), place.run(method).with_suffix(".seconds.json")
    if kept.exists():
        spent: tuple[float, float] = tuple(json.loads(kept.read_text()))
        return spent
    path = plays_until(place)
    shutil.rmtree(run, ignore_errors=True)  # of a stop
    if method == "nightly" and place.night:
        before = Place(place.source, place.night - 1)
        train(before, method)
        words: tuple[str, ...] = (f"from={before.run(method)}", "guard=none")
    else:
        words = *SOURCES[place.source], *QUICK, *sized((), SMALLEST[:3])
    started, before_s = time.perf_counter(), cpu_s()
    run_python(["train.py", *words, f"datamodule.path={path}", f"hydra.run.dir={run}"], threads=1)
    spent = time.perf_counter() - started, cpu_s() - before_s
    kept.write_text(json.dumps(spent))
    return spent


def cpu_s() -> float:
    """Of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def plays_until(place: Place) -> Path:
    """The folder with the plays until a day, that day included."""
    if place.source == "simulated":
        return simulated(place.night)
    folder = place.folder / f"plays-{place.night}"
    for number in range(place.night + 1):
        if not (folder / f"day-{number:02}.csv").exists():
            write_day(folder, number, day(place.source, number))
    return folder


def day(source: str, number: int) -> pd.DataFrame:
    """The plays of a day."""
    if source == "simulated":
        return simulated_day(simulated(number) / "logs" / f"day-{number + 1}" / "data.json")
    return generated(source)[number]


@cache
def generated(source: str) -> list[pd.DataFrame]:
    """The days of a source that is no loop."""
    return drifting(1) if source == "drifting" else lines_of(source)


def simulated(number: int) -> Path:
    """Simulate the service until a day; its folder has the logs of all days."""
    folder = Place("simulated", number).folder / f"plays-{number}"
    if (folder / "simulation.json").exists():
        return folder
    world = the_world(WORLD)
    policies: list[Policy] = [
        Random(world=world),
        Random(world=world),
        StickyArtist(world=world),
        Popular(num_tracks=100, world=world),
    ]
    if number:
        place = Place("simulated", number - 1)
        for method in METHODS:
            train(place, method)
        runs = (str(place.run(method) / "recommendations.jsonl") for method in METHODS)
        policies = [Lists(path=path, pick="uniform", artist_gap=0, world=world) for path in runs]
    arms = dict(zip(("C", "T1", "T2", "T3"), policies, strict=False))
    run_experiment(
        world=world, policies=arms, experiment="NIGHTS" if number else "MIXED",
        sessions=SESSIONS if number else FIRST_SESSIONS, days=1, workers=1, seed=1, first_day="2026-01-05",
        track_seconds=210.0, folder=folder, write_logs=True, with_propensity=False,
        after=simulated(number - 1) if number else None, provenance={}, progress=unseen,
    )  # fmt: skip
    return folder


def listened(run: Path) -> MeanInterval:
    """Time per session of a run in the listening test."""
    lists = Lists(path=str(run / "recommendations.jsonl"), pick="uniform", artist_gap=0, world=the_world(WORLD))
    return the_test(WORLD).play(lists.choose, "test").interval


@torch.inference_mode()
def gains(run: Path, plays: pd.DataFrame, *, pairing_first: bool) -> tuple[np.ndarray, np.ndarray]:
    """NDCG@10 of the queries of a day.

    Args:
        run: the run folder.
        plays: of the day.
        pairing_first: whether a query is the first track of a session; otherwise it is all tracks before.

    Returns:
        The gain of each query, and its session. A target that the model does not know has gain 0, and so has a query of
        which it knows no track.
    """
    model = FittedModel.read(run, "convex")
    ids = pd.Index(model.catalog.track_ids.astype(str))
    rows, session = ids.get_indexer(plays.track.astype(str)), plays.session.to_numpy()
    place = np.arange(len(plays)) - np.searchsorted(session, session)  # sessions ascend
    repeated = np.append(False, (plays.track.to_numpy()[1:] == plays.track.to_numpy()[:-1]))
    asked = np.flatnonzero((place > 0) & (plays.share.to_numpy() >= LIKED) & ~repeated)
    asked = asked[:: max(1, len(asked) // MOST_QUERIES)][:MOST_QUERIES]
    known = np.flatnonzero(rows >= 0)  # of which histories are made
    number_of = np.cumsum(rows >= 0) - 1  # of the newest known play until each
    first_known = np.searchsorted(known, asked - place[asked])
    newest = number_of[asked - 1]
    length = np.full(len(asked), 1) if pairing_first else newest - first_known + 1
    last = first_known if pairing_first else newest
    usable = (newest >= first_known) & (rows[asked] >= 0)
    tracks = rows[known]
    share = plays.share.to_numpy(np.float32)[known] if pairing_first else np.full(len(known), np.nan, np.float32)
    histories = Histories(
        tracks=tracks, played_ratio=share, last=last[usable], length=length[usable], previous=tracks[last[usable]]
    )
    found, _ = model.ranker.top(histories, 10)
    hit = found == rows[asked[usable]][:, None]
    gain = np.zeros(len(asked))
    gain[usable] = (hit / np.log2(np.arange(2, 12))).sum(1)
    return gain, session[asked]


def table() -> Iterator[str]:
    """Means over the nights from the second one on; a difference is paired by night."""
    frame = pd.read_csv(RESULTS)
    frame = frame.groupby(["source", "night"], sort=False).filter(lambda lines: len(lines) == len(METHODS))
    yield "# Results"
    yield ""
    for measure in ("ndcg_at_10", "time"):
        own = frame[frame.night >= FIRST].dropna(subset=measure)
        if own.empty:
            continue
        yield f"## {measure.replace('_', ' ')}"
        yield ""
        others = "".join(f" nightly less {other}, % | 95 % |" for other in METHODS[1:])
        yield f"| source | nights | {' | '.join(METHODS)} |{others} nights above never |"
        yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
        for source, nights in own.groupby("source", sort=False):
            later = nights.pivot_table(index="night", columns="method", values=measure)
            cells = [str(source), str(len(later)), *(f"{later[method].mean():.4f}" for method in METHODS)]
            for other in METHODS[1:]:
                change = MeanInterval.of((100 * (later.nightly / later[other] - 1)).to_numpy(), LEVEL)
                cells += [f"{change.mean:+.2f}", interval(change.lower, change.upper, "+.2f")]
            yield f"| {' | '.join([*cells, str(int((later.nightly > later.never).sum()))])} |"
        yield ""
    yield "## Time of a night"
    yield ""
    yield "| source | nightly, s | beginning, s | nightly, s of CPU | beginning, s of CPU | share of the CPU time, % |"
    yield "|---|--:|--:|--:|--:|--:|"
    for source, nights in frame.groupby("source", sort=False):
        mean = nights.groupby("method")[["seconds", "cpu_s"]].mean()
        nightly, beginning = (mean.loc[method].to_dict() for method in METHODS[:2])
        spent = [one[name] for name in ("seconds", "cpu_s") for one in (nightly, beginning)]
        spent.append(100 * nightly["cpu_s"] / beginning["cpu_s"])
        yield f"| {source} | {' | '.join(f'{number:.1f}' for number in spent)} |"
    yield ""
    yield f"Printed by `{STUDY.command}`. Means over the nights {FIRST} to {NIGHTS}, times over all nights. "
    yield "Intervals: Student's, a value for each night."


if __name__ == "__main__":
    STUDY.run(main)
