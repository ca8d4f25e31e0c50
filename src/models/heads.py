"""Heads: from a pair of tracks to a score.

B pairs, N tracks in the catalogue, A artists, V width of a query or item vector, W the same without a bias, D width of
an embedding. Scores are dimensionless. `Head` is the base class of every head.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segue.catalog import Vocabulary
from segue.errors import InputError, check_flag, check_number
from segue.models.contracts import QueryPart
from segue.models.parts import Lookup, Part, Prior, Unknown, build_part, build_tracks, check_part, draw

PRIORS = ("added", "instead")
"""How what the other parts of a track predict is used; see `CosineMix`."""
BIAS_UNIT = 0.1
"""Score that one unit of an item bias adds. With 1, one step of Adam would change a bias more than any cosine, and the
model would learn popularity before anything else."""


class Biases(nn.Embedding):
    """One bias for each row, initially 0. It is an embedding table, therefore an optimizer can update single rows.

    Args:
        num_rows: number of biases, at least 1.
    """

    decays = False
    """No weight decay: it is meant for embeddings, and nothing says that a bias should be near 0."""

    def __init__(self, num_rows: int) -> None:
        super().__init__(num_rows, 1)
        nn.init.zeros_(self.weight)

    def forward(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Look up biases.

        Args:
            rows: rows of the table.

        Returns:
            The bias of each row.
        """
        return super().forward(rows)[..., 0]


