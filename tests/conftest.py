"""Shared material: a small log with a known structure, a catalogue to draw from, and the real data where it is."""

import gc
import json
import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # read when torch is loaded: threads that wait leave the cores to others
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch, OpenBLAS, faiss, DuckDB: each core has a worker already
gc.disable()  # until all tests are imported: libraries create a million objects, which stay

import numpy as np
import pytest
from hypothesis import settings
from omegaconf import OmegaConf

from tests import typechecks

typechecks.install()  # before what it checks is imported

from segue.catalog import Calendar, Catalog, Listens, Vocabulary
from segue.datamodules.reading.table_settings import TableSettings, settings_in
from segue.picking.arm import Arm
from segue.picking.session_search import SessionSearch
from segue.runs.libraries import line_of_import
from segue.runs.session_vectors import OrderPart, SessionVectors
from segue.settings import with_defaults
from segue.simulation.world import Taste, World, generate
from segue.verbs.terminal import hydra_parts

if TYPE_CHECKING:  # torch and Lightning come with it, which the process that only hands out tests does not need
    from segue.datamodules.pair_datamodule import PairDataModule

ROOT = Path(__file__).resolve().parent.parent
hydra_parts.know_defaults()  # as the entry of a verb does

# The same examples each time: a test fails because of a change. Speed is measured by `make bench`, not by tests.
settings.register_profile("segue", deadline=None, derandomize=True, max_examples=40)
settings.register_profile("search", deadline=None)  # more examples, and others each time
settings.load_profile("segue")


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as below nohup, or behind `&` in a script
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a test interrupts must not ignore it


def pytest_collection_finish() -> None:
    """Search for garbage only among what the tests create: to search all that was imported takes a second each time."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Skip what needs gensim where it has no wheel."""
    try:
        return (yield)
    except Exception as error:
        if (line_of_import(error) or "").startswith("gensim "):
            pytest.skip("model=item2vec needs gensim, which has no wheel for Python 3.14")
        raise


pytest_runtest_setup = pytest_runtest_call


