"""Do our encoders compute what those of the libraries compute, from the same weights?

    python experiments/order/library.py     installs RecBole and RecTools first; writes library.md

The libraries give random weights to a GRU4Rec (RecBole) and to blocks of LiGR (RecTools), and compute scores and a
loss. Our formulas, in training and in the service, must give the same numbers.
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.rivals.environments import python_of
from experiments.rivals.fitting import run
from experiments.studying import SkippedError, Study, is_smoke
from segue.models.contracts import PairBatch, Queries
from segue.models.losses import SoftmaxLoss
from segue.models.order import Encoder, prefixes_of
from segue.picking.order_query import added_by_order, ligr
from segue.reports.markdown import table
from segue.runs.order_part import OrderPart

STUDY = Study(__file__, __doc__)


def numbers_of(library: str, folder: Path) -> dict[str, np.ndarray]:
    """What `library_numbers.py` wrote."""
    path = folder / f"{library}.npz"
    run([python_of(library), str(STUDY.home / "library_numbers.py"), library, str(path)], cwd=folder)
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def difference(ours: Any, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest number."""
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def of_gru4rec(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Differences of scores and loss."""
    dim, width = found["output"].shape
    zero = np.zeros(3 * dim, np.float32)
    numbers = {name: found[name] for name in ("input", "state", "output")} | {"input_bias": zero, "state_bias": zero}
    tracks, items = found["tracks"], found["vectors"][1:]
    newest_first = np.stack([np.append(one[one > 0][::-1], np.full((one == 0).sum(), 0)) for one in tracks]) - 1
    weights = np.ones(tracks.shape, np.float32)
    added = added_by_order(OrderPart(kind="gru", numbers=numbers), items, newest_first, weights)
    queries = added + found["output_bias"]
    differences = {"scores of all tracks, in the service": difference(queries @ items.T, found["scores"])}

    encoder = Encoder(width, tracks.shape[1], kind="gru", dim=dim)
    encoder.numbers.load_state_dict({name: torch.from_numpy(one) for name, one in numbers.items()})
    history, known = torch.from_numpy(newest_first), torch.from_numpy(items)
    unknown = torch.full(history.shape, torch.nan)
    with torch.no_grad():
        of_torch = encoder.added(known, history.clamp(min=0), unknown.nan_to_num(1.0), prefixes_of(history, unknown))
    scores = (of_torch.numpy() + found["output_bias"]) @ items.T
    differences["scores of all tracks, in training"] = difference(scores, found["scores"])

    logits = (of_torch.numpy() + found["output_bias"]) @ found["vectors"].T  # padding is a candidate of the library
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(found["following"]))
    differences["cross entropy of all tracks"] = difference(loss, found["loss"])
    differences["our softmax where all tracks are candidates"] = of_loss(torch.from_numpy(queries), known)
    return differences


def of_loss(queries: torch.Tensor, items: torch.Tensor) -> float:
    """Our loss of a batch in which each track is once the next one, against the cross entropy of all but the previous.

    Args:
        queries: some vectors, which pairs take in turns.
        items: vectors of all tracks.
    """
    rows = torch.arange(len(items))
    vectors, previous = queries[rows % len(queries)], rows.roll(1)
    vocabulary: Any = SimpleNamespace(
        next_counts=np.ones(len(items)), trend=np.ones(len(items)), has_trend=False, mean_played_ratio=None
    )
    found = Queries(vectors, rows, previous, rows.new_empty(len(rows), 0))
    context: Any = SimpleNamespace(queries=lambda *_: found, repeats=SimpleNamespace(rule="always"))
    scorer: Any = SimpleNamespace(item=lambda which: items[which], num_tracks=len(items))
    nothing = torch.full((len(rows),), torch.nan)
    batch = PairBatch(previous, rows, nothing, rows, rows[:, None], nothing[:, None])
    ours = SoftmaxLoss(vocabulary, temperature=1.0, logq=0.0)(scorer, batch, context)
    logits = (vectors @ items.T).index_put((rows, previous), torch.tensor(-torch.inf))
    return difference(ours, torch.nn.functional.cross_entropy(logits, rows).numpy())


def of_ligr(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Differences at the newest track of each session."""
    width, length = found["vectors"].shape[1], found["tracks"].shape[1]
    given = {"input": np.eye(width, dtype=np.float32), "place": np.zeros((length, width), np.float32), **found}
    tracks, last = found["vectors"][found["tracks"]], (found["tracks"] > 0).sum(1) - 1
    in_training = ligr(torch.from_numpy(tracks), {name: torch.from_numpy(one) for name, one in given.items()}, xp=torch)
    return {
        "blocks, in the service": difference(ligr(tracks, given, last), found["values"]),
        "blocks, in training": difference(in_training.numpy()[np.arange(len(last)), last], found["values"]),
    }


def main() -> None:
    """Compare, and write the table."""
    STUDY.parse()
    if is_smoke():
        raise SkippedError("RecBole and RecTools are not installed for a smoke")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        differences = {
            "GRU4Rec of RecBole": of_gru4rec(numbers_of("recbole", folder)),
            "LiGR of RecTools": of_ligr(numbers_of("rectools", folder)),
        }
    rows = [[library, what, f"{value:.0e}"] for library, of in differences.items() for what, value in of.items()]
    STUDY.write_table("library.md", table(["library", "what", "largest relative difference"], rows, "llr"))


if __name__ == "__main__":
    STUDY.run(main)
