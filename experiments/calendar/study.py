"""Do models know that a radio has changed its heavy rotation, and do they rank as well as the plays of the last days?

The logs are generated (`tests/radio_logs.py`). In `one station` nothing but the rotation of the day decides what is
played; in `genres` a session hears one of 5 genres besides. Each model is trained with half_life=auto and with null.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import segue
from experiments.studying import Study, append_rows, read_rows, sized
from tests.radio_logs import write_radio_log

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "radio.csv"
LOGS: dict[str, dict[str, Any]] = {"one station": {}, "genres": {"num_genres": 5, "heavy": 0.4}}
SIZE = {"sessions_a_day": sized(20, 8), "num_back": 300}
SEEDS = sized(range(1, 6), range(1, 2))
MODELS: dict[str, dict[str, Any]] = {
    "convex": {"recipe": "radio", "context": "session"},
    "vstan": {},
    "rules": {},
}
HALF_LIVES = ("auto", "null")
METRICS = ("recall_at_10", "ndcg_at_10")
QUICK = sized({}, {"trainer__max_epochs": 1})


def main() -> None:
    """Train what is missing, then write the table."""
    parser = STUDY.parser()
    parser.add_argument("--most", type=int, default=99, help="train at most so many models now")
    pieces = [(log, seed, model, half) for model in MODELS for log in LOGS for seed in SEEDS for half in HALF_LIVES]
    given, rows = STUDY.parse(parser), read_rows(RESULTS)
    done = {(row["log"], int(row["seed"]), row["model"], row["half_life"]) for row in rows}
    for piece in [piece for piece in pieces if piece not in done][: given.most]:
        append_rows(RESULTS, [row_of(*piece)])
    STUDY.write_table("radio.md", list(table()))


def row_of(log: str, seed: int, model: str, half_life: str) -> dict[str, Any]:
    """Train a model, and say how it ranks beside the plays of the last days."""
    options = {**MODELS[model], **(QUICK if model == "convex" else {}), "callbacks__plots": None}
    half: Any = None if half_life == "null" else half_life
    with tempfile.TemporaryDirectory() as folder:
        plays = write_radio_log(Path(folder), seed, **LOGS[log], **SIZE)
        metrics = segue.fit(plays, model, seed=seed, datamodule__half_life=half, **options).metrics
    row = {"log": log, "seed": seed, "model": model, "half_life": half_life, "commit": STUDY.commit()}
    for split, suffix in (("val", ""), ("test", ""), ("test", "_recent_floor")):
        for name in METRICS[1:] if split == "val" else METRICS:
            row[f"{split}_{name}{suffix}"] = f"{metrics.get(f'{split}/{name}{suffix}', float('nan')):.6f}"
    return row


def table() -> Iterator[str]:
    """Means over the seeds; the share is that of the floor, of the mean and of the lowest seed."""
    yield "| log | model | half_life | val | recall | ndcg | recall, share | lowest | ndcg, share | lowest share |"
    yield "|---|---|---|--:|--:|--:|--:|--:|--:|--:|"
    rows = read_rows(RESULTS)
    for key in sorted({(row["log"], row["model"], row["half_life"]) for row in rows}, reverse=True):
        own = [row for row in rows if (row["log"], row["model"], row["half_life"]) == key]
        mean = {name: fmean(float(row[name]) for row in own) for name in own[0] if "_at_" in name}
        cells = [f"{mean['val_ndcg_at_10']:.4f}", *(f"{mean[f'test_{name}']:.4f}" for name in METRICS)]
        for name in METRICS:
            ratios = [float(row[f"test_{name}"]) / float(row[f"test_{name}_recent_floor"]) for row in own]
            cells += [f"{mean[f'test_{name}'] / mean[f'test_{name}_recent_floor']:.2f}", f"{min(ratios):.2f}"]
        yield f"| {' | '.join([*key, *cells])} |"
    yield ""
    yield f"Printed by `{STUDY.command}`; seeds 1 to {len(SEEDS)}."


if __name__ == "__main__":
    STUDY.run(main)
