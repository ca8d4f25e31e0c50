"""The `LightningDataModule` of shards that `prepare.py` wrote: the same pairs, mapped from files.

S sessions.
"""

from pathlib import Path

from segue.catalog import Listens
from segue.datamodules.pairs.pairs import Pairs
from segue.datamodules.shards.manifest import Manifest
from segue.datamodules.shards.shard_columns import map_columns
from segue.datamodules.shards.shard_vocabulary import read_vocabulary
from segue.datamodules.split_datamodule import SplitDataModule
from segue.errors import InputError, check_number

_OF_EVERY_SOURCE = "counting"
"""The recipe of baselines, which no source names."""


class ShardDataModule(SplitDataModule):
    """Pairs from shards.

    Args:
        path: run folder of `prepare.py`.
        cache: folder for the columns of the shards, which are written on first use and mapped into memory; None for
            `columns` in the folder of the shards.
        recipe: name of the recipe that the run has.
        window: number of training pairs that are shuffled together, at least 1. Shards come in random order. A window
            of all pairs is the shuffle of every other source.
        history: largest number of tracks of the session that a batch has for each pair, at least 0.
        batch_size: number of pairs in a batch, at least 1; None for that of the source.
        seed: seed of the order of the training pairs, in [0, 2³²).
        prepare: None; shards are not made on the way.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        path: str,
        cache: str | None,
        recipe: str,
        window: int,
        history: int,
        batch_size: int | None,
        seed: int,
        prepare: None,
    ) -> None:
        super().__init__(path=path, prepared_by=prepare, history=history, seed=seed)
        if batch_size is not None:
            check_number("batch_size", batch_size, whole=True, least=1, hint="null: as the source has it")
        check_number("datamodule.window", window, whole=True, least=1, hint="pairs that are shuffled together")
        self._cache, self._recipe, self._shuffled_together = cache, recipe, window
        self._given_batch_size = batch_size
        self._train: Listens | None = None

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - signature of Lightning; every stage needs all data
        """Check the shards and map their columns. Later calls do nothing.

        Args:
            stage: ignored.

        Raises:
            InputError: the folder has no shards, a file was changed, or they were prepared for another recipe; or the
                columns cannot be written.
        """
        if self.sizes is not None:
            return
        folder = Path(self.path)
        manifest = Manifest.read(folder)
        if self._recipe not in (manifest.recipe, _OF_EVERY_SOURCE):
            raise InputError(
                f"recipe={self._recipe} is not the recipe of these shards, {manifest.recipe}: leave recipe= out, or "
                f"prepare the data with recipe={self._recipe}"
            )
        self.batch_size = self._given_batch_size or manifest.batch_size
        manifest.check_vocabulary(folder)
        self.catalog, hidden = read_vocabulary(folder)
        cache = Path(self._cache) if self._cache else folder / "columns"
        self.sessions, self._part_of_session, self._train, self.pairs = map_columns(folder, manifest, cache)
        self._shards = [shard.pairs["train"] for shard in manifest.shards]
        self.reading, self._dropped = manifest.reading, dict(manifest.dropped)
        self._manifest = manifest
        self.describe_pairs(hidden)

    def _training_listens(self, train: Pairs) -> Listens:
        return self._train if self._train is not None else super()._training_listens(train)

    def remarks(self) -> list[str]:
        """What to print below the summary. Call it after `setup`."""
        manifest = self._manifest
        shown = f"{len(manifest.shards):,} of recipe={manifest.recipe}, made by {manifest.engine}"
        window = self._shuffled_together
        assert window is not None
        how = "as a whole" if window >= len(self.pairs["train"]) else f"in windows of {window:,}"
        return [f"shards       {shown}; training pairs are shuffled {how}"]
