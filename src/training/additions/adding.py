"""From a finished run and a catalogue to a run folder whose lists have the new tracks, by the trained head.

N tracks of the run, M new ones, A artists of the run.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import Int64
from omegaconf import DictConfig
from torch import Tensor

from segue.attributes import Attribute
from segue.catalog import Catalog, Listens, Vocabulary
from segue.datamodules.reading.attribute_files import attributes_of_catalogue
from segue.datamodules.reading.table_settings import RESERVED, attribute_settings
from segue.errors import InputError
from segue.models.contracts import Scorer
from segue.runs.atomic import write_record
from segue.runs.catalog_files import is_whole, read_lines, write_catalog
from segue.runs.folder import lock_folder, refuse_used_folder
from segue.runs.provenance import provenance
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE, SessionVectors
from segue.runs.targets import check_targets, read_config
from segue.tracking.named_runs import find_run
from segue.tracking.store import existing_store, fetch
from segue.training.additions.added_lists import with_new_tracks

RECORD = "additions.json"
"""What was added: the file that says that a run folder was not trained."""
_LISTS, _CHECKPOINT = "recommendations.jsonl", "checkpoints/best.ckpt"
_TRACKS, _TOP = "tracks.json", "top_tracks.json"
_KEYS = ("add", "catalogue", "run_dir", "trust", "logger.tracking_uri")
_Names = tuple[str | None, str | None]
_CLOSE = 1e-4
"""Largest difference of two numbers of a vector of a run, computed twice."""


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
    catalog = extended_catalogue(_with_source_ids(old, files.path(_LISTS)), Path(str(config.catalogue)))
    num_old = len(old)
    catalog = replace(catalog, attributes=_attributes(given, catalog, Path(str(config.catalogue))))
    build = instantiate(given["model"], _convert_="all")
    scorer = extended_scorer(build, read_checkpoint(files.path(_CHECKPOINT)), catalog, num_old, lists.plays)
    with torch.inference_mode():
        queries, items = scorer.query_vectors().float(), scorer.item_vectors().float()
    vectors = _vectors(files, old, queries.numpy(), items.numpy(), catalog, config.catalogue)
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


def _with_source_ids(old: Catalog, path: Path) -> Catalog:
    """The catalogue with the text ids of the source, which the lines have where there are such ids."""
    import json

    with path.open(encoding="utf-8") as file:
        ids = [json.loads(line).get("id") for line in file]
    return old if None in ids else replace(old, source_ids=np.array(ids, object))


def _attributes(given: Mapping[str, Any], catalog: Catalog, path: Path) -> Mapping[str, Attribute]:
    """The attributes that are parts of the model of the run; their values are in the same order as in the run.

    Raises:
        InputError: the file of the catalogue lacks one, or it is damaged.
    """
    names = [str(name) for name in given["model"].get("parts") or () if name not in RESERVED]
    if not names:
        return {}
    if "attributes" not in given["datamodule"]:
        raise InputError(
            f"add= cannot know where {path} has {', '.join(names)}, because the run was trained from shards; train a "
            "run from the source of the shards"
        )
    source = given["datamodule"]
    of_run = {name: source["attributes"][name] for name in names}
    ids = catalog.track_ids if catalog.source_ids is None else catalog.source_ids
    return attributes_of_catalogue(path, ids.tolist(), attribute_settings(of_run))


def _vectors(
    files: _FilesOfRun, old: Catalog, queries: np.ndarray, items: np.ndarray, catalog: Catalog, catalogue: str
) -> SessionVectors | None:
    """Those of the run, and after them those of the new tracks; None if the run has none.

    Raises:
        InputError: those of the run are not those that its checkpoint and the catalogue give.
    """
    if (path := files.find(FILE)) is None:
        return None
    of_run, num_old = SessionVectors.read(path, old), len(old)
    for ours, theirs in ((queries, of_run.queries), (items, of_run.items)):
        fits = ours.shape[1] == theirs.shape[1]
        differs = (np.abs(ours[:num_old] - theirs) > _CLOSE).any(1) if fits else np.ones(num_old, bool)
        if not differs.any():
            continue
        if fits and catalog.attributes:
            ids = old.track_ids if old.source_ids is None else old.source_ids
            raise InputError(
                f"catalogue={catalogue}: tracks of the run, such as {ids[differs.argmax()]}, have other values of "
                f"{', '.join(catalog.attributes)} than in the run; correct them, or train a run with this catalogue"
            )
        raise InputError(f"add={files.name}: its checkpoint and its {FILE} are of different weights; train it again")
    return replace(
        of_run,
        queries=np.concatenate([of_run.queries, queries[num_old:]]),
        items=np.concatenate([of_run.items, items[num_old:]]),
    )


def extended_scorer(
    build: Callable[[Vocabulary], Scorer],
    saved: Mapping[str, Tensor],
    catalog: Catalog,
    num_old: int,
    plays: Int64[np.ndarray, "M"],
) -> Scorer:
    """Build the head for a larger catalogue, and give it the numbers that were learned.

    What the head has for each track or artist grows: its first rows are those of the checkpoint, and the others are as
    the head builds them for tracks that training does not play.

    Args:
        build: factory of the head; takes the vocabulary.
        saved: `state_dict` of the checkpoint.
        catalog: the tracks of the run, then the new ones.
        num_old: number of tracks of the run (M).
        plays: number of plays of each of them in training.

    Returns:
        The head in evaluation mode.

    Raises:
        InputError: the checkpoint is not one of this head.
    """
    counts = (np.arange(len(catalog)) < num_old).astype(np.int64)
    nothing = np.empty(0, np.int64)
    vocabulary = Vocabulary(
        catalog=catalog,
        previous_counts=counts,
        next_counts=counts,
        plays=np.concatenate([plays, counts[num_old:]]),
        listener_counts=np.zeros(1, np.int64),
        listens=Listens(session=nothing, track=nothing, played_ratio=np.empty(0, np.float32)),
        mean_played_ratio=None,
    )
    scorer = build(vocabulary)
    assert isinstance(scorer, torch.nn.Module)
    for name, tensor in scorer.state_dict().items():
        learned = saved.get(f"scorer.{name}")
        fits = learned is not None and learned.ndim == tensor.ndim and learned.shape[1:] == tensor.shape[1:]
        if learned is None or not fits or learned.shape[:1] > tensor.shape[:1]:
            raise InputError(f"add=: the checkpoint of the run does not fit its config.yaml ({name}); train it again")
        (tensor[: len(learned)] if tensor.ndim else tensor).copy_(learned)
    return scorer.eval()


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Read the numbers of a checkpoint.

    Args:
        path: the file.

    Returns:
        Its `state_dict`, on the CPU.

    Raises:
        InputError: it cannot be read.
    """
    try:
        state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, EOFError, UnpicklingError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"add=: cannot read {path}: {why}; train the run again") from None
    return state


