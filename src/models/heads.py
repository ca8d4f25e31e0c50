"""Heads: from a pair of tracks to a score.

B pairs, N tracks in the catalogue, A artists, V width of a query or item vector, W the same without a bias, D width of
an embedding. Scores are dimensionless. `Head` is what they have in common.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from src.catalog import Vocabulary
from src.errors import InputError, check_flag, check_number

BIAS_UNIT = 0.1
"""Scores in a unit of an item bias. A whole unit would let a step of Adam move a bias further than any cosine, and the
popular tracks would be there before anything else is learned."""


class Biases(nn.Embedding):
    """A number for each row, 0 at first; a table, so that an optimizer may move few of them."""

    decays = False
    """Weight decay is for embeddings: it would pull a bias to 0, where nothing says that it belongs."""

    def __init__(self, num_rows: int) -> None:
        super().__init__(num_rows, 1)
        nn.init.zeros_(self.weight)

    def forward(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """The numbers of `rows`."""
        return super().forward(rows)[..., 0]


class Dropout(nn.Module):
    """Sets each number to 0 with a given probability in training; the others are scaled such that the mean stays.

    The distribution of `nn.Dropout` in a quarter of the time on a processor: 16 random bits decide on a number, of
    which one draw gives four.

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
    """Leaves out whole rows, each anew in each training step, as if they had never been seen.

    Args:
        share: of the rows; what is left is not made larger for it.

    Raises:
        InputError: the share is out of range.

    Source: the embedding dropout of Gal and Ghahramani, A theoretically grounded application of dropout in recurrent
    neural networks, NeurIPS 2016, which leaves out words; for each row here, not once for all of a batch.
    """

    def __init__(self, share: int | float) -> None:
        super().__init__()
        check_number("track_dropout", share, least=0, most=0.9, hint="0 switches it off")
        self.share = float(share)

    def forward(self, rows: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The rows, zero where they are left out."""
        if not (self.training and self.share):
            return rows
        return rows * (torch.rand((*rows.shape[:-1], 1), device=rows.device) >= self.share)


class Head(nn.Module, ABC):
    """What a head is made from: `query` and `item` are its own, the rest follows from them.

    Args:
        num_tracks: N.
    """

    def __init__(self, num_tracks: int) -> None:
        super().__init__()
        self.num_tracks = num_tracks

    @abstractmethod
    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Vectors of the tracks in `rows` in the first place of a pair."""

    @abstractmethod
    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Vectors of the tracks in `rows` in the second place of a pair."""

    def forward(self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Score of each pair, `query(previous) · item(following)`; a head may know a faster way."""
        score: Tensor = torch.linalg.vecdot(self.query(previous), self.item(following))
        return score

    def query_vectors(self) -> Float[Tensor, "N V"]:
        """Query vector of every track of the catalogue."""
        return self.query(self._rows())

    def item_vectors(self) -> Float[Tensor, "N V"]:
        """Item vector of every track of the catalogue."""
        return self.item(self._rows())

    def artist_vectors(self) -> Float[Tensor, "A V"] | None:
        """None: an artist is the mean of its tracks."""
        return None

    def logged(self) -> Mapping[str, float]:
        """Nothing."""
        return {}

    def _rows(self) -> Int64[Tensor, "N"]:
        return torch.arange(self.num_tracks, device=next(self.parameters()).device)


class CosineMix(Head):
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
        item_bias: whether a number of the candidate's own is added to the score, whatever came before it: how often
            it follows at all.
        dropout: share of the numbers of each unit vector that are left out, anew in each training step.
        track_dropout: share of the tracks, in either place of a pair, that a training step takes for never seen, so
            that their artists have to do. Nothing is left out where `alpha` is 0 or 1.
        order_std: standard deviation of the initial offsets that are added to embeddings in the second place of a pair,
            for sources where `a, b` is not as good as `b, a`; 0 for none: then the mix is symmetric.

    Raises:
        InputError: an argument is out of range.
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
        item_bias: bool,
        dropout: int | float,
        track_dropout: int | float,
        order_std: int | float,
    ) -> None:
        super().__init__(len(vocabulary.catalog))
        check_number("order_std", order_std, least=0)
        check_number("dim", dim, whole=True, least=1)
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
        self.track_offset = _table(seen, dim, order_std) if order_std and alpha != 0 else None
        self.artist_offset = _table(seen_artists, dim, order_std) if order_std and alpha != 1 else None
        self.item_bias = _item_bias(vocabulary, item_bias)
        self.dropout = Dropout(dropout)
        check_number("track_dropout", track_dropout, least=0, most=0.9, hint="0 switches it off")
        if fixed_alpha in (0, 1) and track_dropout:
            raise InputError(
                f"track_dropout={track_dropout} means nothing to this model, which is alpha={fixed_alpha}: it needs "
                "tracks to leave out and artists in their place; leave it out"
            )
        # at the ends of alpha, as in a sweep over it, there is nothing to leave out or nothing in its place
        self.track_dropout = RowDropout(track_dropout if self.track is not None and self.artist is not None else 0.0)

    def alpha(self) -> Float[Tensor, ""] | float:
        """Share of the track cosine, in [0, 1]."""
        return self._alpha if self.alpha_logit is None else torch.sigmoid(self.alpha_logit)

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """`[√α·t̂ ; √(1−α)·â]` of the tracks in `rows`, where a hat means unit length; 1 after it for an item bias."""
        return _with_ones(self._directions(rows, in_second_place=False), self.item_bias)

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """The same of the tracks in `rows`, but for offsets: one table serves both places. Their bias after it."""
        return _with_bias(self._directions(rows, in_second_place=True), self.item_bias, rows)

    def _directions(self, rows: Int[Tensor, "B"], *, in_second_place: bool) -> Float[Tensor, "B W"]:
        alpha = self.alpha()
        parts = []
        for table, offset, left_out, places, share in (
            (self.track, self.track_offset, self.track_dropout, rows, alpha),
            (self.artist, self.artist_offset, nn.Identity(), self.artist_of[rows], 1 - alpha),
        ):
            if table is not None:
                embedded = table(places) if offset is None or not in_second_place else table(places) + offset(places)
                parts.append(self.dropout(F.normalize(left_out(embedded), dim=-1)) * share**0.5)
        return torch.cat(parts, dim=-1)

    def forward(self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Score of each pair, in [-1, 1] but for the bias."""
        pairs, alpha = torch.stack([previous, following]), self.alpha()
        score = torch.zeros(len(previous), device=previous.device)
        for table, offset, left_out, rows, share in (
            (self.track, self.track_offset, self.track_dropout, pairs, alpha),
            (self.artist, self.artist_offset, nn.Identity(), self.artist_of[pairs], 1 - alpha),
        ):
            if table is not None:
                first, second = table(rows).unbind()
                second = second if offset is None else second + offset(rows[1])
                score = score + share * _cosine(left_out(first), left_out(second), self.dropout)
        return score if self.item_bias is None else score + BIAS_UNIT * self.item_bias(following)

    def artist_vectors(self) -> Float[Tensor, "A D"] | None:
        """Unit vector of each artist; None where the head has no artists."""
        return None if self.artist is None else F.normalize(self.artist.weight, dim=-1)

    def logged(self) -> Mapping[str, float]:
        """Share of the track cosine, as `alpha`."""
        alpha = self.alpha()
        return {"alpha": alpha if isinstance(alpha, float) else alpha.item()}


class TwoTableDot(Head):
    """The contextual rival: dot product of two separate tables, `⟨context_prev, track_next⟩`.

    A track that no training pair shows in a place has the zero vector there.

    Args:
        vocabulary: the catalogue and what the training pairs show of it.
        alpha: must be None: this scorer knows no artists. It stands here so that sweeps over models may set it.
        dim: width of an embedding (D).
        init_std: standard deviation of the initial embeddings.
        item_bias: whether a number of the candidate's own is added to the score; as there.
        dropout: share of the numbers of each embedding that are left out, anew in each training step.
        track_dropout: share of the tracks, in either place of a pair, that a training step takes for never seen.

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
                f"alpha={alpha} means nothing to this model, which has no artist embeddings; "
                f"use model=convex model.alpha={alpha}"
            )
        check_number("dim", dim, whole=True, least=1)
        self.context = _table(torch.from_numpy(vocabulary.previous_counts > 0), dim, init_std)
        self.track = _table(torch.from_numpy(vocabulary.next_counts > 0), dim, init_std)
        self.item_bias = _item_bias(vocabulary, item_bias)
        self.dropout = Dropout(dropout)
        self.track_dropout = RowDropout(track_dropout)

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Context embedding of the tracks in `rows`; and 1, where there is an item bias."""
        return _with_ones(self.track_dropout(self.dropout(self.context(rows))), self.item_bias)

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Track embedding of the tracks in `rows`; and their bias."""
        return _with_bias(self.track_dropout(self.dropout(self.track(rows))), self.item_bias, rows)