@pytest.fixture(autouse=True)
def no_store_is_left_behind() -> Iterator[None]:
    """MLflow puts the store it was last told of into the environment, where verbs would find it."""
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@cache
def _empty_store() -> Path:
    """A store without experiments, which is made once: MLflow takes a second for the tables."""
    from segue.runs.tracking.store import open_store

    folder = tempfile.TemporaryDirectory(prefix="store-")
    _FOLDERS.append(folder)
    file = Path(folder.name) / "mlflow.db"
    open_store(f"sqlite:///{file}", "segue")
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("DELETE FROM experiments")
    return file


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def new_store(folder: Path) -> str:
    """The address of an empty store in a folder, as MLflow itself leaves one at its first call."""
    file = folder / "mlflow.db"
    if not file.exists():
        shutil.copy(_empty_store(), file)
    return f"sqlite:///{file}"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store whose experiment is `segue`."""
    from segue.runs.tracking.store import open_store

    uri = new_store(tmp_path_factory.mktemp("store"))
    open_store(uri, "segue")
    return uri


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("SEGUE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; SEGUE_DATA names the folder")
    return folder


def make_catalog(artist_of: Iterable[int]) -> Catalog:
    """Track ids are 100, 101, …, so that a row is never mistaken for an id."""
    artists = list(artist_of)
    titles = [f"Title {row}" for row in range(len(artists))]
    names = [f"Artist {artist}" for artist in artists]
    return Catalog.from_columns(range(100, 100 + len(artists)), titles, names, source="tracks.json")


def make_vocabulary(
    artist_of: Iterable[int],
    *,
    previous_counts: Iterable[int] | None = None,
    next_counts: Iterable[int] | None = None,
    listener_counts: Iterable[int] = (8, 1, 0),
    listens: Listens | None = None,
    mean_played_ratio: float | None = 0.4,
    calendar: Calendar | None = None,
) -> Vocabulary:
    catalog = make_catalog(artist_of)
    ones = np.ones(len(catalog), np.int64)
    previous = ones if previous_counts is None else np.array(list(previous_counts), np.int64)
    following = ones if next_counts is None else np.array(list(next_counts), np.int64)
    return Vocabulary(
        catalog=catalog,
        previous_counts=previous,
        next_counts=following,
        plays=previous + following,
        listener_counts=np.array(list(listener_counts), np.int64),
        listens=listens or make_listens([]),
        mean_played_ratio=mean_played_ratio,
        calendar=calendar,
    )


def make_vectors(num_tracks: int, seed: int = 0, **changes: Any) -> SessionVectors:
    """Vectors of two parts and a constant column, whose context is the session."""
    queries, items = np.random.default_rng(seed).standard_normal((2, num_tracks, 6)).astype(np.float32)
    given: dict[str, Any] = {
        "queries": queries,
        "items": items,
        "parts": ("track", "artist"),
        "ends": np.array([3, 5]),
        "shares": np.array([0.64, np.nan], np.float32),
        "age_weights": np.array([[1, 0.5, 0.25], [1, 0.9, 0.8]], np.float32),
        "skipped": -0.3,
        "boosts": np.full(1000, -np.inf, np.float32),
        "artist_boosts": np.empty(0, np.float32),
        "context": "session",
    }
    return SessionVectors(**given | changes)


def make_search(
    vectors: SessionVectors, lists: Any, artist_of: Any, *, num_lists: int = 1, may_repeat: bool = True, **how: Any
) -> SessionSearch:
    """The search of an arm whose context is that of the vectors."""
    how["context"] = "session" if vectors.listener is None else "listener"
    arm = Arm(recommender="r.jsonl", num_lists=num_lists, pick="uniform" if may_repeat else "ranked", **how)
    return SessionSearch(arm, vectors, lists, artist_of)


def make_order(width: int) -> OrderPart:
    """An encoder of random numbers."""
    import torch

    from segue.models.order import Encoder

    torch.manual_seed(1)
    return Encoder(width, 3, kind="gru", dim=4).part()


def make_listens(sessions: Sequence[Sequence[tuple[int, float]]]) -> Listens:
    """From sessions of (row, share played)."""
    events = [(number, *listen) for number, session in enumerate(sessions) for listen in session]
    return Listens(
        session=np.array([session for session, _, _ in events], np.int64),
        track=np.array([track for _, track, _ in events], np.int64),
        played_ratio=np.array([share for _, _, share in events], np.float32),
    )


def event(user: int, timestamp: int, track: int, time: float = 1.0, message: str = "next") -> dict[str, Any]:
    """One line of the service's log."""
    return {
        "message": message,
        "timestamp": timestamp,
        "user": user,
        "track": track,
        "time": time,
        "latency": 0.001,
        "recommendation": None if message == "last" else 99,  # a track that no test plays
        "experiments": {"TEST": "C"},
    }


