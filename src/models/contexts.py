"""Contexts: which query vector a history gives, that of one previous track or that of the session so far.

B histories, H tracks of a history, E tracks of all histories, W width of a part.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from segue.catalog import Vocabulary
from segue.errors import InputError
from segue.models.contracts import Context, PairBatch, Queries, Scorer
from segue.models.order import Encoder, prefixes_of
from segue.models.repeats import Repeats
from segue.picking.session_query import age_weight, share_weight
from segue.runs.session_vectors import MAX_LENGTH, OrderPart
from segue.settings import Setting, settings

OTHERS, _USUAL, _ALL = "others", ("track", "artist"), "all"
"""Name of a value for all parts that have none of their own. A recipe names a part that some heads lack."""
_DECAY, _EARLIER, _SKIPPED = math.log(0.8 / 0.2), 0.0, math.atanh(0.9)
"""Learned parameters before training: a decay of 0.8, and factors of 1 and 0.9."""
_Number = float | Literal["learned"]
_Rule = Annotated[Literal["never", "always", "auto"], Setting("how tracks already heard are ranked; see `Repeats`")]


@settings("context")
class LastTrack(Context):
    """One previous track: the query vector of a history is that of the track it is paired with.

    Args:
        vocabulary: the training sessions.
        parts: names of the parts of a query vector.
        width: columns of all parts of a query vector; 0 for a baseline, which has no vectors.
        learns: whether the model is trained by gradient descent.
    """

    is_last = True

    def __init__(
        self,
        vocabulary: Vocabulary,
        parts: Sequence[str],  # noqa: ARG002 - every context gets them
        width: int = 0,  # noqa: ARG002
        *,
        max_length: Annotated[
            int, Setting("number of tracks of the session that `repeats` looks at (H)", least=0, most=MAX_LENGTH)
        ] = 0,
        repeats: _Rule = "always",
        learns: bool,  # noqa: ARG002
    ) -> None:
        super().__init__()
        if repeats != "always" and not max_length:
            raise InputError(
                f"context.repeats={repeats} needs the tracks of the session, and context.max_length is 0; "
                "use context.max_length=20"
            )
        self.max_length = max_length
        self.repeats = Repeats(repeats, vocabulary, length=max_length)

    def queries(
        self,
        scorer: Scorer,
        previous: Int64[Tensor, "B"],
        history: Int64[Tensor, "B H"],
        _: Float[Tensor, "B H"],
    ) -> Queries:
        """Compute the query vector of `previous`, once for each distinct track if nothing else distinguishes pairs."""
        if history.shape[1]:
            of_pair = torch.arange(len(previous), device=previous.device)
            return Queries(scorer.query(previous), of_pair, previous)
        rows, of_pair = previous.unique(return_inverse=True)
        return Queries(scorer.query(rows), of_pair, rows)

    def weights(self, _: str, age: Int64[Tensor, "*E"], share: Float[Tensor, "*E"]) -> Float[Tensor, "*E"]:
        """Weight 1 for the newest track and 0 for all others."""
        return (age == 0).to(share.dtype)

    def score(self, scorer: Scorer, batch: PairBatch) -> Float[Tensor, "B"]:
        """Compute the score of each pair."""
        return torch.as_tensor(scorer(batch.previous, batch.following))


@settings("context")
class Session(Context):
    """The session so far: the query vector of a history is a weighted sum of the query vectors of its tracks.

    `picking/session_query.py` has the formula. What is learned is one number for each part of the query vector, such as
    tracks and artists, and decay may be given for each: the artist of the newest track may say more than all artists
    before it. The weight of a track that was skipped may be negative. Numbers outside the parts, such as the constant
    of an item bias, are those of the newest track.

    An `encoder` makes it a model of the order (`context=gru4rec`, `context=sasrec`): it reads the tracks, each
    multiplied by its weight by the share played, and what it has read is added to the sum.

    With `decay=0 skipped=1` it is the model of one previous track. With `trains_on=last` the loss sees the newest track
    alone, and the session is the query where tracks are ranked, exported and served.

    Args:
        vocabulary: the training sessions.
        parts: names of the parts of a query vector.
        width: columns of all parts of a query vector; 0 for a baseline, which has no vectors.
        learns: whether the model is trained by gradient descent. Otherwise nothing may be `learned`.
    """

    is_last = False

    def __init__(
        self,
        vocabulary: Vocabulary,
        parts: Sequence[str],
        width: int = 0,
        *,
        max_length: Annotated[
            int,
            Setting("number of newest tracks (H)", least=1, most=MAX_LENGTH, hint="context=last is one previous track"),
        ],
        decay: Annotated[
            _Number | Mapping[str, _Number],
            Setting(
                "factor for each track further back: one, or by part, with `others` for all others", least=0, most=1
            ),
        ],
        earlier: Annotated[_Number, Setting("factor for all tracks but the newest", least=0)] = 1.0,
        skipped: Annotated[_Number, Setting("weight of a track of which nothing was played", least=-1, most=1)],
        trains_on: Annotated[
            Literal["session", "last"], Setting("the query that the loss sees; with last nothing may be learned")
        ] = "session",
        repeats: _Rule = "auto",
        encoder: Callable[[int, int], Encoder] | None = None,
        learns: bool,
    ) -> None:
        super().__init__()
        if skipped == "learned" and vocabulary.mean_played_ratio is None:
            skipped = 1.0
        self.decay = _Numbers(_decays(decay, parts), torch.sigmoid, _DECAY)
        self.earlier = _Numbers(dict.fromkeys(parts, earlier), torch.exp, _EARLIER)
        self.skipped = _Numbers({_ALL: skipped}, torch.tanh, _SKIPPED)
        learned = [f"{name}=learned" for name, numbers in self.named_children() if list(numbers.parameters())]
        learned += ["encoder"] * (encoder is not None)
        if learned and not (learns and trains_on == "session"):
            raise InputError(
                f"context.{learned[0]} needs gradient descent on sessions, which baselines have not, and "
                "context.trains_on=last has not; leave it out, or use context.trains_on=session with a head"
            )
        self.max_length, self.encoder = max_length, None if encoder is None else encoder(width, max_length)
        self.repeats, self._last = Repeats(repeats, vocabulary, length=MAX_LENGTH), None
        if trains_on == "last":
            self._last = LastTrack(vocabulary, parts, max_length=max_length, learns=learns)
            self._last.repeats = self.repeats  # one rule

    @property
    def of_loss(self) -> "Session | LastTrack":
        """The context that the loss sees: itself, or one previous track."""
        return self if self._last is None else self._last

    def weights(self, part: str, age: Int64[Tensor, "*E"], share: Float[Tensor, "*E"]) -> Float[Tensor, "*E"]:
        """Compute the weight of tracks in the sum."""
        return self._of_age(part, age) * self._of_share(share)

    def _of_age(self, part: str, age: Int64[Tensor, "*E"]) -> Tensor:
        decay = torch.as_tensor(self.decay(part), device=age.device)
        return torch.as_tensor(age_weight(age, decay, self.earlier(part), torch))

    def _of_share(self, share: Float[Tensor, "*E"]) -> Tensor:
        return torch.as_tensor(share_weight(share, self.skipped(_ALL), torch))

    def queries(
        self, scorer: Scorer, previous: Int64[Tensor, "B"], history: Int64[Tensor, "B H"], share: Float[Tensor, "B H"]
    ) -> Queries:
        """Compute one query vector for each history. The vector of each distinct track is computed once.

        Raises:
            InputError: the batches have no histories.
        """
        if not history.shape[1]:
            raise InputError(
                "datamodule.history=0 leaves no tracks for context=session; leave datamodule.history out, then "
                "context.max_length sets it"
            )
        is_there, ages = history >= 0, torch.arange(history.shape[1], device=history.device)
        events, length = is_there.flatten().nonzero()[:, 0], is_there.sum(1)
        age, start = events % len(ages), length.cumsum(0) - length
        rows, place = history.flatten().index_select(0, events).unique(return_inverse=True)
        vectors, parts = scorer.query(rows), scorer.query_parts()
        of_share = self._of_share(share.flatten().index_select(0, events))
        bags = []
        for name, part in parts.items():
            own, weights = (
                vectors[:, part.columns].contiguous(),
                self._of_age(name, ages).index_select(0, age) * of_share,
            )
            bags.append(F.embedding_bag(place, own, start, mode="sum", per_sample_weights=weights.to(own.dtype)))
        sums, end = torch.cat(bags, dim=1), part.columns.stop  # later columns are those of the newest track
        if self.encoder is not None:
            of_event = torch.zeros_like(history).masked_scatter_(is_there, place)
            added = self.encoder.added(vectors[:, :end], of_event, self._of_share(share), prefixes_of(history, share))
            sums = sums + added
        newest = vectors[:, end:].index_select(0, place[start])
        of_pair = torch.arange(len(previous), device=previous.device)
        return Queries(torch.cat([sums, newest], dim=1), of_pair, previous)

    def orders(self) -> tuple[OrderPart, ...]:
        """Return the numbers of the encoder, if there is one."""
        return () if self.encoder is None else (self.encoder.part(),)

    def score(self, scorer: Scorer, batch: PairBatch) -> Float[Tensor, "B"]:
        """Compute the score of each pair."""
        queries = self.queries(scorer, batch.previous, batch.history, batch.history_share)
        return torch.as_tensor(torch.linalg.vecdot(queries.vectors, scorer.item(batch.following)))  # a query each

    @torch.no_grad()
    def logged(self) -> Mapping[str, float]:
        """Report the decays and what else is learned."""
        found = {f"decay_{part}": float(self.decay(part)) for part in self.decay.given}
        found |= {f"earlier_{part}": float(self.earlier(part)) for part in self.earlier.raw}
        return found | ({"skipped": float(self.skipped(_ALL))} if self.skipped.raw else {})


class _Numbers(nn.Module):
    """A number of each part of a query vector, given or learned.

    Args:
        given: the number of each part, or `learned`.
        of: makes the number of a parameter in (-∞, ∞).
        first: the parameter before training.
    """

    def __init__(self, given: Mapping[str, _Number], of: Callable[[Tensor], Tensor], first: float) -> None:
        super().__init__()
        self.given, self._of = given, of
        self.raw = nn.ParameterDict({part: torch.tensor(first) for part, one in given.items() if one == "learned"})

    def forward(self, part: str) -> Any:
        """Return the number of a part; a tensor where it is learned."""
        return self._of(self.raw[part]) if part in self.raw else self.given[part]


def _decays(given: Any, parts: Sequence[str]) -> dict[str, Any]:
    """The decay of each part; `others` is that of all parts without one of their own."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(parts, given)
    found = {part: given.get(part, given.get(OTHERS)) for part in parts}
    if None in found.values() or given.keys() - {*parts, *_USUAL, OTHERS}:
        raise InputError(
            f"context.decay must have a value for each of {', '.join(parts)}, or for {OTHERS}, which means all that "
            f"are not named, and for nothing else, got {dict(given)}"
        )
    return found
