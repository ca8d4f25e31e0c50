"""Is a mixture of models of the order, the weighted sum and nearest sessions better than each of them?

    python experiments/order/mixture.py     mixes the trainings of study.py (seed 1), and vstan; writes mixture.md

Weights are fitted to validation queries, as `model=mixture` fits them; the test is ranked once by each mixture.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.order.study import DATA as WORDS
from experiments.order.study import MODELS, OF_ORDER, ONLY_TESTED
from experiments.rivals.fitting import composed, means
from experiments.studying import Study, available, sized, train
from segue.callbacks.run_context import RunContext
from segue.catalog import Vocabulary
from segue.models.contracts import Ranker
from segue.models.mixture import Members, Mixture
from segue.models.restoring import read_checkpoint
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
DATA = sized("yes", "situnes")
SETS = [("convex", "vstan"), ("convex", "vstan", "gru4rec"), ("convex", "vstan", "gru4rec", "sasrec")]


def checkpoint_of(model: str) -> Path:
    """The checkpoint of a training, which is run if it is missing."""
    folder = STUDY.work / DATA / model / "1"
    path = folder / "checkpoints" / "best.ckpt"
    if not path.exists():
        own = [word for word in WORDS[DATA] if model in OF_ORDER or not word.startswith("context.")]
        words = [*own, *MODELS[model]] if model in MODELS else [f"model={model}"]
        train(f"datamodule={DATA}", *words, *ONLY_TESTED, "seed=1", f"run_dir={folder}")
    return path


def ranker_of(model: str, vocabulary: Vocabulary) -> Ranker:
    """A model that was tested."""
    path = checkpoint_of(model)
    config, saved = OmegaConf.load(path.parents[1] / "config.yaml"), read_checkpoint(path)
    ranker = instantiate(config.ranker, _convert_="all")(vocabulary=vocabulary)
    ranker.on_load_checkpoint(saved)
    ranker.load_state_dict(saved["state_dict"])
    found: Ranker = ranker.eval()
    return found


class Read(Members):
    """Members that are in memory.

    Attributes:
        rankers: the models by name.
    """

    rankers: dict[str, Ranker]

    def read(self) -> dict[str, Ranker]:
        """The models by name."""
        return self.rankers


def mixture_of(rankers: dict[str, Ranker], vocabulary: Vocabulary) -> Mixture:
    """A mixture before its weights are fitted."""
    words = [f"datamodule={DATA}", "context=last", "model=mixture", "model.models={a: a, b: b}"]

    def members(known: Vocabulary) -> Read:
        made = Read(known, models=dict.fromkeys(rankers, "no folder"))
        made.rankers = rankers
        return made

    config = composed(words, STUDY.work / "mixture").ranker
    mixture: Mixture = instantiate(config, _convert_="all")(vocabulary=vocabulary, model=members)
    return mixture


def main() -> None:
    """Fit the mixtures, and write the table."""
    STUDY.parse()
    available(DATA)
    torch.set_num_threads(1)
    config = composed([f"datamodule={DATA}", "model=popular"], STUDY.work / "mixture")
    datamodule = instantiate(config.datamodule, _convert_="all")
    datamodule.prepare_data()
    datamodule.setup()
    queries = instantiate(config.callbacks.ranking, _convert_="all")(RunContext(datamodule=datamodule)).queries
    every = {name: ranker_of(name, datamodule.vocabulary) for name in SETS[-1]}
    rows: list[list[str]] = []

    def add(name: str, of: Any, weight: str = "", gain: str = "") -> None:
        found = {part: means(of.ranks(datamodule.histories(own), own.following, lambda _: None))
                 for part, own in queries.items()}  # fmt: skip
        cells = [found["val"]["ndcg_at_10"], found["test"]["recall_at_10"], found["test"]["ndcg_at_10"]]
        rows.append([name, weight, gain, *(f"{cell:.4f}" for cell in cells)])

    with torch.inference_mode():
        for name, ranker in every.items():
            add(name, ranker)
        for names in SETS:
            mixture = mixture_of({name: every[name] for name in names}, datamodule.vocabulary)
            mixture.fit_to(datamodule.histories(queries["val"]), queries["val"].following)
            add(" + ".join(names), mixture)
            for name in names:
                weight, gain = mixture.weights.get(name, 0.0), mixture.gains.get(name, 0.0)
                rows.append([f"of these {name}", f"{weight:.2f}", f"{gain:+.4f}", "", "", ""])
            print(*rows[-1 - len(names) :], sep="\n", flush=True)
    head = ["model", "weight", "adds to validation ndcg@10", "validation ndcg@10", "recall@10", "ndcg@10"]
    STUDY.write_table("mixture.md", table(head, rows, "lrrrrr"))


if __name__ == "__main__":
    STUDY.run(main)
