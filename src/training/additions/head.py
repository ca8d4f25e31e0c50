"""A trained head that knows more tracks than it was trained with."""

from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from segue.catalog import Catalog, Listens, Vocabulary
from segue.errors import InputError
from segue.models.contracts import Scorer

_PREFIX = "scorer."
"""Beginning of the names of the head's numbers in a checkpoint."""


def extended_scorer(
    build: Callable[[Vocabulary], Scorer],
    saved: Mapping[str, Tensor],
    catalog: Catalog,
    num_old: int,
    plays: Int64[np.ndarray, "M"],
) -> Scorer:
    """Build the head for a larger catalogue, and give it the numbers that were learned.

    What the head has for each track or artist grows: its first rows are those of the checkpoint, and the others are as
    the head builds them for tracks that training does not play.

    Args:
        build: factory of the head; takes the vocabulary.
        saved: `state_dict` of the checkpoint.
        catalog: the tracks of the run, then the new ones.
        num_old: number of tracks of the run (M).
        plays: number of plays of each of them in training.

    Returns:
        The head in evaluation mode.

    Raises:
        InputError: the checkpoint is not one of this head.
    """
    counts = (np.arange(len(catalog)) < num_old).astype(np.int64)
    nothing = np.empty(0, np.int64)
    vocabulary = Vocabulary(
        catalog=catalog,
        previous_counts=counts,
        next_counts=counts,
        plays=np.concatenate([plays, counts[num_old:]]),
        listener_counts=np.zeros(1, np.int64),
        listens=Listens(session=nothing, track=nothing, played_ratio=np.empty(0, np.float32)),
        mean_played_ratio=None,
    )
    scorer = build(vocabulary)
    assert isinstance(scorer, torch.nn.Module)
    for name, tensor in scorer.state_dict().items():
        learned = saved.get(_PREFIX + name)
        if (
            learned is None
            or learned.shape[1:] != tensor.shape[1:]
            or learned.ndim != tensor.ndim
            or (tensor.ndim and len(learned) > len(tensor))
        ):
            raise InputError(f"add=: the checkpoint of the run does not fit its config.yaml ({name}); train it again")
        if tensor.ndim:
            tensor[: len(learned)] = learned
        else:
            tensor.copy_(learned)
    return scorer.eval()


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Read the numbers of a checkpoint.

    Args:
        path: the file.

    Returns:
        Its `state_dict`, on the CPU.

    Raises:
        InputError: it cannot be read.
    """
    try:
        state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, EOFError, UnpicklingError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"add=: cannot read {path}: {why}; train the run again") from None
    return state
