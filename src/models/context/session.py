"""The session so far as the query: a weighted sum of the query vectors of its tracks.

B histories, H tracks of a history, E tracks of all histories, W width of a part.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from segue.catalog import Vocabulary
from segue.errors import InputError, check_number
from segue.models.context.last_track import LastTrack
from segue.models.context.repeats import Repeats, as_number
from segue.models.context.weighted_sums import Heard, weighted_sums
from segue.models.contracts import PairBatch, Queries, Scorer
from segue.picking.session_query import age_weight, length_factor, share_weight
from segue.runs.session_vectors import MAX_LENGTH

TRAINS_ON = ("session", "last")
"""The query that the loss of `Session` sees."""
OTHERS, _USUAL = "others", ("track", "artist")
"""Name of a decay for all parts that have none of their own. A recipe names a part that some heads lack."""


class Session(nn.Module):
    """The session so far: the query vector of a history is a weighted sum of the query vectors of its tracks.

    `picking/session_query.py` has the formula. Decay and earlier are one number for each part of the query vector, such
    as tracks and artists: the artist of the newest track may say more than all artists before it. The weight of a track
    that was skipped may be negative. A part of unit length is divided by its length to the power of `normalise`: 0 is
    the plain sum, whose scores grow with the session, 1 the direction alone. Numbers outside the parts, such as the
    constant of an item bias, are those of the newest track.

    With `decay=0 skipped=1` it is the model of one previous track. With `trains_on=last` the loss sees the newest track
    alone, and the session is the query where tracks are ranked, exported and served.

    Args:
        vocabulary: the training sessions.
        parts: names of the parts of a query vector.
        max_length: number of newest tracks that count (H), 1 to 1000.
        decay: factor for each track further back, in [0, 1], or `learned`; one value for all parts or by part, where
            `others` means all parts that are not named.
        first_decay: value of a learned decay before training, in (0, 1).
        earlier: factor for all tracks but the newest, at least 0, or `learned` (starts at 1); one value for all parts
            or by part, with `others`, 1 for parts that are left out.
        skipped: weight of a track of which nothing was played, in [-1, 1], or `learned` (starts at 1).
        normalise: power of the length, in [0, 1], or `learned`.
        first_normalise: value of a learned power before training, in (0, 1).
        trains_on: `session` or `last`, the query that the loss sees. With `last` nothing may be `learned`.
        repeats: `always`, `never`, `penalty` or `auto`; see `Repeats`.
        repeats_up_to: share of repeats up to which `auto` is `never`.
        repeats_within: number of newest tracks to which the rule applies, or `auto`.
        learns: whether the model is trained by gradient descent. Otherwise nothing may be `learned`.

    Raises:
        InputError: a setting is out of range.
    """

    is_last = False

    def __init__(
        self,
        vocabulary: Vocabulary,
        parts: Sequence[str],
        *,
        max_length: int,
        decay: int | float | str | Mapping[str, int | float | str],
        first_decay: int | float,
        earlier: int | float | str | Mapping[str, int | float | str],
        skipped: int | float | str,
        normalise: int | float | str,
        first_normalise: int | float,
        trains_on: str,
        repeats: str,
        repeats_up_to: int | float,
        repeats_within: int | str,
        learns: bool,
    ) -> None:
        super().__init__()
        hint = "context=last is one previous track"
        check_number("context.max_length", max_length, whole=True, least=1, most=MAX_LENGTH, hint=hint)
        check_number("context.first_decay", first_decay, above=0, most=1 - 1e-6, hint="0.8 is usual")
        hint = "0.1 begins near the plain sum"
        check_number("context.first_normalise", first_normalise, above=0, most=1 - 1e-6, hint=hint)
        if trains_on not in TRAINS_ON:
            raise InputError(f"context.trains_on must be one of {', '.join(TRAINS_ON)}, got {trains_on!r}")
        self.max_length = max_length
        of_decay, of_earlier = _by_part("decay", decay, parts), {OTHERS: 1.0, **_by_part("earlier", earlier, parts)}
        if missing := [part for part in parts if part not in of_decay and OTHERS not in of_decay]:
            raise InputError(
                f"context.decay has no value for {missing[0]}; give one for each of {', '.join(parts)}, or for {OTHERS}"
            )
        decays, factors = (
            {part: given[part if part in given else OTHERS] for part in parts} for given in (of_decay, of_earlier)
        )
        ranges: list[tuple[str, Any, int, float]] = [("decay", value, 0, 1) for value in of_decay.values()]
        ranges += [("earlier", value, 0, math.inf) for value in of_earlier.values()]
        for name, value, least, most in (*ranges, ("skipped", skipped, -1, 1), ("normalise", normalise, 0, 1)):
            if value == "learned":
                if not learns:
                    raise InputError(
                        f"context.{name}=learned needs gradient descent, which this model has not; give a number"
                    )
                if trains_on == "last":
                    raise InputError(
                        f"context.{name}=learned needs sessions in training, and context.trains_on is last; give a "
                        "number, or use context.trains_on=session"
                    )
                continue
            check_number(f"context.{name}", value, least=least, most=most, hint="or it is learned")
        self._decay = {part: None if decays[part] == "learned" else float(decays[part]) for part in parts}
        self.decay_logit = nn.ParameterDict(
            {part: _logit(first_decay) for part, value in self._decay.items() if value is None}
        )
        self._earlier = {part: None if factors[part] == "learned" else float(factors[part]) for part in parts}
        self.log_earlier = nn.ParameterDict(
            {part: nn.Parameter(torch.zeros(())) for part, value in self._earlier.items() if value is None}
        )
        self._skipped = None if skipped == "learned" else float(skipped)
        self.skipped_atanh = None
        if skipped == "learned" and vocabulary.mean_played_ratio is not None:
            self.skipped_atanh = nn.Parameter(torch.tensor(0.9).atanh())
        self._power = None if normalise == "learned" else float(normalise)
        self.power_logit = nn.ParameterDict(
            {part: _logit(first_normalise) for part in parts} if self._power is None else {}
        )
        self.repeats = Repeats(
            repeats, vocabulary, most=repeats_up_to, within=repeats_within, length=MAX_LENGTH, learns=learns
        )
        self._last = None
        if trains_on == "last":
            rules: dict[str, Any] = {"repeats": "always", "repeats_up_to": repeats_up_to, "repeats_within": "auto"}
            self._last = LastTrack(vocabulary, parts, max_length=max_length, learns=learns, **rules)
            self._last.repeats = self.repeats  # one rule, and one penalty where it is learned

    @property
    def of_loss(self) -> "Session | LastTrack":
        """Return the context that the loss sees: itself, or one previous track."""
        return self if self._last is None else self._last

    def decay(self, part: str) -> Float[Tensor, ""] | float:
        """Return the factor for each track further back.

        Args:
            part: name of a part of the query vector.

        Returns:
            The factor, in [0, 1]; a tensor where it is learned.
        """
        fixed = self._decay[part]
        return torch.sigmoid(self.decay_logit[part]) if fixed is None else fixed

    def earlier(self, part: str) -> Float[Tensor, ""] | float:
        """Return the factor for all tracks but the newest.

        Args:
            part: name of a part of the query vector.

        Returns:
            The factor, at least 0; a tensor where it is learned.
        """
        fixed = self._earlier[part]
        return torch.exp(self.log_earlier[part]) if fixed is None else fixed

    def skipped(self) -> Float[Tensor, ""] | float:
        """Return the weight of a track of which nothing was played.

        Returns:
            The weight, in [-1, 1]; 1 where it is learned and no share is known.
        """
        if self.skipped_atanh is not None:
            return torch.tanh(self.skipped_atanh)
        return 1.0 if self._skipped is None else self._skipped

    def power(self, part: str) -> Float[Tensor, ""] | float:
        """Return the power of the length that a part is divided by.

        Args:
            part: name of a part of the query vector.

        Returns:
            The power, in [0, 1].
        """
        return torch.sigmoid(self.power_logit[part]) if self._power is None else self._power

    def weights(self, part: str, age: Int64[Tensor, "*E"], share: Float[Tensor, "*E"]) -> Float[Tensor, "*E"]:
        """Compute the weight of tracks in the sum.

        Args:
            part: name of a part of the query vector.
            age: how many tracks each is back, 0 for the newest.
            share: share of each that was played; NaN where unknown.

        Returns:
            The weights.
        """
        return self._of_age(part, age) * self._of_share(share)

    def _of_age(self, part: str, age: Int64[Tensor, "*E"]) -> Float[Tensor, "*E"]:
        decay = torch.as_tensor(self.decay(part), device=age.device)
        of_age: Tensor = age_weight(age, decay, self.earlier(part), torch)
        return of_age

    def _of_share(self, share: Float[Tensor, "*E"]) -> Float[Tensor, "*E"]:
        of_share: Tensor = share_weight(share, self.skipped(), torch)
        return of_share

    def _weights_and_slopes(
        self, part: str, age: Int64[Tensor, "E"], share: Float[Tensor, "E"], max_length: int
    ) -> tuple[Float[Tensor, "E"], list[tuple[Float[Tensor, ""], Float[Tensor, "E"]]]]:
        """The weights, and in training the learned numbers in them, each with the derivative of the weights.

        The gradient of a number then needs one more sum. The gradient of every single weight takes five times as long.
        """
        decay, earlier, skipped = self.decay(part), self.earlier(part), self.skipped()
        slopes, ages = [], torch.arange(max_length, device=age.device)
        with torch.no_grad():
            of_age, of_share = self._of_age(part, ages)[age], self._of_share(share)
            if isinstance(decay, Tensor):
                of_decay = ages * decay ** (ages - 1).clamp(min=0) * torch.where(ages == 0, 1.0, earlier)
                slopes.append((decay, of_decay[age] * of_share))
            if isinstance(earlier, Tensor):
                of_earlier = (ages > 0) * torch.as_tensor(decay, device=age.device) ** ages
                slopes.append((earlier, of_earlier[age] * of_share))
            if isinstance(skipped, Tensor):
                slopes.append((skipped, of_age * (1 - share).nan_to_num()))
            weights = of_age * of_share
        return weights, slopes if torch.is_grad_enabled() else []

    def queries(
        self,
        scorer: Scorer,
        previous: Int64[Tensor, "B"],
        history: Int64[Tensor, "B H"],
        share: Float[Tensor, "B H"],
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
        parts, weights, numbers, slopes = scorer.query_parts(), [], [], []
        for place_of_part, name in enumerate(parts):
            weight, learned = self._weights_and_slopes(name, age, played, history.shape[1])
            weights.append(weight)
            numbers += [number for number, _ in learned]
            slopes += [(place_of_part, slope) for _, slope in learned]
        widths = [part.columns.stop - part.columns.start for part in parts.values()]
        if rest := vectors.shape[1] - sum(widths):  # columns after the last part are those of the newest track
            weights.append((age == 0).to(vectors.dtype))
            widths.append(rest)
        sums = weighted_sums(vectors, heard, widths, weights, slopes, *numbers).split(widths, dim=1)
        pieces = [
            self._normalised(name, summed, part.length)
            for summed, (name, part) in zip(sums, parts.items(), strict=False)
        ]
        recent, of_pair = history[:, : self.repeats.within], torch.arange(len(previous), device=previous.device)
        return Queries(torch.cat([*pieces, *sums[len(parts) :]], dim=1), of_pair, previous, recent)

    def _normalised(
        self, part: str, summed: Float[Tensor, "B W"], length: Float[Tensor, ""] | float | None
    ) -> Float[Tensor, "B W"]:
        power = self.power(part)
        if length is None or (isinstance(power, float) and power == 0):
            return summed
        # the square of the length, relative to that of one track; a sum of unknown tracks stays 0
        squared = (summed * summed).sum(1, keepdim=True) / length**2
        factor: Tensor = length_factor(squared, power)
        return summed * factor

    def score(self, scorer: Scorer, batch: PairBatch) -> Float[Tensor, "B"]:
        """Compute the score of each pair."""
        queries = self.queries(scorer, batch.previous, batch.history, batch.history_share)
        score: Tensor = torch.linalg.vecdot(queries.vectors, scorer.item(batch.following))  # one query for each pair
        return score

    def logged(self) -> Mapping[str, float]:
        """Report what weighs the tracks and the numbers of `repeats`."""
        values = {f"decay_{part}": as_number(self.decay(part)) for part in self._decay}
        values |= {f"earlier_{part}": as_number(self.earlier(part)) for part in self.log_earlier}
        if self._power is None:
            values |= {f"normalise_{part}": as_number(self.power(part)) for part in self._decay}
        if self.skipped_atanh is not None:
            values["skipped"] = as_number(self.skipped())
        return {**values, **self.repeats.logged()}


def _by_part(
    name: str, value: int | float | str | Mapping[str, int | float | str], parts: Sequence[str]
) -> dict[str, int | float | str]:
    """A setting by part; `others` is that of all parts without one of their own."""
    if not isinstance(value, Mapping):
        return {OTHERS: value}
    if unknown := [str(part) for part in value if part not in (*parts, *_USUAL, OTHERS)]:
        raise InputError(
            f"context.{name} has a value for {unknown[0]}, which is no part of this model; its parts are "
            f"{', '.join(parts)}, and {OTHERS} means all that are not named"
        )
    return dict(value)


def _logit(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(math.log(value / (1 - value))))
