"""Does the A/B analysis keep its error rates?

    python experiments/ab_calibration/study.py                the missing pieces, then results.md and results.png
    python experiments/ab_calibration/study.py --only report  only results.md and results.png

Experiments are drawn from the users of two simulated days, before the test and in it, therefore they are as skewed as
those. The treatment multiplies what its users play. A piece is 250 experiments; its counts are lines of pieces.csv, and
a stopped study goes on where it was. Cost: a quarter of an hour on one idle core. Expected: every rate is within four
standard errors of what is promised; the sheet, repeated looks, sessions as units and tests without the gate are not.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, append_rows, read_rows, run_python, sized
from segue.reports.markdown import table
from segue.runs.atomic import write_whole
from segue.statistics.change import change_of_effect
from segue.statistics.design import minimal_detectable_effect, sample_ratio
from segue.statistics.holm import holm
from segue.statistics.intervals import GroupSummary, always_valid, mean_test, welch
from segue.terminal.progress import progress
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.log import read_users
from segue.verdicts.abtest.settings import AnalysisSettings
from segue.verdicts.abtest.users import Sessions, Users, sums_of_users

STUDY = Study(__file__, __doc__)
PIECES = STUDY.folder / "pieces.csv"
ALPHA, USERS = 0.05, sized(500, 100)
"""False alarms that are accepted, and users of an arm."""

TRUTHS = (0, 20, 60, 130)
"""True effects in percent."""

COLUMNS = ("piece", "what", "count", "experiments")
NUM_PIECES, NUM_EXPERIMENTS, NUM_BOOTSTRAPS = sized((40, 250, 75), (1, 6, 1))
"""Pieces of each true effect and of the checks; experiments of a piece, and those of them with a bootstrap."""

METHODS = {
    "Fieller, the verdict": "relative",
    "the sheet": "",
    "CUPED": "cuped",
    "ratio of sums": "ratio",
    "bootstrap": "bootstrap",
}
"""Name of the interval in `Effect`, by the name of the method; the effect itself is that of the sheet."""

SETTINGS: dict[str, Any] = {
    "alpha": ALPHA, "power": 0.8, "primary": "mean_time_per_session", "guardrails": {}, "split": None,
    "slices": False, "always_valid_percent": None, "bootstrap_rounds": 0, "seed": 0,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Population:
    """What listeners of `popular` did on two days; U users, one value each."""

    sessions: Any
    tracks: Any
    time: Any
    before: Any


def population() -> Population:
    """Simulated once; 20,000 sessions on each day."""
    folder, small = STUDY.work, sized((), ("sessions=4000",))
    for day, words in {"before": small, "test": (*small, f"after={folder / 'before'}")}.items():
        if not (folder / day / "simulation.json").exists():
            run_python(["simulate.py", "arms={C: popular}", f"hydra.run.dir={folder / day}", *words])
    reading: dict[str, Any] = {
        "experiment": None, "any_arms": True, "max_rejected": 0, "interleaved": "separate", "session_gap_minutes": 30,
        "unfinished": "drop",
    }  # fmt: skip
    pre, both_days = (read_users(folder / day, **reading) for day in ("before", "test"))
    now = both_days.of(both_days.each.where(both_days.each.started_ms > pre.last_ms))
    both, in_pre, in_now = np.intersect1d(pre.user_keys, now.user_keys, return_indices=True)
    assert len(both) > sized(1500, 500)
    before = pre.time[in_pre] / pre.sessions[in_pre]
    return Population(now.sessions[in_now], now.tracks[in_now], now.time[in_now], before)


def draw_users(people: Population, rng: np.random.Generator, lift: float) -> tuple[Users, Users]:
    """Users of an experiment, half of them treated, and the same before it."""
    chosen, arm_of = rng.integers(len(people.time), size=2 * USERS), np.arange(2 * USERS) % 2
    num = len(chosen)
    users: list[Users] = []
    for time in (people.time[chosen] * (1 + lift * arm_of), people.before[chosen]):
        each = Sessions(
            user_keys=np.arange(num),
            arm_of=arm_of,
            started_ms=np.full(num, 1000),
            tracks=np.ones(num, np.int64),
            time=time,
            latency_ms=np.zeros(num),
            fallbacks=np.zeros(num, np.int64),
            is_finished=np.ones(num, bool),
        )
        counts = {"sessions": people.sessions[chosen], "tracks": people.tracks[chosen]} if not users else {}
        users.append(
            Users(
                experiment="TEST",
                arms=["C", "T1"],
                exposed=np.array([USERS, USERS]),
                each=each,
                keeps_unfinished=False,
                guards={},
                first_ms=1000 if not users else 0,
                last_ms=1000 if not users else 1,
                num_events=num,
                **{**sums_of_users(each), **counts},
            )
        )
    return users[0], users[1]


def effects_piece(people: Population, rng: np.random.Generator, truth: int) -> Iterator[tuple[str, bool]]:
    """Whether each method covers the true effect; without one also whether it raises a false alarm."""
    for number in range(NUM_EXPERIMENTS):
        rounds = 1000 if number < NUM_BOOTSTRAPS else 0
        users, before = draw_users(people, rng, truth / 100)
        settings = AnalysisSettings(**{**SETTINGS, "bootstrap_rounds": rounds, "seed": int(rng.integers(2**31))})
        analysis = analyse(users, settings, before)
        effect = analysis.effect("T1", "mean_time_per_session")
        for method, name in METHODS.items():
            one = getattr(effect, name) if name else effect
            if np.isfinite(one.lower_percent):
                yield f"{method}: covers +{truth} %", one.lower_percent < truth < one.upper_percent
        if truth == 0:
            yield "false alarms of the verdict", effect.decision in ("better", "worse")
            yield "false alarms, CUPED", effect.cuped.p_value < ALPHA
            yield "false alarms, ratio of sums", effect.ratio.p_value < ALPHA
            yield "any false alarm, primary and secondary", any(one.is_clear for one in analysis.effects)
            primary, *secondary = [one.p_value for one in analysis.effects]
            yield "any false alarm, without the gate", primary < ALPHA or min(holm(secondary)) < ALPHA


def checks_piece(people: Population, rng: np.random.Generator) -> Iterator[tuple[str, bool]]:
    """The checks of the design, and what goes wrong without them."""
    habits = people.time / people.sessions
    arm = GroupSummary(num=USERS, mean=float(habits.mean()), variance=float(habits.var()))
    detectable = minimal_detectable_effect(arm, arm, ALPHA, 0.8) / 100 * arm.mean
    is_treated = np.arange(2 * USERS) % 2 == 1
    for number in range(NUM_EXPERIMENTS):
        control, treatment = rng.choice(habits, (2, USERS))
        groups = GroupSummary.of(control), GroupSummary.of(treatment)
        yield (
            "power at the detectable effect",
            welch(groups[0], GroupSummary.of(treatment + detectable), ALPHA).p_value < ALPHA,
        )
        split = np.bincount(rng.integers(2, size=2 * USERS), minlength=2)
        yield "the split check fires, 0.05", sample_ratio(split, np.ones(2)) < 0.05
        cut, sessions = (
            rng.binomial(1, 0.04, 2 * USERS).astype(float),
            rng.choice(people.sessions, 2 * USERS).astype(float),
        )
        shares = [GroupSummary.of_ratio(cut[own], sessions[own]) for own in (~is_treated, is_treated)]
        yield "the check of unfinished sessions fires, 0.05", welch(shares[0], shares[1], ALPHA).p_value < 0.05
        at_margin = GroupSummary.of(treatment * 0.95)
        yield "a guardrail at its margin holds", mean_test(groups[0], at_margin, sign=1, ratio=0.95) < ALPHA
        both = rng.choice(habits, 2 * USERS) * rng.gamma(4, 0.25, (2, 2 * USERS)) * (1 + 0.6 * is_treated)
        change = change_of_effect(np.where(rng.random((2, 2 * USERS)) < 0.3, np.nan, both), is_treated, ALPHA)
        yield "the change over time covers 0, effect +60 %", change.lower_percent < 0 < change.upper_percent
        if number % 5 == 0:
            control, treatment = rng.choice(habits, (2, 2000))
            looks = [
                (GroupSummary.of(control[:size]), GroupSummary.of(treatment[:size])) for size in range(100, 2001, 100)
            ]
            yield "false alarms of 20 looks, the sheet", any(welch(*look, ALPHA).p_value < ALPHA for look in looks)
            bounds = [always_valid(*look, ALPHA, 10.0) for look in looks]
            yield (
                "false alarms of 20 looks, always valid",
                any(one.lower_percent > 0 or one.upper_percent < 0 for one in bounds),
            )
            values = np.repeat(rng.choice(habits, 200), 20) + rng.normal(0, habits.std(), 4000)
            in_arm = np.repeat(np.arange(200) % 2, 20)
            test = stats.ttest_ind(values[in_arm == 0], values[in_arm == 1], equal_var=False)
            yield "false alarms, counting sessions instead of users", bool(test.pvalue < ALPHA)


def run_missing() -> None:
    """Run the pieces that pieces.csv does not have."""
    done = {row["piece"] for row in read_rows(PIECES)}
    pieces = [f"{kind} {number}" for number in range(NUM_PIECES) for kind in (*map(str, TRUTHS), "checks")]
    people = population()
    with progress("pieces", len(pieces)) as advance:
        for piece in pieces:
            if piece not in done:
                kind, number = piece.split()
                rng = np.random.default_rng([int(number), 0 if kind == "checks" else 1 + int(kind)])
                counts, totals = Counter[str](), Counter[str]()
                found = checks_piece(people, rng) if kind == "checks" else effects_piece(people, rng, int(kind))
                for what, happened in found:
                    counts[what] += int(happened)
                    totals[what] += 1
                append_rows(
                    PIECES,
                    [
                        dict(zip(COLUMNS, (piece, what, counts[what], total), strict=True))
                        for what, total in totals.items()
                    ],
                )
            advance(1)


def promised(what: str) -> float:
    """The rate that the analysis promises, or that a method without its corrections would have to keep."""
    if "covers" in what:
        return 1 - ALPHA
    return {"power at the detectable effect": 0.8, "a guardrail at its margin holds": ALPHA / 2}.get(what, ALPHA)


def report() -> None:
    sums = pd.read_csv(PIECES).groupby("what", sort=False)[["count", "experiments"]].sum()
    rows = []
    for what, (count, num) in sums.iterrows():
        rate, expected = count / num, promised(str(what))
        error = (expected * (1 - expected) / num) ** 0.5
        kept = "yes" if abs(rate - expected) < 4 * error else "no, less" if rate < expected else "no, more"
        rows.append([str(what), f"{num:,}", f"{expected:g}", f"{rate:.4f}", f"{error:.4f}", kept])
    head = ["what", "experiments", "promised", "measured", "standard error", "kept"]
    STUDY.write_table("results.md", table(head, rows, "lrrrrl"))
    frame = pd.DataFrame(rows, columns=head)
    write_whole(STUDY.folder / "results.csv", lambda partial: frame.to_csv(partial, index=False))
    STUDY.write_provenance()
    draw(rows)


def draw(rows: list[list[str]]) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 0.26 * len(rows) + 1), constrained_layout=True)
    places = -np.arange(len(rows))
    off = [(float(row[3]) - float(row[2])) / float(row[4]) for row in rows]
    axis.axvspan(-4, 4, color="#e8eef2")
    axis.scatter(
        np.clip(off, -12, 12), places, color=["#2a6f97" if row[5] == "yes" else "#e07a1f" for row in rows], zorder=3
    )
    axis.set_yticks(places, [row[0] for row in rows], fontsize=8)
    axis.set(
        xlim=(-12.5, 12.5), xlabel="measured less promised rate, in standard errors (at most ±12); blue: within four"
    )
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", alpha=0.3)
    STUDY.write_figure("results.png", figure)


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument("--only", choices=["report"], help="one step alone")
    if STUDY.parse(parser).only is None:
        run_missing()
    report()


if __name__ == "__main__":
    STUDY.run(main)
