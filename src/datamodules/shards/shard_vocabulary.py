"""The tracks of shards in files: JSON, and `.npy` for attributes that are vectors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from segue.atomic import write_text, write_whole
from segue.attributes import Attribute, Values, Vectors
from segue.catalog import Catalog, Vocabulary, example_vocabulary, ids_of
from segue.datamodules.reading.files import digest_of_file

VOCABULARY = "vocabulary.json"
"""The file of the tracks."""


def write_vocabulary(catalog: Catalog, hidden: Bool[np.ndarray, "N"], folder: Path) -> dict[str, str]:
    """Write the tracks.

    Args:
        hidden: True for each track that is hidden from training.

    Returns:
        The digest of each file by its name; the JSON is the first.
    """
    vectors: dict[str, str] = {}
    record = {
        "tracks": catalog.track_ids.tolist(),
        **{name: getattr(catalog, name).tolist() for name in ("titles", "artist_of", "artists")},
        "hidden": np.flatnonzero(hidden).tolist(),
        "attributes": {
            name: _as_record(attribute, folder, f"attribute-{number}.npy", vectors)
            for number, (name, attribute) in enumerate(catalog.attributes.items())
        },
    }
    write_text(json.dumps(record, ensure_ascii=False), folder / VOCABULARY)
    return {VOCABULARY: digest_of_file(folder / VOCABULARY), **vectors}


def read_vocabulary(folder: Path) -> tuple[Catalog, Bool[np.ndarray, "N"]]:
    """Read what `write_vocabulary` wrote.

    Returns:
        The tracks, and True for each that is hidden from training.
    """
    record = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
    catalog = Catalog(
        track_ids=ids_of(record["tracks"]),
        titles=np.array(record["titles"], object),
        artist_of=np.array(record["artist_of"], np.int64),
        artists=np.array(record["artists"], object),
        attributes={name: _from_record(one, folder) for name, one in record["attributes"].items()},
    )
    hidden = np.zeros(len(catalog), bool)
    hidden[record["hidden"]] = True
    return catalog, hidden


def example_of(config: Any) -> Vocabulary:
    """A vocabulary to try settings with, before the source is read: with the attributes that its tracks have.

    Args:
        config: `datamodule` of a config.
    """
    if "cache" not in config:
        return example_vocabulary(config.get("attributes") or ())
    try:
        known = json.loads(Path(str(config.path), VOCABULARY).read_text(encoding="utf-8"))["attributes"]
    except (OSError, ValueError, KeyError):
        known = ()  # `setup` says what is wrong
    return example_vocabulary(known)


def _as_record(attribute: Attribute, folder: Path, file: str, vectors: dict[str, str]) -> dict[str, Any]:
    if isinstance(attribute, Values):
        return {name: column.tolist() for name, column in vars(attribute).items()}
    write_whole(folder / file, lambda partial: np.save(partial, np.asarray(attribute.data)))
    vectors[file] = digest_of_file(folder / file)
    return {"file": file, "places": attribute.places.tolist(), "is_scaled": attribute.is_scaled}


def _from_record(record: dict[str, Any], folder: Path) -> Attribute:
    if "file" in record:
        data = np.load(folder / record["file"], mmap_mode="r", allow_pickle=False)
        return Vectors(data=data, places=np.array(record["places"], np.int64), is_scaled=record["is_scaled"])
    return Values(
        names=np.array(record["names"], object),
        offsets=np.array(record["offsets"], np.int64),
        values=np.array(record["values"], np.int64),
    )
