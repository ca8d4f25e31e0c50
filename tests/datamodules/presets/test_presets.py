"""Each preset reads the layout of its source, quirks included; one of each kind trains on it."""

import gzip
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate

from segue.datamodules.log_source import LogSource
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.reading.table import SourceEvents, read_table
from tests.conftest import ROOT
from tests.contracts.building import composed, names
from tests.datamodules.presets import exports
from tests.datamodules.presets.cases import CASES, PRESETS, WITHOUT_CLOCK, datamodule
from tests.datamodules.presets.plays import Expected, Heard
from tests.e2e.forks import run_forked


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Expected]]:
    """The folder of each layout, and what a reader must find in it."""
    found = {}
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = folder, case.layout(folder, case.plays())
    return found


def read(name: str, folder: Path) -> Any:
    """The events of a source, before policies."""
    module = datamodule(name, folder)
    assert isinstance(module.source, LogSource)
    return read_table(str(module.path), module.source._settings, rejections=module.source._rejections)


def keys_of(source: SourceEvents) -> list[object]:
    """What identifies the track in each row of the catalogue."""
    catalog = source.catalog
    if "track" not in source.reading.columns:
        return list(zip(catalog.titles, catalog.artists[catalog.artist_of], strict=True))
    return list(catalog.track_ids)


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
    query = """SELECT user_id, source_session, timestamp, track, played_ratio FROM events
               ORDER BY user_id, timestamp, position"""
    users: dict[int, list[Heard]] = {}
    for user, session, timestamp, track, share in source.database.execute(query).fetchall():
        users.setdefault(user, []).append(Heard(session, timestamp, keys[track], share))
    return comparable(users.values())


def test_every_preset_has_a_layout() -> None:
    others = {"default", "table", "table_auto", "table_playlists", "simulated", "botify", "situnes", "yes", "polimi"}
    others |= {name for name in names("datamodule") if name.split("_")[0] == "shards"}
    assert set(names("datamodule")) - others == {*PRESETS}


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


@pytest.mark.parametrize("name", ["spotify", "playlists_mpd"])
def test_a_preset_trains(written: dict[str, tuple[Path, Expected]], name: str, tmp_path: Path) -> None:
    """Where there is a clock with what listeners heard before, unchanged otherwise."""
    folder, _ = written[name]
    has_pasts = name not in WITHOUT_CLOCK
    words = ["logger=none", "trainer.accelerator=cpu", "trainer.max_epochs=1", "model.dim=8", "callbacks.plots=null"]
    words += ["context=listener"] * has_pasts
    path = [f"datamodule={CASES[name].preset}", f"datamodule.path={folder / CASES[name].file}", "hydra.run.dir=run"]
    env = {**os.environ, "COLUMNS": "200"}
    done = run_forked(ROOT / "train.py", *path, *words, cwd=tmp_path, env=env, timeout_s=300)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["test/num_queries"] > 10
    assert ("test/mse" in metrics) == (composed(f"datamodule={CASES[name].preset}").recipe.name == "shares")
    assert (tmp_path / "run/profiles.npz").is_file() == has_pasts


def test_the_page_says_what_the_presets_say() -> None:
    page = (ROOT / "docs/presets.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`(\w+)`\]\(#[\w-]+\) \| .* \| `(\w+)` \| `(\w+)` \| (\w+).* \|$", page, re.MULTILINE)
    assert {preset for preset, *_ in rows} == {*PRESETS}
    for preset, recipe, split, share in rows:
        config = composed(f"datamodule={preset}")
        usual, own = "session" if preset in WITHOUT_CLOCK else "time", config.datamodule.split
        assert (config.recipe.name, usual if own == "auto" else own) == (recipe, split)
        of_page = {"none": "unknown", "ratio": "reported", "skipped": "from", "played": "from"}
        assert share == of_page[config.datamodule.share]


def variant(name: str, folder: Path, *words: str) -> PairDataModule:
    """The datamodule of a preset and words of the command line, with the data read."""
    config = composed(f"datamodule={CASES[name].preset}", f"datamodule.path='{folder}'", *words).datamodule
    built: PairDataModule = instantiate(config, rejected_path=str(folder / "out/rejected.jsonl"), _convert_="all")
    built.setup()
    return built


def test_artists_of_nowplaying_are_in_another_file(written: dict[str, tuple[Path, Expected]]) -> None:
    folder, expected = written["nowplaying"]
    words = ("datamodule.files.pattern=context_content_features.csv", "datamodule.columns.artist=artist_id")
    module = variant("nowplaying", folder, *words)
    assert len(module.sessions.listens.track) == expected.num_events
    assert module.catalog.num_artists == 16


def test_atomic_files_with_another_separator_or_without_times_need_a_word(
    written: dict[str, tuple[Path, Expected]], tmp_path: Path
) -> None:
    folder, expected = written["recbole"]
    text = (folder / expected.main[0]).read_text().replace("\t", ",")
    (tmp_path / "x.inter").write_text(text)
    assert len(variant("recbole", tmp_path, "datamodule.files.delimiter=','").sessions.listens.track)
    words = ("datamodule.files.delimiter=','", "datamodule.columns.timestamp=null")
    module = variant("recbole", tmp_path, *words)
    assert len(module.sessions) == 40  # one for each user


def test_rules_of_spotify_can_be_changed(written: dict[str, tuple[Path, Expected]]) -> None:
    folder, expected = written["spotify"]
    with_private = variant("spotify", folder, "datamodule.sql.drop.incognito=null")
    assert len(with_private.sessions.listens.track) == expected.num_events + 2
    assert "incognito" not in with_private.dropped
    played = variant("spotify", folder, "datamodule.share=played")
    assert played.reading.share == "longest"
    shares = played.pairs["train"].played_ratio
    assert len(np.unique(shares)) > 10


def test_the_published_sessions_of_nowplaying_are_all_read(real_data: Path, tmp_path: Path) -> None:
    if not (folder := real_data / "nowplaying").is_dir():
        pytest.skip("SEGUE_DATA has no nowplaying")
    config = composed("datamodule=nowplaying_sessions", f"datamodule.path='{folder}'").datamodule
    module: PairDataModule = instantiate(config, rejected_path=str(tmp_path / "rejected.jsonl"), _convert_="all")
    module.setup()
    assert len(module.sessions) == 142_556
    assert len(module.sessions.listens.track) == 953_381 + 104_303
    assert len(module.catalog) == 60_416
    assert (module.reading.num_rejected, module.catalog.num_artists) == (0, 60_416)
    assert sum(map(len, module.pairs.values())) == 953_381 + 104_303 - 142_556
    lines = {line.split()[0] for line in module.remarks()}
    assert lines == {"artists"}
    with gzip.open(folder / "test.txt.gz", "rt") as file:
        newest = [int(track) for track in [*file][-1].split()]
    last = module.sessions.listens.session == len(module.sessions) - 1
    assert module.catalog.track_ids[module.sessions.listens.track[last]].tolist() == newest
    assert module.pairs["train"].session.max() < module.pairs["val"].session.min() < module.pairs["test"].session.min()
