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
from jaxtyping import Float, Int, Int64, Real
from torch import Tensor, nn

from segue.catalog import Calendar, Catalog, Listens, Vocabulary, example_vocabulary
from segue.errors import InputError
from segue.models.contexts import LastTrack
from segue.models.contracts import Context, QueryPart, Scorer
from segue.models.head_ranker import HeadRanker
from segue.models.listener_part import ListenerPart
from segue.models.ranker import Ranker
from segue.models.retrieval.lists import ListSearch
from segue.runs.counted_part import CountedPart
from segue.runs.session_vectors import SessionVectors

CHECKPOINT = "checkpoints/best.ckpt"
"""The checkpoint of the best epoch in a run folder: of the model that was tested."""
REFITTED = "checkpoints/refitted.ckpt"
"""The checkpoint of the model that has learned all sessions, if the run has one: of the model that is exported."""


class TableOfVectors(Scorer):
    """A head whose vectors are computed: it needs no attributes, and nothing of the class that was trained.

    Args:
        vectors: of all tracks.
    """

    def __init__(self, vectors: SessionVectors) -> None:
        super().__init__(len(vectors.queries))
        self._vectors = vectors
        self._queries = nn.Parameter(torch.from_numpy(vectors.queries), requires_grad=False)
        self._items = nn.Parameter(torch.from_numpy(vectors.items), requires_grad=False)

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Look up query vectors."""
        return self._queries[rows]

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Look up item vectors."""
        return self._items[rows]

    def query_parts(self) -> Mapping[str, QueryPart]:
        """Name the parts of a query vector."""
        given, ends = self._vectors, self._vectors.ends.tolist()
        shares = [None if np.isnan(one) else float(one) for one in given.shares]
        return dict(zip(given.parts, map(QueryPart, map(slice, [0, *ends], ends), shares), strict=True))


class RestoredHead(HeadRanker, nn.Module):
    """A head that ranks, and is not trained.

    Args:
        scorer: the head.
        context: which query vector a history gives.
        order: popularity of every track.
        others: attributes of `Ranker` that it has besides, such as `temperature`.
    """

    loss = None
    counted: CountedPart | None = None

    def __init__(self, scorer: Scorer, context: Context, order: Real[np.ndarray, "N"], **others: Any) -> None:
        super().__init__()
        for name, one in {"scorer": scorer, "context": context, "order": order, **others}.items():
            setattr(self, name, one)
        self.eval()


def lists_of_vectors(
    vectors: SessionVectors,
    order: Real[np.ndarray, "N"],
    k: int,
    rows: Int64[np.ndarray, "Q"] | None = None,
    *,
    recall: float | None = None,
) -> ListSearch:
    """Prepare a search for the lists of a head from its vectors alone; see `Ranker.lists`.

    Args:
        vectors: of all tracks, with what is counted.
        order: decides between equal scores.
        k: length of a list.
        rows: of the tracks; None for all.
        recall: share of the exact lists to aim at; None for exact lists.
    """
    last = LastTrack(example_vocabulary(), list(vectors.parts), learns=False)
    return RestoredHead(TableOfVectors(vectors), last, order, counted=vectors.counted).lists(k, rows, recall=recall)


def restore(
    config: Mapping[str, Any], checkpoint: Path, vectors: Path, catalog: Catalog, plays: Int64[np.ndarray, "N"]
) -> Ranker:
    """Build the model of a run from its vectors or counts, and from the numbers of its context.

    Args:
        config: `ranker` of the config of the run, whose targets were checked.
        checkpoint: of the model.
        vectors: of the same model, if it is a head.
        catalog: the tracks of the run.
        plays: how often each was played in training.

    Raises:
        InputError: a file cannot be read, or does not fit the config.
    """
    saved, vocabulary = read_checkpoint(checkpoint), vocabulary_of_run(catalog, plays)
    state = saved["state_dict"]
    try:
        if "scorer" not in config:
            ranker: Ranker = instantiate(config, _convert_="all")(vocabulary=vocabulary).eval()
            cast(nn.Module, ranker).load_state_dict(state)
            return ranker
        given, make_context = SessionVectors.read(vectors, catalog), instantiate(config["context"], _convert_="all")
        context: Context = make_context(vocabulary, list(given.parts), width=int(given.ends[-1]), learns=True)
        of_context = {key.removeprefix("context."): one for key, one in state.items() if key.startswith("context.")}
        context.load_state_dict(of_context)
        return RestoredHead(
            TableOfVectors(given),
            context,
            saved["popularity"].numpy(),
            counted=given.counted,
            temperature=config["loss"].get("temperature"),
            listener=None if given.listener is None else ListenerPart(vocabulary, given.listener),
        )
    except (RuntimeError, KeyError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{checkpoint} does not fit the config of its run ({why}); train again") from None


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
        mean_played_ratio=np.nan,  # known in training, if the model needs it, as the calendar is
        calendar=Calendar(age=np.zeros(1, np.float32)),
    )


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Read a checkpoint.

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
