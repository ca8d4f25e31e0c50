"""Parts of a head: one attribute of the tracks as vectors, whose cosine a head can mix with others.

B tracks, N tracks in the catalogue, K values, D width of an embedding, W width of a given vector.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from segue.attributes import Values, Vectors
from segue.catalog import Catalog, Vocabulary
from segue.errors import InputError

_BLOCK = 2**14  # vectors that are read at once from a memory-mapped file


class Part(nn.Module, ABC):
    """Vectors of one attribute. A track has the zero vector where training shows nothing of its attribute."""

    @abstractmethod
    def add_offset(self, order_std: float) -> None:
        """Add an offset to the vectors of tracks in the second place of a pair.

        Args:
            order_std: standard deviation of the initial offsets, above 0.
        """

    @abstractmethod
    def vectors(self, rows: Int[Tensor, "*B"], *, in_second_place: bool) -> Float[Tensor, "*B D"]:
        """Compute vectors of tracks, not of unit length.

        Args:
            rows: rows of the tracks, in 0..N-1.
            in_second_place: whether the tracks are in the second place of a pair.
        """

    def pair(
        self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Compute the vectors of both tracks of pairs. A part may override it to be faster.

        Args:
            previous: rows of the tracks in the first place.
            following: rows of the tracks in the second place.

        Returns:
            The vectors in the first place, and those in the second.
        """
        return self.vectors(previous, in_second_place=False), self.vectors(following, in_second_place=True)


class _Table(nn.Embedding, Part):
    def __init__(self, seen: Bool[Tensor, "K"], *, dim: int, init_std: float, zero: int | None = None) -> None:
        super().__init__(len(seen), dim, padding_idx=zero)
        draw(self, seen, init_std)
        self.offset: nn.Embedding | None = None

    def add_offset(self, order_std: float) -> None:
        """Add an offset for each value that is seen."""
        self.offset = nn.Embedding(self.num_embeddings, self.embedding_dim, padding_idx=self.padding_idx)
        draw(self.offset, (self.weight != 0).any(1), order_std)


