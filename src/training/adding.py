"""From a finished run and a catalogue to a run folder whose lists have the new tracks, by the trained head."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from segue.datamodules.reading.attribute_files import attributes_of_run
from segue.errors import InputError
from segue.models.added_tracks import extended_scorer, extended_vectors, with_new_tracks
from segue.models.restoring import read_checkpoint
from segue.runs.atomic import write_record
from segue.runs.catalog_files import write_catalog
from segue.runs.extended_catalogue import extended_catalogue
from segue.runs.folder import lock_folder, refuse_used_folder
from segue.runs.provenance import provenance
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE
from segue.runs.targets import check_targets, read_config
from segue.tracking.named_runs import find_run
from segue.tracking.store import existing_store, fetch

RECORD = "additions.json"
"""What was added: the file that says that a run folder was not trained."""
_LISTS, _CHECKPOINT = "recommendations.jsonl", "checkpoints/best.ckpt"
_TRACKS, _TOP = "tracks.json", "top_tracks.json"
_KEYS = ("add", "catalogue", "run_dir", "trust", "logger.tracking_uri")


def add_tracks(
    config: DictConfig, words: Sequence[str], on_block: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Add the new tracks of `catalogue` to the run `add`, and write a run folder.

    It has `recommendations.jsonl`, `top_tracks.json`, `tracks.json`, `vectors.npz` if the run has it, and
    `additions.json`.

    Args:
        config: with the keys `add`, `catalogue` and `run_dir`.
        words: the overrides of the command line.
        on_block: called with the number of lists done after each block.

    Returns:
        What `additions.json` has beside its provenance: `run` and `mlflow_run_id` of the run, the `catalogue`, and
            `num_tracks` of the run (N), `num_added` (M), `num_by_known_artists` (new tracks by an artist of the run),
            `num_unknown` (about which nothing is known: all their scores are 0, or those of a track without plays),
            `num_changed_lists` (lists of the run that have a new track), `num_listed` (new tracks that are in one).

    Raises:
        InputError: there is no such run, it cannot get new tracks, or the catalogue does not fit it.
    """
    _check_words(config, words)
    run_dir, files = Path(config.run_dir), _FilesOfRun(str(config.add), config.get("logger"))
    refuse_used_folder(run_dir)
    refuse_used_folder(run_dir, _LISTS)
    lists, old = Recommendations.read_with_catalog(files.path(_LISTS))
    given = read_config(files.path("config.yaml"))
    if not isinstance(given.get("model"), dict):
        raise InputError(f"cannot read {files.path('config.yaml')}: it has no model; train the run again")
    if given.get("recipe", {}).get("name") == "counting":
        raise InputError(f"add={files.name} is a baseline, which has no vectors; train it again with the new catalogue")
    if lists.plays is None or np.isnan(lists.scores[lists.rows >= 0]).any():
        raise InputError(
            f"add={files.name}: its recommendations have no scores or no plays, which runs of older versions lack; "
            "train it again"
        )
    check_targets(given["model"], trust=config.get("trust"), of=f"add={files.name}", group="model")
    catalog = extended_catalogue(old, Path(str(config.catalogue)))
    num_old = len(old)
    catalog = replace(catalog, attributes=attributes_of_run(given, catalog, Path(str(config.catalogue))))
    build = instantiate(given["model"], _convert_="all")
    scorer = extended_scorer(
        build, read_checkpoint(files.path(_CHECKPOINT))["state_dict"], catalog, num_old, lists.plays
    )
    with torch.inference_mode():
        queries, items = scorer.query_vectors().float(), scorer.item_vectors().float()
    vectors = None
    if (path := files.find(FILE)) is not None:
        ours = queries.numpy(), items.numpy()
        vectors = extended_vectors(path, old, *ours, catalog, run=files.name, catalogue=config.catalogue)
    if vectors is not None:  # those of the run, to the last digit
        queries, items = torch.from_numpy(vectors.queries), torch.from_numpy(vectors.items)
    extended = with_new_tracks(lists, queries, items, on_block)
    is_new = extended.rows[:num_old] >= num_old
    width = max(part.columns.stop for part in scorer.query_parts().values())
    added = {
        "run": files.name,
        "mlflow_run_id": files.run_id,
        "catalogue": str(Path(str(config.catalogue)).absolute()),
        "num_tracks": num_old,
        "num_added": len(catalog) - num_old,
        "num_by_known_artists": int(np.isin(catalog.artist_of[num_old:], catalog.artist_of[:num_old]).sum()),
        "num_unknown": int((items[num_old:, :width] == 0).all(1).sum()),
        "num_changed_lists": int(is_new.any(1).sum()),
        "num_listed": len(np.unique(extended.rows[:num_old][is_new])),
    }
    with lock_folder(run_dir):
        try:
            write_catalog(catalog, run_dir / _TRACKS)
            if vectors is not None:
                vectors.write(run_dir / FILE, catalog)
            if (top := files.find(_TOP)) is not None:
                shutil.copyfile(top, run_dir / _TOP)
            write_record({**added, "provenance": provenance()}, run_dir / RECORD)
            extended.write(run_dir / _LISTS, catalog, format=str(given["callbacks"]["export"]["format"]))
        except BaseException:  # the lists come last: a folder without them is free
            for name in (_TRACKS, FILE, _TOP, RECORD, _LISTS):
                (run_dir / name).unlink(missing_ok=True)
            raise
    return added


def _check_words(config: DictConfig, words: Sequence[str]) -> None:
    if config.add is None:
        raise InputError(f"catalogue={config.catalogue} goes with add=<run>, the run that gets its new tracks")
    if config.catalogue is None:
        raise InputError(f"add={config.add} needs catalogue=<tracks.json>, with the tracks of the run and the new ones")
    for word in words:
        if (key := word.partition("=")[0].lstrip("+~")) not in _KEYS:
            raise InputError(f"{word} has no effect with add=, which takes the settings of its run; leave {key} out")


class _FilesOfRun:
    """Finds the files of a run: in its folder, or in MLflow if the folder is not on this machine."""

    def __init__(self, name: str, logger: Any) -> None:
        uri = logger.tracking_uri if logger else None
        try:
            found = find_run(name, uri)
        except InputError as error:
            raise InputError(f"add={name}: {error}") from None
        self.name, self.run_id, self._uri = name, found.run_id, uri
        self.folder = found.folder if found.folder is not None and (found.folder / "config.yaml").is_file() else None
        if found.folder is not None and (found.folder / RECORD).is_file():
            raise InputError(f"add={name} was not trained, but has tracks that were added to a run; name that run")
        if self.folder is None and self.run_id is None:
            raise InputError(f"add={name}: no run of train.py is there; give run:<id>, or the folder of a finished run")

    def find(self, file: str) -> Path | None:
        """The file; None if the run has none."""
        if self.folder is not None:
            return self.folder / file if (self.folder / file).is_file() else None
        try:
            return fetch(existing_store(self._uri), str(self.run_id), file)
        except (InputError, OSError):
            return None

    def path(self, file: str) -> Path:
        """The file.

        Raises:
            InputError: the run has none.
        """
        if (found := self.find(file)) is None:
            raise InputError(
                f"add={self.name} has no {file}; it has not finished, or callbacks were left out: train a run with all"
            )
        return found
