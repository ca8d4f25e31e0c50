"""Each preset reads the layout of its source, quirks included, trains on it, and leaks nothing of the test."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate

from src.catalog import Listens, Vocabulary
from src.datamodules.pair_datamodule import PairDataModule
from src.datamodules.pairs import Pairs
from src.datamodules.table import SourceEvents, read_table
from src.errors import InputError
from src.models.baselines.counting import Rules
from tests.conftest import ROOT
from tests.contracts.building import composed, names
from tests.datamodules.presets import exports, research
from tests.datamodules.presets.plays import Expected, Heard, Layout, Play, listening, unpredictable
from tests.e2e.forks import run_forked


@dataclass(frozen=True)
class Case:
    """A layout of a preset.

    Args:
        preset: value of `datamodule=`.
        layout: writes its files.
        is_export: whether it has one listener.
        file: what to give as path, below the folder.
    """

    preset: str
    layout: Layout
    is_export: bool = False
    file: str = "."

    def plays(self, kind: Any, sessions: int) -> list[Play]:
        """Plays of as many sessions, by one listener or by several."""
        users = 1 if self.is_export else 40
        plays: list[Play] = kind(users=users, sessions=sessions // users)
        return plays


ZIP = "listenbrainz_me_1700000000.zip"
CASES = {
    "lastfm_1k": Case("lastfm_1k", exports.lastfm_1k),
    "listenbrainz": Case("listenbrainz", exports.listenbrainz, is_export=True),
    "listenbrainz_zip": Case("listenbrainz", exports.listenbrainz_zip, is_export=True, file=ZIP),
    "listenbrainz_dump": Case("listenbrainz", exports.listenbrainz_dump),
    "listenbrainz_spark": Case("listenbrainz_spark", exports.listenbrainz_spark),
    "spotify": Case("spotify", exports.spotify, is_export=True),
    "spotify_short": Case("spotify_short", exports.spotify_short, is_export=True),
    **{
        layout.__name__: Case(layout.__name__, layout)
        for layout in (
            *(research.yambda, research.yambda_sequential, research.playlists_mpd, research.thirty_music),
            *(research.nowplaying, research.music4all_onion, research.recbole, research.kkbox),
        )
    },
}
WITHOUT_CLOCK = ("playlists_mpd", "kkbox")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Expected]]:
    """The folder of each layout, and what a reader must find in it."""
    found = {}
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = folder, case.layout(folder, case.plays(listening, 160))
    return found


def datamodule(name: str, folder: Path, **settings: object) -> PairDataModule:
    """The datamodule of a preset, as a run builds it; rejected rows go to `out/` of the folder."""
    case = CASES[name]
    places = {"path": str(folder / case.file), "rejected_path": str(folder / "out/rejected.jsonl")}
    config = composed(f"datamodule={case.preset}").datamodule
    built: PairDataModule = instantiate(config, **places, **settings, _convert_="all")
    return built


def read(name: str, folder: Path) -> Any:
    """The events of a source, before policies."""
    module = datamodule(name, folder)
    return read_table(str(module.path), module._settings, rejections=module._rejections)


def keys_of(source: SourceEvents) -> list[object]:
    """What identifies the track in each row of the catalogue."""
    catalog = source.catalog
    if "track" not in source.reading.columns:
        return list(zip(catalog.titles, catalog.artists[catalog.artist_of], strict=True))
    return list(catalog.track_ids if catalog.texts is None else catalog.texts)


def comparable(events: Iterable[list[Heard]]) -> Counter[tuple[Heard, ...]]:
    """The events of each user, without copies; sessions are numbered from 0, shares are rounded."""
    users = []
    for of_user in events:
        numbers: dict[object, int] = {}
        users.append(
            tuple(
                heard._replace(
                    session=None if heard.session is None else numbers.setdefault(heard.session, len(numbers)),
                    share=None if heard.share is None else round(heard.share, 4),
                )
                for heard in (of_user if of_user[0].timestamp is None else dict.fromkeys(of_user))
            )
        )
    return Counter(users)


def events_of(source: SourceEvents) -> Counter[tuple[Heard, ...]]:
    keys = keys_of(source)
    query = "SELECT user_id, source_session, timestamp, track, share FROM events ORDER BY user_id, timestamp, position"
    users: dict[int, list[Heard]] = {}
    for user, session, timestamp, track, share in source.database.execute(query).fetchall():
        users.setdefault(user, []).append(Heard(session, timestamp, keys[track], share))
    return comparable(users.values())


def test_every_preset_has_a_layout() -> None:
    others = {"default", "table", "table_playlists", "simulated", "botify", "situnes", "yes", "polimi"}
    assert set(names("datamodule")) - others == {case.preset for case in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_a_preset_reads_what_was_played(written: dict[str, tuple[Path, Expected]], name: str) -> None:
    folder, expected = written[name]
    with read(name, folder) as source:
        assert events_of(source) == comparable(expected.events.values())
        reading = source.reading
        assert reading.num_events == expected.num_events + expected.duplicates
        assert (reading.num_rows, reading.num_rejected) == (expected.num_rows, expected.rejected)
        assert reading.dropped == expected.dropped
        titles = dict(zip(keys_of(source), source.catalog.titles.tolist(), strict=True))
        assert {track: titles[track] for track in expected.titles if track in titles} == expected.titles
        artist_of = dict(zip(keys_of(source), source.catalog.artist_of.tolist(), strict=True))
        for tracks in ([*expected.artists], [key for key in artist_of if key not in expected.artists]):
            found = [artist_of[track] for track in tracks if track in artist_of]
            known = [expected.artists.get(track, track) for track in tracks if track in artist_of]
            if expected.artists:
                assert len(set(zip(found, known, strict=True))) == len(set(found)) == len(set(known))


@pytest.mark.parametrize("name", CASES)
def test_the_main_file_is_enough(written: dict[str, tuple[Path, Expected]], name: str, tmp_path: Path) -> None:
    folder, expected = written[name]
    for file in expected.main:
        shutil.copy(folder / file, tmp_path / Path(file).name)
    with read(name, tmp_path) as source:
        assert events_of(source) == comparable(expected.events.values())


@pytest.mark.parametrize("name", CASES)
def test_rows_are_events_or_counted(written: dict[str, tuple[Path, Expected]], name: str) -> None:
    folder, expected = written[name]
    module = datamodule(name, folder)
    module.setup()
    counts = module.summary().loc["all"]
    assert counts["events"] == expected.num_events
    assert counts["rejected"] == expected.rejected
    assert {rule: num for rule, num in module.dropped.items() if num} == {
        rule: num for rule, num in {**expected.dropped, "duplicates": expected.duplicates}.items() if num
    }
    if expected.num_lists is None:
        assert counts["events"] + counts["dropped"] + counts["rejected"] == expected.num_rows


@pytest.mark.parametrize("name", ["spotify", "listenbrainz", "listenbrainz_dump"])
def test_addresses_devices_and_names_of_users_are_read_into_no_table(
    written: dict[str, tuple[Path, Expected]], name: str
) -> None:
    folder, _ = written[name]
    text = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.*") if path.suffix != ".parquet")
    secrets = [exports.IP, exports.AGENT, exports.NAME] if name == "spotify" else [exports.NAME]
    assert all(secret in text for secret in secrets)
    with read(name, folder) as source:
        tables = [table for (table,) in source.database.execute("SHOW TABLES").fetchall()]
        assert {"parsed", "events"} <= set(tables)
        for table in tables:
            rows = str(source.database.execute(f"SELECT * FROM {table}").fetchall())
            assert not [secret for secret in secrets if secret in rows], table


@pytest.mark.parametrize("name", CASES)
def test_a_preset_trains(written: dict[str, tuple[Path, Expected]], name: str, tmp_path: Path) -> None:
    folder, _ = written[name]
    words = ["logger=none", "trainer.accelerator=cpu", "trainer.max_epochs=1", "model.dim=8", "callbacks.plots=null"]
    path = [f"datamodule={CASES[name].preset}", f"datamodule.path={folder / CASES[name].file}", "hydra.run.dir=run"]
    env = {**os.environ, "COLUMNS": "200"}
    done = run_forked(ROOT / "train.py", *path, *words, cwd=tmp_path, env=env, timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["test/num_queries"] > 10
    assert ("test/mse" in metrics) == (composed(f"datamodule={CASES[name].preset}").recipe.name == "shares")


def recall(vocabulary: Vocabulary, listens: Listens, pairs: Pairs) -> float:
    """Share of pairs whose second track has followed the first one in the sessions that a model was fitted to."""
    rules = Rules(vocabulary, window=1, decay=1.0, reverse_weight=0, artist_weight=0)
    return float((np.asarray(rules.count(listens)[pairs.previous, pairs.following]) > 0).mean())


@pytest.mark.parametrize("name", CASES)
def test_what_only_the_test_shows_cannot_be_predicted(name: str, tmp_path: Path) -> None:
    """No two sessions have the same pair: a model that predicts any pair of the test has seen the test."""
    case = CASES[name]
    case.layout(tmp_path, case.plays(unpredictable, 640))
    for split in ("time", "session", "pair"):
        module = datamodule(name, tmp_path, split=split)
        if split == "time" and name in WITHOUT_CLOCK:
            with pytest.raises(InputError, match="split=time needs timestamps"):
                module.setup()
            continue
        module.setup()
        vocabulary, train = module.vocabulary, module.pairs["train"]
        for part in ("val", "test"):
            assert recall(vocabulary, vocabulary.listens, module.pairs[part]) == 0.0
        assert recall(vocabulary, vocabulary.listens, train) == 1.0
        assert recall(vocabulary, module.sessions.listens, module.pairs["test"]) == 1.0  # what a leak looks like
        num_tracks = len(module.catalog)
        assert vocabulary.previous_counts.tolist() == np.bincount(train.previous, minlength=num_tracks).tolist()
        assert vocabulary.next_counts.tolist() == np.bincount(train.following, minlength=num_tracks).tolist()
        if name != "playlists_mpd" and split != "pair":  # each session is one pair
            plays = np.bincount(np.concatenate([train.previous, train.following]), minlength=num_tracks)
            assert vocabulary.plays.tolist() == plays.tolist()


def test_the_longest_play_that_shares_are_divided_by_is_of_training(tmp_path: Path) -> None:
    """In training each track is played for 100 seconds or for 50, in the test for 400: a leak would make 0.25 of 1."""
    plays = [
        play._replace(seconds=400 if play.session >= 56 else 100 - 50 * (play.session % 2))
        for play in unpredictable(users=1, sessions=64)
    ]
    exports.spotify_short(tmp_path, plays)
    module = datamodule("spotify_short", tmp_path)
    module.setup()
    shares = {name: set(pairs.played_ratio.tolist()) for name, pairs in module.pairs.items()}
    assert shares["train"] == {0.5, 1.0}
    assert shares["test"] <= {1.0}


def test_a_track_is_rare_if_it_is_in_training(tmp_path: Path) -> None:
    """Track 0 is played ten times after all other sessions, which is in the test: these plays do not count."""
    plays = [play for play in listening(users=40, sessions=4) if play.track]
    last = plays[-1].start + 86_400
    for number in range(10):
        plays += [Play(39, 4 + number, last + number * 86_400, track, 60) for track in (0, 1)]
        plays[-1] = plays[-1]._replace(start=plays[-1].start + 61)
    research.music4all_onion(tmp_path, plays)
    kept = datamodule("music4all_onion", tmp_path)
    kept.setup()
    [first] = [row for row, text in enumerate(kept.catalog.texts) if text.endswith("P00")]
    assert first in kept.pairs["test"].previous
    assert kept.vocabulary.plays[first] == 0
    module = datamodule("music4all_onion", tmp_path, policies={**kept._policies.__dict__, "min_count": 2})
    module.setup()
    assert first not in module.pairs["test"].previous
