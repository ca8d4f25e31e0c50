"""Which loss is best for a GRU? On validation queries; no test query is ranked.

    python experiments/order/tried.py               each variant that tried.csv does not have yet; then tried.md
    python experiments/order/tried.py --most 1      at most one variant now; the next call continues

Each variant is trained on whole sessions of `yes` with the settings of `conf/`, for some epochs, with one seed. One
line of tried.csv is one epoch.

B pairs, K candidates.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, append_rows, available, composed, data_of, read_rows, sized
from segue.callbacks.run_context import RunContext
from segue.catalog import Vocabulary
from segue.models.pair_ranker import PairRanker
from segue.reports.markdown import table
from segue.statistics.ranking import ndcg_at

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "tried.csv"
DATA, QUERIES, EPOCHS = sized(("yes", 5_000, 2), ("situnes", 50, 1))
WORDS = sized((), ("recipe=playlists", "model.dim=16", "context.encoder.dim=16"))
SAMPLED, POWER, REGULARISED = 2048, 0.75, 1.0
"""Of the author of GRU4Rec: tracks that are drawn for a batch, the power of their plays, and λ of BPR-max."""


def as_it_is(ranker: PairRanker, vocabulary: Vocabulary) -> None:
    """The default: a softmax over the next tracks of the batch with logQ correction."""


def bpr_max(target: Tensor, others: Tensor) -> Tensor:
    """BPR-max of each pair, with the penalty of scores (Hidasi and Karatzoglou, CIKM 2018).

    Args:
        target: score of the next track, shape B.
        others: scores of other tracks, shape B × K; −∞ where one is the next track.
    """
    share = others.softmax(1)
    found = (share * torch.sigmoid(target[:, None] - others)).sum(1)
    return REGULARISED * (share * others.clamp(min=-1e4) ** 2).sum(1) - (found + 1e-9).log()


def cross_entropy(target: Tensor, others: Tensor) -> Tensor:
    """Cross entropy of each pair; see `bpr_max`."""
    return torch.logaddexp(target, others.logsumexp(1)) - target


def against(
    ranker: PairRanker,
    vocabulary: Vocabulary,
    *,
    compare: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    logq: float = 0.0,
    is_sampled: bool = True,
) -> None:
    """The next track is held against tracks drawn by their plays, the same for all pairs of a batch, or all tracks."""
    loss: Any = ranker.loss
    chance = torch.from_numpy(vocabulary.next_counts).double().clamp(min=1) ** POWER
    of_log = (logq * (chance / chance.sum()).log()).float()
    drawn = torch.Generator().manual_seed(1)

    def forward(scorer: Any, batch: Any, context: Any) -> Tensor:
        found = context.queries(scorer, batch.previous, batch.history, batch.history_share)
        queries, following = found.vectors[found.of_pair] / loss.temperature, batch.following
        rows = torch.arange(len(chance))
        if is_sampled:
            rows = torch.multinomial(chance, SAMPLED, replacement=True, generator=drawn)
        others = queries @ scorer.item(rows).T - of_log[rows]
        is_left_out = (rows == following[:, None]) | (rows == batch.previous[:, None])
        target = torch.linalg.vecdot(queries, scorer.item(following)) - of_log[following]
        each = compare(target, others.masked_fill(is_left_out, -torch.inf))
        return each[batch.previous != following].mean()

    loss.forward = forward


VARIANTS: dict[str, Callable[[PairRanker, Vocabulary], None]] = {
    "softmax of the batch, logQ": as_it_is,
    "sampled, BPR-max": partial(against, compare=bpr_max),
    "sampled, cross entropy": against,
    "sampled, cross entropy, logQ": partial(against, logq=1.0),
    "all tracks, cross entropy": partial(against, is_sampled=False),
}
"""What is changed after the model is built."""


def ndcg(ranker: Any, datamodule: Any, queries: Any) -> float:
    """Validation ndcg@10 by the best of the ways to rank tracks already heard."""
    histories, repeats = datamodule.histories(queries), ranker.context.repeats
    with torch.inference_mode():
        ranks = repeats.tried(
            lambda: ranker.ranks(histories, queries.following, lambda _: None), lambda of: ndcg_at(of, 10).mean()
        )
    return max(float(np.mean(ndcg_at(of, 10))) for of in ranks.values())


def run(name: str) -> None:
    """Train a variant, and add its lines."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"datamodule={DATA}", "model=gru4rec", "counted=none", "seed=1", *WORDS]
        config = composed("train", *words, f"callbacks.ranking.max_val_queries={QUERIES}", f"run_dir={folder}")
        datamodule = data_of(config)
    queries = instantiate(config.callbacks.ranking, _convert_="all")(RunContext(datamodule=datamodule)).queries["val"]
    torch.manual_seed(1)
    ranker = instantiate(config.ranker, _convert_="all")(vocabulary=datamodule.vocabulary)
    VARIANTS[name](ranker, datamodule.vocabulary)
    found, lines = ranker.configure_optimizers(), list[dict[str, Any]]()
    optimizer = found["optimizer"] if isinstance(found, dict) else found
    loader = datamodule.train_dataloader()
    for epoch in range(EPOCHS):
        began = time.process_time()
        loader.sampler.set_epoch(epoch)
        ranker.train()
        for batch in loader:
            optimizer.zero_grad()
            ranker.loss(ranker.scorer, batch, ranker.context).backward()
            optimizer.step()
        seconds = time.process_time() - began
        value = ndcg(ranker.eval(), datamodule, queries)
        lines.append(
            {
                "variant": name,
                "epoch": epoch + 1,
                "val_ndcg_at_10": value,
                "cpu_s": round(seconds, 1),
                "commit": STUDY.commit(),
            }
        )
        print(name, epoch + 1, f"{value:.4f}", f"{seconds:.0f} s", flush=True)
    append_rows(RESULTS, lines)


def report() -> None:
    """Write tried.md."""
    lines = pd.DataFrame(read_rows(RESULTS))
    rows = []
    for name in VARIANTS:
        if len(own := lines[lines["variant"] == name]):
            values = [f"{float(value):.4f}" for value in own["val_ndcg_at_10"]]
            rows.append([name, *values, f"{own['cpu_s'].astype(float).mean():.0f}"])
    head = ["variant", *(f"epoch {nth}" for nth in range(1, EPOCHS + 1)), "CPU of an epoch, s"]
    text = [f"Validation ndcg@10 of {DATA}, one seed.", "", *table(head, rows, "l" + "r" * (EPOCHS + 1))]
    STUDY.write_table("tried.md", text)


def main() -> None:
    """Train what is missing, then write the table."""
    parser = STUDY.parser()
    parser.add_argument("--most", type=int, default=99, help="train at most so many variants now")
    options = STUDY.parse(parser)
    available(DATA)
    torch.set_num_threads(1)
    done = {row["variant"] for row in read_rows(RESULTS)}
    for name in [name for name in VARIANTS if name not in done][: options.most]:
        run(name)
    report()


if __name__ == "__main__":
    STUDY.run(main)
