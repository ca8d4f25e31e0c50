"""A finished run with new tracks: its head and its vectors. Scores of the other tracks do not change.

N tracks of the run, then M new ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from segue.catalog import Catalog, Vocabulary
from segue.errors import InputError
from segue.models.contracts import Scorer
from segue.models.restoring import vocabulary_of_run
from segue.runs.session_vectors import SessionVectors

_CLOSE = 1e-4  # largest difference of two numbers of a vector of a run, computed twice


def extended_scorer(
    build: Callable[[Vocabulary], Scorer], saved: Mapping[str, Tensor], catalog: Catalog, plays: Int64[np.ndarray, "N"]
) -> Scorer:
    """Build the head for a larger catalogue, and give it the numbers that were learned.

    What the head has for each track or artist grows: its first rows are those of the checkpoint, and the others are as
    the head builds them for tracks that training does not play.

    Args:
        build: factory of the head; takes the vocabulary.
        saved: `state_dict` of the checkpoint.
        catalog: the tracks of the run, then the new ones.
        plays: number of plays of each track of the run in training.

    Returns:
        The head in evaluation mode.

    Raises:
        InputError: the checkpoint is not one of this head.
    """
    new = np.zeros(len(catalog) - len(plays), np.int64)
    scorer = build(vocabulary_of_run(catalog, np.append(plays, new), len(plays)))
    for name, tensor in scorer.state_dict().items():
        learned = saved.get(f"scorer.{name}")
        if learned is None or learned.shape[1:] != tensor.shape[1:] or learned.shape[:1] > tensor.shape[:1]:
            raise InputError(f"add=: the checkpoint of the run does not fit its config.yaml ({name}); train it again")
        (tensor[: len(learned)] if tensor.ndim else tensor).copy_(learned)
    return scorer.eval()


def extended_vectors(of_run: SessionVectors, scorer: Scorer, *, run: str, catalogue: str) -> SessionVectors:
    """The vectors of a run, and after them those of the new tracks.

    Args:
        of_run: those of the run.
        scorer: the head, for all tracks.
        run: names the run in messages.
        catalogue: names the file of the catalogue.

    Raises:
        InputError: those of the run are not those that its checkpoint and the catalogue give.
    """
    num_old, tables = len(of_run.queries), []
    with torch.inference_mode():
        of_all = scorer.query_vectors().float().numpy(), scorer.item_vectors().float().numpy()
    for ours, theirs in zip(of_all, (of_run.queries, of_run.items), strict=True):
        if ours.shape[1] != theirs.shape[1] or not np.allclose(ours[:num_old], theirs, rtol=0, atol=_CLOSE):
            raise InputError(
                f"add={run}: its checkpoint and catalogue={catalogue} give its tracks other vectors than it has; "
                "correct the attributes of its tracks in the catalogue, or train a run with this catalogue"
            )
        tables.append(np.concatenate([theirs, ours[num_old:]]))
    return replace(of_run.at_rows(np.arange(num_old), len(tables[0])), queries=tables[0], items=tables[1])
