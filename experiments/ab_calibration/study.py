"""Does the A/B analysis keep its promises: python experiments/ab_calibration/study.py

Experiments are drawn from the time per session of real or simulated listeners, so they are as skewed as those. Writes
results.csv, results.md, results.png and provenance.json beside this file.
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
from experiments.runs import markdown, run  # noqa: E402
from src.abtest import analysis as abtest  # noqa: E402
from src.abtest.analysis import Sample  # noqa: E402
from src.abtest.log import read_users  # noqa: E402
from src.runs.provenance import provenance  # noqa: E402
from src.terminal.console import progress  # noqa: E402

HERE = Path(__file__).parent
NUM, USERS, ALPHA = 20_000, 500, 0.05
"""Experiments, users of an arm, and the false alarms accepted."""

Values = np.ndarray[Any, np.dtype[np.float64]]
mpl.use("agg")


def main() -> None:
    logs = run("simulate", ROOT / "outputs" / "ab_calibration", "arms={C: random, T1: popular}", "sessions=200000")
    users = read_users(logs, experiment=None, max_rejected=0.0)
    habits = (users.time / users.sessions)[users.arm_of == 1]
    rng = np.random.default_rng(0)
    truth = Sample.of(habits)
    arm = Sample(num=USERS, mean=truth.mean, variance=truth.variance)
    detectable = abtest.minimal_detectable_effect(arm, arm, ALPHA, 0.8) / 100
    counts: dict[str, int] = dict.fromkeys(PROMISES, 0)
    with progress("experiments", NUM) as advance:
        for _ in range(NUM):
            control, same, better = rng.choice(habits, (3, USERS))
            one, null, lifted = Sample.of(control), Sample.of(same), Sample.of(better * 1.2)
            counts["false alarms, A/A"] += abtest.sheet(one, null, ALPHA).p_value < ALPHA
            counts["the sheet's interval holds no effect"] += holds(abtest.sheet(one, null, ALPHA), 0)
            counts["the sheet's interval holds + 20 %"] += holds(abtest.sheet(one, lifted, ALPHA), 20)
            for name, sample, effect in (("no effect", null, 0), ("+ 20 %", lifted, 20)):
                lower, upper = abtest.fieller(one, sample, ALPHA)
                counts[f"Fieller's interval holds {name}"] += lower < effect < upper
            shifted = Sample.of(same + detectable * truth.mean)
            counts["power at the detectable effect"] += abtest.sheet(one, shifted, ALPHA).p_value < ALPHA
            split = np.bincount(rng.integers(2, size=2 * USERS), minlength=2)
            counts["the split check fires, 0.05"] += abtest.sample_ratio(split, np.ones(2)) < 0.05
            advance(1)
    rows = [row(name, counts[name], NUM, promised) for name, promised in PROMISES.items()]
    rows += peeking(habits, rng) + counting_sessions(habits, rng)
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "results.csv", index=False)
    (HERE / "results.md").write_text(markdown(table) + "\n", encoding="utf-8")
    (HERE / "provenance.json").write_text(json.dumps(provenance(ROOT), indent=2) + "\n")
    draw(table)
    print(table.to_string(index=False))


PROMISES = {
    "false alarms, A/A": ALPHA,
    "the sheet's interval holds no effect": 1 - ALPHA,
    "the sheet's interval holds + 20 %": 1 - ALPHA,
    "Fieller's interval holds no effect": 1 - ALPHA,
    "Fieller's interval holds + 20 %": 1 - ALPHA,
    "power at the detectable effect": 0.8,
    "the split check fires, 0.05": 0.05,
}


def holds(interval: abtest.Interval, truth: float) -> bool:
    return interval.lower_percent < truth < interval.upper_percent


def peeking(habits: Values, rng: np.random.Generator, num: int = 2000) -> list[dict[str, Any]]:
    """A/A experiments that are looked at twenty times while they grow to 2,000 users an arm."""
    naive = always = 0
    for _ in range(num):
        control, same = rng.choice(habits, (2, 2000))
        looks = [(Sample.of(control[:size]), Sample.of(same[:size])) for size in range(100, 2001, 100)]
        naive += any(abtest.sheet(*look, ALPHA).p_value < ALPHA for look in looks)
        intervals = [abtest.always_valid(*look, ALPHA, 10.0) for look in looks]
        always += any(lower > 0 or upper < 0 for lower, upper in intervals)
    return [
        row("false alarms of 20 looks, the sheet", naive, num, ALPHA),
        row("false alarms of 20 looks, always valid", always, num, ALPHA),
    ]


def counting_sessions(habits: Values, rng: np.random.Generator, num: int = 2000) -> list[dict[str, Any]]:
    """A/A experiments of 200 users with 20 sessions each, all of them as the user's habit with some noise."""
    alarms = 0
    for _ in range(num):
        sessions = np.repeat(rng.choice(habits, 200), 20) + rng.normal(0, habits.std(), 4000)
        arm_of = np.repeat(np.arange(200) % 2, 20)
        alarms += stats.ttest_ind(sessions[arm_of == 0], sessions[arm_of == 1], equal_var=False).pvalue < ALPHA
    return [row("false alarms, counting sessions instead of users", alarms, num, ALPHA)]


def row(name: str, count: int, num: int, promised: float) -> dict[str, Any]:
    error = (promised * (1 - promised) / num) ** 0.5
    rate = count / num
    kept = "yes" if abs(rate - promised) < 4 * error else "no, less" if rate < promised else "no, more"
    return {"what": name, "experiments": f"{num:,}", "promised": promised, "measured": rate, "kept": kept}


def draw(table: pd.DataFrame) -> None:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4.2))
    places = -np.arange(len(table))
    axis.scatter(table["promised"], places, marker="|", s=200, color="#555555", label="promised")
    colours = ["#2a6f97" if kept == "yes" else "#e07a1f" for kept in table["kept"]]
    axis.scatter(table["measured"], places, color=colours, label="measured", zorder=3)
    axis.set_yticks(places, table["what"])
    axis.set(xlim=(0, 1), xlabel="share of experiments; orange: not as promised")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", alpha=0.3)
    axis.legend(frameon=False, loc="center")
    figure.tight_layout()
    figure.savefig(HERE / "results.png", dpi=130)


if __name__ == "__main__":
    main()
