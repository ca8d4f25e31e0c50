"""Load a release, for `releases.py`: loading.py <recommendations.jsonl> <store>.

Prints seconds, CPU time and memory as JSON.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.processes import memory_gb
from segue.serving.prepared_release import prepare_release
from segue.serving.release import ReleaseContents
from segue.serving.release_store import FolderStore


def prepared_of(lists: str, pick: str) -> ReleaseContents:
    """The release that `serve.py load` makes of a `recommendations.jsonl`."""
    return prepare_release(
        {"C": lists},
        experiment="study",
        pick=pick,
        artist_gap=0,
        context="last",
        num_lists=1,
        max_tracks=100,
        tracks=None,
        world=lambda: None,
        locate=Path,
    )


if __name__ == "__main__":
    began = time.monotonic()
    prepared = prepared_of(sys.argv[1], "ranked")
    loaded = FolderStore(Path(sys.argv[2]), keep=5).load_next(partial(prepared.write, provenance={}))
    seconds = {"seconds": round(time.monotonic() - began, 2), "cpu": round(time.process_time(), 2)}
    found = {**seconds, "GB": round(memory_gb(os.getpid(), "VmHWM"), 3)}
    change = (
        {"new": loaded.change.num_new, "kept": loaded.change.num_kept} if loaded.change else {"new": "", "kept": ""}
    )
    print(json.dumps(found | change))
