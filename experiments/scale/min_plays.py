"""What does it cost to give rare tracks no embedding, or one that they share? On validation sessions of two sources.

    SEGUE_DATA=<folder> python experiments/scale/min_plays.py    min_plays.csv and min_plays.md

`own`: every track has an embedding. With fewer plays in training than a threshold a track has none (`min_plays`:
`model.min_plays`), shares one with about nine others (`hashed`: a table of a tenth of their number, see `HashedTail`),
or its plays are left out of the data (`min_count`: `datamodule.policies.min_count`, which changes validation too).

Cost: about a minute for each run on an idle core, 48 runs. Runs that the file has are not repeated.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from experiments.studying import Study, append_rows, available, read_rows, sized, train
from segue.catalog import Vocabulary
from segue.models.heads import CosineMix
from segue.models.parts import Lookup
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "min_plays.csv"
SOURCES = sized({"yes": "yes", "world": "simulated"}, {"world": "simulated"})
"""Values of `datamodule=` by name of the source."""
_LEAST = tuple((kind, least) for least in (20, 50) for kind in ("min_plays", "hashed", "min_count"))
VARIANTS = sized((("own", 1), ("min_plays", 5), *_LEAST), (("own", 1), ("hashed", 20)))
SEEDS = sized((1, 2, 3), (1,))
METRICS = ("val/ndcg_at_10", "val/recall_at_10", "val/loss")
WORDS = (
    "context=last",
    "counted=none",
    "logger=none",
    "callbacks.plots=null",
    "callbacks.export=null",
    "callbacks.listening=null",
    "callbacks.off_policy=null",
    "callbacks.ranking.max_test_queries=1000",
)
SHARE = 0.1
"""Rows of the shared table for each rare track."""


class HashedTail(CosineMix):
    """`CosineMix` in which rare tracks share embeddings: a hash of the track chooses one of a smaller table.

    Args:
        vocabulary: the catalogue and what the training pairs show of it.
        tail_plays: tracks with fewer plays in training share.
        order_std: standard deviation of the initial offsets in the second place of a pair.
        settings: of `CosineMix`.

    Source:
        Weinberger et al., Feature hashing for large scale multitask learning, ICML 2009, for the tail alone.
    """

    def __init__(self, vocabulary: Vocabulary, *, tail_plays: int, order_std: float, **settings: Any) -> None:
        super().__init__(vocabulary, order_std=order_std, **settings)
        seen = torch.from_numpy(vocabulary.previous_counts + vocabulary.next_counts > 0)
        of, is_shown = hashed_rows(torch.from_numpy(vocabulary.plays), seen, tail_plays)
        tracks = Lookup(of, is_shown, dim=settings["dim"], init_std=settings["init_std"])
        if order_std:
            tracks.add_offset(order_std)
        self.parts["track"] = tracks


def hashed_rows(
    plays: Int64[Tensor, "N"], seen: Bool[Tensor, "N"], least: int
) -> tuple[Int64[Tensor, "N"], Bool[Tensor, "K"]]:
    """The row of each track in a table with a row for each frequent track and a tenth as many rows as rare tracks.

    Returns:
        The rows, and whether training pairs show a track of each row.
    """
    own = plays >= least
    num_own, num_rare = int(own.sum()), int((~own).sum())
    num_shared = max(1, round(SHARE * num_rare))
    hashed = torch.arange(len(plays)) * 2_654_435_761 % 2**32 % num_shared  # Knuth's multiplicative hash
    of = torch.where(own, own.cumsum(0) - 1, num_own + hashed)
    shown = torch.zeros(num_own + num_shared, dtype=torch.bool)
    shown[of[seen]] = True
    return of, shown


def words_of(kind: str, least: int) -> list[str]:
    """The words of `train.py` for a variant."""
    hashed = ["model._target_=experiments.scale.min_plays.HashedTail", f"+model.tail_plays={least}"]
    return {
        "own": [],
        "min_plays": [f"model.min_plays={least}"],
        "hashed": hashed,
        "min_count": [f"datamodule.policies.min_count={least}"],
    }[kind]


def measure() -> None:
    """A row for each source, variant and seed: the best epoch of validation, and how many embeddings there are."""
    available(*SOURCES.values())
    for seed in SEEDS:
        for source, data in SOURCES.items():
            for kind, least in VARIANTS:
                name = {"source": source, "kind": kind, "least": str(least), "seed": str(seed)}
                if any(name.items() <= row.items() for row in read_rows(RESULTS)):
                    continue
                words = [f"datamodule={data}", *words_of(kind, least), f"seed={seed}"]
                append_rows(RESULTS, [name | _measured(words)])
                print(read_rows(RESULTS)[-1], flush=True)
                report()
    STUDY.write_provenance("min_plays_provenance.json")


def _measured(words: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        run = Path(folder) / "run"
        train(*WORDS, *words, f"hydra.run.dir={run}", *sized((), ("datamodule.prepare.sessions=500",)), threads=None)
        metrics = json.loads((run / "metrics.json").read_text())
        best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True, mmap=True)["state_dict"]
    known = int((best["scorer.parts.track.weight"] != 0).any(1).sum())
    return {"embeddings": str(known), **{name: str(metrics[name]) for name in METRICS}}


def report() -> None:
    """The table: means of the seeds."""
    rows = read_rows(RESULTS)
    body = []
    for source in SOURCES:
        for kind, least in VARIANTS:
            own = [row for row in rows if (row["source"], row["kind"], row["least"]) == (source, kind, str(least))]
            if own:
                means = (f"{sum(float(row[name]) for row in own) / len(own):.4f}" for name in METRICS)
                body.append([source, kind, str(least), f"{int(own[0]['embeddings']):,}", str(len(own)), *means])
    lines = table(["source", "rare tracks", "plays below", "embeddings", "seeds", *METRICS], body, "llrrrrrr")
    STUDY.write_table("min_plays.md", lines)


def main() -> None:
    STUDY.parse()
    measure()
    report()


if __name__ == "__main__":
    STUDY.run(main)