class Dropout(nn.Module):
    """Sets each number to 0 with a given probability in training; the others are scaled such that the mean stays.

    It has the distribution of `nn.Dropout` and takes a quarter of its time on a CPU: each number needs 16 random bits,
    and one draw of 64 bits serves four numbers.

    Args:
        share: probability of 0, in [0, 0.9]; rounded to a multiple of 1/65536.

    Raises:
        InputError: the share is out of range.
    """

    def __init__(self, share: int | float) -> None:
        super().__init__()
        check_number("dropout", share, least=0, most=0.9, hint="0.2 is usual")
        self._num_zeros = round(share * 2**16)

    def forward(self, values: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The numbers that are kept, scaled, and 0 for the others."""
        if not (self.training and self._num_zeros):
            return values
        draws = torch.empty(-(-values.numel() // 4), dtype=torch.int64, device=values.device).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: values.numel()].view(values.shape)
        kept = (bits >= self._num_zeros - 2**15).to(values.dtype)
        return values * kept.mul_(1 / (1 - self._num_zeros / 2**16))


class RowDropout(nn.Module):
    """Sets whole rows to zero in training, as if these tracks were unseen. Each training step draws other rows.

    Args:
        share: share of the rows that are set to zero, in [0, 0.9]. The other rows are not scaled up.

    Raises:
        InputError: `share` is out of range.

    Source:
        Gal and Ghahramani, A theoretically grounded application of dropout in recurrent neural networks, NeurIPS 2016
        (embedding dropout, which drops a word in the whole batch; `loss=softmax` does so for the pairs that are
        held against one another, the other losses draw each occurrence separately).
    """

    def __init__(self, share: int | float) -> None:
        super().__init__()
        check_number("track_dropout", share, least=0, most=0.9, hint="0 switches it off")
        self.share = float(share)

    def forward(self, rows: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Set some rows to zero in training; in evaluation return them unchanged.

        Args:
            rows: embeddings.

        Returns:
            The embeddings, zero in the dropped rows.
        """
        if not (self.training and self.share):
            return rows
        return rows * (torch.rand((*rows.shape[:-1], 1), device=rows.device) >= self.share)


class Head(nn.Module, ABC):
    """Base class of a head: a subclass implements `query` and `item`, and the other methods follow from these two.

    Args:
        num_tracks: number of tracks in the catalogue (N).
    """

    def __init__(self, num_tracks: int) -> None:
        super().__init__()
        self.num_tracks = num_tracks

    @abstractmethod
    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Compute the vectors of tracks in the first place of a pair.

        Args:
            rows: rows of the tracks, in 0..N-1.

        Returns:
            One query vector for each row.
        """

    @abstractmethod
    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Compute the vectors of tracks in the second place of a pair.

        Args:
            rows: rows of the tracks, in 0..N-1.

        Returns:
            One item vector for each row.
        """

    def forward(self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Compute the score of each pair, `query(previous) · item(following)`. A head may override it to be faster.

        Args:
            previous: rows of the previous tracks.
            following: rows of the next tracks.

        Returns:
            One score for each pair.
        """
        score: Tensor = torch.linalg.vecdot(self.query(previous), self.item(following))
        return score

    def query_parts(self) -> Mapping[str, QueryPart]:
        """Name the parts of a query vector. A head with several tables, or with a constant column, overrides it.

        Returns:
            The whole vector as one part, `track`.
        """
        width = self.query(self._rows()[:1]).shape[1]
        return {"track": QueryPart(slice(0, width), None, None)}

    def query_vectors(self) -> Float[Tensor, "N V"]:
        """Compute the query vector of every track.

        Returns:
            Query vectors in the order of the catalogue.
        """
        return self.query(self._rows())

    def item_vectors(self) -> Float[Tensor, "N V"]:
        """Compute the item vector of every track.

        Returns:
            Item vectors in the order of the catalogue.
        """
        return self.item(self._rows())

    def artist_vectors(self) -> Float[Tensor, "A V"] | None:
        """Compute a vector for each artist.

        Returns:
            None. An artist is then represented by the mean of its track vectors.
        """
        return None

    def logged(self) -> Mapping[str, float]:
        """Report numbers of the head that are logged after each epoch.

        Returns:
            No values.
        """
        return {}

    def _rows(self) -> Int64[Tensor, "N"]:
        return torch.arange(self.num_tracks, device=next(self.parameters()).device)


class CosineMix(Head):
    """Convex combination of the cosines of several parts: of the tracks, their artists, and other attributes.

    `score = Σ_e α_e·cos(e_prev, e_next)`, where the α_e are at least 0 and sum to 1. Without `parts` these are track
    and artist: `α·cos(track_prev, track_next) + (1−α)·cos(artist_prev, artist_next)`. With `shrinkage` the cosines of
    what was rarely seen are smaller. Both places of a pair use the same tables. A track or a value that occurs in no
    training pair has the zero vector. An unknown track is therefore scored by its artist and its other attributes, and
    if these are unknown too, all its scores are 0.

    Args:
        vocabulary: the catalogue and what the training pairs show of it.
        alpha: share of the track cosine, in [0, 1], or `learned` (starts at the same share for each part). With weights
            in `parts` it must be `learned` or None, which then means nothing, or the weight of the tracks.
        fixed_alpha: the alpha that defines this model, such as 1 for `model=track`; None if any alpha is allowed.
        parts: names of the parts, whose shares are then learned, or the share of each; None for track and artist.
        unknown: what the known parts of a track do where others are unknown, as `query` and as `item`; see `Unknown`.
            Only with `parts`, otherwise `zero`.
        prior: what the other parts of a track predict for its vector and its item bias is `added` to its own, or used
            `instead` of them where they are unknown, which needs `track_dropout`; None: not at all. Only with `parts`.
            With `added` the other parts are not changed in order to predict better, therefore known tracks lose
            nothing; with `instead` they are, and new tracks are ranked better among one another.
        dim: width of an embedding (D), at least 1.
        init_std: standard deviation of the initial embeddings, above 0. It does not change the initial cosines, but it
            changes how much one optimizer step rotates a vector.
        item_bias: whether a learned bias of the candidate is added to the score. It says how often the candidate
            follows any track.
        dropout: share of the numbers of each unit vector that are set to zero in a training step, in [0, 0.9].
        track_dropout: share of the tracks, in both places of a pair, that a training step treats as unseen, in
            [0, 0.9]. These tracks are then scored by their other parts. No effect where `alpha` is 0 or 1.
        order_std: standard deviation of the initial offsets that are added to embeddings in the second place of a
            pair, at least 0. Use it for sources where `a, b` and `b, a` differ. With 0 there are no offsets and the
            score is symmetric.
        shrinkage: length h, at least 0: an embedding v is divided by √(|v|² + h²). The embedding of a track that
            training shows rarely stays short, therefore its cosines count less. With 0 all cosines count alike.
        min_plays: tracks with fewer plays in training have no embedding of their own, but the zero vector, as unknown
            tracks have, and need no memory for it; at least 1.

    Raises:
        InputError: an argument is out of range, or the data lack a part.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        alpha: float | str | None,
        fixed_alpha: float | None,
        parts: Mapping[str, float] | Sequence[str] | None,
        unknown: Mapping[str, str],
        prior: str | None,
        dim: int,
        init_std: float,
        item_bias: bool,
        dropout: int | float,
        track_dropout: int | float,
        order_std: int | float,
        shrinkage: int | float,
        min_plays: int,
    ) -> None:
        super().__init__(len(vocabulary.catalog))
        check_number("order_std", order_std, least=0)
        check_number("shrinkage", shrinkage, least=0, hint="0 gives cosines")
        self._squared = float(shrinkage) ** 2
        check_number("dim", dim, whole=True, least=1)
        shares = _shares_of(alpha, fixed_alpha, parts)
        for name in shares:
            check_part(name, vocabulary.catalog)
        self._fixed = None if any(share is None for share in shares.values()) else [s for s in shares.values() if s]
        self._names = [name for name, share in shares.items() if share is None or share > 0]
        self._dim, num = dim, len(self._names)
        self.alpha_logit = None
        if self._fixed is None:  # of equal shares: the first has 1/num, the second 1/(num − 1) of the rest, …
            self.alpha_logit = nn.Parameter(-torch.arange(num - 1, 0, -1).float().log())
        self._has_parts = parts is not None
        seen = torch.from_numpy(vocabulary.previous_counts + vocabulary.next_counts > 0)
        width: dict[str, Any] = {"dim": dim, "init_std": init_std}
        tracks = partial(build_tracks, torch.from_numpy(vocabulary.plays), seen, min_plays=min_plays, **width)
        built = {
            name: tracks() if name == "track" else build_part(name, vocabulary.catalog, seen, **width)
            for name in self._names
        }
        if order_std:
            for part in built.values():
                part.add_offset(order_std)
        self.track, self.artist = (cast("Lookup | None", built.get(name)) for name in ("track", "artist"))
        self.others = nn.ModuleList(part for name, part in built.items() if name not in ("track", "artist"))
        self.item_bias = _item_bias(vocabulary, item_bias)
        self.dropout = Dropout(dropout)
        check_number("track_dropout", track_dropout, least=0, most=0.9, hint="0 switches it off")
        if fixed_alpha in (0, 1) and track_dropout:
            raise InputError(
                f"track_dropout={track_dropout} has no effect in this model, which is alpha={fixed_alpha}: it needs "
                "both tracks and artists; remove track_dropout"
            )
        # alpha = 0 has no tracks to drop and alpha = 1 no artists to replace them; a sweep over alpha includes both
        self.track_dropout = RowDropout(track_dropout if self.track is not None and num > 1 else 0.0)
        if prior not in (None, *PRIORS):
            raise InputError(f"model.prior must be null or one of {', '.join(PRIORS)}, got {prior!r}")
        if self._has_parts and prior == "instead" and not self.track_dropout.share:
            raise InputError(
                "model.prior=instead learns from the tracks that training treats as unseen, and model.track_dropout=0 "
                "leaves none; use model.track_dropout=0.1, or model.prior=added"
            )
        self.prior, self._is_added = None, prior == "added"
        if prior and self._has_parts and self.track is not None and num > 1:
            self.prior = Prior(dim * (num - 1), dim=dim, init_std=init_std, item_bias=self.item_bias is not None)
        self.unknown_query, self.unknown_item = _unknown_of(unknown, num, has_effect=self._has_parts)

    def _parts(self) -> Iterator[tuple[Part, nn.Module]]:
        """Each part, and what leaves out some of its vectors in training, in the order of the columns."""
        others, nothing = iter(self.others), nn.Identity()
        for name in self._names:
            if name == "track":
                assert self.track is not None
                yield self.track, self.track_dropout
            else:
                part = self.artist if name == "artist" else next(others)
                assert isinstance(part, Part)
                yield part, nothing

    def alpha(self) -> Float[Tensor, ""] | float:
        """Return the share of the track cosine.

        Returns:
            Alpha, in [0, 1]; a tensor where it is learned.
        """
        return dict(zip(self._names, self.shares(), strict=True)).get("track", 0.0)

    def shares(self) -> list[Float[Tensor, ""] | float]:
        """Return the share of each part.

        Returns:
            Numbers of at least 0 that sum to 1; tensors where they are learned.
        """
        if self._fixed is not None:
            return list(self._fixed)
        assert self.alpha_logit is not None
        first, *others = torch.sigmoid(self.alpha_logit).unbind()
        shares, rest = [first], 1 - first
        for of_rest in others:
            shares.append(rest * of_rest)
            rest = rest - shares[-1]
        return [*shares, rest]

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Compute `[√α·t̂ ; √(1−α)·â]`, where a hat means `v/√(|v|² + h²)`, and 1 where there is an item bias.

        Args:
            rows: rows of the tracks.

        Returns:
            One query vector for each row.
        """
        units, _ = self._units(rows, in_second_place=False)
        return _with_ones(self._mix(units, self.unknown_query), self.item_bias)

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Compute the same vectors as `query`, with offsets where there are any; the item bias is appended.

        Args:
            rows: rows of the tracks.

        Returns:
            One item vector for each row.
        """
        units, bias = self._units(rows, in_second_place=True)
        mixed = self._mix(units, self.unknown_item)
        return mixed if bias is None else torch.cat([mixed, BIAS_UNIT * bias[:, None]], dim=-1)

    def query_parts(self) -> Mapping[str, QueryPart]:
        """Name the parts of a query vector: without shrinkage `track` of length √α and `artist` of length √(1−α).

        Returns:
            The parts.
        """
        parts, start = {}, 0
        is_mix = "renormalise" not in (self.unknown_query.rule, self.unknown_item.rule)  # it divides by the shares
        for name, share in zip(self._names, self.shares(), strict=True):
            length = None if self._squared else share**0.5  # shrunk vectors have lengths of their own
            parts[name] = QueryPart(slice(start, start + self._dim), length, share if is_mix else None)
            start += self._dim
        return parts

    def _units(
        self, rows: Int[Tensor, "B"], *, in_second_place: bool
    ) -> tuple[list[Float[Tensor, "B D"]], Float[Tensor, "B"] | None]:
        """The unit vectors of each part; and the item bias, in the second place and where there is one."""
        bias = self.item_bias(rows) if in_second_place and self.item_bias is not None else None
        found = [(part.vectors(rows, in_second_place=in_second_place), left_out) for part, left_out in self._parts()]
        if self.prior is None:
            return [_unit(left_out(vectors), self._squared) for vectors, left_out in found], bias
        vectors, place = [vectors for vectors, _ in found], self._names.index("track")
        kept = self.track_dropout(torch.ones_like(vectors[place][:, :1]))
        units = [_unit(vector, self._squared) for vector in vectors[:place] + vectors[place + 1 :]]
        of_track, of_bias = self.prior([unit.detach() for unit in units] if self._is_added else units)
        own = vectors[place] * kept
        used = torch.ones_like(kept) if self._is_added else (own == 0).all(-1, keepdim=True).to(own.dtype)
        units.insert(place, _unit(own + used * of_track, self._squared))
        if bias is not None and of_bias is not None:
            bias = bias * kept[:, 0] + used[:, 0] * of_bias
        return units, bias

    def _mix(self, units: Sequence[Float[Tensor, "B D"]], unknown: Unknown) -> Float[Tensor, "B W"]:
        shares = self.shares()
        mixed = torch.cat([self.dropout(unit) * share**0.5 for unit, share in zip(units, shares, strict=True)], dim=-1)
        return mixed if unknown.rule == "zero" else mixed * unknown(units, shares)

    def forward(self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Compute the score of each pair.

        Args:
            previous: rows of the previous tracks.
            following: rows of the next tracks.

        Returns:
            One score for each pair, in [-1, 1] without an item bias (and with `unknown=zero`).
        """
        if self.prior is not None or {self.unknown_query.rule, self.unknown_item.rule} != {"zero"}:
            return super().forward(previous, following)
        score = torch.zeros(len(previous), device=previous.device)
        for (part, left_out), share in zip(self._parts(), self.shares(), strict=True):
            first, second = part.pair(previous, following)
            score = score + share * _cosine(left_out(first), left_out(second), self.dropout, self._squared)
        return score if self.item_bias is None else score + BIAS_UNIT * self.item_bias(following)

    def artist_vectors(self) -> Float[Tensor, "A D"] | None:
        """Compute the unit vector of each artist.

        Returns:
            Artist vectors; None for `model=track`, which has no artists.
        """
        return None if self.artist is None else _unit(self.artist.weight, self._squared)

    def logged(self) -> Mapping[str, float]:
        """Report the share of the track cosine, and with `parts` that of each part.

        Returns:
            `alpha`, or `share_<part>` for each part.
        """
        if not self._has_parts:
            return {"alpha": _number(self.alpha())}
        return {f"share_{name}": _number(share) for name, share in zip(self._names, self.shares(), strict=True)}


def _unknown_of(rules: Mapping[str, str], num_parts: int, *, has_effect: bool) -> tuple[Unknown, Unknown]:
    """The rules of queries and of items; where they have no effect, they are checked alone."""
    if not isinstance(rules, Mapping) or set(rules) != {"query", "item"}:
        raise InputError(
            f"model.unknown must have a rule for query and one for item, got {rules!r}; give "
            "model.unknown.query=<rule> or model.unknown.item=<rule>"
        )
    query, item = (Unknown(rules[side], key=f"model.unknown.{side}", num_parts=num_parts) for side in ("query", "item"))
    if has_effect:
        return query, item
    return Unknown("zero", key="", num_parts=0), Unknown("zero", key="", num_parts=0)


def _shares_of(
    alpha: float | str | None, fixed_alpha: float | None, parts: Mapping[str, float] | Sequence[str] | None
) -> dict[str, float | None]:
    """The share of each part; None where all shares are learned.

    Raises:
        InputError: they are out of range, do not sum to 1, or contradict one another.
    """
    number = alpha if isinstance(alpha, int | float) and not isinstance(alpha, bool) else None
    if parts is None:
        if not (alpha == "learned" or (number is not None and 0 <= number <= 1)):
            raise InputError(
                f"alpha must lie in [0, 1] or be learned, got {alpha}; use model=artist for 0, model=track for 1"
            )
        if fixed_alpha is not None and alpha != fixed_alpha:
            raise InputError(
                f"alpha={alpha} contradicts this model, which is alpha={fixed_alpha} by definition; "
                f"use model=convex model.alpha={alpha}"
            )
        return {"track": None, "artist": None} if number is None else {"track": number, "artist": 1 - number}
    if fixed_alpha is not None:
        raise InputError(f"model.parts contradicts this model, which is alpha={fixed_alpha}; use model=convex with it")
    if isinstance(parts, str) or not isinstance(parts, Mapping | Sequence) or len(parts) < 2:
        raise InputError(
            f"model.parts must be weights such as {{track: 0.6, artist: 0.4}}, or a list of at least two parts whose "
            f"weights are learned, got {parts!r}"
        )
    names = list(map(str, parts))
    if not isinstance(parts, Mapping):
        if len(set(names)) < len(names):
            raise InputError(f"model.parts={names} names a part twice; name each once")
        if alpha != "learned":
            raise InputError(
                f"model.alpha={alpha} contradicts model.parts={names}, a list, whose weights are learned; give "
                "model.alpha=learned, or the weight of each part"
            )
        return dict.fromkeys(names)
    for name, weight in parts.items():
        check_number(f"model.parts.{name}", weight, least=0, most=1, hint="0 leaves the part out")
    total = math.fsum(parts.values())
    if abs(total - 1) > 1e-6:
        raise InputError(f"the weights of model.parts must sum to 1, got {total:.9g}; change one of them")
    if alpha not in ("learned", None, parts.get("track", 0)):
        raise InputError(
            f"model.alpha={alpha} contradicts model.parts, where the tracks have {parts.get('track', 0)}; leave it "
            "out, or give model.alpha=null"
        )
    return {str(name): weight for name, weight in parts.items()}


class TwoTableDot(Head):
    """The contextual model: dot product of two separate tables, `⟨context_prev, track_next⟩`.

    A track that occurs in no training pair in a place has the zero vector in that place.

    Args:
        vocabulary: the catalogue and what the training pairs show of it.
        alpha: must be None because this head has no artists. The parameter exists so that a sweep over models that
            sets `model.alpha` gets a clear error.
        dim: width of an embedding (D), at least 1.
        init_std: standard deviation of the initial embeddings, above 0.
        item_bias: whether a learned bias of the candidate is added to the score.
        dropout: share of the numbers of each embedding that are set to zero in a training step, in [0, 0.9].
        track_dropout: share of the tracks, in both places of a pair, that a training step treats as unseen, in
            [0, 0.9].

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        alpha: None,
        dim: int,
        init_std: float,
        item_bias: bool,
        dropout: int | float,
        track_dropout: int | float,
    ) -> None:
        super().__init__(len(vocabulary.catalog))
        if alpha is not None:
            raise InputError(
                f"alpha={alpha} has no effect in this model, which has no artist embeddings; "
                f"use model=convex model.alpha={alpha}"
            )
        check_number("dim", dim, whole=True, least=1)
        self.context = _table(torch.from_numpy(vocabulary.previous_counts > 0), dim, init_std)
        self.track = _table(torch.from_numpy(vocabulary.next_counts > 0), dim, init_std)
        self.item_bias = _item_bias(vocabulary, item_bias)
        self.dropout = Dropout(dropout)
        self.track_dropout = RowDropout(track_dropout)

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Look up context embeddings; a 1 is appended where there is an item bias.

        Args:
            rows: rows of the tracks.

        Returns:
            One query vector for each row.
        """
        return _with_ones(self.track_dropout(self.dropout(self.context(rows))), self.item_bias)

    def query_parts(self) -> Mapping[str, QueryPart]:
        """Name the one part of a query vector, whose length differs from track to track.

        Returns:
            The part `track`.
        """
        return {"track": QueryPart(slice(0, self.context.embedding_dim), None, None)}

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Look up track embeddings; the item bias is appended where there is one.

        Args:
            rows: rows of the tracks.

        Returns:
            One item vector for each row.
        """
        return _with_bias(self.track_dropout(self.dropout(self.track(rows))), self.item_bias, rows)


def _number(value: Float[Tensor, ""] | float) -> float:
    return value.item() if isinstance(value, Tensor) else float(value)


def _item_bias(vocabulary: Vocabulary, enabled: bool) -> Biases | None:
    check_flag("item_bias", enabled)
    return Biases(len(vocabulary.catalog)) if enabled else None


def _with_ones(vectors: Float[Tensor, "B W"], bias: Biases | None) -> Float[Tensor, "B V"]:
    return vectors if bias is None else torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=-1)


