"""Which pairs of a batch each of several processes trains on."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BatchShare:
    """Cuts a batch into whole groups of neighbouring pairs, and takes those of one process.

    Args:
        index: number of the process, in 0..count-1.
        count: number of processes, at least 1.
        groups: from the number of pairs of a batch to the number of groups, which are of nearly equal size, larger ones
            first; see `Loss.groups`.
    """

    index: int
    count: int
    groups: Callable[[int], int]

    def __call__(self, num_pairs: int) -> slice:
        """The places of the pairs of this process; none where a batch has fewer groups than there are processes.

        Args:
            num_pairs: pairs of the batch, at least 1.

        Returns:
            A slice. The slices of all processes follow one another.
        """
        groups = self.groups(num_pairs)

        def start(process: int) -> int:
            group = process * (groups // self.count) + min(process, groups % self.count)
            return group * (num_pairs // groups) + min(group, num_pairs % groups)

        return slice(start(self.index), start(self.index + 1))


def one_for_each_process(groups: Callable[[int], int], *, count: int, batch_size: int) -> Callable[[int], int]:
    """Groups whose size nobody chose: at least those of the loss, and in a whole batch one for each process.

    Args:
        groups: of the loss.
        count: number of processes, at least 1.
        batch_size: pairs of a whole batch.

    Returns:
        From the number of pairs of a batch, at least 1, to the number of groups. A smaller batch has fewer groups, as
        in one process with the candidates of a group.
    """
    return lambda num_pairs: max(groups(num_pairs), min(num_pairs, -(-num_pairs * count // batch_size)))
