"""Do estimates from the log of other recommenders tell how good a recommender is?

    python experiments/off_policy/study.py                  the missing parts, then results.md and results.png
    python experiments/off_policy/study.py --only report    only results.md and results.png
    python experiments/off_policy/study.py --only fair      the missing parts in the other world, then both files

Twelve models are trained on the default simulated logs. They, `convex` with two other picks, and three recommenders
without lists are estimated from many fresh logs of mixed traffic (half random, a quarter sticky_artist, a quarter
popular), and from logs of a service that has lists (convex, track and mean, a third each). They are also played to the
same listeners, which gives the truth. The rule of conf/estimate was chosen on these logs. Therefore the same models are
trained, played and estimated once more in a world with another seed, on which nothing was chosen (fair.csv). Cost: an
hour on two cores; a stopped study goes on where it was. Each estimate is a line of results.csv. Expected: 95 % of the
intervals of the first step hold the truth.
"""

import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.stats import kendalltau

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, append_rows, sized, train
from segue.errors import InputError
from segue.reports.markdown import table
from segue.reports.numbers import number
from segue.simulation.experiment import run_experiment
from segue.simulation.listener import WHOLE, listen, start
from segue.simulation.policies import Lists, Policy, Popular, Random, StickyArtist
from segue.simulation.world import World
from segue.terminal.progress import progress
from segue.verdicts.offpolicy.behaviours import Candidate, LogFolder
from segue.verdicts.offpolicy.decisions import read_decisions
from segue.verdicts.offpolicy.estimates import EstimateSettings, OffPolicyLog

STUDY = Study(__file__, __doc__)
RESULTS, SERVED, TRUTH = (STUDY.folder / name for name in ("results.csv", "served.csv", "truth.csv"))
"""Estimates from mixed traffic, and from logs of a service that has lists; the truth."""
FAIR, FAIR_TRUTH, FAIR_SEED = STUDY.folder / "fair.csv", STUDY.folder / "fair_truth.csv", 7
"""Estimates from mixed traffic in another world, their truth, and the seed of that world."""
MODELS = sized(
    (
        "track", "artist", "mean", "convex", "contextual", "popular",
        "sticky", "rules", "neighbours", "item2vec", "als", "bpr",
    ),
    ("track", "mean", "convex"),
)  # fmt: skip
CANDIDATES = (
    *((model, "uniform") for model in MODELS),
    ("convex", "ranked"), ("convex", "weighted"), ("random", ""), ("most played", ""), ("same artist", ""),
)  # fmt: skip
SHOWN, TRUE_SESSIONS = sized((20_000, 400_000), (1_000, 1_000))
"""Sessions of the logs of which each candidate is shown, and of the truth."""
WORDS = {"random": "random", "most played": "popular", "same artist": "sticky_artist"}
"""The candidates without lists; two of them would have the names of models."""
LOGS = sized({2_000: 40, 20_000: 20, 100_000: 3}, {SHOWN: 1})
"""Number of logs of mixed traffic of each size, in sessions."""
SERVED_LOGS = {SHOWN: sized(5, 1)}
"""The same of a service that has lists."""
FAIR_LOGS = sized({2_000: 40, 20_000: 8}, {SHOWN: 1})
"""The same of mixed traffic in the other world."""
ESTIMATES = ("first_step_snips", "first_step_dr", "session_snips")
COLUMNS = ["sessions", "log", "model", "pick", "refused", "effective", "session_weight", *(
    f"{name}{end}" for name in ESTIMATES for end in ("", "_lower", "_upper")
)]  # fmt: skip
SETTINGS = EstimateSettings(clip=100.0, min_effective_sample_size=2.0, max_without_support=1.0, min_session_weight=0.0)
"""Nothing is refused that can be computed, except candidates without support in a service that has lists."""
RULE = EstimateSettings(clip=100.0, min_effective_sample_size=10.0, max_without_support=0.01, min_session_weight=0.9)
"""The defaults of conf/estimate; the report says what they refuse."""


@cache
def world_of(models: Path) -> World:
    """The world that the models learned from."""
    world: World = instantiate(OmegaConf.load(models / "0" / "config.yaml").world, _convert_="all")
    return world


def lists_of(models: Path, model: str) -> Path:
    """The recommendations of a model."""
    return models / str(MODELS.index(model)) / "recommendations.jsonl"


def train_missing(models: Path, *overrides: str) -> None:
    """Train the models that are missing."""
    if not all(lists_of(models, model).exists() for model in MODELS):
        words = [f"model={','.join(MODELS)}", "datamodule=simulated", "logger=none", "callbacks.plots=null"]
        words += [f"datamodule.path={models / 'logs'}", f"hydra.sweep.dir={models}", *overrides]
        train("-m", *words, *sized((), ("datamodule.prepare.sessions=500",)))