def _with_bias(vectors: Float[Tensor, "B W"], bias: Biases | None, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
    return vectors if bias is None else torch.cat([vectors, BIAS_UNIT * bias(rows)[:, None]], dim=-1)


class _Unit(torch.autograd.Function):
    """Vectors divided by √(|v|² + h²); zero stays zero. `F.normalize` takes eight times as long in training."""

    @staticmethod
    def forward(ctx: Any, vectors: Float[Tensor, "B D"], squared: float) -> Float[Tensor, "B D"]:
        one_over_length = (vectors * vectors).sum(dim=-1, keepdim=True).add_(squared).clamp_(min=1e-24).rsqrt_()
        unit = vectors * one_over_length
        ctx.save_for_backward(unit, one_over_length)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B D"], None]:
        unit, one_over_length = ctx.saved_tensors
        along = (unit * gradient).sum(dim=-1, keepdim=True)
        return torch.addcmul(gradient, unit, along, value=-1).mul_(one_over_length), None


_unit: Callable[[Tensor, float], Tensor] = _Unit.apply


def _cosine(
    first: Float[Tensor, "B D"], second: Float[Tensor, "B D"], dropout: Dropout, squared: float
) -> Float[Tensor, "B"]:
    """The product of the vectors of `_unit`, of each pair. Takes half the time of dividing both vectors first."""
    dot = torch.linalg.vecdot
    with torch.autocast(first.device.type, enabled=False):  # these squares are too small for half precision
        dropped = dot(dropout(first), dropout(second))
        lengths = (dot(first, first) + squared) * (dot(second, second) + squared)
        cosine: Tensor = dropped * lengths.clamp(min=1e-24).rsqrt()
    return cosine


def _table(seen: Tensor, dim: int, init_std: float) -> nn.Embedding:
    table = nn.Embedding(len(seen), dim)
    draw(table, seen, init_std)
    return table
