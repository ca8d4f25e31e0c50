"""What is described: the data of a datamodule, or as much of them as could be built.

S sessions, E events, L listeners, N tracks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segue.catalog import Catalog, Vocabulary
from segue.datamodules.pairs.pairs import Pairs
from segue.datamodules.pairs.sessions import Sessions
from segue.datamodules.reading.table import Reading


@dataclass(frozen=True, eq=False, kw_only=True)
class Splits:
    """The pairs of each split.

    Args:
        pairs: by the name of the split.
        vocabulary: what the training pairs show.
        counts: the content of each split, by its name: numbers of events, sessions, pairs, tracks, artists.
    """

    pairs: Mapping[str, Pairs]
    vocabulary: Vocabulary
    counts: Mapping[str, Mapping[str, int | None]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Material:
    """A source as it was read.

    Args:
        catalog: its tracks.
        sessions: its sessions.
        reading: what became of its rows.
        dropped: number of events that each policy left out.
        splits: its pairs; None where there are too few for every split.
        refusal: why there are no splits; None where there are.
        remarks: what the datamodule reports beside its numbers.
    """

    catalog: Catalog
    sessions: Sessions
    reading: Reading
    dropped: Mapping[str, int]
    splits: Splits | None
    refusal: str | None = None
    remarks: Sequence[str] = ()
