"""A stage of `lists.py` in a process of its own: list_stages.py export|load <tracks> <folder>.

Writes what the stage measured itself into the folder.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.processes import memory_gb
from segue.runs.atomic import write_record

K, DIM, OF_A_CLUSTER = 50, 64, 200


def export(tracks: int, folder: Path) -> dict[str, float]:
    """Search for approximate lists of unit vectors in clusters, and write them as a run does; CPU time of each step."""
    import torch

    from segue.catalog import Catalog
    from segue.models.retrieval.lists import ListParts
    from segue.models.retrieval.nearest import lists_of_vectors
    from segue.runs.recommendations import write_lists

    rng = np.random.default_rng(0)
    artists = [f"Artist {number}" for number in rng.integers(0, tracks // 4, tracks)]
    catalog = Catalog.from_columns(range(tracks), [f"Title {row}" for row in range(tracks)], artists, source="study")
    plays = rng.zipf(1.5, tracks).clip(max=10**6)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(-(-tracks // OF_A_CLUSTER), DIM, generator=generator)
    vectors = vectors[torch.randint(len(vectors), (tracks,), generator=generator)]
    vectors += 0.5 * torch.randn(tracks, DIM, generator=generator)
    vectors = torch.nn.functional.normalize(vectors)
    vectors_only = memory_gb(os.getpid(), "RssAnon")
    clock, seconds = time.process_time(), {}
    parts = ListParts(folder / "lists", "study")
    search = lists_of_vectors(
        queries=vectors, items=vectors, query_rows=torch.arange(tracks), k=K, plays=plays, recall=0.95
    )
    parts.keep_plan(search.plan)
    seconds["prepare"] = time.process_time() - clock
    parts.fill(search, lambda _: None)
    seconds["search"] = time.process_time() - clock - seconds["prepare"]
    lists = folder / "recommendations.jsonl"
    write_lists(lists, catalog, parts.in_order(), plays=plays, format="botify")
    seconds["write"] = time.process_time() - clock - sum(seconds.values())
    assert search.recall is not None
    return {**seconds, "recall": search.recall, "before": vectors_only}


def load(folder: Path) -> dict[str, float]:
    """Write the release that `serve.py load` makes of the lists."""
    from experiments.own_data.loading import prepared_of

    (folder / "release").mkdir(exist_ok=True)
    prepared_of(str(folder / "recommendations.jsonl"), "uniform").write(folder / "release", provenance={})
    return {}


if __name__ == "__main__":
    stage, work = sys.argv[1], Path(sys.argv[3])
    write_record(export(int(sys.argv[2]), work) if stage == "export" else load(work), work / f"{stage}.json")
