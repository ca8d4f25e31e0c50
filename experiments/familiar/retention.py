"""Who is still there after a month, if listeners tire of what they know?

    python experiments/familiar/retention.py    thirty days in world 31, with the run of study.py

Arms with `familiar` 0 to 1 answer from one model, which is not trained again (examples/closed_loop/month.py trains it
every night). Listeners have the habits of that script, all of which are assumptions. A line of retention.csv is an arm.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples.closed_loop.month import HABITS
from experiments.familiar.study import SHARES, run_of, words_of
from experiments.studying import Study, append_rows, read_rows, run_python, sized
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "retention.csv"
WORLD = 31
SEEDS = sized((1, 2), (1,))
"""Of the traffic."""
DAYS, SESSIONS = sized((30, 500), (2, 100))
"""Sessions are of a day, over all arms: a listener has one in four days."""


def measure(seed: int) -> None:
    """Play a month, and add a line for each arm."""
    folder, file = STUDY.work / f"retention-{seed}", run_of(STUDY, WORLD, 1) / "recommendations.jsonl"
    how = {f"T{number}" if number else "C": share for number, share in enumerate(SHARES)}
    arms = ", ".join(f"{arm}: {{recommender: {json.dumps(str(file))}, familiar: {how[arm]}}}" for arm in how)
    words = [*words_of(WORLD), f"days={DAYS}", f"sessions={SESSIONS}", f"seed={seed}", f"arms={{{arms}}}"]
    words += ["arm.recommendations.pick=ranked", "arm.recommendations.artist_gap=100", "workers=1"]
    run_python(["simulate.py", *words, *(f"habits.{name}={one}" for name, one in HABITS.items()), f"run_dir={folder}"])
    found = json.loads((folder / "simulation.json").read_text(encoding="utf-8"))["arms"]
    names = ("population", "left", "mean_time_per_session", "share_known")
    append_rows(
        RESULTS,
        [
            {
                "seed": seed,
                "familiar": share,
                **{name: found[arm].get(name, "") for name in names},
                "commit": STUDY.commit(),
            }
            for arm, share in how.items()
        ],
    )


def report() -> None:
    """Write retention.md."""
    rows, cells = read_rows(RESULTS), list[list[str]]()
    for share in SHARES:
        own = [row for row in rows if float(row["familiar"]) == share]
        people, left = (sum(int(row[name]) for row in own) for name in ("population", "left"))
        stayed = 1 - left / people
        half = 1.96 * (stayed * (1 - stayed) / people) ** 0.5
        times, known = (
            sum(float(row[name]) for row in own) / len(own) for name in ("mean_time_per_session", "share_known")
        )
        cells.append(
            [f"{share:g}", f"{people:,}", f"{100 * stayed:.1f}", f"{100 * half:.1f}", f"{times:.2f}", f"{known:.3f}"]
        )
    text = ["# Retention", "", f"Written by `{STUDY.command}`. After {DAYS} days in world {WORLD}.", ""]
    head = ["familiar", "listeners", "retained, %", "±", "time per session", "share_known"]
    STUDY.write_table("retention.md", [*text, *table(head, cells, "rrrrrr")])
    STUDY.write_provenance("retention_provenance.json")


def main() -> None:
    """Play what is missing, then write the table."""
    STUDY.parse()
    for seed in SEEDS:
        if str(seed) not in {row["seed"] for row in read_rows(RESULTS)}:
            measure(seed)
    report()


if __name__ == "__main__":
    STUDY.run(main)
