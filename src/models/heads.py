"""Heads: from a pair of tracks to a score.

B pairs, N tracks in the catalogue, A artists, V width of a query or item vector, W the same without a bias, D width of
an embedding. Scores are dimensionless. The base class of every head, `Scorer`, is in `contracts.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from segue.catalog import Vocabulary
from segue.errors import InputError
from segue.models.contracts import QueryPart, Scorer
from segue.models.kernels import Dropout, cosine, unit
from segue.models.parts import Lookup, Prior, build_part
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
    are unknown too, all its scores are 0. With `parts`, what these predict of a track is added to its vector.

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
            float | Literal["learned"], Setting("share of the track cosine; the artist has the rest", least=0, most=1)
        ] = "learned",
        parts: Annotated[
            Sequence[str] | None, Setting("names of parts, whose shares are learned; null: track and artist, by alpha")
        ] = None,
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
    ) -> None:
        super().__init__(len(vocabulary.catalog))
        names, self._fixed = _shares_of(alpha, parts)
        self._dim, self._squared = dim, shrinkage**2
        self.alpha_logit = None if self._fixed else nn.Parameter(torch.zeros(len(names) - 1))  # equal shares
        self.parts: Any
        self.offsets: Any
        self.parts, self.offsets = (
            nn.ModuleDict({name: build_part(name, vocabulary, dim=dim, std=std) for name in names if std})
            for std in (init_std, order_std)
        )
        self.item_bias = Biases(self.num_tracks) if item_bias else None
        # without tracks nothing is dropped, and without other parts nothing replaces them
        has_others = "track" in names and len(names) > 1
        self.dropout, self.track_dropout = Dropout(dropout), RowDropout(track_dropout if has_others else 0.0)
        self.prior = None
        if parts is not None and has_others:
            self.prior = Prior(dim * (len(names) - 1), dim=dim, init_std=init_std, item_bias=item_bias)

    def shares(self) -> Mapping[str, Float[Tensor, ""] | float]:
        """Return the share of each part.

        Returns:
            Numbers of at least 0 that sum to 1; tensors where they are learned.
        """
        if self.alpha_logit is None:
            return self._fixed
        return dict(zip(self.parts, F.pad(self.alpha_logit, (0, 1)).softmax(0), strict=True))

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Compute `[√α·t̂ ; √(1−α)·â]`, where a hat means `v/√(|v|² + h²)`, and 1 where there is an item bias."""
        vectors, _ = self._mix({name: part(rows) for name, part in self.parts.items()}, None)
        return _with_ones(vectors, self.item_bias)

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Compute the same vectors as `query`, with offsets where there are any; the item bias is appended."""
        found = {name: self._with_offset(name, part(rows), rows) for name, part in self.parts.items()}
        return _with_bias(*self._mix(found, None if self.item_bias is None else self.item_bias(rows)))

    def forward(self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Compute the score of each pair, in [-1, 1] without an item bias."""
        if self.prior is not None:
            return super().forward(previous, following)
        shares, score = self.shares(), torch.zeros(len(previous), device=previous.device)
        for name, part in self.parts.items():
            first, second = part(torch.stack([previous, following])).unbind()  # their gradients are summed at once
            both = self._kept(name, first), self._kept(name, self._with_offset(name, second, following))
            score = score + shares[name] * cosine(*both, self.dropout, self._squared)
        return score if self.item_bias is None else score + BIAS_UNIT * self.item_bias(following)

    def _with_offset(self, name: str, vectors: Float[Tensor, "B D"], rows: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        return vectors + self.offsets[name](rows) if self.offsets else vectors

    def _kept(self, name: str, vectors: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The vectors of a part, of which a training step leaves out some tracks."""
        return torch.as_tensor(self.track_dropout(vectors) if name == "track" else vectors)

    def _mix(
        self, vectors: dict[str, Float[Tensor, "B D"]], bias: Float[Tensor, "B"] | None
    ) -> tuple[Float[Tensor, "B W"], Float[Tensor, "B"] | None]:
        """The vectors of the parts, each divided by its length and times `√α_e`; and the bias, with a prior its own."""
        if self.prior is None:
            units = {name: unit(self._kept(name, one), self._squared) for name, one in vectors.items()}
        else:
            units = {name: unit(one, self._squared) for name, one in vectors.items() if name != "track"}
            of_track, of_bias = self.prior(torch.cat([one.detach() for one in units.values()], dim=-1))
            kept = self.track_dropout(torch.ones_like(of_track[:, :1]))
            units["track"] = unit(vectors["track"] * kept + of_track, self._squared)
            bias = None if bias is None else bias * kept[:, 0] + of_bias
        shares = self.shares()
        return torch.cat([self.dropout(units[name]) * shares[name] ** 0.5 for name in vectors], dim=-1), bias

    def query_parts(self) -> Mapping[str, QueryPart]:
        """Name the parts of a query vector: without shrinkage `track` of length √α and `artist` of length √(1−α)."""
        return {
            name: QueryPart(slice(nth * self._dim, (nth + 1) * self._dim), None if self._squared else share**0.5, share)
            for nth, (name, share) in enumerate(self.shares().items())  # shrunk lengths differ
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


def _shares_of(alpha: float | str, parts: Sequence[str] | None) -> tuple[list[str], dict[str, float]]:
    """The names of the parts, and the share of each, unless they are learned.

    Raises:
        InputError: a part is named twice, or alpha contradicts them.
    """
    if parts is not None and alpha != "learned":
        raise InputError(
            f"model.alpha={alpha} contradicts model.parts={list(parts)}, whose shares are learned; use "
            "model=convex model.alpha=learned, or leave out model.parts"
        )
    if not isinstance(alpha, str):
        fixed = {name: share for name, share in (("track", alpha), ("artist", 1 - alpha)) if share}
        return list(fixed), fixed
    names = ["track", "artist"] if parts is None else list(parts)
    if len(set(names)) < len(names) or not names:
        raise InputError(f"model.parts={names} must name each part once, and at least one")
    return names, {} if len(names) > 1 else {names[0]: 1.0}


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
    ) -> None:
        super().__init__(len(vocabulary.catalog))
        self.context, self.track = (
            Lookup(None, torch.from_numpy(counts > 0), dim=dim, std=init_std)
            for counts in (vocabulary.previous_counts, vocabulary.next_counts)
        )
        self.item_bias = Biases(self.num_tracks) if item_bias else None
        self.dropout = Dropout(dropout)

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Look up context embeddings; a 1 is appended where there is an item bias."""
        return _with_ones(self.dropout(self.context(rows)), self.item_bias)

    def query_parts(self) -> Mapping[str, QueryPart]:
        """Name the one part of a query vector, whose length differs from track to track."""
        return {"track": QueryPart(slice(0, self.context.embedding_dim), None, None)}

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Look up track embeddings; the item bias is appended where there is one."""
        bias = None if self.item_bias is None else self.item_bias(rows)
        return _with_bias(self.dropout(self.track(rows)), bias)


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
