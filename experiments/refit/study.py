"""Is a model better after a refit on all sessions, and should a refit begin from the evaluated weights?

    python experiments/refit/study.py           the missing pieces, then results.md

The sessions of each data set are cut in their order: the oldest 60 % train, the next 20 % choose the epoch, the newest
20 % test. The recipe is then trained on the oldest 80 % in several ways, and all models rank the same test queries. One
line of results.csv is one model.
"""

import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from pytorch_lightning import LightningModule, Trainer, seed_everything

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import SMALLEST, Study, append_rows, available, composed, data_of, read_rows, sized
from segue.callbacks.assembly import build_callbacks
from segue.callbacks.ranking_metrics import measured
from segue.callbacks.run_context import RunContext
from segue.datamodules.pair_datamodule import PairDataModule
from segue.reports.markdown import table
from segue.runs.folder import as_dict
from segue.statistics.online import TIME
from segue.terminal.console import console
from segue.terminal.quiet import silence_libraries
from segue.training.refit import decided_by, refit

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "results.csv"
SETS: Mapping[str, Sequence[int]] = sized({"simulated": (1, 2, 3), "yes": (1, 2, 3)}, {"simulated": (1,), "yes": (1,)})
"""Seeds of each data set."""
MODELS = ("convex", "rules")
ALSO = sized((1, 2), (1,))
"""Epochs on all sessions after the evaluated weights."""
METRICS = ("ndcg_at_10", "recall_at_10")


def lines_of(name: str, model: str, seed: int) -> Iterator[dict[str, Any]]:
    """Train a model on a data set, and again in each way; yield a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"datamodule={name}", f"seed={seed}", f"model={model}", "context=last", *sized((), _smallest(name))]
        config = composed("train", *words, f"run_dir={folder}", "callbacks.progress=null")
        whole = data_of(config)
        parts = _in_order(len(whole.as_training().sessions))
        data, known = whole.divided(parts), whole.divided(np.where(parts == 2, 2, 0).astype(np.int8))
        context, given = RunContext(datamodule=data), as_dict(config.callbacks)
        kept = {name: given[name] for name in ("ranking", "early_stopping", "checkpoint", "resume")}
        callbacks, _ = build_callbacks(instantiate(kept, _convert_="all"), context, monitor=config.monitor.metric)

        def judged(how: str, num_epochs: int, train: Callable[[], LightningModule]) -> dict[str, Any]:
            began = time.process_time()
            ranker = train()
            row = {"data": name, "seed": seed, "model": model, "refit": how, "epochs": num_epochs}
            return {**row, "seconds": time.process_time() - began, **metrics_of(config, data, ranker.eval())}

        seed_everything(seed, verbose=False)
        first: LightningModule = instantiate(config.ranker, _convert_="all")(vocabulary=data.vocabulary)
        trainer: Trainer = instantiate(config.trainer, callbacks=callbacks, logger=False, _convert_="all")

        def evaluated() -> LightningModule:
            trainer.fit(first, datamodule=data)
            best = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]  # there is one
            first.load_state_dict(torch.load(best, weights_only=True)["state_dict"])
            return first

        yield judged("none", 0, evaluated)
        epochs = context.history.epochs[: context.history.best_epoch(trainer) + 1]
        yield judged(
            "from the beginning", len(epochs), lambda: refit(config, known, decided_by(trainer, first), epochs).module
        )
        if model == "rules":
            return
        fewer = epochs[: max(1, round(0.75 * len(epochs)))]  # as many steps, because there are a third more pairs
        yield judged(
            "the same number of steps",
            len(fewer),
            lambda: refit(config, known, decided_by(trainer, first), fewer).module,
        )
        for num in ALSO:
            train = partial(continued, config, known, first, num)
            yield judged(f"{num} epochs from the evaluated weights", num, train)


def continued(config: Any, known: PairDataModule, first: LightningModule, num_epochs: int) -> LightningModule:
    """Train the evaluated weights on all sessions. Tracks that they do not know begin as in a new model."""
    seed_everything(config.seed, verbose=False)
    model: LightningModule = instantiate(config.ranker, _convert_="all")(vocabulary=known.vocabulary)
    before = first.state_dict()
    with torch.no_grad():
        for name, value in model.state_dict(keep_vars=True).items():
            if not isinstance(value, torch.Tensor):  # what was decided
                continue
            is_known = (before[name] != 0).any(1) if value.dim() == 2 else ...
            value[is_known] = before[name][is_known]
    callbacks = [instantiate(config.callbacks.resume)]
    trainer: Trainer = instantiate(
        config.trainer, callbacks=callbacks, logger=False, enable_checkpointing=False, max_epochs=num_epochs,
        limit_val_batches=0, _convert_="all",
    )  # fmt: skip
    trainer.fit(model, datamodule=known)
    return model


def metrics_of(config: Any, data: PairDataModule, ranker: Any) -> dict[str, float]:
    """Rank the test queries; where the listeners are simulated, play to them."""
    means, _ = measured(ranker, data, "test", as_dict(config.callbacks.ranking))
    found = {name: means[name] for name in METRICS}
    found["time"] = float("nan")
    if data.prepared_by is not None:
        listening = instantiate(config.callbacks.listening)(RunContext(datamodule=data))
        found["time"] = listening.play(ranker, None)[TIME]
    return found


def _smallest(name: str) -> tuple[str, ...]:
    return SMALLEST if name == "simulated" else SMALLEST[:3]


def _in_order(num_sessions: int) -> np.ndarray:
    return np.repeat(
        np.arange(3, dtype=np.int8), np.diff(np.round(np.array([0, 0.6, 0.8, 1]) * num_sessions).astype(int))
    )


def write_table() -> None:
    """results.md: means over seeds."""
    frame, numbers = pd.read_csv(RESULTS), ["epochs", "seconds", *METRICS, "time"]
    seeds = frame.groupby("data").seed.nunique().to_dict()
    means = frame.groupby(["data", "model", "refit"], sort=False)[numbers].mean().reset_index()
    rows = [
        [
            *(row["data"], str(seeds[row["data"]]), row["model"], row["refit"]),
            *(
                f"{row['epochs']:.1f}",
                f"{row['seconds']:.1f}",
                f"{row['ndcg_at_10']:.4f}",
                f"{row['recall_at_10']:.4f}",
            ),
            "–" if np.isnan(row["time"]) else f"{row['time']:.3f}",
        ]
        for row in means.to_dict("records")
    ]
    head = ["data", "seeds", "model", "refit", "its epochs", "CPU s", "ndcg@10", "recall@10", "time per session"]
    STUDY.write_table("results.md", [f"Means over the seeds; `{STUDY.command}`.", "", *table(head, rows, "lrllrrrrr")])


def main() -> None:
    """Train what is missing, then write the table."""
    STUDY.parse()
    silence_libraries()
    warnings.filterwarnings("ignore")
    console.quiet = True
    done = {(row["data"], row["seed"]) for row in read_rows(RESULTS)} if RESULTS.exists() else set()
    for name in available(*SETS):
        for seed in SETS[name]:
            if (name, str(seed)) not in done:
                append_rows(RESULTS, [line for model in MODELS for line in lines_of(name, model, seed)])
    write_table()
    STUDY.write_provenance()


if __name__ == "__main__":
    STUDY.run(main)
