"""The order parts of a run: the numbers of the encoders that read the tracks of a session in their order.

W columns of all parts of a query vector, D width of the encoder, H tracks of a session. The formulas are in
`picking/order_query.py`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

GRU, LIGR = "gru", "ligr"
KINDS = (GRU, LIGR)
"""A gated recurrent unit, and causal self-attention with gated residuals."""
MAX_BLOCKS = 4
MOST_BYTES = 5_000_000
"""Largest size of all numbers of an encoder, which every worker of a service reads."""


def _named(nth: int) -> str:
    return f"order{nth or ''}"


def shapes_of(kind: str, *, width: int, dim: int, max_length: int, blocks: int) -> dict[str, tuple[int, ...]]:
    """The shape of each array of an encoder.

    Args:
        kind: one of `KINDS`.
        width: columns of all parts of a query vector (W).
        dim: width of the encoder (D).
        max_length: largest number of tracks of a session (H).
        blocks: number of blocks of the attention; 0 for a GRU.
    """
    shapes: dict[str, tuple[int, ...]] = {"output": (dim, width)}
    if kind == GRU:
        gates = 3 * dim  # reset, update, new
        return shapes | {
            "input": (width, gates),
            "state": (dim, gates),
            "input_bias": (gates,),
            "state_bias": (gates,),
        }
    shapes |= {"input": (width, dim), "place": (max_length, dim)}
    of_block = {
        "scale": (2, dim),  # of the two normalised inputs
        "shift": (2, dim),
        "attention": (dim, 3 * dim),  # query, key, value
        "mix": (dim, dim),
        "up": (dim, 4 * dim),
        "down": (2 * dim, dim),
        "gates": (2, dim, dim),
        "gates_bias": (2, dim),
    }
    return shapes | {f"{block}_{name}": shape for block in range(blocks) for name, shape in of_block.items()}


def size_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes of all arrays."""
    return sum(4 * math.prod(shape) for shape in shapes.values())


@dataclass(frozen=True, eq=False, kw_only=True)
class OrderPart:
    """An encoder.

    Args:
        kind: one of `KINDS`.
        numbers: its arrays by name; see `shapes_of`.
        first: the first column of a query vector that it reads and adds to.
    """

    kind: str
    numbers: Mapping[str, np.ndarray]
    first: int = 0

    @property
    def columns(self) -> slice:
        """The columns of a query vector that it reads and adds to, W of them."""
        return slice(self.first, self.first + self.numbers["output"].shape[1])

    @property
    def blocks(self) -> int:
        """Number of blocks of the attention; 0 for a GRU."""
        return sum(name.endswith("_mix") for name in self.numbers)

    def arrays(self, nth: int) -> dict[str, np.ndarray]:
        """Everything as arrays by name, for `of_arrays`.

        Args:
            nth: place among the encoders of a run, from 0.
        """
        name = _named(nth)
        own = {name: np.array(self.kind), f"{name}_first": np.array(self.first)}
        return own | {f"{name}_{of}": one for of, one in self.numbers.items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], *, width: int, max_length: int) -> "tuple[OrderPart, ...]":
        """Build the encoders of a run from arrays, which are checked.

        Args:
            arrays: what `arrays` returned for each, among others.
            width: columns of all parts of a query vector.
            max_length: number of newest tracks that count in a query (H).

        Raises:
            ValueError: an array is missing, unknown, too large, or has another type or shape, or is not finite.
        """
        found: list[OrderPart] = []
        while (part := cls._named(_named(len(found)), arrays, width, max_length)) is not None:
            found.append(part)
        return tuple(found)

    @classmethod
    def _named(cls, name: str, arrays: Mapping[str, np.ndarray], width: int, max_length: int) -> "OrderPart | None":
        prefix = f"{name}_"
        numbers: dict[str, Any] = {one.removeprefix(prefix): of for one, of in arrays.items() if one.startswith(prefix)}
        if (kind := arrays.get(name)) is None and not numbers:
            return None
        if kind is None or kind.ndim or str(kind) not in KINDS:
            raise ValueError(f"{name} must be one of {', '.join(KINDS)}")
        first = numbers.pop("first", None)
        if first is None or first.ndim or first.dtype.kind != "i" or not 0 <= first < width:
            raise ValueError(f"{prefix}first must be one of the {width} columns of a query")
        made, output = cls(kind=str(kind), numbers=numbers, first=int(first)), numbers.get("output")
        if made.blocks > MAX_BLOCKS or (made.kind == LIGR and not made.blocks):
            raise ValueError(f"{name}={made.kind} must have 1 to {MAX_BLOCKS} blocks")
        dim, own = output.shape if output is not None and output.ndim == 2 else (0, width)
        own = min(own, width - made.first)
        shapes = shapes_of(made.kind, width=own, dim=dim, max_length=max_length, blocks=made.blocks)
        if wrong := sorted(shapes.keys() ^ numbers.keys()):
            raise ValueError(f"{prefix}{wrong[0]} is {'missing' if wrong[0] in shapes else 'unknown'}")
        for name, shape in shapes.items():
            if (one := numbers[name]).dtype.name != "float32" or one.shape != shape or not one.size:
                raise ValueError(f"{prefix}{name} must be an array of float32 with the shape {shape}")
            if not np.isfinite(one).all():
                raise ValueError(f"{prefix}{name} must be finite")
        if (size := size_of(shapes)) > MOST_BYTES:
            raise ValueError(f"its encoder has {size} bytes, more than {MOST_BYTES}")
        return made
