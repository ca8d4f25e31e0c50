"""What is described: the data of a datamodule, or as much of them as could be built.

S sessions, E events, L listeners, N tracks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from src.catalog import Catalog, Vocabulary
from src.datamodules.pairs import Pairs
from src.datamodules.sessions import Sessions


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What became of the rows of a source.

    Args:
        num_rows: number of rows in its files.
        num_events: number of plays that were read.
        rejected: reasons why rows were rejected, and how many were.
        examples: some rejected rows: file, line and reason.
        dropped: number of events that each policy left out.
        mapping: the column of each role; empty where the source has a format of its own.
        guessed: whether the mapping was guessed.
    """

    num_rows: int
    num_events: int
    rejected: Sequence[tuple[str, int]] = ()
    examples: Sequence[str] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    mapping: Mapping[str, str] = field(default_factory=dict)
    guessed: bool = False

    @property
    def num_rejected(self) -> int:
        """Number of rejected rows."""
        return sum(count for _, count in self.rejected)


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
        splits: its pairs; None where there are too few for every split.
        refusal: why there are no splits; None where there are.
        remarks: what the datamodule reports beside its numbers.
    """

    catalog: Catalog
    sessions: Sessions
    reading: Reading
    splits: Splits | None
    refusal: str | None = None
    remarks: Sequence[str] = ()
