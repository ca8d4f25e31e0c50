"""A trained model from the files of its run, without the data that it was trained on.

N tracks of the run.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import Int64
from torch import nn

from segue.catalog import Catalog, Listens, Vocabulary
from segue.errors import InputError
from segue.models.contracts import Context, Ranker, Scorer
from segue.models.pair_ranker import RanksByVectors


class RestoredHead(RanksByVectors, nn.Module):
    """A head that ranks, and is not trained.

    Args:
        scorer: the head.
        context: which query vector a history gives.
        plays: popularity of every track.
    """

    loss = None

    def __init__(self, scorer: Scorer, context: Context, plays: Int64[np.ndarray, "N"]) -> None:
        super().__init__()
        self.scorer, self.context, self._plays = scorer, context, plays
        self.eval()


def restore(config: Mapping[str, Any], checkpoint: Path, catalog: Catalog, plays: Int64[np.ndarray, "N"]) -> Ranker:
    """Build the model of a run, and give it the numbers that were learned.

    Args:
        config: `ranker` of the config of the run, whose targets were checked.
        checkpoint: the file.
        catalog: the tracks of the run.
        plays: how often each was played in training.

    Raises:
        InputError: the checkpoint cannot be read, does not fit the config, or is of an older version.
    """
    saved = read_checkpoint(checkpoint)
    state, decided = saved["state_dict"], saved.get("repeats")
    if not isinstance(decided, Mapping):
        raise InputError(f"{checkpoint} is of an older version, and has no rule for tracks already heard; train again")
    vocabulary = vocabulary_of_run(catalog, plays)
    built = {**config, "context": {**config["context"], "repeats": decided["rule"]}}
    try:
        ranker = (
            _restored_head(built, state, vocabulary)
            if "scorer" in config
            else _restored_baseline(built, state, vocabulary)
        )
    except (RuntimeError, KeyError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{checkpoint} does not fit the config of its run ({why}); train again") from None
    ranker.context.repeats.within = int(decided["within"])
    return ranker


def _restored_head(config: Mapping[str, Any], state: Mapping[str, Any], vocabulary: Vocabulary) -> Ranker:
    scorer: Scorer = instantiate(config["scorer"], _convert_="all")(vocabulary)
    context: Context = instantiate(config["context"], _convert_="all")(
        vocabulary, list(scorer.query_parts()), learns=True
    )
    for name, module in (("scorer.", scorer), ("context.", context)):
        module.load_state_dict({key.removeprefix(name): one for key, one in state.items() if key.startswith(name)})
    return cast("Ranker", RestoredHead(scorer, context, vocabulary.plays))


def _restored_baseline(config: Mapping[str, Any], state: Mapping[str, Any], vocabulary: Vocabulary) -> Ranker:
    baseline = instantiate(config, _convert_="all")(vocabulary=vocabulary)
    baseline.load_state_dict(state)
    ranker: Ranker = baseline.eval()
    return ranker


def vocabulary_of_run(catalog: Catalog, plays: Int64[np.ndarray, "N"], num_known: int | None = None) -> Vocabulary:
    """What the files of a run say of its training data: enough to build its model, whose numbers are then restored.

    Args:
        catalog: the tracks.
        plays: how often each was played in training.
        num_known: number of tracks that training had, the first ones; None for all.
    """
    counts = (np.arange(len(catalog)) < (len(catalog) if num_known is None else num_known)).astype(np.int64)
    nothing = np.empty(0, np.int64)
    return Vocabulary(
        catalog=catalog,
        previous_counts=counts,
        next_counts=counts,
        plays=plays,
        listener_counts=np.zeros(1, np.int64),
        listens=Listens(session=nothing, track=nothing, played_ratio=np.empty(0, np.float32)),
        mean_played_ratio=np.nan,  # known in training, if the model needs it
    )


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Read a checkpoint.

    Args:
        path: the file.

    Returns:
        What it has, with its `state_dict` on the CPU.

    Raises:
        InputError: it cannot be read.
    """
    try:
        saved = dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        return {**saved, "state_dict": dict(saved["state_dict"])}
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, EOFError, UnpicklingError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"cannot read {path}: {why}; train the run again") from None