def policy_of(models: Path, model: str, pick: str) -> Policy:
    """The recommender in the simulator."""
    world = world_of(models)
    if pick:
        return Lists(path=str(lists_of(models, model)), pick=pick, artist_gap=0, world=world)
    return {
        "random": Random(world=world),
        "most played": Popular(num_tracks=100, world=world),
        "same artist": StickyArtist(world=world),
    }[model]


def simulate(
    world: World, policies: dict[str, Policy], folder: Path, sessions: int, log: int, *, write_logs: bool
) -> dict[str, Any]:
    """Play recommenders. The name of the experiment assigns the listeners to arms anew in each log."""
    return run_experiment(
        world=world, policies=policies, experiment=f"LOG{log}", sessions=sessions, days=1, workers=1,
        seed=1000 + log, first_day="2026-01-05", track_seconds=210.0, folder=folder, write_logs=write_logs,
        with_propensity=True, after=None, provenance={}, progress=lambda _: nullcontext(lambda *_: None),
    )  # fmt: skip


def truth(models: Path) -> pd.DataFrame:
    """What each candidate does to TRUE_SESSIONS sessions."""
    rows, num, world = [], TRUE_SESSIONS, world_of(models)
    for model, pick in CANDIDATES:
        policy, rng = policy_of(models, model, pick), np.random.default_rng(7)
        users = rng.integers(len(world.listeners), size=num)
        crowd = start(world, users, rng.random(num), rng.random(num))
        policy.begin(crowd, rng)
        shares = listen(world, crowd, policy.recommend(crowd).tracks, rng.random(num)).shares[-1]
        with tempfile.TemporaryDirectory() as folder:
            record = simulate(world, {"C": policy}, Path(folder), num, 999, write_logs=False)
        metrics = json.loads((lists_of(models, model).with_name("metrics.json")).read_text()) if pick else {}
        rows.append(
            {
                "model": model,
                "pick": pick,
                "first_step": float(shares.mean() / WHOLE),
                "session": record["arms"]["C"]["mean_time_per_session"],
                "recall_at_10": metrics.get("test/recall_at_10"),
                "ndcg_at_10": metrics.get("test/ndcg_at_10"),
            }
        )
    return pd.DataFrame(rows)


def arms_of(models: Path, *, served: bool) -> dict[str, Policy]:
    """What is recommended in a log."""
    names = [("convex", "uniform"), ("track", "uniform"), ("mean", "uniform")]
    if not served:
        names = [("random", ""), ("random", ""), ("same artist", ""), ("most played", "")]
    arms = ["C", *(f"T{number}" for number in range(1, len(names)))]
    return {arm: policy_of(models, *name) for arm, name in zip(arms, names, strict=True)}


def estimate(models: Path, sessions: int, log: int, served: bool) -> list[dict[str, Any]]:
    """The estimates of all candidates from one log."""
    rows, arms = list[dict[str, Any]](), arms_of(models, served=served)
    with tempfile.TemporaryDirectory() as name:
        simulate(world_of(models), arms, Path(name), sessions, log, write_logs=True)
        folder = LogFolder.open(Path(name) / "logs")
        known = OffPolicyLog(
            read_decisions(folder.logs, folder.catalog, max_rejected=0.0, session_gap_minutes=30), folder
        )
    for model, pick in CANDIDATES:
        row: dict[str, Any] = {"sessions": sessions, "log": log, "model": model, "pick": pick, "refused": ""}
        file = lists_of(models, model) if pick else None
        candidate = folder.candidate(Candidate(name=WORDS.get(model, model), pick=pick or "uniform", file=file))
        try:
            found = known.estimate(candidate, replace(SETTINGS, max_without_support=0.01) if served else SETTINGS)
        except InputError as error:
            row["refused"] = str(error)
        else:
            row["effective"] = found.first_step_snips.effective_sample_size
            row["session_weight"] = found.session_mean_weight
            row |= {name: found.metrics().get(f"offline/{name}") for name in COLUMNS[7:]}
        rows.append(row)
    return rows


