"""Contexts: which query vector a history gives, that of one previous track or that of the session so far.

B histories, H tracks of a history, E tracks of all histories, W width of a part.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from segue.catalog import Vocabulary
from segue.errors import InputError
from segue.models.contracts import Context, PairBatch, Queries, Scorer
from segue.models.kernels import Heard, weighted_sums
from segue.models.order import Encoder, prefixes_of
from segue.models.repeats import Repeats
from segue.picking.session_query import age_weight, length_factor, share_weight
from segue.runs.session_vectors import MAX_LENGTH, OrderPart
from segue.settings import Setting, settings

OTHERS, _USUAL = "others", ("track", "artist")
"""Name of a value for all parts that have none of their own. A recipe names a part that some heads lack."""
FIRST_DECAY, FIRST_POWER = 0.8, 0.1
"""Learned numbers before training; the power begins near the plain sum."""
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
            return Queries(scorer.query(previous), of_pair, previous, self.repeats.recent(history))
        rows, of_pair = previous.unique(return_inverse=True)
        return Queries(scorer.query(rows), of_pair, rows, rows.new_empty(len(rows), 0))

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
    before it. The weight of a track that was skipped may be negative. A part of unit length is divided by its length to
    the power of `normalise`: 0 is the plain sum, whose scores grow with the session, 1 the direction alone. Numbers
    outside the parts, such as the constant of an item bias, are those of the newest track.

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
        normalise: Annotated[_Number, Setting("power of the length that the sum is divided by", least=0, most=1)],
        trains_on: Annotated[
            Literal["session", "last"], Setting("the query that the loss sees; with last nothing may be learned")
        ] = "session",
        repeats: _Rule = "auto",
        encoder: Callable[[int, int], Encoder] | None = None,
        learns: bool,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self._decay = _decays(decay, parts)
        self._earlier: dict[str, Any] = dict.fromkeys(parts, earlier)
        self._power: dict[str, Any] = dict.fromkeys(parts, normalise)
        given = {"decay": self._decay, "earlier": self._earlier, "skipped": {"": skipped}, "normalise": self._power}
        learned = [f"{name}=learned" for name, values in given.items() if "learned" in values.values()]
        learned += ["encoder"] * (encoder is not None)
        if learned and not (learns and trains_on == "session"):
            raise InputError(
                f"context.{learned[0]} needs gradient descent on sessions, which baselines have not, and "
                "context.trains_on=last has not; leave it out, or use context.trains_on=session with a head"
            )
        self.encoder = None if encoder is None else encoder(width, max_length)
        self.decay_logit = _learned(self._decay, math.log(FIRST_DECAY / (1 - FIRST_DECAY)))
        self.log_earlier = _learned(self._earlier, 0.0)
        self.power_logit = _learned(self._power, math.log(FIRST_POWER / (1 - FIRST_POWER)))
        self._skipped = 1.0 if skipped == "learned" else skipped
        self.skipped_atanh = None
        if skipped == "learned" and vocabulary.mean_played_ratio is not None:
            self.skipped_atanh = nn.Parameter(torch.tensor(0.9).atanh())
        self.repeats, self._last = Repeats(repeats, vocabulary, length=MAX_LENGTH), None
        if trains_on == "last":
            self._last = LastTrack(vocabulary, parts, max_length=max_length, learns=learns)
            self._last.repeats = self.repeats  # one rule

    @property
    def of_loss(self) -> "Session | LastTrack":
        """The context that the loss sees: itself, or one previous track."""
        return self if self._last is None else self._last

    def decay(self, part: str) -> Float[Tensor, ""] | float:
        """Return the factor for each track further back, in [0, 1]; a tensor where it is learned."""
        return torch.sigmoid(self.decay_logit[part]) if part in self.decay_logit else self._decay[part]

    def earlier(self, part: str) -> Float[Tensor, ""] | float:
        """Return the factor for all tracks but the newest, at least 0; a tensor where it is learned."""
        return torch.exp(self.log_earlier[part]) if part in self.log_earlier else self._earlier[part]

    def skipped(self) -> Float[Tensor, ""] | float:
        """Return the weight of a track of which nothing was played, in [-1, 1]; a tensor where it is learned."""
        return self._skipped if self.skipped_atanh is None else torch.tanh(self.skipped_atanh)

    def power(self, part: str) -> Float[Tensor, ""] | float:
        """Return the power of the length that a part is divided by, in [0, 1]; a tensor where it is learned."""
        return torch.sigmoid(self.power_logit[part]) if part in self.power_logit else self._power[part]

    def weights(self, part: str, age: Int64[Tensor, "*E"], share: Float[Tensor, "*E"]) -> Float[Tensor, "*E"]:
        """Compute the weight of tracks in the sum."""
        return torch.as_tensor(self._of_age(part, age) * share_weight(share, self.skipped(), torch))

    def _of_age(self, part: str, age: Int64[Tensor, "*E"]) -> Float[Tensor, "*E"]:
        decay = torch.as_tensor(self.decay(part), device=age.device)
        return torch.as_tensor(age_weight(age, decay, self.earlier(part), torch))

    def _weights_and_slopes(
        self, part: str, age: Int64[Tensor, "E"], share: Float[Tensor, "E"], max_length: int
    ) -> tuple[Float[Tensor, "E"], list[tuple[Float[Tensor, ""], Float[Tensor, "E"]]]]:
        """The weights, and in training the learned numbers in them, each with the derivative of the weights.

        The gradient of a number then needs one more sum. The gradient of every single weight takes five times as long.
        """
        decay, earlier, skipped = self.decay(part), self.earlier(part), self.skipped()
        slopes, ages = [], torch.arange(max_length, device=age.device)
        with torch.no_grad():
            of_age, of_share = self._of_age(part, ages)[age], share_weight(share, skipped, torch)
            if isinstance(decay, Tensor):
                of_decay = ages * decay ** (ages - 1).clamp(min=0) * torch.where(ages == 0, 1.0, earlier)
                slopes.append((decay, of_decay[age] * of_share))
            if isinstance(earlier, Tensor):
                of_earlier = (ages > 0) * torch.as_tensor(decay, device=age.device) ** ages
                slopes.append((earlier, of_earlier[age] * of_share))
            if isinstance(skipped, Tensor):
                slopes.append((skipped, of_age * (1 - share).nan_to_num()))
        return of_age * of_share, slopes if torch.is_grad_enabled() else []

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
        is_there = history >= 0
        events, length = is_there.flatten().nonzero()[:, 0], is_there.sum(1)
        of_history, age = events // history.shape[1], events % history.shape[1]
        rows, place = history.flatten().index_select(0, events).unique(return_inverse=True)
        played = share.flatten().index_select(0, events)
        vectors, heard = scorer.query(rows), Heard(place, of_history, start=length.cumsum(0) - length)
        parts = scorer.query_parts()
        both = [self._weights_and_slopes(name, age, played, history.shape[1]) for name in parts]
        weights = [of_part for of_part, _ in both]
        numbers = [number for _, learned in both for number, _ in learned]
        slopes = [(nth, slope) for nth, (_, learned) in enumerate(both) for _, slope in learned]
        widths = [part.columns.stop - part.columns.start for part in parts.values()]
        if rest := vectors.shape[1] - sum(widths):  # columns after the last part are those of the newest track
            weights.append((age == 0).to(vectors.dtype))
            widths.append(rest)
        sums = weighted_sums(vectors, heard, widths, weights, slopes, *numbers).split(widths, dim=1)
        pieces = [
            self._normalised(name, one, part.length) for one, (name, part) in zip(sums, parts.items(), strict=False)
        ]
        if self.encoder is not None:
            of_event = torch.zeros_like(history).masked_scatter_(is_there, place)
            of_share = torch.as_tensor(share_weight(share, self.skipped(), torch))
            tracks = vectors[:, : sum(widths[: len(parts)])]
            added = self.encoder.added(tracks, of_event, of_share, prefixes_of(history, share))
            pieces = [piece + one for piece, one in zip(pieces, added.split(widths[: len(parts)], 1), strict=True)]
        vectors, of_pair = (
            torch.cat([*pieces, *sums[len(parts) :]], dim=1),
            torch.arange(len(previous), device=previous.device),
        )
        return Queries(vectors, of_pair, previous, self.repeats.recent(history))

    def _normalised(
        self, part: str, summed: Float[Tensor, "B W"], length: Float[Tensor, ""] | float | None
    ) -> Float[Tensor, "B W"]:
        power = self.power(part)
        if length is None or (isinstance(power, float) and power == 0):
            return summed
        # the square of the length, relative to that of one track; a sum of unknown tracks stays 0
        squared = (summed * summed).sum(1, keepdim=True) / length**2
        return torch.as_tensor(summed * length_factor(squared, power))

    def orders(self) -> tuple[OrderPart, ...]:
        """Return the numbers of the encoder, if there is one."""
        return () if self.encoder is None else (self.encoder.part(),)

    def score(self, scorer: Scorer, batch: PairBatch) -> Float[Tensor, "B"]:
        """Compute the score of each pair."""
        queries = self.queries(scorer, batch.previous, batch.history, batch.history_share)
        return torch.as_tensor(torch.linalg.vecdot(queries.vectors, scorer.item(batch.following)))  # a query each

    @torch.no_grad()
    def logged(self) -> Mapping[str, float]:
        """Report what weighs the tracks and the numbers of `repeats`."""
        return {
            **{f"decay_{part}": float(self.decay(part)) for part in self._decay},
            **{f"earlier_{part}": float(self.earlier(part)) for part in self.log_earlier},
            **{f"normalise_{part}": float(self.power(part)) for part in self.power_logit},
            **({} if self.skipped_atanh is None else {"skipped": float(self.skipped())}),
            **self.repeats.logged(),
        }


def _decays(given: Any, parts: Sequence[str]) -> dict[str, Any]:
    """The decay of each part; `others` is that of all parts without one of their own."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(parts, given)
    found = {part: given.get(part, given.get(OTHERS)) for part in parts}
    unknown = [part for part in given if part not in (*parts, *_USUAL, OTHERS)]
    if wrong := [*unknown, *(part for part in parts if found[part] is None)]:
        raise InputError(
            f"context.decay must have a value for each of {', '.join(parts)}, or for {OTHERS}, which means all that "
            f"are not named, and for nothing else; see {wrong[0]}"
        )
    return found


def _learned(values: Mapping[str, Any], first: float) -> nn.ParameterDict:
    """A parameter for each part whose value is learned, and its number before training."""
    return nn.ParameterDict({part: torch.tensor(first) for part, value in values.items() if value == "learned"})
