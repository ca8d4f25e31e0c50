"""Parts of a head: one attribute of the tracks as vectors, whose cosine a head can mix with others.

B tracks, N tracks in the catalogue, K values, D width of an embedding, W width of a given vector, O of other parts.
A track has the zero vector where training shows nothing of its attribute.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from segue.attributes import Values, Vectors
from segue.catalog import Vocabulary
from segue.errors import InputError

_BLOCK = 2**14  # vectors that are read at once from a memory-mapped file


class Lookup(nn.Embedding):
    """One embedding for each value, of which each track has exactly one: the track itself, or its artist.

    Embeddings are drawn from N(0, std²); an unseen one is zero, and no gradient changes it.

    Args:
        of: row of the value of each track; None where the tracks are the values.
        seen: whether training pairs show the value.
        dim: width of an embedding (D).
        std: standard deviation of the initial embeddings, above 0.
    """

    def __init__(self, of: Int64[Tensor, "N"] | None, seen: Bool[Tensor, "K"], *, dim: int, std: float) -> None:
        super().__init__(len(seen), dim)
        self.of = None if of is None else nn.Buffer(of, persistent=False)
        with torch.no_grad():
            self.weight.normal_(std=std)[~seen] = 0

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

    def __init__(self, values: Values, seen: Bool[Tensor, "N"], *, dim: int, std: float) -> None:
        track = np.repeat(np.arange(len(seen)), values.counts)
        shown = np.bincount(values.values[seen.numpy()[track]], minlength=len(values.names)) > 0
        super().__init__(None, torch.from_numpy(shown), dim=dim, std=std)
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

    def __init__(self, vectors: Vectors, seen: Bool[Tensor, "N"], *, dim: int, std: float) -> None:
        super().__init__()
        self._vectors = vectors
        self.mean, self.one_over_std = (nn.Buffer(torch.from_numpy(a)) for a in _standard(vectors, seen.numpy()))
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

    def __init__(self, width: int, *, dim: int, init_std: float, item_bias: bool) -> None:
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
    """Mean and one over the standard deviation of each column, of the tracks that training pairs show."""
    rows = np.flatnonzero(seen & vectors.known)
    total, squares = np.zeros((2, vectors.data.shape[1]))
    for part in np.array_split(rows, -(-len(rows) // _BLOCK)) if len(rows) else ():
        block = vectors.take(part).astype(np.float64)
        total += block.sum(0)
        squares += (block**2).sum(0)
    mean = total / max(1, len(rows))
    spread = np.sqrt(np.maximum(squares / max(1, len(rows)) - mean**2, 0))
    one_over = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.maximum(1, np.abs(mean)))
    return mean.astype(np.float32), one_over.astype(np.float32)


def build_part(name: str, vocabulary: Vocabulary, *, dim: int, std: float) -> nn.Module:
    """Build a part.

    Args:
        name: `track`, `artist`, or the name of an attribute that the catalogue has.
        vocabulary: the catalogue and what the training pairs show of it.
        dim: width of an embedding (D).
        std: standard deviation of the initial embeddings, above 0.

    Raises:
        InputError: the data have no such part.
    """
    catalog, seen = vocabulary.catalog, torch.from_numpy(vocabulary.previous_counts + vocabulary.next_counts > 0)
    if name == "track":
        return Lookup(None, seen, dim=dim, std=std)
    if name == "artist":
        artist_of = torch.from_numpy(catalog.artist_of)
        return Lookup(artist_of, artist_of[seen].bincount(minlength=catalog.num_artists) > 0, dim=dim, std=std)
    if name not in (attributes := catalog.attributes):
        has = f"they have {', '.join(attributes)}" if attributes else "they have none"
        raise InputError(
            f"model.parts: the data have no attribute {name!r} beside track and artist, {has}; give "
            f"datamodule.attributes, or leave out {name}"
        )
    if hasattr(nn.ParameterDict, name):
        raise InputError(f"model.parts: torch uses the name {name!r} itself; call the attribute otherwise")
    attribute = attributes[name]
    width: dict[str, Any] = {"dim": dim, "std": std}
    return Bag(attribute, seen, **width) if isinstance(attribute, Values) else Projection(attribute, seen, **width)