def missing(path: Path, logs: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """The logs that a file has no estimates from."""
    done = set()
    if path.exists():
        frame = pd.read_csv(path)
        counts = frame.groupby(["sessions", "log"]).size()
        done = set(counts[counts == len(CANDIDATES)].index)
    for sessions, num in logs.items():
        yield from ((sessions, log) for log in range(num) if (sessions, log) not in done)


def run(models: Path, workers: int, path: Path, logs: Mapping[int, int]) -> None:
    """Estimate from the missing logs; the estimates of a log are appended together."""
    todo, served = list(missing(path, logs)), path == SERVED
    with ProcessPoolExecutor(workers) as pool, progress("logs", len(todo)) as advance:
        sizes, numbers = zip(*todo, strict=True) if todo else ((), ())
        for rows in pool.map(estimate, itertools.repeat(models), sizes, numbers, itertools.repeat(served)):
            append_rows(path, [{name: row.get(name, "") for name in COLUMNS} for row in rows])
            advance(1)


def agreement(frame: pd.DataFrame, of: str, to: str) -> tuple[float, float]:
    """Mean over logs of Kendall's τ with the truth, and of what is lost by choosing the best estimate."""
    taus, losses = [], []
    for _, one in frame.dropna(subset=[of]).groupby("log"):
        taus.append(kendalltau(one[of], one[to]).statistic)
        losses.append(one[to].max() - float(one[to].to_numpy()[one[of].to_numpy().argmax()]))
    return float(np.mean(taus)), float(np.mean(losses))


def coverage(frame: pd.DataFrame, name: str, to: str) -> list[str]:
    """Cells about the intervals of an estimate, for the candidates that have one."""
    given = frame.dropna(subset=[f"{name}_lower"])
    if not len(given):
        return ["0", "–", "–", "–", "–", "–", "–"]
    holds = (given[f"{name}_lower"] <= given[to]) & (given[to] <= given[f"{name}_upper"])
    width = (given[f"{name}_upper"] - given[f"{name}_lower"]) / 2
    tau, loss = agreement(given, name, to)
    bias = (given[name] - given[to]).mean()
    by_log = holds.groupby(given.log).mean().to_numpy()  # the estimates of one log are not independent
    error = by_log.std(ddof=1) / len(by_log) ** 0.5
    cells = [f"{len(given):,}", f"{holds.mean():.3f}", f"{error:.3f}", f"{width.median():.3f}", f"{bias:+.3f}"]
    return [*cells, number(tau, ".2f"), f"{loss:.3f}"]


def read(path: Path, true: pd.DataFrame) -> pd.DataFrame:
    """Estimates beside the truth."""
    frame = pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in COLUMNS[5:]})
    return frame.merge(true, on=["model", "pick"])


def read_truth(path: Path) -> pd.DataFrame:
    """The truth of each candidate."""
    return pd.read_csv(path, keep_default_na=False, na_values={"recall_at_10": [""], "ndcg_at_10": [""]})


def overview(frame: pd.DataFrame) -> list[str]:
    """A table of coverage and order, for each size of log."""
    rows: list[list[str]] = []
    for sessions, of_size in frame.groupby("sessions"):
        kept = of_size[of_size.effective >= RULE.min_effective_sample_size]
        reliable = kept[kept.session_weight >= RULE.min_session_weight]
        for label, some, name in (
            ("first step, SNIPS", kept, "first_step_snips"),
            ("first step, doubly robust", kept, "first_step_dr"),
            ("session, all", of_size, "session_snips"),
            ("session, not refused", reliable, "session_snips"),
        ):
            to = "first_step" if name.startswith("first") else "session"
            rows.append([f"{sessions:,}", label, *coverage(some, name, to)])
    head = ["sessions", "estimate", "intervals", "hold the truth", "standard error", "median half width", "mean error"]
    return table([*head, "mean τ", "loss"], rows, "rlrrrrrrr")


def of_candidates(frame: pd.DataFrame) -> list[str]:
    """A table with a line for each candidate."""
    rows: list[list[str]] = []
    for model, pick in CANDIDATES:
        one = frame[(frame.model == model) & (frame["pick"] == pick)]
        if one.effective.isna().all():
            shown = one.first_step.iloc[0], one.session.iloc[0]
            rows.append([f"{model} {pick}".strip(), "–", f"{shown[0]:.3f}", *["–"] * 4, f"{shown[1]:.2f}", *["–"] * 3])
            continue
        row = [f"{model} {pick}".strip(), number(one.effective.mean(), ".0f"), f"{one.first_step.iloc[0]:.3f}"]
        for name in ESTIMATES[:2]:
            holds = (one[f"{name}_lower"] <= one.first_step) & (one.first_step <= one[f"{name}_upper"])
            row += [number(one[name].mean(), ".3f"), f"{holds.mean():.2f}"]
        holds = (one.session_snips_lower <= one.session) & (one.session <= one.session_snips_upper)
        row += [f"{one.session.iloc[0]:.2f}", number(one.session_snips.mean(), ".2f"), f"{holds.mean():.2f}"]
        row.append(number(one.session_weight.mean(), ".2f"))
        rows.append(row)
    head = ["candidate", "effective sample size", "true first step", "SNIPS", "coverage", "DR", "coverage"]
    head += ["true time per session", "session", "coverage", "mean weight"]
    return table(head, rows, "lrrrrrrrrrr")


