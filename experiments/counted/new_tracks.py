"""What a counted part does to new tracks: python experiments/counted/new_tracks.py [--most 1]

The protocol is that of the study attributes: a tenth of the songs of `yes` is hidden from training, three choices of
them, validation queries. The same head is ranked alone, with its counts, and with counts that say 0 of a new track.
One line of new_tracks.csv is one way to rank one head.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.attributes.study import HIDDEN, SETUPS, metrics_of, the_data, trained_head
from experiments.studying import Study, append_rows, available, read_rows
from segue.callbacks.query_sample import QuerySample
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
LINES = STUDY.folder / "new_tracks.csv"
WORDS = (*SETUPS["tags, prior, temperature 0.2"], "counted=auto")
WAYS = ("the head alone", "counted", "counted, 0 of a new track")
SHOWN = {
    "warm_recall_at_10": "known: recall@10",
    "warm_ndcg_at_10": "known: ndcg@10",
    "cold_previous_recall_at_10": "last new: recall@10",
    "cold_next_recall_at_10": "next new: recall@10",
    "cold_next_recall_at_100": "next new: recall@100",
    "cold_among_recall_at_10": "among new: recall@10",
}


def run(hidden: int) -> None:
    """Train a head without the songs of one choice, and add a line for each way to rank."""
    data = the_data(hidden)
    ranker = trained_head(data, WORDS, 1)
    ways: dict[str, Any] = {WAYS[0]: metrics_of(data, ranker, "val")}
    QuerySample(data).fit(ranker)
    ways[WAYS[1]] = metrics_of(data, ranker, "val")
    chosen = ranker.decided()
    if chosen["counted"] is not None:
        ranker.decide({**chosen, "counted": {**chosen["counted"], "uncounted": 0.0}})
    ways[WAYS[2]] = metrics_of(data, ranker, "val")
    for way, values in ways.items():
        means = {name: f"{np.nanmean(values[name]):.6g}" for name in SHOWN}
        append_rows(LINES, [{"hidden": hidden, "way": way, **means, "commit": STUDY.commit()}])


def main() -> None:
    """Run what is missing, then write the table."""
    parser = STUDY.parser()
    parser.add_argument("--most", type=int, default=len(HIDDEN), help="trainings now, at most")
    given = STUDY.parse(parser)
    done = {int(line["hidden"]) for line in read_rows(LINES)}
    for hidden in [one for one in HIDDEN if one not in done][: given.most] if available("yes") else []:
        print(f"hidden songs {hidden}", flush=True)
        run(hidden)
    lines = pd.DataFrame(read_rows(LINES))
    rows = []
    for way in WAYS if len(lines) else ():
        own = lines[lines.way == way]
        rows.append([way, str(len(own)), *(f"{own[name].astype(float).mean():.4f}" for name in SHOWN)])
    text = [
        "# Results",
        "",
        f"Written by `{STUDY.command}`. Means over choices of hidden songs, validation queries.",
        "",
    ]
    STUDY.write_table("new_tracks.md", [*text, *table(["way", "choices", *SHOWN.values()], rows, "lrrrrrrr")])
    STUDY.write_provenance("new_tracks_provenance.json")


if __name__ == "__main__":
    STUDY.run(main)
