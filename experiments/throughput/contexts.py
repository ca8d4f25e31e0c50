"""What does the session cost in training: python experiments/throughput/contexts.py [--rounds 12]

Trains convex with `context=last` and `context=session` by the default recipe of each data set, in turns of some steps
in one process with one thread, and compares pairs per second of processor time. Writes contexts.json and contexts.md
into the folder of this file.
"""

import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra.utils import instantiate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import SMALL_WORLD, Study, available, composed, data_of, sized
from segue.reports.console import console
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
DATA = sized(("simulated", "yes", "polimi"), ("simulated",))
CONTEXTS = ("last", "session")
STEPS, TARGET = sized(8, 1), 0.5
"""Steps of a turn, and the share of the speed of `context=last` that `context=session` should reach."""


def trainer_of(data: str, context: str, folder: Path) -> Callable[[], float]:
    """Trains some steps at a call, and returns pairs per second of processor time."""
    words = [f"datamodule={data}", "model=convex", f"context={context}", f"run_dir={folder}", "seed=1"]
    words += sized((), (*SMALL_WORLD, "datamodule.prepare.sessions=500"))
    config = composed("train", *words)
    datamodule = data_of(config)
    torch.manual_seed(1)
    ranker = instantiate(config.ranker, _convert_="all")(vocabulary=datamodule.vocabulary)
    ranker.train()
    given = ranker.configure_optimizers()
    optimizer = given["optimizer"] if isinstance(given, dict) else given

    def batches() -> Iterator[Any]:
        for epoch in itertools.count():
            loader = datamodule.train_dataloader()
            loader.sampler.set_epoch(epoch)
            yield from loader

    endless = batches()

    def work() -> float:
        num_pairs, started = 0, time.process_time()
        for batch in itertools.islice(endless, STEPS):
            loss = ranker.loss(ranker.scorer, batch, ranker.context)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            num_pairs += len(batch.previous)
        return num_pairs / (time.process_time() - started)

    return work


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument("--rounds", type=int, default=sized(12, 1), help=f"turns of {STEPS} steps for each context")
    parser.add_argument("--data", nargs="+", default=DATA, help=f"some of {', '.join(DATA)}")
    options = STUDY.parse(parser)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    rows, cells = [], []
    for data in available(*options.data):
        with tempfile.TemporaryDirectory(prefix="segue-contexts-") as folder:
            trainers = {context: trainer_of(data, context, Path(folder)) for context in CONTEXTS}
            rates: dict[str, list[float]] = {context: [] for context in CONTEXTS}
            for number in range(options.rounds + 1):
                for context, work in trainers.items():
                    rate = work()
                    if number:  # the first turn warms up
                        rates[context].append(rate)
        ratios = [session / last for last, session in zip(rates["last"], rates["session"], strict=True)]
        rows.append({"data": data, "rates": rates, "ratios": ratios})
        numbers = [f"{median(rates[context]):,.0f}" for context in CONTEXTS]
        cells.append([data, *numbers, *(f"{one:.2f}" for one in (median(ratios), min(ratios), max(ratios), TARGET))])
        console.print("  ".join(cells[-1]), highlight=False)
    head = ["data", "last, pairs per s", "session, pairs per s", "session / last", "least", "most", "target"]
    STUDY.write_table("contexts.md", table(head, cells, "lrrrrrr"))
    STUDY.write_record("contexts.json", {"rows": rows, "provenance": STUDY.provenance()})


if __name__ == "__main__":
    STUDY.run(main)