def write_lines(path: Path, lines: Iterable[dict[str, Any] | str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")


def write_tracks(folder: Path, artist_of: Iterable[int]) -> None:
    write_lines(
        folder / "tracks.json",
        (
            {"artist": f"Artist {artist}", "title": f"Title {row}", "track": 100 + row}
            for row, artist in enumerate(artist_of)
        ),
    )


def write_log(folder: Path, artist_of: Iterable[int], lines: Iterable[dict[str, Any] | str]) -> Path:
    """A log of the service with the artists of its tracks; returns the folder."""
    write_tracks(folder, artist_of)
    write_lines(folder / "logs" / "data.json", lines)
    return folder


NUM_RING_TRACKS = 60


@pytest.fixture(scope="session")
def ring_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of listeners who love the next track on a ring of 60 and skip all others: the best answer is certain."""
    folder = tmp_path_factory.mktemp("ring")
    write_tracks(folder, (row // 3 for row in range(NUM_RING_TRACKS)))
    rng = np.random.default_rng(0)
    lines, clock = [], 1_700_000_000_000
    for session in range(400):
        track = int(rng.integers(NUM_RING_TRACKS))
        for step in range(8):
            clock += 1000
            loved = step == 0 or rng.random() < 0.7
            if step:
                track = int((track + 1) % NUM_RING_TRACKS if loved else rng.integers(NUM_RING_TRACKS))
            message = "last" if step == 7 else "next"
            lines.append(event(session % 50, clock, 100 + track, 1.0 if loved else 0.1, message))
    half = len(lines) // 2
    write_lines(folder / "logs" / "a" / "data.json", lines[:half])
    write_lines(folder / "logs" / "b" / "data.json", lines[half:])
    return folder


TASTE = Taste(
    length=3.2, length_by_fame=0.1, length_spread=0.0, style=0.4, track=0.3, mainstream=0.6, style_dim=3, own_dim=6
)


def make_world(**changes: Any) -> World:
    """400 tracks of 92 artists, and 60 listeners, unless told otherwise."""
    usual = {"seed": 0, "num_tracks": 400, "num_listeners": 60, "num_interests": 3, "taste": TASTE}
    return generate(**{**usual, "artist_popularity": 0.9, "track_popularity": 0.9, **changes})


@pytest.fixture(scope="session")
def world() -> World:
    """Of the usual size."""
    return make_world()


@cache
def source_config(name: str) -> Any:
    """The settings of a source, as OmegaConf has them: its file on top of the file that its defaults name first."""
    file = OmegaConf.load(ROOT / "conf/datamodule" / f"{name}.yaml")
    config: Any = OmegaConf.create(with_defaults(OmegaConf.to_container(file)))
    first = next((base for base in config.get("defaults", []) if isinstance(base, str)), None)
    return config if first is None else OmegaConf.merge(source_config(first), config)


def settings_of(name: str, changes: Mapping[str, Any] | None = None) -> TableSettings:
    """What the files of a source contain, with other values of some keys, such as `{"units": {"timestamp": "s"}}`."""
    return settings_in(OmegaConf.merge(source_config(name), dict(changes or {})))


@cache
def _settings_of(source: str) -> str:
    """The settings of a source as JSON, with those that depend on a run as tests have them."""
    config: Any = OmegaConf.to_container(source_config(source), resolve=False)
    usual = {"pairing": "consecutive", "window": 3, "history": 0, "whole_sessions": False, "half_life": None}
    return json.dumps({**config, **usual, "split": "time", "seed": 1, "batch_size": 64})


def build_datamodule(path: Path, out: Path, source: str = "botify", **changes: Any) -> "PairDataModule":
    """A datamodule with everything usual unless told otherwise; rejected rows go to `out`."""
    from segue.datamodules.sources import from_logs

    settings = json.loads(_settings_of(source))
    settings |= {"path": str(path), "rejected_path": str(out / "rejected.jsonl")}
    for key in ("_target_", "defaults"):
        settings.pop(key, None)
    for name, value in changes.items():
        settings[name] = {**(settings[name] or {}), **value} if isinstance(value, dict) else value
    return from_logs(**settings)


def read_datamodule(path: Path, out: Path, source: str = "botify", **changes: Any) -> "PairDataModule":
    """The same, with the data read."""
    datamodule = build_datamodule(path, out, source, **changes)
    datamodule.setup()
    return datamodule


@pytest.fixture
def datamodule_of(tmp_path: Path) -> "Callable[..., PairDataModule]":
    """Makes a datamodule from a folder, with everything usual unless told otherwise."""
    return lambda path, **changes: build_datamodule(path, tmp_path, **changes)


@pytest.fixture
def read_of(tmp_path: Path) -> "Callable[..., PairDataModule]":
    """The same, with the data read."""
    return lambda path, **changes: read_datamodule(path, tmp_path, **changes)


@pytest.fixture(scope="session")
def read_ring(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> "PairDataModule":
    """The ring as data that are read, which takes a sixth of a second; tests change it nowhere."""
    return read_datamodule(ring_logs, tmp_path_factory.mktemp("read"))


@pytest.fixture
def ring(read_ring: "PairDataModule") -> "PairDataModule":
    """A copy of the ring for one test."""
    return deepcopy(read_ring)
