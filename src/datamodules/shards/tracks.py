"""The tracks of shards in files: JSON, and `.npy` for attributes that are vectors.

N tracks.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from segue.atomic import write_text, write_whole
from segue.attributes import Attribute, Values, Vectors
from segue.catalog import Catalog, ids_of

VOCABULARY = "vocabulary.json"
"""The file of the tracks."""


def write_tracks(catalog: Catalog, hidden: Bool[np.ndarray, "N"], folder: Path) -> list[str]:
    """Write the tracks.

    Args:
        hidden: True for each track that is hidden from training.

    Returns:
        The names of the files.
    """
    files, attributes = [VOCABULARY], dict[str, Any]()
    for name, one in catalog.attributes.items():
        if isinstance(one, Vectors):
            files.append(f"attribute-{len(attributes)}.npy")
            write_whole(folder / files[-1], partial(np.save, arr=np.asarray(one.data)))
            attributes[name] = {"file": files[-1], "places": one.places.tolist(), "is_scaled": one.is_scaled}
        else:
            attributes[name] = {column: numbers.tolist() for column, numbers in vars(one).items()}
    columns = {name: getattr(catalog, name).tolist() for name in ("track_ids", "titles", "artist_of", "artists")}
    record = {**columns, "hidden": np.flatnonzero(hidden).tolist(), "attributes": attributes}
    write_text(json.dumps(record, ensure_ascii=False), folder / VOCABULARY)
    return files


def read_tracks(folder: Path) -> tuple[Catalog, Bool[np.ndarray, "N"]]:
    """Read what `write_tracks` wrote.

    Returns:
        The tracks, and True for each that is hidden from training.
    """
    record = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
    catalog = Catalog(
        track_ids=ids_of(record["track_ids"]),
        titles=np.array(record["titles"], object),
        artist_of=np.array(record["artist_of"], np.int64),
        artists=np.array(record["artists"], object),
        attributes={name: _attribute(one, folder) for name, one in record["attributes"].items()},
    )
    return catalog, np.isin(np.arange(len(catalog)), record["hidden"])


def _attribute(record: dict[str, Any], folder: Path) -> Attribute:
    if "file" in record:
        data = np.load(folder / record["file"], mmap_mode="r", allow_pickle=False)
        return Vectors(data=data, places=np.array(record["places"], np.int64), is_scaled=record["is_scaled"])
    numbers = {name: np.array(record[name], np.int64) for name in ("offsets", "values")}
    return Values(names=np.array(record["names"], object), **numbers)
