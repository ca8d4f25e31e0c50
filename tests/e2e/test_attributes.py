"""A head of attributes from files to lists. Songs of one tag follow one another, therefore the answer is known."""

import json
from pathlib import Path

import numpy as np
import pytest

from src.catalog import Catalog
from src.recommendations import Recommendations
from tests.e2e.running import run_verb

NUM_TAGS, SONGS_OF_TAG = 6, 11
NUM_SONGS = NUM_TAGS * SONGS_OF_TAG
WORDS = (
    *("datamodule=yes", "datamodule.path=radio", "datamodule.cold_share=0.1", "logger=none", "callbacks.plots=null"),
    *("trainer.accelerator=cpu", "trainer.max_epochs=5", "model.dim=16", "optimizer.lr=0.02"),
    *("datamodule.batch_size=256", "hydra.run.dir=run"),
)


@pytest.fixture
def radio(tmp_path: Path) -> Path:
    """Playlists of six songs of one tag; every song has an artist of its own."""
    rng, folder = np.random.default_rng(0), tmp_path / "radio"
    folder.mkdir()
    (folder / "song_hash.txt").write_text("".join(f"{song}\tSong {song}\tArtist {song}\n" for song in range(NUM_SONGS)))
    (folder / "tags.txt").write_text("".join(f"{song % NUM_TAGS} {NUM_TAGS + song}\n" for song in range(NUM_SONGS)))
    playlists = []
    for _ in range(400):
        chosen = rng.choice(SONGS_OF_TAG, 6, replace=False) * NUM_TAGS + rng.integers(NUM_TAGS)
        playlists.append(" ".join(map(str, chosen)))
    (folder / "train.txt").write_text("0\n0\n" + "\n".join(playlists) + "\n")
    return tmp_path


def test_a_new_song_is_recommended_and_recommends_by_its_tag(radio: Path) -> None:
    done = run_verb("train.py", radio, *WORDS, "model.parts=[track,artist,tags]", "model.track_dropout=0.2")
    assert "attributes   tags of 100% of the tracks are known" in done.stdout
    metrics = json.loads((radio / "run" / "metrics.json").read_text())
    assert sum(metrics[f"share_{part}"] for part in ("track", "artist", "tags")) == pytest.approx(1, abs=1e-6)
    by_chance = 10 / (NUM_SONGS - 1)
    for group in ("warm", "cold_previous", "cold_next"):
        assert metrics[f"test/{group}_recall_at_10"] > 4 * by_chance, group
    with np.load(radio / "run" / "vectors.npz") as vectors:
        assert vectors["part_names"].tolist() == ["track", "artist", "tags"]
        assert (np.abs(vectors["queries"][:, :48]).sum(axis=1) > 0).all()
    names = ([f"{what} {song}" for song in range(NUM_SONGS)] for what in ("Song", "Artist"))
    songs = Catalog.from_columns(range(NUM_SONGS), *names, source="songs")
    lists = Recommendations.read(radio / "run" / "recommendations.jsonl", songs).rows[:, : SONGS_OF_TAG - 1]
    assert (lists % NUM_TAGS == np.arange(NUM_SONGS)[:, None] % NUM_TAGS).mean() > 0.9


def test_a_part_that_the_data_lack_and_a_contradiction_are_one_line(radio: Path) -> None:
    for words, message in (
        (("model.parts=[track,genre]",), "model.parts: the data have no attribute 'genre' beside track and artist"),
        (("model.parts={track: 0.6, tags: 0.3}",), "the weights of model.parts must sum to 1, got 0.9"),
        (("model=track", "model.parts=[track,tags]"), "model.parts contradicts this model, which is alpha=1.0"),
    ):
        done = run_verb("train.py", radio, *WORDS, *words, code=2)
        [line] = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error:")]
        assert message in line
    (radio / "radio" / "tags.txt").unlink()
    done = run_verb("train.py", radio, *WORDS, "model.parts=[track,tags]", code=2)
    assert "the data have no attribute 'tags' beside track and artist, it has none" in done.stdout + done.stderr
