"""How long does it take to add new tracks to a finished run? python experiments/attributes/addition.py

The run is of the world of published size: 50,000 tracks, lists of 50, a convex head that was not trained, whose files
are as those of a training. 1,000 new tracks are added, 900 of them by artists of the run. Prints seconds.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.studying import SMALL_WORLD, Study, composed, sized
from segue.catalog import Catalog, Listens, Vocabulary
from segue.models.export import session_vectors
from segue.models.retrieval.nearest import lists_of_vectors
from segue.runs.catalog_files import write_catalog, write_top_tracks
from segue.runs.folder import as_dict
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE
from segue.training.adding import add_tracks

STUDY = Study(__file__, __doc__)
NUM_NEW, NUM_NEW_ARTISTS, LENGTH = *sized((1_000, 100), (50, 5)), 50


def finished_run(folder: Path) -> Catalog:
    """Write the files of a run of the world of published size, and return its catalogue."""
    config = composed("train", *sized(("world=published",), SMALL_WORLD), "model=convex", f"run_dir={folder}")
    catalog: Catalog = instantiate(config.world, _convert_="all").catalog
    ones, nothing = np.ones(len(catalog), np.int64), np.empty(0, np.int64)
    vocabulary = Vocabulary(
        catalog=catalog, previous_counts=ones, next_counts=ones, plays=ones, listener_counts=ones[:1],
        listens=Listens(session=nothing, track=nothing, played_ratio=np.empty(0, np.float32)), mean_played_ratio=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    ranker = instantiate(config.ranker, _convert_="all")(vocabulary=vocabulary).eval()
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": ranker.state_dict()}, folder / "checkpoints" / "best.ckpt")
    with torch.inference_mode():
        queries, items = ranker.scorer.query_vectors(), ranker.scorer.item_vectors()
    rows, scores = lists_of_vectors(
        queries=queries, items=items, query_rows=torch.arange(len(catalog)), k=LENGTH, plays=vocabulary.plays
    ).collect()
    lists = Recommendations(rows=rows, scores=scores, plays=vocabulary.plays)
    lists.write(folder / "recommendations.jsonl", catalog, format="botify")
    session_vectors(ranker.scorer, ranker.context).write(folder / FILE, catalog)
    write_top_tracks(catalog.track_ids[:100], folder / "top_tracks.json")
    written = {name: value for name, value in config.items() if name != "hydra"}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(as_dict(OmegaConf.create(written))), encoding="utf-8")
    return catalog


def with_new(catalog: Catalog) -> Catalog:
    """The catalogue with new tracks; the last ones are by artists that it does not have."""
    of_known = np.arange(NUM_NEW - NUM_NEW_ARTISTS) * 7 % catalog.num_artists
    return replace(
        catalog,
        track_ids=np.append(catalog.track_ids, int(catalog.track_ids.max()) + 1 + np.arange(NUM_NEW)),
        titles=np.append(catalog.titles, np.array([f"New {number}" for number in range(NUM_NEW)], object)),
        artist_of=np.concatenate([catalog.artist_of, of_known, catalog.num_artists + np.arange(NUM_NEW_ARTISTS)]),
        artists=np.append(catalog.artists, np.array([f"Newcomer {n}" for n in range(NUM_NEW_ARTISTS)], object)),
    )


def main() -> None:
    """Make a run, add tracks, and print how long that takes."""
    STUDY.parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run, catalogue = Path(folder) / "run", Path(folder) / "tracks.json"
        write_catalog(with_new(finished_run(run)), catalogue)
        given = {"add": str(run), "catalogue": str(catalogue), "run_dir": f"{folder}/added", "logger": None}
        started, cpu_started = time.perf_counter(), time.process_time()
        config = OmegaConf.create(given)
        added = add_tracks(config, [])
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    num_added, num_tracks, num_listed = (added[name] for name in ("num_added", "num_tracks", "num_listed"))
    print(f"added        {num_added:,} tracks to {num_tracks:,}, {num_listed:,} of them in a list")
    print(f"seconds      {seconds:.1f}, of which {cpu_s:.1f} of one core")


if __name__ == "__main__":
    STUDY.run(main)
