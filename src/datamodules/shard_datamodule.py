"""The `LightningDataModule` of shards that `prepare.py` wrote: the same pairs, mapped from files.

S sessions.
"""

from copy import copy
from pathlib import Path
from typing import Annotated, Any, Literal

from segue.catalog import Listens
from segue.datamodules.pairs.pairs import Pairs
from segue.datamodules.shards.manifest import Manifest
from segue.datamodules.shards.shard_columns import map_columns
from segue.datamodules.shards.shard_vocabulary import read_vocabulary
from segue.datamodules.split_datamodule import SplitDataModule
from segue.errors import InputError
from segue.runs.folder import TRAINS_NOTHING
from segue.settings import Setting, settings


@settings("datamodule", SplitDataModule)
class ShardDataModule(SplitDataModule):
    """Pairs from shards.

    Args:
        path: run folder of `prepare.py`.
        cache: folder for the columns of the shards, which are written on first use and mapped into memory; None for
            `columns` in the folder of the shards.
        recipe: name of the recipe that the run has.
        window: number of training pairs that are shuffled together. Shards come in random order. A window of all pairs
            is the shuffle of every other source.
        history: see `SplitDataModule` for this and the next three.
        seed: of the order of the training pairs.
        batch_size: number of pairs in a batch; None for that of the source.
        prepare: None; shards are not made on the way.
    """

    def __init__(
        self,
        *,
        path: str,
        cache: Annotated[
            str | None, Setting("folder of the columns, written on first use; null: columns in path")
        ] = None,
        recipe: str,
        window: Annotated[int, Setting("training pairs shuffled together; 32 bytes of memory each", least=1)] = 4194304,
        history: int,
        half_life: int | float | Literal["auto"] | None = None,
        whole_sessions: bool = False,
        seed: int,
        batch_size: Annotated[int | None, Setting("pairs in a batch; null: as the source has it", least=1)] = None,
        prepare: None = None,
    ) -> None:
        common: dict[str, Any] = {"history": history, "half_life": half_life, "whole_sessions": whole_sessions}
        super().__init__(path=path, prepared_by=prepare, seed=seed, **common)
        self._cache = Path(path, "columns") if cache is None else Path(cache)
        self._recipe, self._shuffled_together, self._given_batch_size = recipe, window, batch_size
        self._train: Listens | None = None

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - signature of Lightning; every stage needs all data
        """Check the shards and map their columns. Later calls do nothing.

        Raises:
            InputError: the folder has no shards, a file was changed, or they were prepared for another recipe; or the
                columns cannot be written.
        """
        if self.sizes is not None:
            return
        folder = Path(self.path)
        manifest = Manifest.read(folder)
        if self._recipe not in (manifest.recipe, *TRAINS_NOTHING):
            raise InputError(
                f"recipe={self._recipe} is not the recipe of these shards, {manifest.recipe}: leave recipe= out, or "
                f"prepare the data with recipe={self._recipe}"
            )
        self.batch_size = self._given_batch_size or manifest.batch_size
        manifest.check_vocabulary(folder)
        self.catalog, hidden = read_vocabulary(folder)
        self._hidden = hidden
        self.sessions, self._part_of_session, self._train, self.pairs = map_columns(folder, manifest, self._cache)
        self._shards = [shard.pairs["train"] for shard in manifest.shards]
        self.reading, self._dropped, self._manifest = manifest.reading, dict(manifest.dropped), manifest
        split = manifest.source.get("split", "auto")
        self.is_by_time = split in ("time", "order") or (split == "auto" and manifest.has_clock)
        self.describe_pairs(hidden)

    @property
    def not_as_training(self) -> str | None:
        """See `SplitDataModule`."""
        if not self._hidden.any():
            return None
        return "these shards lack training events, which datamodule.cold_share has hidden"

    def as_training(self) -> "ShardDataModule":
        """See `SplitDataModule`. It writes columns of its own beside those of the splits, on first use."""
        other, folder, manifest = copy(self), Path(self.path), self._manifest
        found = map_columns(folder, manifest, self._cache.with_name(f"{self._cache.name}-all"), is_all_training=True)
        other.sessions, other._part_of_session, other._train, other.pairs = found
        other._shards = [sum(shard.pairs.values()) for shard in manifest.shards]
        other.describe_pairs(self._hidden)
        other.take_choices(self)
        return other

    def _training_listens(self, train: Pairs) -> Listens:
        return self._train if self._train is not None else super()._training_listens(train)

    def remarks(self) -> list[str]:
        """What to print below the summary. Call it after `setup`."""
        manifest, window, num_pairs = self._manifest, self._shuffled_together, len(self.pairs["train"])
        how = "as a whole" if window is None or window >= num_pairs else f"in windows of {window:,}"
        return [
            *manifest.reading.remarks,
            f"shards       {len(manifest.shards):,} of recipe={manifest.recipe}, made by {manifest.engine}; "
            f"training pairs are shuffled {how}",
            *super().remarks(),
        ]
