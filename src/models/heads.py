"""Heads: from a pair of tracks to a score.

B pairs, N tracks in the catalogue, A artists, V width of a query or item vector, W the same without a bias, D width of
an embedding. Scores are dimensionless. The base class of every head, `Scorer`, is in `contracts.py`.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from segue.catalog import Vocabulary
from segue.errors import InputError
from segue.models.contracts import QueryPart, Scorer
from segue.models.kernels import Dropout, cosine, unit
from segue.models.parts import Lookup, Prior, build_part, check_part
from segue.settings import Setting, settings

OF_DROPOUT: dict[str, Any] = {"least": 0, "most": 0.9, "hint": "0.2 is usual, 0 switches it off"}
BIAS_UNIT = 0.1
"""Score that one unit of an item bias adds. With 1, one step of Adam would change a bias more than any cosine, and the
model would learn popularity before anything else."""


@settings("model")
class CosineMix(Scorer):
    """Convex combination of the cosines of several parts: of the tracks, their artists, and other attributes.

    `score = Σ_e α_e·cos(e_prev, e_next)`, where the α_e are at least 0 and sum to 1. With track and artist alone it is
    `α·cos(track_prev, track_next) + (1−α)·cos(artist_prev, artist_next)`. With `shrinkage` the cosines of what was
    rarely seen are smaller. Both places of a pair use the same tables. A track or a value that occurs in no training
    pair has the zero vector. An unknown track is therefore scored by its artist and its other attributes, and if these
    are unknown too, all its scores are 0.

    Args:
        vocabulary: the catalogue and what the training pairs show of it.

    Raises:
        InputError: a setting is out of range, or the data lack a part.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        alpha: Annotated[
            float | Literal["learned"] | None,
            Setting("share of the track cosine; the artist has the rest", least=0, most=1),
        ] = "learned",
        parts: Annotated[
            Mapping[str, float] | Sequence[str] | None,
            Setting("share of each part, or names of parts whose shares are learned; null: by alpha", least=0, most=1),
        ] = None,
        prior: Annotated[
            Literal["added", "instead"] | None,
            Setting("with parts: what the others predict of a track is added to its vector, or used where it has none"),
        ] = "added",
        dim: Annotated[int, Setting("width of an embedding (D)", least=1)],
        init_std: Annotated[float, Setting("standard deviation of the initial embeddings", above=0)],
        item_bias: Annotated[bool, Setting("whether to learn how often a candidate follows any track")],
        dropout: Annotated[float, Setting("share of the numbers of a unit vector set to 0 in training", **OF_DROPOUT)],
        track_dropout: Annotated[float, Setting("share of the tracks treated as unseen in training", **OF_DROPOUT)],
        order_std: Annotated[
            float, Setting("standard deviation of the initial offsets in the second place of a pair; 0: none", least=0)
        ] = 0.0,
        shrinkage: Annotated[
            float,
            Setting("length h: an embedding v is divided by √(|v|² + h²), so that what is rare counts less", least=0),
        ] = 0.0,
        min_plays: Annotated[
            int,
            Setting("tracks with fewer plays in training have no embedding of their own, and need no memory", least=1),
        ] = 1,
    ) -> None:
        super().__init__(len(vocabulary.catalog))
        shares = _shares_of(alpha, parts)
        for name in shares:
            check_part(name, vocabulary.catalog)
        self._fixed = {name: share for name, share in shares.items() if share}  # none where they are learned
        names = list(self._fixed or shares)
        self._dim, self._squared, self.alpha_logit = dim, shrinkage**2, None
        if not self._fixed:  # of equal shares: the first has 1/num, the second 1/(num − 1) of the rest, …
            self.alpha_logit = nn.Parameter(-torch.arange(len(names) - 1, 0, -1).float().log())
        width: dict[str, Any] = {"dim": dim, "init_std": init_std}
        built = {name: build_part(name, vocabulary, min_plays, **width) for name in names}
        for part in built.values() if order_std else ():
            part.add_offset(order_std)
        self.parts: Any = nn.ModuleDict(built)
        self.item_bias = Biases(self.num_tracks) if item_bias else None
        self.dropout = Dropout(dropout)
        # without tracks nothing is dropped, and without other parts nothing replaces them
        has_others = "track" in names and len(names) > 1
        self.track_dropout = RowDropout(track_dropout if has_others else 0.0)
        if parts is not None and prior == "instead" and not self.track_dropout.share:
            raise InputError(
                "model.prior=instead learns from the tracks that training treats as unseen, and model.track_dropout=0 "
                "leaves none; use model.track_dropout=0.1, or model.prior=added"
            )
        self.prior, self._is_added = None, prior == "added"
        if prior and parts is not None and has_others:
            self.prior = Prior(dim * (len(names) - 1), item_bias=item_bias, **width)

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Compute `[√α·t̂ ; √(1−α)·â]`, where a hat means `v/√(|v|² + h²)`, and 1 where there is an item bias."""
        return _with_ones(self._mix(self._units(rows, in_second_place=False)[0]), self.item_bias)

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Compute the same vectors as `query`, with offsets where there are any; the item bias is appended."""
        units, bias = self._units(rows, in_second_place=True)
        return _with_bias(self._mix(units), bias)

    def forward(self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Compute the score of each pair, in [-1, 1] without an item bias."""
        if self.prior is not None:
            return super().forward(previous, following)
        shares, score = self.shares(), torch.zeros(len(previous), device=previous.device)
        for name, part in self.parts.items():
            first, second = (self._kept(name, vectors) for vectors in part.pair(previous, following))
            score = score + shares[name] * cosine(first, second, self.dropout, self._squared)
        return score if self.item_bias is None else score + BIAS_UNIT * self.item_bias(following)

    def _kept(self, name: str, vectors: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The vectors of a part, of which a training step leaves out some tracks."""
        return torch.as_tensor(self.track_dropout(vectors) if name == "track" else vectors)

    def _units(
        self, rows: Int[Tensor, "B"], *, in_second_place: bool
    ) -> tuple[dict[str, Float[Tensor, "B D"]], Float[Tensor, "B"] | None]:
        """The unit vectors of each part; and the item bias, in the second place and where there is one."""
        bias = self.item_bias(rows) if in_second_place and self.item_bias is not None else None
        vectors = {name: part.vectors(rows, in_second_place=in_second_place) for name, part in self.parts.items()}
        if self.prior is None:
            return {name: unit(self._kept(name, of_part), self._squared) for name, of_part in vectors.items()}, bias
        kept = self.track_dropout(torch.ones_like(vectors["track"][:, :1]))
        units = {name: unit(of_part, self._squared) for name, of_part in vectors.items() if name != "track"}
        of_track, of_bias = self.prior([one.detach() if self._is_added else one for one in units.values()])
        own = vectors["track"] * kept
        used = torch.ones_like(kept) if self._is_added else (own == 0).all(-1, keepdim=True).to(own.dtype)
        if bias is not None and of_bias is not None:
            bias = bias * kept[:, 0] + used[:, 0] * of_bias
        units["track"] = unit(own + used * of_track, self._squared)
        return {name: units[name] for name in vectors}, bias

    def _mix(self, units: Mapping[str, Float[Tensor, "B D"]]) -> Float[Tensor, "B W"]:
        shares = self.shares()
        return torch.cat([self.dropout(vectors) * shares[name] ** 0.5 for name, vectors in units.items()], dim=-1)

    def shares(self) -> Mapping[str, Float[Tensor, ""] | float]:
        """Return the share of each part.

        Returns:
            Numbers of at least 0 that sum to 1; tensors where they are learned.
        """
        if self.alpha_logit is None:
            return self._fixed
        shares, rest = [], torch.ones(())
        for of_rest in torch.sigmoid(self.alpha_logit).unbind():
            shares.append(rest * of_rest)
            rest = rest - shares[-1]
        return dict(zip(self.parts, [*shares, rest], strict=True))

    def query_parts(self) -> Mapping[str, QueryPart]:
        """Name the parts of a query vector: without shrinkage `track` of length √α and `artist` of length √(1−α)."""
        columns = (slice(start, start + self._dim) for start in itertools.count(0, self._dim))
        return {
            name: QueryPart(of_part, None if self._squared else share**0.5, share)  # shrunk lengths differ
            for of_part, (name, share) in zip(columns, self.shares().items(), strict=False)
        }

    def artist_vectors(self) -> Float[Tensor, "A D"] | None:
        """Compute the unit vector of each artist; None for `model=track`, which has no artists."""
        return unit(self.parts["artist"].weight, self._squared) if "artist" in self.parts else None

    def logged(self) -> Mapping[str, float]:
        """Report the share of the track cosine, or, where there are other parts than artists, that of each part."""
        shares = {name: torch.as_tensor(share).item() for name, share in self.shares().items()}
        if not set(shares) <= {"track", "artist"}:
            return {f"share_{name}": share for name, share in shares.items()}
        return {"alpha": shares.get("track", 0.0)}


def _shares_of(alpha: float | str | None, parts: Mapping[str, float] | Sequence[str] | None) -> dict[str, float | None]:
    """The share of each part; None where all shares are learned.

    Raises:
        InputError: they do not sum to 1, a part is named twice, or alpha contradicts them.
    """
    if parts is None and not isinstance(alpha, str | None):
        return {"track": alpha, "artist": 1 - alpha}
    names = ["track", "artist"] if parts is None else list(parts)
    if len(set(names)) < len(names) or not names:
        raise InputError(f"model.parts={names} must name each part once, and at least one")
    shares: dict[str, float | None] = dict(parts) if isinstance(parts, Mapping) else dict.fromkeys(names)
    if alpha not in ("learned", None, shares.get("track", 0)):
        raise InputError(
            f"model.alpha={alpha} contradicts model.parts={parts}; leave out one of the two, or use model=convex "
            f"model.alpha={alpha}"
        )
    if isinstance(parts, Mapping) and abs((total := math.fsum(parts.values())) - 1) > 1e-6:
        raise InputError(f"the weights of model.parts must sum to 1, got {total:.9g}; change one of them")
    return shares


@settings("model")
class TwoTableDot(Scorer):
    """The contextual model: dot product of two separate tables, `⟨context_prev, track_next⟩`.

    A track that occurs in no training pair in a place has the zero vector in that place.

    Args:
        vocabulary: the catalogue and what the training pairs show of it.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        alpha: Annotated[None, Setting("there are no artists", hint="use model=convex")] = None,  # noqa: ARG002
        dim: Annotated[int, Setting("width of an embedding (D)", least=1)],
        init_std: Annotated[float, Setting("standard deviation of the initial embeddings", above=0)],
        item_bias: Annotated[bool, Setting("whether to learn how often a candidate follows any track")] = False,
        dropout: Annotated[
            float, Setting("share of the numbers of an embedding set to 0 in training", **OF_DROPOUT)
        ] = 0.0,
        track_dropout: Annotated[
            float, Setting("share of the tracks treated as unseen in training", **OF_DROPOUT)
        ] = 0.0,
    ) -> None:
        super().__init__(len(vocabulary.catalog))
        self.context, self.track = (
            Lookup(None, torch.from_numpy(counts > 0), dim=dim, init_std=init_std)
            for counts in (vocabulary.previous_counts, vocabulary.next_counts)
        )
        self.item_bias = Biases(self.num_tracks) if item_bias else None
        self.dropout, self.track_dropout = Dropout(dropout), RowDropout(track_dropout)

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Look up context embeddings; a 1 is appended where there is an item bias."""
        return _with_ones(self.track_dropout(self.dropout(self.context(rows))), self.item_bias)

    def query_parts(self) -> Mapping[str, QueryPart]:
        """Name the one part of a query vector, whose length differs from track to track."""
        return {"track": QueryPart(slice(0, self.context.embedding_dim), None, None)}

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Look up track embeddings; the item bias is appended where there is one."""
        bias = None if self.item_bias is None else self.item_bias(rows)
        return _with_bias(self.track_dropout(self.dropout(self.track(rows))), bias)


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

    @torch.no_grad()
    def begin_with(self, scores: Float[Tensor, "N"]) -> None:
        """Set the biases of items.

        Args:
            scores: what they add to the score of each track.
        """
        self.weight.copy_(scores[:, None] / BIAS_UNIT)

    def forward(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Look up biases."""
        return super().forward(rows)[..., 0]


class RowDropout(nn.Module):
    """Sets whole rows to zero in training, as if these tracks were unseen. Each training step draws other rows.

    Args:
        share: share of the rows that are set to zero, in [0, 1). The other rows are not scaled up.

    Source:
        Gal and Ghahramani, A theoretically grounded application of dropout in recurrent neural networks, NeurIPS 2016
        (embedding dropout, which drops a word in the whole batch; `loss=softmax` does so for the pairs that are
        held against one another, the other losses draw each occurrence separately).
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, rows: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Set some rows to zero in training; in evaluation return them unchanged.

        Returns:
            The embeddings, zero in the dropped rows.
        """
        if not (self.training and self.share):
            return rows
        return rows * (torch.rand((*rows.shape[:-1], 1), device=rows.device) >= self.share)


def _with_ones(vectors: Float[Tensor, "B W"], bias: Biases | None) -> Float[Tensor, "B V"]:
    return vectors if bias is None else torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=-1)


def _with_bias(vectors: Float[Tensor, "B W"], bias: Float[Tensor, "B"] | None) -> Float[Tensor, "B V"]:
    return vectors if bias is None else torch.cat([vectors, BIAS_UNIT * bias[:, None]], dim=-1)
