"""A head of attributes from files to lists, and new songs for it. Songs of one tag follow one another."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from segue.catalog import Catalog
from segue.runs.recommendations import Recommendations
from tests.conftest import write_lines
from tests.e2e.running import run_verb, serve, serving, wait_until

NUM_TAGS, SONGS_OF_TAG = 6, 11
NUM_SONGS = NUM_TAGS * SONGS_OF_TAG
WORDS = (
    *("datamodule=yes", "datamodule.path=radio", "datamodule.cold_share=0.1", "logger=none", "callbacks.plots=null"),
    *("trainer.accelerator=cpu", "trainer.max_epochs=5", "model.dim=16", "optimizer.lr=0.02"),
    *("datamodule.batch_size=256", "hydra.run.dir=run"),
)


def write_radio(cwd: Path) -> Path:
    """Playlists of six songs of one tag; every song has an artist of its own."""
    rng, folder = np.random.default_rng(0), cwd / "radio"
    folder.mkdir()
    (folder / "song_hash.txt").write_text("".join(f"{song}\tSong {song}\tArtist {song}\n" for song in range(NUM_SONGS)))
    (folder / "tags.txt").write_text("".join(f"{song % NUM_TAGS} {NUM_TAGS + song}\n" for song in range(NUM_SONGS)))
    playlists = []
    for _ in range(400):
        chosen = rng.choice(SONGS_OF_TAG, 6, replace=False) * NUM_TAGS + rng.integers(NUM_TAGS)
        playlists.append(" ".join(map(str, chosen)))
    (folder / "train.txt").write_text("0\n0\n" + "\n".join(playlists) + "\n")
    return cwd


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of `radio` and `run`, and what the training printed."""
    radio = write_radio(tmp_path_factory.mktemp("radio"))
    words = ("model.parts=[track,artist,tags]", "model.track_dropout=0.2")
    return radio, run_verb("train.py", radio, *WORDS, *words)


def test_a_new_song_is_recommended_and_recommends_by_its_tag(
    trained: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    radio, done = trained
    assert "attributes   tags of 100% of the tracks are known" in done.stdout
    metrics = json.loads((radio / "run" / "metrics.json").read_text())
    assert sum(metrics[f"share_{part}"] for part in ("track", "artist", "tags")) == pytest.approx(1, abs=1e-6)
    assert not [name for name in metrics if "mse" in name or "mae" in name], "playlists have no shares"
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


NEW = [900 + tag for tag in range(NUM_TAGS)]
"""Ids of songs that are added, one for each tag."""


def write_new(folder: Path) -> Path:
    """All songs and the new ones with their tags, as `add=` wants them."""
    folder.mkdir()
    songs = [*range(NUM_SONGS), *NEW]
    lines = [{"artist": f"Artist {song}", "title": f"Song {song}", "track": song} for song in songs]
    write_lines(folder / "tracks.json", lines)
    tags = [f"{song % NUM_TAGS} {NUM_TAGS + song}" for song in range(NUM_SONGS)] + [f"{tag}" for tag in range(NUM_TAGS)]
    write_lines(folder / "tags.txt", tags)
    return folder / "tracks.json"


def test_added_songs_reach_a_running_service_and_change_no_old_score(
    trained: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    cwd, _ = trained
    catalogue = write_new(cwd / "friday_files")
    done = run_verb("train.py", cwd, "add=run", f"catalogue={catalogue}", "hydra.run.dir=friday")
    assert "6 tracks to 66" in done.stdout
    before, after = (
        [json.loads(line) for line in (cwd / run / "recommendations.jsonl").read_text().splitlines()]
        for run in ("run", "friday")
    )
    for old, now in zip(before, after, strict=False):
        pairs = dict(zip(now["recommendations"], now["scores"], strict=True))
        kept = {track: score for track, score in pairs.items() if track not in NEW}
        assert kept.items() <= dict(zip(old["recommendations"], old["scores"], strict=True)).items()
    for tag, line in enumerate(after[NUM_SONGS:]):
        nearest = np.array(line["recommendations"][: SONGS_OF_TAG - 2])
        assert (nearest % NUM_TAGS == tag).mean() > 0.8
    with serving(cwd, f"recommendations={cwd}/run", "context=last", run="service") as running:
        assert running.next(1, track=NEW[0]).status == 404
        version = running.version()
        serve(cwd, "load", "store.folder=service/store", f"recommendations={cwd}/friday", "context=last")
        wait_until(lambda: running.version() != version, "the new version")
        answer = running.next(1, track=NEW[0])
        assert answer.status == 200
        assert answer.body["track"] in after[NUM_SONGS]["recommendations"]
        tracks = running.run / "tracks.json"
        wait_until(
            lambda: len(tracks.read_text().splitlines()) == NUM_SONGS + NUM_TAGS, "the tracks of the new version"
        )
