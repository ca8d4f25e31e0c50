#!/usr/bin/env python3
"""A month of a service in a closed loop: simulated listeners with habits, and a model that is trained every night.

    python examples/closed_loop/month.py --folder outputs/month

What is the price of familiarity? Three arms answer from the same model of the session and the listener, and differ in
`familiar`: the share of what is played that the listener may know already. Listeners tire of what they hear often,
and leave for good after bad sessions. The table says who is still there after a month.

day 0        the log from which the service begins, with random, popular and the like
night 0      the first model
day n        2,000 sessions of all arms, from the model that is served (simulate.py after=)
night n      a training on the plays of all days; the new model is served if it is not worse than the one before

--folder keeps every day and night: the same command goes on where it was stopped. month.json has the table.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import segue

SEGUE = shlex.split(os.environ.get("SEGUE", f"{shlex.quote(sys.executable)} -m segue"))
HABITS = {"fatigue": 0.5, "leaving": 0.05}
FAMILIAR = {"C": 0.0, "T1": 0.5, "T2": 1.0}
QUICK = (
    "logger=none", "callbacks.plots=null", "callbacks.listening=null",
    "callbacks.ranking.max_val_queries=2000", "callbacks.ranking.max_test_queries=2000",
)  # fmt: skip


def main() -> None:
    """Play the days and nights that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/month"), help="where everything is written")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--world", default="small")
    parser.add_argument("--sessions", type=int, default=2_000, help="of a day, over all arms")
    parser.add_argument("--first", type=int, default=10_000, help="sessions of day 0")
    given = parser.parse_args()
    folder, common = given.folder, [f"world={given.world}", *(f"habits.{name}={one}" for name, one in HABITS.items())]
    begin = "experiment=BEGIN", "arms={C: random, T1: random, T2: sticky_artist, T3: popular}", "habits.leaving=0"
    play(folder, 0, f"sessions={given.first}", *common, *begin)
    served = train(folder, 0)
    for day in range(1, given.days + 1):
        arms = ", ".join(f"{arm}: {recommender(served, one)}" for arm, one in FAMILIAR.items())
        before = f"after={folder / f'day-{day - 1}'}"
        play(folder, day, before, f"sessions={given.sessions}", *common, "experiment=MONTH", f"arms={{{arms}}}")
        if day < given.days:
            served = better(train(folder, day), served)
    found = table([json.loads((folder / f"day-{day}/simulation.json").read_text()) for day in range(1, given.days + 1)])
    (folder / "month.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"\nafter {given.days} days ({folder / 'month.json'})")
    print("familiar   listeners   left   retained, %   ±     time per session   share known, %")
    for row in found:
        print(
            "{familiar:8.1f}{listeners:12,}{left:7,}{retained:14.1f}{half_width:6.1f}{time:19.2f}{known:17.1f}".format(
                **{**row, "retained": 100 * row["retained"], "half_width": 100 * row["half_width"]},
                time=row["mean_time_per_session"],
                known=100 * row["share_known"],
            )
        )


def table(days: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each arm.

    Args:
        days: the content of `simulation.json` of each day.

    Returns:
        The listeners of the arm, and how many left; the share that stayed with half the width of its 95 % interval
        (normal approximation); and means over the days.
    """
    rows = list[dict[str, Any]]()
    for arm, familiar in FAMILIAR.items():
        own = [day["arms"][arm] for day in days]
        listeners, left = own[-1]["population"], own[-1]["left"]
        stayed = 1 - left / listeners
        means = {
            name: fmean(day[name] for day in own if name in day) for name in ("mean_time_per_session", "share_known")
        }
        half_width = 1.96 * (stayed * (1 - stayed) / listeners) ** 0.5
        rows.append(
            {
                "familiar": familiar,
                "listeners": listeners,
                "left": left,
                "retained": stayed,
                "half_width": half_width,
                **means,
            }
        )
    return rows


def recommender(run: Path, familiar: float) -> str:
    """An arm in the words of Hydra."""
    return f"{{recommender: {json.dumps(str(run))}, familiar: {familiar}, pick: ranked, artist_gap: 100}}"


def play(folder: Path, day: int, *words: str) -> None:
    """Play a day."""
    run = folder / f"day-{day}"
    record = run / "simulation.json"
    call(record.exists() and json.loads(record.read_text())["complete"], run, "simulate", *words)


def train(folder: Path, night: int) -> Path:
    """Train on all days so far, which the folder of the last one has; returns the run."""
    run = folder / f"night-{night}"
    words = "datamodule=botify", f"datamodule.path={folder / f'day-{night}'}", "context=listener", "seed=1", *QUICK
    call((run / "model_card.md").exists(), run, "train", *words)
    return run


def better(run: Path, served: Path) -> Path:
    """The run that is served after a night: the new one, unless it ranks the newest sessions worse."""
    record = run / "gain.json"
    if not record.exists():
        gain = segue.load(run).gain_over(segue.load(served))
        record.write_text(json.dumps({"lower": gain.lower, "upper": gain.upper}))
    gain = json.loads(record.read_text())
    chosen = served if gain["upper"] < 0 else run
    interval = f"[{gain['lower']:+.4f}, {gain['upper']:+.4f}]"
    print(f"{run.name}: ndcg@10 {interval} beside {served.name}; {chosen.name} is served", flush=True)
    return chosen


def call(has_ended: bool, run: Path, *words: str) -> None:
    """Run a command of Segue, unless it has ended before; what one that was killed has left is removed.

    Args:
        has_ended: whether it has.
        run: its run folder.
        words: the command.
    """
    if has_ended:
        return
    shutil.rmtree(run, ignore_errors=True)
    command = [*words, f"hydra.run.dir={run}"]
    print(f"$ segue {shlex.join(command)}", flush=True)
    done = subprocess.run([*SEGUE, *command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(done.stdout)
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
