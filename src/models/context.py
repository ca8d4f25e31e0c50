"""Context: which query vector a history gives, and how tracks already heard are ranked.

B histories, U distinct tracks in them, H tracks of a history, Q query vectors, V width of a query vector, N tracks in
the catalogue. Scores are dimensionless.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segue.catalog import Listens, Vocabulary
from segue.errors import InputError, check_number
from segue.models.contracts import PairBatch, Queries, Scorer
from segue.runs.session_vectors import MAX_LENGTH

REPEATS = ("never", "always", "penalty", "auto")
"""Whether tracks already heard are recommended again; see `Repeats`."""
SELDOM, _FEW = 0.01, 1000
"""A track is repeated seldom where fewer than this share of training targets do it; fewer targets cannot tell."""
TRAINS_ON = ("session", "last")
"""The query that the loss of `Session` sees."""
OTHERS, _USUAL = "others", ("track", "artist")
"""Name of a decay for all parts that have none of their own. A recipe names a part that some heads lack."""


class Repeats(nn.Module):
    """One rule for tracks already heard: in the softmax, in ranks, and where a track is picked.

    Args:
        rule: `always` (they are candidates like all others), `never` (they come after all others, and are no negatives
            in training), `penalty` (a learned number is subtracted from their scores), or `auto`.
        vocabulary: the training sessions.
        most: with `auto`, `never` is chosen up to this share of repeats among the training targets, in [0, 1], and
            above it `penalty`.
        within: the rule is for tracks among this many newest ones, at least 1, or `auto`: where `rule` is `auto` and
            chooses `never`, those of `seldom_repeated`, otherwise all. Tracks heard before them are candidates like all
            others. In training it is for those of a batch's history alone.
        length: largest number of newest tracks, of which `auto` chooses.
        learns: whether a penalty can be learned. Baselines cannot: above the share they get `always`.

    Raises:
        InputError: the rule is unknown, or needs what is missing.
    """

    def __init__(
        self, rule: str, vocabulary: Vocabulary, *, most: int | float, within: int | str, length: int, learns: bool
    ) -> None:
        super().__init__()
        if rule not in REPEATS:
            raise InputError(f"context.repeats must be one of {', '.join(REPEATS)}, got {rule!r}")
        check_number("context.repeats_up_to", most, least=0, most=1, hint="it is a share of the training targets")
        if within != "auto":
            hint = "it is a number of newest tracks, or auto"
            check_number("context.repeats_within", within, whole=True, least=1, most=MAX_LENGTH, hint=hint)
            if rule == "always":
                raise InputError(
                    f"context.repeats_within={within} has no effect with context.repeats=always; leave it out, or use "
                    "context.repeats=never"
                )
        if rule == "penalty" and not learns:
            raise InputError(
                "context.repeats=penalty is learned by gradient descent, and this model has none; use never or always"
            )
        self.share = None
        if rule == "auto":
            self.share = share_of_repeats(vocabulary.listens)
            rule = "never" if self.share <= most else "penalty" if learns else "always"
        self._length = length
        self.within = min(length, int(within)) if within != "auto" else length
        if within == "auto" and self.share is not None and rule == "never":
            self.within = seldom_repeated(vocabulary.listens, length)
            rule = "never" if self.within > 1 else "always"  # the newest track is never a candidate
        self.rule = rule
        self.log_penalty = nn.Parameter(torch.zeros(())) if rule == "penalty" else None

    def penalty(self) -> Float[Tensor, ""] | float:
        """Return what is subtracted from the score of a track already heard.

        Returns:
            0 for `always`, infinity for `never`, and the learned penalty otherwise.
        """
        if self.log_penalty is not None:
            return F.softplus(self.log_penalty)
        return math.inf if self.rule == "never" else 0.0

    def without_penalty(self) -> None:
        """Give up a penalty, because the loss compares no candidates and cannot learn it: `auto` is then `always`.

        Raises:
            InputError: the penalty was asked for.
        """
        if self.rule == "penalty" and self.share is None:
            raise InputError("context.repeats=penalty is learned by loss=softmax alone; use it, or never or always")
        if self.rule == "penalty":
            self.rule, self.log_penalty = "always", None

    def describe(self) -> str | None:
        """One line about what `auto` chose; None if nothing was chosen.

        Returns:
            The line.
        """
        if self.share is None:
            return None
        within = f", of the newest {self.within} tracks" if self.within < self._length and self.rule != "always" else ""
        found = f"{self.share:.1%} of training targets were heard before in their session"
        return f"repeats      {found}: {self.rule}{within}"

    def logged(self) -> Mapping[str, float]:
        """Report the share of repeats and the penalty, where there are such numbers.

        Returns:
            Values by name.
        """
        values = {} if self.share is None else {"repeats_share": self.share}
        if self.rule != "always":
            values["repeats_within"] = float(self.within)
        if self.log_penalty is not None:
            values["heard_penalty"] = as_number(self.penalty())
        return values


def share_of_repeats(listens: Listens) -> float:
    """Share of the events after the first of a session that repeat a track of it, other than the track directly before.

    Args:
        listens: the events.

    Returns:
        The share, in [0, 1].
    """
    session, track = listens.session, listens.track
    is_target = np.append(False, session[1:] == session[:-1])[: len(session)]
    is_next = is_target & (np.append(-1, track[:-1])[: len(track)] != track)
    order = np.lexsort((np.arange(len(track)), track, session))
    is_again = np.zeros(len(track), bool)
    same = (session[order][1:] == session[order][:-1]) & (track[order][1:] == track[order][:-1])
    is_again[order[1:][same]] = True
    return float((is_again & is_next).sum() / max(1, is_next.sum()))


def seldom_repeated(listens: Listens, length: int) -> int:
    """How many of the newest tracks of a session are seldom played next: each in fewer than 1 % of the targets.

    Radio plays a hit again after an hour, and not after three songs. The places are read from the second newest track
    on, until one of them is repeated more often, or fewer than 1,000 training targets have so many tracks before them.

    Args:
        listens: the events of the training sessions.
        length: the largest number.

    Returns:
        The number, in [1, length]; `length` if no place is repeated more often.
    """
    session, track = listens.session, listens.track
    targets = 1 + np.flatnonzero((session[1:] == session[:-1]) & (track[1:] != track[:-1]))
    for age in range(2, length + 1):
        targets = targets[targets >= age]
        targets = targets[session[targets - age] == session[targets]]  # those that have so many tracks before them
        if len(targets) < _FEW:
            break
        if (track[targets - age] == track[targets]).mean() >= SELDOM:
            return age - 1
    return length


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
            return Queries(scorer.query(previous), _places(previous), previous, heard)
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


class Session(nn.Module):
    """The session so far: the query vector of a history is a weighted sum of the query vectors of its tracks.

    `q = Σ_k w_k · g(share_k) · query(track_k)`, where k = 0 is the newest track, `w_0 = 1`, and further back
    `w_k = earlier · decay^k`. Decay and earlier are one number for each part of the query vector, such as tracks and
    artists: the artist of the newest track may say more than all artists before it.
    `g(share) = skipped + (1 − skipped)·share`, and 1 where the share is unknown: a track that was skipped counts
    `skipped`, which may be negative. A part of unit length is then divided by its length to the power of `normalise`:
    0 is the plain sum, whose scores grow with the session, 1 the direction alone. Numbers outside the parts, such as
    the constant of an item bias, are those of the newest track.

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
        of_age = torch.as_tensor(self.decay(part), device=age.device) ** age
        return of_age * torch.where(age == 0, 1.0, self.earlier(part))

    def _of_share(self, share: Float[Tensor, "*E"]) -> Float[Tensor, "*E"]:
        skipped = self.skipped()
        if isinstance(skipped, float) and skipped == 1:
            return torch.ones_like(share)
        return torch.where(share.isnan(), 1.0, skipped + (1 - skipped) * share.nan_to_num())

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
        vectors, heard = scorer.query(rows), _Heard(place, of_history, start=length.cumsum(0) - length)
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
        sums = _weighted_sums(vectors, heard, widths, weights, slopes, *numbers).split(widths, dim=1)
        pieces = [
            self._normalised(name, summed, part.length)
            for summed, (name, part) in zip(sums, parts.items(), strict=False)
        ]
        recent = history[:, : self.repeats.within]
        return Queries(torch.cat([*pieces, *sums[len(parts) :]], dim=1), _places(previous), previous, recent)

    def _normalised(
        self, part: str, summed: Float[Tensor, "B W"], length: Float[Tensor, ""] | float | None
    ) -> Float[Tensor, "B W"]:
        power = self.power(part)
        if length is None or (isinstance(power, float) and power == 0):
            return summed
        # the square of the length, relative to that of one track; a sum of unknown tracks stays 0
        squared = (summed * summed).sum(1, keepdim=True) / length**2
        return summed * (squared + 1e-6) ** (-power / 2)

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