def extended_catalogue(old: Catalog, path: Path) -> Catalog:
    """The catalogue of a run and the new tracks of a file.

    Args:
        old: the catalogue of the run.
        path: `tracks.json` with all its tracks and the new ones, `{"artist", "title", "track"}` in each line. `track`
            is the id in the source, which is a text where the run has such ids.

    Returns:
        The tracks of the run in their rows, then the new ones in the order of the file. Artists of the run keep their
            rows too; new ones follow.

    Raises:
        InputError: the file is missing or damaged, has an id twice, lacks a track of the run, names another artist of
            one, or has no new track.
    """
    given = _read(path, old)
    ids = old.track_ids.tolist() if old.source_ids is None else old.source_ids.tolist()
    if lacking := [one for one in ids if one not in given]:
        raise InputError(
            f"catalogue={path} lacks {len(lacking):,} of the {len(old):,} tracks of the run, for example {lacking[0]}; "
            "give a catalogue with all of them and the new ones"
        )
    of_run = old.artists[old.artist_of].tolist()
    for one, artist in zip(ids, of_run, strict=True):
        if (named := given[one][1] or "") != artist:
            raise InputError(
                f"catalogue={path}: track {one} is by {named or 'nobody'!r}, and by {artist or 'nobody'!r} in the run; "
                "correct it, or train a run with this catalogue"
            )
    new = {one: names for one, names in given.items() if one not in set(ids)}
    if not new:
        raise InputError(
            f"catalogue={path} has the {len(old):,} tracks of the run and no new one; add new tracks to it"
        )
    return _appended(old, new)


def _read(path: Path, old: Catalog) -> dict[int | str, _Names]:
    """Title and artist of each id."""
    if not path.is_file():
        raise InputError(f"catalogue={path}: there is no such file; name a tracks.json with all tracks, old and new")
    is_text, given = old.source_ids is not None, dict[int | str, _Names]()
    for where, record in read_lines(path):
        track: Any = record.get("track")
        title, artist = record.get("title"), record.get("artist")
        is_id = isinstance(track, str) and track if is_text else is_whole(track)
        if not is_id or not isinstance(title, str | None) or not isinstance(artist, str | None):
            kind = "text" if is_text else "whole number"
            raise InputError(f'{where}: expected {{"artist": text, "title": text, "track": {kind}}}')
        if track in given:
            raise InputError(f"{where}: track {track} occurs twice; every id must be unique")
        given[track] = (title, artist)
    return given


def _appended(old: Catalog, new: dict[int | str, _Names]) -> Catalog:
    rows = {name: row for row, name in enumerate(old.artists.tolist()) if name}
    artists, artist_of = old.artists.tolist(), []
    for _, artist in new.values():
        row = rows.get(artist, len(artists)) if artist else len(artists)  # two unknown artists need not be the same
        if row == len(artists):
            artists.append(artist or "")
            if artist:
                rows[artist] = row
        artist_of.append(row)
    is_text = old.source_ids is not None
    numbers = range(int(old.track_ids.max()) + 1, int(old.track_ids.max()) + 1 + len(new)) if is_text else new
    titles = np.array([title or "" for title, _ in new.values()], object)
    return Catalog(
        track_ids=np.append(old.track_ids, np.array(list(numbers), np.int64)),
        titles=np.append(old.titles, titles),
        artist_of=np.append(old.artist_of, np.array(artist_of, np.int64)),
        artists=np.array(artists, object),
        source_ids=None if old.source_ids is None else np.append(old.source_ids, np.array(list(new), object)),
    )
