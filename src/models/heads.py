"""Heads: from a pair of tracks to a score.

    score(a, b) = α·cos(track_a, track_b) + (1 − α)·cos(artist_a, artist_b) = query(a) · item(b)

Four set-ups are this one formula, and one class:

| `model=` | α                                |
|----------|----------------------------------|
| `track`  | 1                                |
| `artist` | 0                                |
| `mean`   | ½                                |
| `convex` | given, in [0, 1], or learned     |

`model=contextual` is `⟨context_a, track_b⟩`, of two tables. The base class of every head, `Scorer`, is in
`contracts.py`, and what heads and their settings are made of in `parts.py`.

B pairs, V width of a query or item vector, W the same without a bias, D width of an embedding. Scores are
dimensionless.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from segue.catalog import Vocabulary
from segue.errors import InputError
from segue.models.contracts import QueryPart, Scorer
from segue.models.kernels import Dropout
from segue.models.parts import (
    Biases,
    Dropped,
    HasBias,
    Length,
    Lookup,
    OffsetStd,
    Parts,
    Prior,
    RowDropout,
    Share,
    Std,
    TracksDropped,
    Width,
    build_parts,
    unit,
    with_bias,
    with_one,
)
from segue.settings import Setting, settings


@settings("model")
class CosineMix(Scorer):
    """Convex combination of the cosines of several parts: of the tracks, their artists, and other attributes.

    `score = Σ_e α_e·cos(e_prev, e_next)`, where the α_e are at least 0 and sum to 1. With `shrinkage` the cosines of
    what was rarely seen are smaller. Both places of a pair use the same tables. A track or a value that occurs in no
    training pair has the zero vector. An unknown track is therefore scored by its artist and its other attributes, and
    if these are unknown too, all its scores are 0. With `parts`, what these predict of a track is added to its vector.

    Args:
        vocabulary: the catalogue and what the training pairs show of it.

    Raises:
        InputError: a setting is out of range, or the data lack a part.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        alpha: Share = "learned",
        parts: Parts = None,
        dim: Width,
        init_std: Std,
        item_bias: HasBias,
        dropout: Dropped,
        track_dropout: TracksDropped,
        order_std: OffsetStd = 0.0,
        shrinkage: Length = 0.0,
    ) -> None:
        super().__init__(len(vocabulary.catalog))
        names, self._fixed = _shares_of(alpha, parts)
        is_mix = "track" in names and len(names) > 1  # without others nothing replaces a track that is left out
        self._dim, self._squared = dim, shrinkage**2
        self.alpha_logit = None if self._fixed else nn.Parameter(torch.zeros(len(names) - 1))  # equal shares
        self.parts = build_parts(names, vocabulary, dim, init_std)
        self.offsets = build_parts(names, vocabulary, dim, order_std) if order_std else None
        self.item_bias = Biases(self.num_tracks) if item_bias else None
        self.dropout, self.track_dropout = Dropout(dropout), RowDropout(track_dropout if is_mix else 0.0)
        others = dim * (len(names) - 1)
        self.prior = Prior(others, dim, init_std, item_bias=item_bias) if parts is not None and is_mix else None

    def shares(self) -> Mapping[str, Float[Tensor, ""] | float]:
        """Return the share α_e of each part, tensors where they are learned."""
        if self.alpha_logit is None:
            return self._fixed
        return dict(zip(self.parts, F.pad(self.alpha_logit, (0, 1)).softmax(0), strict=True))

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Compute `[√α·t̂ ; √(1−α)·â]` of track and artist: a hat means `v/√(|v|² + h²)`; and 1 for an item bias."""
        return with_one(self._mix({name: part(rows) for name, part in self.parts.items()}), self.item_bias)

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Compute the same vectors as `query`, with offsets where there are any; the item bias is appended."""
        found = {name: part(rows) for name, part in self.parts.items()}
        if self.offsets is not None:
            found = {name: vectors + self.offsets[name](rows) for name, vectors in found.items()}
        return self._mix(found, None if self.item_bias is None else self.item_bias(rows))

    def _mix(self, found: Mapping[str, Tensor], bias: Float[Tensor, "B"] | None = None) -> Float[Tensor, "B V"]:
        """The vectors of the parts, each divided by its length and times `√α_e`, and the bias, with a prior its own."""
        if self.prior is None:
            kept = {**found, "track": self.track_dropout(found["track"])} if "track" in found else found
            units = {name: unit(vectors, self._squared) for name, vectors in kept.items()}
        else:
            units = {name: unit(vectors, self._squared) for name, vectors in found.items() if name != "track"}
            of_track, of_bias = self.prior(torch.cat([vectors.detach() for vectors in units.values()], dim=-1))
            kept = self.track_dropout(torch.ones_like(of_track[:, :1]))
            units["track"] = unit(found["track"] * kept + of_track, self._squared)
            bias = None if bias is None else bias * kept[:, 0] + of_bias
        mixed = torch.cat([self.dropout(units[name]) * share**0.5 for name, share in self.shares().items()], -1)
        return with_bias(mixed, bias)

    def query_parts(self) -> Mapping[str, QueryPart]:
        """Name the parts of a query vector, such as `track` and `artist`."""
        return {
            name: QueryPart(slice(nth * self._dim, (nth + 1) * self._dim), share)
            for nth, (name, share) in enumerate(self.shares().items())
        }

    def logged(self) -> Mapping[str, float]:
        """Report the share of the track cosine, or, where there are other parts than artists, that of each part."""
        shares = {name: torch.as_tensor(share).item() for name, share in self.shares().items()}
        is_alpha = set(shares) <= {"track", "artist"}
        return {"alpha": shares.get("track", 0.0)} if is_alpha else {f"share_{one}": shares[one] for one in shares}


def _shares_of(alpha: float | str, parts: Any) -> tuple[list[str], dict[str, float]]:
    """The names of the parts, and the share of each, unless they are learned.

    Raises:
        InputError: a part is named twice, or alpha contradicts them.
    """
    if parts is not None and (alpha != "learned" or not parts or len(set(parts)) < len(parts)):
        raise InputError(f"model.parts={parts} must name each part once, with model.alpha=learned, got alpha={alpha}")
    if not isinstance(alpha, str):
        fixed = {name: share for name, share in (("track", alpha), ("artist", 1 - alpha)) if share}
        return list(fixed), fixed
    names = list(parts or ("track", "artist"))
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
        dim: Width,
        init_std: Std,
        item_bias: HasBias = False,
        dropout: Dropped = 0.0,
    ) -> None:
        super().__init__(len(vocabulary.catalog))
        self.context = Lookup(None, vocabulary.previous_counts > 0, dim, init_std)
        self.track = Lookup(None, vocabulary.next_counts > 0, dim, init_std)
        self.item_bias, self.dropout = Biases(self.num_tracks) if item_bias else None, Dropout(dropout)

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Look up context embeddings; a 1 is appended where there is an item bias."""
        return with_one(self.dropout(self.context(rows)), self.item_bias)

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Look up track embeddings; the item bias is appended where there is one."""
        return with_bias(self.dropout(self.track(rows)), None if self.item_bias is None else self.item_bias(rows))

    def query_parts(self) -> Mapping[str, QueryPart]:
        """Name the one part of a query vector."""
        return {"track": QueryPart(slice(0, self.context.embedding_dim), None)}