def _item_bias(vocabulary: Vocabulary, wanted: bool) -> Biases | None:
    check_flag("item_bias", wanted)
    return Biases(len(vocabulary.catalog)) if wanted else None


def _with_ones(vectors: Float[Tensor, "B W"], bias: Biases | None) -> Float[Tensor, "B V"]:
    return vectors if bias is None else torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=-1)


def _with_bias(vectors: Float[Tensor, "B W"], bias: Biases | None, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
    return vectors if bias is None else torch.cat([vectors, BIAS_UNIT * bias(rows)[:, None]], dim=-1)


def _cosine(first: Float[Tensor, "B D"], second: Float[Tensor, "B D"], dropout: Dropout) -> Float[Tensor, "B"]:
    """Of each pair, 0 where a vector is; half the time of making both of unit length first."""
    dot = torch.linalg.vecdot
    with torch.autocast(first.device.type, enabled=False):  # half precision knows no such small squares
        dropped = dot(dropout(first), dropout(second))
        cosine: Tensor = dropped * (dot(first, first) * dot(second, second)).clamp(min=1e-24).rsqrt()
    return cosine


def _table(seen: Tensor, dim: int, init_std: float) -> nn.Embedding:
    """Embeddings drawn from N(0, init_std²); zero, and never moved by a gradient, where nothing was seen."""
    check_number("init_std", init_std, above=0)
    table = nn.Embedding(len(seen), dim)
    with torch.no_grad():
        table.weight.normal_(std=init_std)
        table.weight[~seen] = 0
    return table