class Lookup(_Table):
    """One embedding for each value, of which each track has exactly one: the track itself, or its artist.

    Args:
        of: row of the value of each track; None where the tracks are the values.
        seen: whether training pairs show the value.
        dim: width of an embedding (D).
        init_std: standard deviation of the initial embeddings, above 0.
        zero: row of a value whose embedding stays zero although training pairs show it; None for none.
    """

    def __init__(
        self,
        of: Int64[Tensor, "N"] | None,
        seen: Bool[Tensor, "K"],
        *,
        dim: int,
        init_std: float,
        zero: int | None = None,
    ) -> None:
        super().__init__(seen, dim=dim, init_std=init_std, zero=zero)
        self.of = None if of is None else nn.Buffer(of, persistent=False)

    def vectors(self, rows: Int[Tensor, "*B"], *, in_second_place: bool) -> Float[Tensor, "*B D"]:
        """Look up the embeddings of the values of the tracks."""
        values = rows if self.of is None else self.of[rows]
        found: Tensor = self(values)
        return found + self.offset(values) if in_second_place and self.offset is not None else found

    def pair(
        self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Look up the embeddings of both places at once, whose gradient is then summed at once."""
        rows = torch.stack([previous, following])
        values = rows if self.of is None else self.of[rows]
        first, second = self(values).unbind()
        return first, second if self.offset is None else second + self.offset(values[1])


class Bag(_Table):
    """The mean of the embeddings of the values that a track has, without those that training pairs do not show.

    Args:
        values: the attribute.
        seen: whether training pairs show the track.
        dim: width of an embedding (D).
        init_std: standard deviation of the initial embeddings, above 0.
    """

    def __init__(self, values: Values, seen: Bool[Tensor, "N"], *, dim: int, init_std: float) -> None:
        track = np.repeat(np.arange(len(seen)), values.counts)
        shown = np.bincount(values.values[seen.numpy()[track]], minlength=len(values.names)) > 0
        super().__init__(torch.from_numpy(shown), dim=dim, init_std=init_std)
        kept = shown[values.values]
        counts = np.bincount(track[kept], minlength=len(seen))
        arrays = counts, counts.cumsum() - counts, values.values[kept]
        self.counts, self.starts, self.values = (nn.Buffer(torch.from_numpy(a), persistent=False) for a in arrays)

    def vectors(self, rows: Int[Tensor, "*B"], *, in_second_place: bool) -> Float[Tensor, "*B D"]:
        """Average the embeddings of the values of the tracks."""
        flat = rows.flatten()
        counts = self.counts[flat]
        first = counts.cumsum(0) - counts
        places = torch.arange(int(counts.sum()), device=rows.device)
        values = self.values[places + (self.starts[flat] - first).repeat_interleave(counts)]
        tables = [self, self.offset] if in_second_place and self.offset is not None else [self]
        found = sum(F.embedding_bag(values, one.weight, first, mode="mean", sparse=one.sparse) for one in tables)
        return torch.as_tensor(found).view(*rows.shape, self.embedding_dim)


class Projection(Part):
    """A linear map of given vectors, whose columns are standardised on the tracks that training pairs show.

    Args:
        vectors: the attribute.
        seen: whether training pairs show the track.
        dim: width of the result (D).
        init_std: standard deviation of the initial numbers of the result, above 0.
    """

    def __init__(self, vectors: Vectors, seen: Bool[Tensor, "N"], *, dim: int, init_std: float) -> None:
        super().__init__()
        self._vectors = vectors
        self.mean, self.one_over_std = (nn.Buffer(torch.from_numpy(a)) for a in _standard(vectors, seen.numpy()))
        width = vectors.data.shape[1]
        self.weight = nn.Parameter(torch.empty(dim, width).normal_(std=init_std / width**0.5))
        self.bias = nn.Parameter(torch.empty(dim).normal_(std=init_std))
        self.offset: nn.Parameter | None = None

    def add_offset(self, order_std: float) -> None:
        """Add one offset for all tracks."""
        self.offset = nn.Parameter(torch.empty_like(self.bias).normal_(std=order_std))

    def vectors(self, rows: Int[Tensor, "*B"], *, in_second_place: bool) -> Float[Tensor, "*B D"]:
        """Project the vectors of the tracks."""
        flat = rows.flatten().cpu().numpy()
        given = torch.from_numpy(self._vectors.take(flat)).to(rows.device)
        known = torch.from_numpy(self._vectors.known[flat]).to(rows.device)
        found = F.linear((given - self.mean) * self.one_over_std, self.weight, self.bias)
        if in_second_place and self.offset is not None:
            found = found + self.offset
        return (found * known[:, None]).view(*rows.shape, len(self.bias))


class Prior(nn.Module):
    """Predicts from the other parts of a track what is learned of the track itself: its vector and its item bias.

    Args:
        width: numbers of the other parts together.
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

    def forward(self, units: Sequence[Float[Tensor, "B D"]]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B"] | None]:
        """Predict the vector and the item bias of tracks.

        Args:
            units: the unit vectors of each other part.

        Returns:
            The vectors, zero where all other parts are unknown, and the biases, where there are any.
        """
        others = torch.cat(list(units), dim=-1)
        return self.vector(others), None if self.item_bias is None else self.item_bias(others)[..., 0]


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


def build_part(name: str, vocabulary: Vocabulary, min_plays: int, *, dim: int, init_std: float) -> Part:
    """Build a part.

    Args:
        name: `track`, `artist`, or the name of an attribute that the catalogue has.
        vocabulary: the catalogue and what the training pairs show of it.
        min_plays: tracks with fewer plays have the zero vector. The table of the tracks has a row for each of the
            others, in their order, and a row of zeros.
        dim: width of an embedding (D).
        init_std: standard deviation of the initial embeddings, above 0.
    """
    catalog = vocabulary.catalog
    width: dict[str, Any] = {"dim": dim, "init_std": init_std}
    seen = torch.from_numpy(vocabulary.previous_counts + vocabulary.next_counts > 0)
    if name == "artist":
        artist_of = torch.from_numpy(catalog.artist_of)
        return Lookup(artist_of, artist_of[seen].bincount(minlength=catalog.num_artists) > 0, **width)
    if name != "track":
        attribute = catalog.attributes[name]
        return Bag(attribute, seen, **width) if isinstance(attribute, Values) else Projection(attribute, seen, **width)
    if min_plays == 1:
        return Lookup(None, seen, **width)
    own = torch.from_numpy(vocabulary.plays) >= min_plays
    zero = int(own.sum())
    of = torch.where(own, own.cumsum(0) - 1, zero)
    return Lookup(of, torch.cat([seen[own], seen.new_zeros(1)]), zero=zero, **width)


def check_part(name: str, catalog: Catalog) -> None:
    """Refuse a part that the catalogue lacks.

    Raises:
        InputError: it is neither `track` nor `artist` nor an attribute.
    """
    if name in ("track", "artist"):
        return
    if hasattr(nn.ParameterDict, name):
        raise InputError(f"model.parts: torch uses the name {name!r} itself; call the attribute otherwise")
    if name not in (attributes := catalog.attributes):
        has = f"they have {', '.join(attributes)}" if attributes else "they have none"
        raise InputError(
            f"model.parts: the data have no attribute {name!r} beside track and artist, {has}; give "
            f"datamodule.attributes, or leave out {name}"
        )


def draw(table: nn.Embedding, seen: Bool[Tensor, "K"], std: float) -> None:
    """Draw embeddings from N(0, std²); an unseen row is zero, and no gradient changes it.

    Args:
        table: the embeddings.
        seen: whether training pairs show the value of each row.
        std: standard deviation, above 0.
    """
    with torch.no_grad():
        table.weight.normal_(std=std)
        table.weight[~seen] = 0
