"""Scorers: from a pair of tracks to a score.

B pairs, N tracks in the catalogue, V width of a query or item vector, D width of an embedding.
Scores are dimensionless. Every scorer offers `forward(previous, following)`, `query(rows)` and `item(rows)` with
`forward = query · item`, and the two vectors of the whole catalogue, so that one matrix product serves in-batch
negatives, ranking metrics, export and any vector index.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from src.catalog import Vocabulary
from src.errors import InputError, check_number


class CosineMix(nn.Module):
    """Convex mix of the track cosine and the artist cosine.

    `score = α·cos(track_prev, track_next) + (1−α)·cos(artist_prev, artist_next)`. One table a kind serves both places
    of a pair. A track or artist that no training pair shows has the zero vector: such a track is scored by its artist
    alone, and all tracks that share nothing known tie at 0.

    Args:
        vocabulary: the catalogue and what the training pairs show of it.
        alpha: share of the track cosine, in [0, 1], or `learned` (starts at ½).
        fixed_alpha: the alpha that the head is named for; None where any will do.
        dim: width of an embedding (D).
        init_std: standard deviation of the initial embeddings; the cosine does not see it, the step size does.

    Raises:
        InputError: an argument breaks its law.
    """

    artist_of: Tensor

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        alpha: float | str,
        fixed_alpha: float | None,
        dim: int,
        init_std: float,
    ) -> None:
        super().__init__()
        if isinstance(alpha, bool) or not (alpha == "learned" or (isinstance(alpha, int | float) and 0 <= alpha <= 1)):
            raise InputError(
                f"alpha must lie in [0, 1] or be learned, got {alpha}; use model=artist for 0, model=track for 1"
            )
        if fixed_alpha is not None and alpha != fixed_alpha:
            raise InputError(
                f"alpha={alpha} contradicts this model, which is alpha={fixed_alpha} by definition; "
                f"use model=convex model.alpha={alpha}"
            )
        self.alpha_logit = nn.Parameter(torch.zeros(())) if alpha == "learned" else None
        self._alpha = 0.5 if alpha == "learned" else float(alpha)
        catalog = vocabulary.catalog
        seen = torch.from_numpy(vocabulary.previous_counts + vocabulary.next_counts > 0)
        self.register_buffer("artist_of", torch.from_numpy(catalog.artist_of))
        seen_artists = torch.zeros(catalog.num_artists, dtype=torch.bool)
        seen_artists[self.artist_of[seen]] = True
        self.track = None if alpha == 0 else _table(seen, dim, init_std)
        self.artist = None if alpha == 1 else _table(seen_artists, dim, init_std)

    def alpha(self) -> Float[Tensor, ""] | float:
        """Share of the track cosine, in [0, 1]."""
        return self._alpha if self.alpha_logit is None else torch.sigmoid(self.alpha_logit)

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """`[√α·t̂ ; √(1−α)·â]` of the tracks in `rows`, where a hat means unit length; the same as `item`."""
        alpha = self.alpha()
        parts = []
        if self.track is not None:
            parts.append(F.normalize(self.track(rows), dim=-1) * alpha**0.5)
        if self.artist is not None:
            parts.append(F.normalize(self.artist(self.artist_of[rows]), dim=-1) * (1 - alpha) ** 0.5)
        return torch.cat(parts, dim=-1)

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Item vector of the tracks in `rows`: one table serves both places of a pair."""
        return self.query(rows)

    def forward(self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Score of each pair, in [-1, 1]."""
        pairs, alpha = torch.stack([previous, following]), self.alpha()
        score = torch.zeros(len(previous), device=previous.device)
        if self.track is not None:
            score = score + alpha * _cosine(self.track(pairs))
        if self.artist is not None:
            score = score + (1 - alpha) * _cosine(self.artist(self.artist_of[pairs]))
        return score

    def query_vectors(self) -> Float[Tensor, "N V"]:
        """Query vector of every track of the catalogue."""
        return self.query(torch.arange(len(self.artist_of), device=self.artist_of.device))

    def item_vectors(self) -> Float[Tensor, "N V"]:
        """Item vector of every track of the catalogue."""
        return self.query_vectors()


class TwoTableDot(nn.Module):
    """The contextual rival: dot product of two separate tables, `⟨context_prev, track_next⟩`.

    A track that no training pair shows in a place has the zero vector there.

    Args:
        vocabulary: the catalogue and what the training pairs show of it.
        alpha: must be None: this scorer knows no artists. It stands here so that sweeps over models may set it.
        dim: width of an embedding (D).
        init_std: standard deviation of the initial embeddings.

    Raises:
        InputError: an argument breaks its law.
    """

    def __init__(self, vocabulary: Vocabulary, *, alpha: None, dim: int, init_std: float) -> None:
        super().__init__()
        if alpha is not None:
            raise InputError(
                f"alpha={alpha} means nothing to this model, which has no artist embeddings; "
                f"use model=convex model.alpha={alpha}"
            )
        self.context = _table(torch.from_numpy(vocabulary.previous_counts > 0), dim, init_std)
        self.track = _table(torch.from_numpy(vocabulary.next_counts > 0), dim, init_std)

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Context embedding of the tracks in `rows`."""
        vectors: Tensor = self.context(rows)
        return vectors

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Track embedding of the tracks in `rows`."""
        vectors: Tensor = self.track(rows)
        return vectors

    def forward(self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Score of each pair, unbounded."""
        score: Tensor = torch.linalg.vecdot(self.query(previous), self.item(following))
        return score

    def query_vectors(self) -> Float[Tensor, "N V"]:
        """Query vector of every track of the catalogue."""
        return self.context.weight

    def item_vectors(self) -> Float[Tensor, "N V"]:
        """Item vector of every track of the catalogue."""
        return self.track.weight


def _cosine(vectors: Float[Tensor, "2 B D"]) -> Float[Tensor, "B"]:
    """Of each pair, 0 where a vector is; half the time of making both of unit length first."""
    first, second = vectors.unbind()
    dot = torch.linalg.vecdot
    cosine: Tensor = dot(first, second) * (dot(first, first) * dot(second, second)).clamp(min=1e-24).rsqrt()
    return cosine


def _table(seen: Tensor, dim: int, init_std: float) -> nn.Embedding:
    """Embeddings drawn from N(0, init_std²); zero, and never moved by a gradient, where nothing was seen."""
    check_number("dim", dim, whole=True, least=1)
    check_number("init_std", init_std, above=0)
    table = nn.Embedding(len(seen), dim)
    with torch.no_grad():
        table.weight.normal_(std=init_std)
        table.weight[~seen] = 0
    return table