def report() -> None:
    """Write results.md and results.png from the estimates and the truth."""
    true = read_truth(TRUTH)
    mixed, served = read(RESULTS, true), read(SERVED, true)
    lines = ["# Results", "", f"Written by `{STUDY.command}`.", ""]
    lines += ["## Logs of mixed traffic", "", *overview(mixed), ""]
    lines += [
        f"Each candidate, from logs of {SHOWN:,} sessions:",
        "",
        *of_candidates(mixed[mixed.sessions == SHOWN]),
        "",
    ]
    if FAIR.exists():
        other = read(FAIR, read_truth(FAIR_TRUTH))
        lines += [f"## Logs of mixed traffic in another world (world.seed={FAIR_SEED})", "", *overview(other), ""]
        lines += [f"Each candidate, from logs of {SHOWN:,} sessions:", ""]
        lines += [*of_candidates(other[other.sessions == SHOWN]), ""]
    lines += ["## Logs of a service that has lists", "", *of_candidates(served), ""]
    lines += ["The lists are those of convex, track and mean; a dash: refused, because the log has no support.", ""]
    models = true[true["pick"] == "uniform"]
    rows = [
        [name, *(f"{kendalltau(models[name], models[to]).statistic:.2f}" for to in ("first_step", "session"))]
        for name in ("recall_at_10", "ndcg_at_10")
    ]
    rows.append(["true first step", "1.00", f"{kendalltau(models.first_step, models.session).statistic:.2f}"])
    lines += ["## Order of the twelve models by a ranking metric", ""]
    lines += table(["metric", "τ with the true first step", "τ with the true time per session"], rows, "lrr")
    STUDY.write_table("results.md", lines)
    draw(mixed)
    STUDY.write_provenance()


def draw(frame: pd.DataFrame) -> None:
    """Estimates against the truth, for each size of log; hollow: refused by the rule."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    sizes = sorted(frame.sessions.unique())
    grid = figure.subplots(2, len(sizes), squeeze=False)
    for column, sessions in enumerate(sizes):
        of_size = frame[frame.sessions == sessions]
        shown = ("first_step_dr", "session_snips"), ("first_step", "session")
        for axes, name, to in zip(grid[:, column], *shown, strict=True):
            for _, one in of_size.dropna(subset=[name]).groupby(["model", "pick"]):
                is_kept = one.effective.mean() >= RULE.min_effective_sample_size
                if to == "session":
                    is_kept = is_kept and one.session_weight.mean() >= RULE.min_session_weight
                middle = one[name].mean()
                spread = np.abs(one[name].quantile([0.025, 0.975]).to_numpy() - middle)[:, None]
                fill, colour = ("full", "tab:blue") if is_kept else ("none", "tab:grey")
                style = {"fmt": "o", "markersize": 5, "fillstyle": fill, "color": colour}
                axes.errorbar(one[to].iloc[:1], [middle], yerr=spread, **style)
            bounds = of_size[to].min(), of_size[to].max()
            axes.plot(bounds, bounds, color="black", linewidth=0.7)
            label = "first step" if to == "first_step" else "time per session"
            axes.set(title=f"{label}: {sessions:,} sessions", xlabel="truth", ylabel="estimate")
    STUDY.write_figure("results.png", figure)


def main() -> None:
    """Run what is missing."""
    parser = STUDY.parser()
    parser.add_argument("--only", choices=["report", "fair"])
    parser.add_argument("--workers", type=int, default=sized(2, 1))
    given = STUDY.parse(parser)
    if given.only is None:
        train_missing(STUDY.work)
        if not TRUTH.exists():
            truth(STUDY.work).to_csv(TRUTH, index=False)
        run(STUDY.work, given.workers, SERVED, SERVED_LOGS)
        run(STUDY.work, given.workers, RESULTS, LOGS)
    if given.only != "report":
        other = STUDY.work.with_name(f"{STUDY.work.name}_fair")
        train_missing(other, f"world.seed={FAIR_SEED}")
        if not FAIR_TRUTH.exists():
            truth(other).to_csv(FAIR_TRUTH, index=False)
        run(other, given.workers, FAIR, FAIR_LOGS)
    report()


if __name__ == "__main__":
    STUDY.run(main)
