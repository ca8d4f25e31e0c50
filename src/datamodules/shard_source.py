"""Shards of `prepare.py` as a source: the same pairs, mapped from files."""

from pathlib import Path
from typing import Annotated

import numpy as np

from segue.catalog import Listens
from segue.datamodules.pairs.pairs import Pairs
from segue.datamodules.pairs.sessions import Sessions
from segue.datamodules.pairs.split_pairs import SplitPairs
from segue.datamodules.shards.columns import LISTENS, TABLES, mapped
from segue.datamodules.shards.manifest import Manifest
from segue.datamodules.shards.tracks import read_tracks
from segue.datamodules.splits import SPLITS
from segue.errors import InputError
from segue.runs.folder import TRAINS_NOTHING
from segue.settings import Setting, settings


@settings("datamodule")
class ShardSource:
    """Pairs in the run folder of `prepare.py`.

    Args:
        path: the folder.
        recipe: name of the recipe that the run has.
        window: number of training pairs that are shuffled together; shards come in random order. A window of all pairs
            is the shuffle of every other source.

    Attributes:
        not_as_training: why not all of it can be training data; None where it can.
    """

    prepared_by = read_on = batch_size = not_as_training = None

    def __init__(
        self,
        *,
        path: str,
        recipe: str,
        window: Annotated[int, Setting("training pairs shuffled together; 32 bytes of memory each", least=1)] = 4194304,
    ) -> None:
        self.path, self._recipe, self.shuffled_together = path, recipe, window

    def prepare(self) -> None:
        """Do nothing: shards are not made on the way."""

    def map(self, *, is_all_training: bool = False) -> SplitPairs:
        """Map the columns.

        Args:
            is_all_training: whether all pairs are for training, whatever their split is.

        Raises:
            InputError: the folder has no shards, a file was changed, or they were prepared for another recipe.
        """
        folder = Path(self.path)
        self._manifest = manifest = Manifest.read(folder)
        if self._recipe not in (manifest.recipe, *TRAINS_NOTHING):
            raise InputError(
                f"recipe={self._recipe} is not the recipe of these shards, {manifest.recipe}: leave recipe= out, or "
                f"prepare the data with recipe={self._recipe}"
            )
        catalog, hidden = read_tracks(folder)
        if hidden.any():
            self.not_as_training = "these shards lack training events, which datamodule.cold_share has hidden"
        self.batch_size = manifest.batch_size
        tables = {table: {name: mapped(folder, table, name) for name in names} for table, names in TABLES.items()}
        events, of_session, pairs = tables["event"], tables["session"], Pairs(**tables["pair"])
        listens, listener = Listens(**{name: events.pop(name) for name in LISTENS}), of_session["listener"]
        sessions = Sessions(
            user=listener,  # shards have no ids of users
            number=np.arange(1, len(listener) + 1),
            listener=listener,
            has_clock=manifest.has_clock,
            listens=listens,
            num_interleaved=manifest.num_interleaved,
            dropped=manifest.dropped,
            **events,
        )
        heard = Listens(**tables["heard"])
        part, sizes = of_session["part"], [manifest.pairs[name] for name in SPLITS]
        if is_all_training:
            part, sizes, heard = np.zeros_like(part), [len(pairs), 0, 0], listens
        ends = np.cumsum(sizes).tolist()
        return SplitPairs(
            catalog=catalog,
            reading=manifest.reading,
            sessions=sessions,
            part=None if manifest.split == "pair" else part,
            pairs={
                name: pairs.where(slice(end - size, end)) for name, end, size in zip(SPLITS, ends, sizes, strict=True)
            },
            hidden=hidden,
            dropped={**manifest.reading.dropped, **manifest.dropped},
            is_by_time=manifest.split in ("time", "order"),
            shards=[shard[is_all_training] for shard in manifest.shards],
            heard=heard if len(heard.track) else None,
        )

    def remarks(self, data: SplitPairs) -> list[str]:
        """What to print of what was read."""
        manifest, window = self._manifest, self.shuffled_together
        how = "as a whole" if window >= len(data.pairs["train"]) else f"in windows of {window:,}"
        return [
            *data.reading.remarks,
            f"shards       {len(manifest.shards):,} of recipe={manifest.recipe}, made by {manifest.engine}; "
            f"training pairs are shuffled {how}",
        ]
