"""Hold the chosen world to its targets: python experiments/calibration/ladder.py

Plays the ladder in world=published, with the seeds that search.py used (0, 1, 2) and with three others, and arms that
no choice has used: lists per user, contextual re-ranked for diversity, contextual drawn by rank. The contextual model
is 32 wide, from 200,000 sessions of mixed traffic. Each arm of a world is a row of ladder.csv; a stopped ladder goes on
where it was. Writes ladder.md, ladder.png and provenance.json beside this file.
"""

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.calibration.learned import SESSIONS, Learned, mixed_traffic
from experiments.calibration.measures import measure, real_sessions, simulate
from experiments.calibration.search import SEEDS, cheap_arms
from experiments.calibration.targets import CHOSEN_BY, HELD_OUT, Target
from experiments.playing import the_world
from experiments.studying import Study, available, sized
from segue.reports.markdown import table
from segue.simulation.policies import Policy
from segue.simulation.world import World

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "ladder.csv"
FRESH_SEEDS = sized((3, 4, 5), (3,))
ARMS = ("random", "sticky", "popular", "contextual", "diverse", "contextual weighted", "lists per user")
HOW = {"contextual": "best", "diverse": "diverse", "contextual weighted": "weighted"}
PLAYED = sized(20_000, 300)
SHARES = (
    "time",
    "other p",
    "other p<.05",
    "other p>.95",
    "length 25",
    "length 50",
    "length 75",
    "length 95",
    "repeats",
)
mpl.use("agg")


def arms_of(world: World, missing: set[str]) -> Iterator[tuple[str, Policy]]:
    """The missing arms of a world; models are trained when they are needed."""
    yield from ((arm, policy) for arm, policy in cheap_arms(world).items() if arm in missing)
    trained = [arm for arm in ARMS[3:] if arm in missing]
    plays = mixed_traffic(world, SESSIONS) if trained else None
    contextual = None
    for arm in trained:
        assert plays is not None
        if arm == "lists per user":
            yield arm, Learned(world=world, plays=plays, of_users=True)
        else:
            contextual = contextual or Learned(world=world, plays=plays)
            yield arm, contextual.picking(HOW[arm])


def play_worlds() -> pd.DataFrame:
    """A row for each world and arm."""
    rows: list[dict[Any, Any]] = pd.read_csv(RESULTS).to_dict("records") if RESULTS.exists() else []
    for arms, seed in product(
        (ARMS[:-1], ARMS), (*FRESH_SEEDS, *SEEDS)
    ):  # lists per user, a second training, come last
        missing = set(arms) - {row["arm"] for row in rows if row["seed"] == seed}
        if not missing:
            continue
        world = the_world(seed)
        for arm, policy in arms_of(world, missing):
            measured = measure(simulate(world, policy, sessions=PLAYED, seed=100 + ARMS.index(arm)))
            rows.append({"seed": seed, "arm": arm, **measured})
            pd.DataFrame(rows).round(4).to_csv(RESULTS, index=False)
            print(seed, arm, f"{measured['time']:.2f}", flush=True)
    return pd.DataFrame(rows)


def target_rows(frame: pd.DataFrame) -> list[list[str]]:
    """A row for each target: its range, the mean over the chosen seeds and over the fresh ones, and each fresh seed."""
    rows = []
    for target in (*CHOSEN_BY, *HELD_OUT):
        value = frame[frame["arm"] == target.arm].set_index("seed")[target.measure]
        if not len(value):
            continue
        chosen, fresh = value.reindex(SEEDS).mean(), value.reindex(FRESH_SEEDS).mean()
        of_seeds = [_cell(target, float(value.get(seed, np.nan))) for seed in FRESH_SEEDS]
        published = f"{target.low:g}" if target.low == target.high else f"{target.low:g}–{target.high:g}"
        rows.append([target.arm, target.measure, published, _cell(target, chosen), _cell(target, fresh), *of_seeds])
    return rows


def _cell(target: Target, value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.2f}" if target.off(value) <= 1 else f"**{value:.2f}**"


def real_rows(frame: pd.DataFrame) -> list[list[str]]:
    """The real log beside the fresh worlds."""
    means = frame[frame["seed"].isin(FRESH_SEEDS)].groupby("arm").mean(numeric_only=True)
    rows = [
        (f"fresh worlds, {arm}", means.loc[arm]) for arm in ("contextual", "contextual weighted") if arm in means.index
    ]
    if available("botify"):
        rows += [(f"real log, {arm}", pd.Series(measure(own))) for arm, own in real_sessions().items()]
    return [[name, *(f"{row[share]:.2f}" for share in SHARES)] for name, row in rows]


def draw(frame: pd.DataFrame) -> None:
    """The time of each arm of the ladder, in every world."""
    from matplotlib import pyplot as plt

    targets = [target for target in (*CHOSEN_BY, *HELD_OUT) if target.measure == "time"]
    figure, axis = plt.subplots(figsize=(8, 4))
    for place, target in enumerate(targets):
        low, high = target.low - target.tolerance, target.high + target.tolerance
        label = "published, ± 10 %" if not place else None
        axis.fill_between([place - 0.4, place + 0.4], low, high, color="#dddddd", lw=0, label=label)
        axis.fill_between([place - 0.4, place + 0.4], target.low - 0.02, target.high + 0.02, color="#888888", lw=0)
    for shift, seeds, colour, label in (
        (-0.15, SEEDS, "#2a6f97", "seeds of the search"),
        (0.15, FRESH_SEEDS, "#e07a1f", "fresh seeds"),
    ):
        for seed in seeds:
            own = frame[frame["seed"] == seed].set_index("arm")["time"].reindex([target.arm for target in targets])
            places = np.arange(len(targets)) + shift + 0.06 * (seed % 3 - 1)
            axis.plot(places, own, "o", color=colour, label=label if seed == seeds[0] else None)
    names = [target.arm for target in targets]
    axis.set(ylabel="mean time per session", xticks=range(len(names)), xticklabels=names, ylim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="upper left")
    figure.tight_layout()
    STUDY.write_figure("ladder.png", figure, dpi=130)


def main() -> None:
    STUDY.parse()
    torch.set_num_threads(1)
    frame = play_worlds()
    head: list[Any] = [
        "arm",
        "measure",
        "published",
        "seeds 0–2",
        "seeds 3–5",
        *(f"seed {seed}" for seed in FRESH_SEEDS),
    ]
    lines = table(head, target_rows(frame), "llrrrrrr")
    lines += ["", *table(["sessions", *SHARES], real_rows(frame), "l" + "r" * len(SHARES))]
    STUDY.write_table("ladder.md", lines)
    draw(frame)
    STUDY.write_provenance()


if __name__ == "__main__":
    STUDY.run(main)
