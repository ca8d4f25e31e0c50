"""What heads are made of: their usual settings, parts, which are one attribute of the tracks as vectors, and biases.

B tracks, N tracks in the catalogue, K values, D width of an embedding, W width of a given vector, O of other parts, V
width of a query or item vector. A track has the zero vector where training shows nothing of its attribute.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from segue.attributes import Values, Vectors
from segue.catalog import Vocabulary
from segue.errors import InputError
from segue.settings import Setting

_HINT = "0.2 is usual, 0 switches it off"
Share = Annotated[
    float | Literal["learned"], Setting("share of the track cosine; the artist has the rest", least=0, most=1)
]
Parts = Annotated[
    Sequence[str] | None, Setting("names of parts, whose shares are learned; null: track and artist, by alpha")
]
Width = Annotated[int, Setting("width of an embedding (D)", least=1)]
Std = Annotated[float, Setting("standard deviation of the initial embeddings", above=0)]
OffsetStd = Annotated[
    float, Setting("standard deviation of the initial offsets in the second place of a pair; 0: none", least=0)
]
Length = Annotated[
    float, Setting("length h: an embedding v is divided by √(|v|² + h²), so that what is rare counts less", least=0)
]
HasBias = Annotated[bool, Setting("whether to learn how often a candidate follows any track")]
Dropped = Annotated[
    float, Setting("share of the numbers of a unit vector set to 0 in training", least=0, most=0.9, hint=_HINT)
]
TracksDropped = Annotated[
    float, Setting("share of the tracks treated as unseen in training", least=0, most=0.9, hint=_HINT)
]

BIAS_UNIT = 0.1
"""Score that one unit of an item bias adds. With 1, one step of Adam would change a bias more than any cosine, and the
model would learn popularity before anything else."""
_MOST_VECTORS = 2**17  # that the mean and the spread of columns are taken of: the file may be larger than memory


class Lookup(nn.Embedding):
    """One embedding for each value, of which each track has exactly one: the track itself, or its artist.

    Embeddings are drawn from N(0, std²); an unseen one is zero, and no gradient changes it.

    Args:
        of: row of the value of each track; None where the tracks are the values.
        seen: whether training pairs show the value.
        dim: width of an embedding (D).
        std: standard deviation of the initial embeddings, above 0.
    """

    def __init__(self, of: Int64[np.ndarray, "N"] | None, seen: Bool[np.ndarray, "K"], dim: int, std: float) -> None:
        super().__init__(len(seen), dim)
        self.of = None if of is None else nn.Buffer(torch.from_numpy(of), persistent=False)
        with torch.no_grad():
            self.weight.normal_(std=std)[torch.from_numpy(~seen)] = 0

    def forward(self, rows: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """Look up the embeddings of the values of the tracks."""
        return super().forward(rows if self.of is None else self.of[rows])


class Bag(Lookup):
    """The mean of the embeddings of the values that a track has, without those that training pairs do not show.

    Args:
        values: the attribute.
        seen: whether training pairs show the track.
        dim: width of an embedding (D).
        std: standard deviation of the initial embeddings, above 0.
    """

    def __init__(self, values: Values, seen: Bool[np.ndarray, "N"], dim: int, std: float) -> None:
        track = np.repeat(np.arange(len(seen)), values.counts)
        shown = np.bincount(values.values[seen[track]], minlength=len(values.names)) > 0
        super().__init__(None, shown, dim, std)
        kept = shown[values.values]
        counts = np.bincount(track[kept], minlength=len(seen))
        arrays = counts, counts.cumsum() - counts, values.values[kept]
        self.counts, self.starts, self.values = (nn.Buffer(torch.from_numpy(a), persistent=False) for a in arrays)

    def forward(self, rows: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """Average the embeddings of the values of the tracks."""
        flat = rows.flatten()
        counts = self.counts[flat]
        first = counts.cumsum(0) - counts
        places = torch.arange(int(counts.sum()), device=rows.device)
        values = self.values[places + (self.starts[flat] - first).repeat_interleave(counts)]
        found = F.embedding_bag(values, self.weight, first, mode="mean", sparse=self.sparse)
        return found.view(*rows.shape, self.embedding_dim)


class Projection(nn.Module):
    """A linear map of given vectors, whose columns are standardised on the tracks that training pairs show.

    Args:
        vectors: the attribute.
        seen: whether training pairs show the track.
        dim: width of the result (D).
        std: standard deviation of the initial numbers of the result, above 0.
    """

    def __init__(self, vectors: Vectors, seen: Bool[np.ndarray, "N"], dim: int, std: float) -> None:
        super().__init__()
        self._vectors = vectors
        self.mean, self.one_over_std = (nn.Buffer(torch.from_numpy(a)) for a in _standard(vectors, seen))
        width = vectors.data.shape[1]
        self.weight = nn.Parameter(torch.empty(dim, width).normal_(std=std / width**0.5))
        self.bias = nn.Parameter(torch.empty(dim).normal_(std=std))

    def forward(self, rows: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """Project the vectors of the tracks."""
        flat = rows.flatten().cpu().numpy()
        given = torch.from_numpy(self._vectors.take(flat)).to(rows.device)
        known = torch.from_numpy(self._vectors.known[flat]).to(rows.device)
        found = F.linear((given - self.mean) * self.one_over_std, self.weight, self.bias)
        return (found * known[:, None]).view(*rows.shape, len(self.bias))


class Prior(nn.Module):
    """Predicts from the other parts of a track what is learned of the track itself: its vector and its item bias.

    Args:
        width: numbers of the other parts together (O).
        dim: width of the vector of a track (D).
        init_std: standard deviation of the initial numbers of a vector, above 0.
        item_bias: whether there are item biases.

    Source:
        Volkovs, Yu and Poutanen, DropoutNet: addressing cold start in recommender systems, NeurIPS 2017; Kula, Metadata
        embeddings for user and item cold-start recommendations, CBRecSys 2015, which adds both as here.
    """

    def __init__(self, width: int, dim: int, init_std: float, *, item_bias: bool) -> None:
        super().__init__()
        self.vector = nn.Linear(width, dim, bias=False)
        nn.init.normal_(self.vector.weight, std=init_std)
        self.item_bias = nn.Linear(width, 1) if item_bias else None
        for number in () if self.item_bias is None else self.item_bias.parameters():
            nn.init.zeros_(number)

    def forward(self, others: Float[Tensor, "B O"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B"] | None]:
        """Predict from the unit vectors of the other parts, side by side.

        Returns:
            The vectors, zero where all other parts are unknown, and the biases, where there are any.
        """
        return self.vector(others), None if self.item_bias is None else self.item_bias(others)[:, 0]


def _standard(vectors: Vectors, seen: Bool[np.ndarray, "N"]) -> tuple[Float[np.ndarray, "W"], Float[np.ndarray, "W"]]:
    """Mean and one over the standard deviation of each column, of tracks that training pairs show."""
    rows = np.flatnonzero(seen & vectors.known)
    some = vectors.take(rows[:: 1 + len(rows) // _MOST_VECTORS])
    if not len(some):
        some = np.zeros((1, vectors.data.shape[1]), np.float32)
    mean, spread = some.mean(0, dtype=np.float64), some.std(0, dtype=np.float64)
    is_constant = spread <= 1e-6 * np.maximum(1, np.abs(mean))
    return mean.astype(np.float32), np.where(is_constant, 0, 1 / np.where(is_constant, 1, spread)).astype(np.float32)


def build_parts(names: Sequence[str], vocabulary: Vocabulary, dim: int, std: float) -> nn.ModuleDict:
    """Build parts by their names: `track`, `artist`, or an attribute that the catalogue has.

    Args:
        names: of the parts.
        vocabulary: the catalogue and what the training pairs show of it.
        dim: width of an embedding (D).
        std: standard deviation of the initial embeddings, above 0.

    Raises:
        InputError: the data have no such part.
    """
    catalog, seen, parts = vocabulary.catalog, vocabulary.seen, nn.ModuleDict()
    for name in names:
        attribute = catalog.attributes.get(name)
        if name == "track":
            parts[name] = Lookup(None, seen, dim, std)
        elif name == "artist":
            plays = np.bincount(catalog.artist_of[seen], minlength=catalog.num_artists)
            parts[name] = Lookup(catalog.artist_of, plays > 0, dim, std)
        elif attribute is None or hasattr(nn.ParameterDict, name):
            raise InputError(
                f"model.parts: the data have no attribute {name!r}, or torch uses the name itself; they have "
                f"{', '.join(['track', 'artist', *catalog.attributes])}; give datamodule.attributes or leave {name} out"
            )
        elif isinstance(attribute, Values):
            parts[name] = Bag(attribute, seen, dim, std)
        else:
            parts[name] = Projection(attribute, seen, dim, std)
    return parts


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


def unit(vectors: Float[Tensor, "B D"], squared: float) -> Float[Tensor, "B D"]:
    """`v / √(|v|² + h²)` of each vector, from the vectors and h²; zero stays zero."""
    return vectors * (vectors * vectors).sum(dim=-1, keepdim=True).add(squared).clamp(min=1e-24).rsqrt()


def with_one(vectors: Float[Tensor, "B W"], bias: Biases | None) -> Float[Tensor, "B V"]:
    """The vectors, and a 1 that an item bias is multiplied by, where there is one."""
    return vectors if bias is None else F.pad(vectors, (0, 1), value=1.0)


def with_bias(vectors: Float[Tensor, "B W"], bias: Float[Tensor, "B"] | None) -> Float[Tensor, "B V"]:
    """The vectors, and what the item bias adds to a score, where there is one."""
    return vectors if bias is None else torch.cat([vectors, BIAS_UNIT * bias[:, None]], dim=-1)


class RowDropout(nn.Module):
    """Sets whole rows to zero in training, as if these tracks were unseen. Each training step draws others.

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

    def forward(self, rows: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Set some rows to zero in training; in evaluation return them unchanged."""
        if not (self.training and self.share):
            return rows
        return rows * (torch.rand(len(rows), 1, device=rows.device) >= self.share)
