"""Releases of older versions, in which numbers from 0 replaced ids that are texts."""

from pathlib import Path

import numpy as np

from segue.catalog import keys_of
from segue.runs.catalog_files import packed, read_lines
from segue.serving.known_tracks import rewritten
from segue.serving.release import Release


def converted(old: Release, folder: Path) -> tuple[Release, str | None]:
    """The release with the ids of its source; the release itself where it has them, as those of whole numbers.

    The recommendations of its arms have the ids: older versions wrote them as `id`, beside the number.

    Args:
        old: the release.
        folder: an empty folder, into which another one is written.

    Returns:
        The release, and a line for the user, if there is something to say.
    """
    if old.knows_catalogue or not np.array_equal(old.keys, np.arange(len(old))):
        return old, None
    files = [Path(path) for name, path in old.provenance.items() if name.startswith("lists_")]
    for file in filter(Path.is_file, files):
        names = dict[int, str]()
        for _, line in read_lines(file):
            if not isinstance(line.get("id"), str):
                break
            number = line.get("track", line.get("item_id"))
            if not isinstance(number, int) or (0 <= number < len(old) and line.get("title") != old.title(number)):
                break
            names[number] = line["id"]
        if names.keys() == set(range(len(old))) and len(set(names.values())) == len(names):
            texts = np.array([names[number] for number in range(len(old))], object)
            letters, ends = packed("ids", texts).values()
            new = rewritten(
                old,
                folder,
                keys=keys_of(texts),
                ids=(letters, ends),
                titles=old.texts("titles"),
                artists=old.texts("artists"),
                artist_of=old.artist_of,
            )
            return new, f"release {old.version} of an older version has the ids of its source now, as {new.version}"
    if not files or any(map(Path.is_file, files)):
        return old, None
    return old, (
        f"release {old.version} of an older version keeps its numbers 0 to {len(old) - 1:,} as ids; if they replaced "
        f"texts, the texts are lost with {files[0]}"
    )