def as_number(value: Float[Tensor, ""] | float) -> float:
    """The value of a tensor or a number.

    Args:
        value: a number that may be learned.

    Returns:
        Its value.
    """
    return value if isinstance(value, float) else value.item()


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


def heard_before(history: Int64[Tensor, "B H"], following: Int64[Tensor, "B"]) -> Bool[Tensor, "B"]:
    """Whether the next track of each pair is in its history.

    Args:
        history: rows of the tracks heard; -1 where there is none.
        following: row of the next track of each pair.

    Returns:
        True for each pair whose next track was heard before.
    """
    return (history == following[:, None]).any(1)


class _Heard(NamedTuple):
    """The tracks of histories, one after another.

    Attributes:
        place: place of each track among the distinct ones.
        of_history: number of its history.
        start: the first of each history.
    """

    place: Int64[Tensor, "E"]
    of_history: Int64[Tensor, "E"]
    start: Int64[Tensor, "B"]

    def sum(self, table: Float[Tensor, "U W"], weight: Float[Tensor, "E"]) -> Float[Tensor, "B W"]:
        """Weighted sum of the rows of a table for each history."""
        return F.embedding_bag(self.place, table, self.start, mode="sum", per_sample_weights=weight.to(table.dtype))


class _WeightedSums(torch.autograd.Function):
    """Weighted sum of vectors for each history. Each part of a vector has weights, which depend on learned numbers.

    Its gradients are sums too. Those of `embedding_bag` sort the places for each part, which takes ten times as long,
    and those of single weights take longer still.
    """

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Float[Tensor, "U V"],
        heard: _Heard,
        widths: Sequence[int],
        weights: Sequence[Float[Tensor, "E"]],
        slopes: Sequence[tuple[int, Float[Tensor, "E"]]],
        *_: Float[Tensor, ""],
    ) -> Float[Tensor, "B V"]:
        parts = [part.contiguous() for part in vectors.split(widths, dim=1)]
        ctx.widths, ctx.size, ctx.part_of = widths, vectors.shape, [number for number, _ in slopes]
        changes = [heard.sum(parts[number], slope) for number, slope in slopes]
        ctx.save_for_backward(heard.place, heard.of_history, *weights, *changes)
        return torch.cat([heard.sum(part, weight) for part, weight in zip(parts, weights, strict=True)], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "B V"]) -> tuple[Tensor | None, ...]:
        place, of_history, *others = ctx.saved_tensors
        weights, changes = others[: len(ctx.widths)], others[len(ctx.widths) :]
        of_events, parts = gradient.index_select(0, of_history), gradient.split(ctx.widths, dim=1)
        for part, weight in zip(of_events.split(ctx.widths, dim=1), weights, strict=True):
            part.mul_(weight[:, None])
        of_vectors = gradient.new_zeros(ctx.size).index_add_(0, place, of_events)
        of_numbers = [(parts[number] * change).sum() for number, change in zip(ctx.part_of, changes, strict=True)]
        return of_vectors, None, None, None, None, *of_numbers


_weighted_sums: Callable[..., Tensor] = _WeightedSums.apply


def _places(previous: Int64[Tensor, "B"]) -> Int64[Tensor, "B"]:
    return torch.arange(len(previous), device=previous.device)


def _logit(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(math.log(value / (1 - value))))
