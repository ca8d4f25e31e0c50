"""One previous track as the query.

B histories, H tracks of a history.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from segue.catalog import Vocabulary
from segue.errors import InputError, check_number
from segue.models.context.repeats import Repeats
from segue.models.contracts import PairBatch, Queries, Scorer
from segue.runs.session_vectors import MAX_LENGTH


class LastTrack(nn.Module):
    """One previous track: the query vector of a history is that of the track it is paired with.

    Args:
        vocabulary: the training sessions.
        parts: names of the parts of a query vector.
        max_length: number of tracks of a history that are looked up (H). `repeats` other than `always` needs them.
        repeats: `always`, `never`, `penalty` or `auto`; see `Repeats`.
        repeats_up_to: share of repeats up to which `auto` is `never`.
        repeats_within: number of newest tracks to which the rule applies, or `auto`.
        learns: whether the model is trained by gradient descent.

    Raises:
        InputError: a setting is out of range.
    """

    is_last = True

    def __init__(
        self,
        vocabulary: Vocabulary,
        parts: Sequence[str],  # noqa: ARG002 - every context gets them
        *,
        max_length: int,
        repeats: str,
        repeats_up_to: int | float,
        repeats_within: int | str,
        learns: bool,
    ) -> None:
        super().__init__()
        check_number("context.max_length", max_length, whole=True, least=0, most=MAX_LENGTH)
        if repeats != "always" and not max_length:
            raise InputError(
                f"context.repeats={repeats} needs the tracks of the session, and context.max_length is 0; "
                "use context.max_length=20"
            )
        self.max_length = max_length
        self.repeats = Repeats(
            repeats, vocabulary, most=repeats_up_to, within=repeats_within, length=max_length, learns=learns
        )

    @property
    def of_loss(self) -> "LastTrack":
        """Return itself: the loss sees one previous track too."""
        return self

    def queries(
        self,
        scorer: Scorer,
        previous: Int64[Tensor, "B"],
        history: Int64[Tensor, "B H"],
        share: Float[Tensor, "B H"],  # noqa: ARG002 - how much was played of the track does not matter
    ) -> Queries:
        """Compute the query vector of `previous`, once for each distinct track if nothing else distinguishes pairs."""
        if history.shape[1]:
            heard = history[:, : self.repeats.within]
            return Queries(scorer.query(previous), torch.arange(len(previous), device=previous.device), previous, heard)
        rows, of_pair = previous.unique(return_inverse=True)
        return Queries(scorer.query(rows), of_pair, rows, rows.new_empty(len(rows), 0))

    def weights(
        self,
        part: str,  # noqa: ARG002 - all parts are those of one track
        age: Int64[Tensor, "*E"],
        share: Float[Tensor, "*E"],
    ) -> Float[Tensor, "*E"]:
        """Weight 1 for the newest track and 0 for all others."""
        return (age == 0).to(share.dtype)

    def power(self, part: str) -> float:  # noqa: ARG002 - no part is divided
        """Return 0: a query vector is that of a track."""
        return 0.0

    def score(self, scorer: Scorer, batch: PairBatch) -> Float[Tensor, "B"]:
        """Compute the score of each pair."""
        return scorer(batch.previous, batch.following)

    def logged(self) -> Mapping[str, float]:
        """Report the numbers of `repeats`."""
        return self.repeats.logged()
