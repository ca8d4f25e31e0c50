"""From a finished run and a catalogue to a run folder whose lists have the new tracks, by the trained head.

N tracks of the run, then M new ones. Scores of the tracks of the run do not change.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import Int64
from omegaconf import DictConfig
from torch import Tensor

from segue.atomic import write_record
from segue.catalog import Catalog, Vocabulary
from segue.datamodules.reading.attribute_files import attributes_of_run
from segue.errors import InputError
from segue.models.contracts import Scorer
from segue.models.export import EXACT_UP_TO
from segue.models.restoring import CHECKPOINT, REFITTED, lists_of_vectors, read_checkpoint, vocabulary_of_run
from segue.runs.catalog_files import write_catalog
from segue.runs.extended_catalogue import extended_catalogue
from segue.runs.folder import REFIT, TRAINS_NOTHING, lock_folder, refuse_used_folder
from segue.runs.profiles import FILE as PROFILES
from segue.runs.provenance import provenance
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE, SessionVectors
from segue.runs.targets import check_targets, read_config
from segue.runs.tracking.named_runs import ADDED, FilesOfRun

_LISTS = "recommendations.jsonl"
_TRACKS, _TOP = "tracks.json", "top_tracks.json"
_RECALL = 0.95
_CLOSE = 1e-4  # largest difference of two numbers of a vector of a run, computed twice
_KEYS = ("add", "catalogue", "run_dir", "trust", "logger.tracking_uri")


def add_tracks(config: DictConfig, words: Sequence[str]) -> dict[str, Any]:
    """Add the new tracks of `catalogue` to the run `add`, and write a run folder.

    It has `recommendations.jsonl`, `top_tracks.json`, `tracks.json`, `additions.json`, `vectors.npz`, and
    `profiles.npz` if the run has it. Lists are searched for as after a training, among all tracks.

    Args:
        config: with the keys `add`, `catalogue` and `run_dir`.
        words: the overrides of the command line.

    Returns:
        What `additions.json` has beside its provenance: `run` and `mlflow_run_id` of the run, the `catalogue`, and
            `num_tracks` of the run (N), `num_added` (M), `num_by_known_artists` (new tracks by an artist of the run),
            `num_unknown` (about which nothing is known: all their scores are 0, or those of a track without plays),
            `num_changed_lists` (lists of the run that have a new track), `num_listed` (new tracks that are in one).

    Raises:
        InputError: there is no such run, it cannot get new tracks, or the catalogue does not fit it.
    """
    _check_words(config, words)
    store = config.logger.tracking_uri if config.get("logger") else None
    run_dir, files = Path(config.run_dir), FilesOfRun(f"add={config.add}", str(config.add), store)
    path = Path(str(config.catalogue))
    refuse_used_folder(run_dir)
    refuse_used_folder(run_dir, _LISTS)
    lists, old = Recommendations.read_with_catalog(files.path(_LISTS))
    given = read_config(files.path("config.yaml"))
    if not isinstance(given.get("model"), dict):
        raise InputError(f"cannot read {files.path('config.yaml')}: it has no model; train the run again")
    if kind := TRAINS_NOTHING.get(given.get("recipe", {}).get("name")):
        raise InputError(
            f"add={files.name} is a {kind}, which gives new tracks no vectors; train it again with the new catalogue"
        )
    if lists.plays is None:
        raise InputError(f"add={files.name}: its recommendations have no plays; train it again")
    check_targets(given["model"], trust=config.get("trust"), of=f"add={files.name}", group="model")
    saved = read_checkpoint(files.path(CHECKPOINT if files.find(REFIT) is None else REFITTED))
    catalog = extended_catalogue(old, path)
    catalog = replace(catalog, attributes=attributes_of_run(given, catalog, path))
    scorer = _extended_scorer(instantiate(given["model"], _convert_="all"), saved["state_dict"], catalog, lists.plays)
    of_run = SessionVectors.read(files.path(FILE), old)
    vectors = _extended_vectors(of_run, scorer, run=files.name, catalogue=config.catalogue)
    nothing = np.zeros(len(catalog) - len(old), np.int64)
    popularity = np.append(saved["popularity"].numpy(), nothing)
    recall = _RECALL if len(catalog) > EXACT_UP_TO else None
    with torch.inference_mode():
        search = lists_of_vectors(vectors, popularity, lists.rows.shape[1], recall=recall)
        rows, scores = search.collect()
    is_new = rows[: len(old)] >= len(old)
    width = int(vectors.ends[-1])
    added = {
        "run": files.name,
        "mlflow_run_id": files.run_id,
        "catalogue": str(path.absolute()),
        "num_tracks": len(old),
        "num_added": len(nothing),
        "num_by_known_artists": int(np.isin(catalog.artist_of[len(old) :], old.artist_of).sum()),
        "num_unknown": int((vectors.items[len(old) :, :width] == 0).all(1).sum()),
        "num_changed_lists": int(is_new.any(1).sum()),
        "num_listed": len(np.unique(rows[: len(old)][is_new])),
    }
    with lock_folder(run_dir):
        try:
            write_catalog(catalog, run_dir / _TRACKS)
            vectors.write(run_dir / FILE, catalog)
            for name in (_TOP, PROFILES):
                if (found := files.find(name)) is not None:
                    shutil.copyfile(found, run_dir / name)
            write_record({**added, "provenance": provenance()}, run_dir / ADDED)
            made = Recommendations(rows=rows, scores=scores, plays=np.append(lists.plays, nothing))
            made.write(run_dir / _LISTS, catalog, format=str(given["callbacks"]["export"]["format"]))
        except BaseException:  # the lists come last: a folder without them is free
            for name in (_TRACKS, FILE, _TOP, PROFILES, ADDED, _LISTS):
                (run_dir / name).unlink(missing_ok=True)
            raise
    return added


def _extended_scorer(
    build: Callable[[Vocabulary], Scorer], saved: Mapping[str, Tensor], catalog: Catalog, plays: Int64[np.ndarray, "N"]
) -> Scorer:
    """Build the head for a larger catalogue, and give it the numbers that were learned.

    What the head has for each track or artist grows: its first rows are those of the checkpoint, and the others are as
    the head builds them for tracks that training does not play.

    Args:
        build: factory of the head; takes the vocabulary.
        saved: `state_dict` of the checkpoint.
        catalog: the tracks of the run, then the new ones.
        plays: number of plays of each track of the run in training.

    Returns:
        The head in evaluation mode.

    Raises:
        InputError: the checkpoint is not one of this head.
    """
    new = np.zeros(len(catalog) - len(plays), np.int64)
    scorer = build(vocabulary_of_run(catalog, np.append(plays, new), len(plays)))
    for name, tensor in scorer.state_dict().items():
        learned = saved.get(f"scorer.{name}")
        if learned is None or learned.shape[1:] != tensor.shape[1:] or learned.shape[:1] > tensor.shape[:1]:
            raise InputError(f"add=: the checkpoint of the run does not fit its config.yaml ({name}); train it again")
        (tensor[: len(learned)] if tensor.ndim else tensor).copy_(learned)
    return scorer.eval()


def _extended_vectors(of_run: SessionVectors, scorer: Scorer, *, run: str, catalogue: str) -> SessionVectors:
    """The vectors of a run, and after them those of the new tracks.

    Args:
        of_run: those of the run.
        scorer: the head, for all tracks.
        run: names the run in messages.
        catalogue: names the file of the catalogue.

    Raises:
        InputError: those of the run are not those that its checkpoint and the catalogue give.
    """
    num_old, tables = len(of_run.queries), []
    with torch.inference_mode():
        of_all = scorer.query_vectors().float().numpy(), scorer.item_vectors().float().numpy()
    for ours, theirs in zip(of_all, (of_run.queries, of_run.items), strict=True):
        if ours.shape[1] != theirs.shape[1] or not np.allclose(ours[:num_old], theirs, rtol=0, atol=_CLOSE):
            raise InputError(
                f"add={run}: its checkpoint and catalogue={catalogue} give its tracks other vectors than it has; "
                "correct the attributes of its tracks in the catalogue, or train a run with this catalogue"
            )
        tables.append(np.concatenate([theirs, ours[num_old:]]))
    return replace(of_run.at_rows(np.arange(num_old), len(tables[0])), queries=tables[0], items=tables[1])


def _check_words(config: DictConfig, words: Sequence[str]) -> None:
    if config.add is None:
        raise InputError(f"catalogue={config.catalogue} goes with add=<run>, the run that gets its new tracks")
    if config.catalogue is None:
        raise InputError(f"add={config.add} needs catalogue=<tracks.json>, with the tracks of the run and the new ones")
    for word in words:
        if (key := word.partition("=")[0].lstrip("+~")) not in _KEYS:
            raise InputError(f"{word} has no effect with add=, which takes the settings of its run; leave {key} out")
