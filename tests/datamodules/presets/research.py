"""Layouts of data sets that were published for research: quirks included."""

import base64
import csv
import gzip
import json
import random
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from tests.datamodules.presets.exports import clock, write_lines
from tests.datamodules.presets.plays import FIRST_SECOND, Expected, Heard, Play, artist, duration, title

PLACE = '"{""coordinates"": [64.1, -21.9]}"'
"""Where somebody was, in a column that must not be read."""


def _write_parquet(path: Path, columns: dict[str, tuple[Any, list[Any]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: pa.array(values, kind) for name, (kind, values) in columns.items()}
    pq.write_table(pa.table(arrays), path)


def _yambda_rows(plays: list[Play], expected: Expected) -> dict[int, list[tuple[int, int, int, int, int]]]:
    """For each uid: timestamp in seconds since the data set began, in steps of five; item, organic, percent, length."""
    rows: dict[int, list[tuple[int, int, int, int, int]]] = {}
    for number, play in enumerate(plays):
        uid, second = play.user * 10 + 10, (play.start - FIRST_SECOND) // 5 * 5
        of_user = rows.setdefault(uid, [])
        if number % 20 == 0 and of_user and second - of_user[-1][0] < 1000:
            second = of_user[-1][0]  # two plays in the same five seconds
        percent = 100 * play.seconds // duration(play.track) + 60 * (number % 15 == 0)  # above 100: parts were replayed
        of_user.append((second, play.track + 9_000_000, number % 2, percent, duration(play.track)))
        expected.hear(uid, Heard(None, second * 1000, play.track + 9_000_000, min(percent, 100) / 100))
    return dict(sorted(rows.items()))


def _write_yambda_catalogue(folder: Path, expected: Expected) -> None:
    """Two artists for some tracks, and none for others; the first counts."""
    pairs = []
    for track in range(64):
        if track % 9:
            pairs += [(track // 4, track + 9_000_000)] + [(5000, track + 9_000_000)] * (track % 2)
            expected.artists[track + 9_000_000] = track // 4
    artists, items = zip(*pairs, strict=True)
    columns = {"artist_id": (pa.uint32(), list(artists)), "item_id": (pa.uint32(), list(items))}
    _write_parquet(folder / "artist_item_mapping.parquet", columns)
    _write_parquet(folder / "album_item_mapping.parquet", {"album_id": columns["artist_id"], **columns})


YAMBDA = {
    "timestamp": pa.uint32(),
    "item_id": pa.uint32(),
    "is_organic": pa.uint8(),
    "played_ratio_pct": pa.uint16(),
    "track_length_seconds": pa.uint32(),
}


def yambda(folder: Path, plays: list[Play]) -> Expected:
    """A row for each listen, sorted by user and time; likes and other files beside it."""
    expected = Expected(["flat/50m/listens.parquet"])
    rows = [(uid, *row) for uid, of_user in _yambda_rows(plays, expected).items() for row in of_user]
    uid, *values = (list(column) for column in zip(*rows, strict=True))
    columns = dict(zip(YAMBDA, zip(YAMBDA.values(), values, strict=True), strict=True))
    _write_parquet(folder / expected.main[0], {"uid": (pa.uint32(), uid), **columns})
    likes = {"uid": (pa.uint32(), [10]), "timestamp": (pa.uint32(), [5]), "item_id": (pa.uint32(), [7])}
    _write_parquet(folder / "flat/50m/likes.parquet", {**likes, "is_organic": (pa.uint8(), [1])})
    _write_yambda_catalogue(folder, expected)
    return expected


def yambda_sequential(folder: Path, plays: list[Play]) -> Expected:
    """A row for each user, with lists."""
    expected = Expected(["sequential/50m/listens.parquet"])
    rows = _yambda_rows(plays, expected)
    expected.num_lists = len(rows)
    lists = [[list(column) for column in zip(*of_user, strict=True)] for of_user in rows.values()]
    columns = {
        name: (pa.list_(kind), [of_user[place] for of_user in lists])
        for place, (name, kind) in enumerate(YAMBDA.items())
    }
    _write_parquet(folder / expected.main[0], {"uid": (pa.uint32(), list(rows)), **columns})
    _write_yambda_catalogue(folder, expected)
    return expected


def playlists_mpd(folder: Path, plays: list[Play]) -> Expected:
    """Slices of playlists, nested in an object with other keys."""
    expected = Expected(["data/mpd.slice.0-999.json", "data/mpd.slice.1000-1999.json"], num_lists=2)
    playlists: dict[tuple[int, int], list[Play]] = {}
    for play in plays:
        playlists.setdefault((play.user, play.session), []).append(play)
    slices: list[list[dict[str, Any]]] = [[], []]
    for number, of_playlist in enumerate(playlists.values()):
        pid = number + 1000 * (number % 2)
        tracks = []
        for place, play in enumerate([*of_playlist, *of_playlist[:1]]):  # the first track is there twice
            uri = f"spotify:track:{play.track:022d}"
            names = {"track_name": title(play.track), "artist_name": artist(play.track), "album_name": "Album"}
            uris = {"track_uri": uri, "artist_uri": f"spotify:artist:{play.track // 4}", "album_uri": "spotify:album:1"}
            tracks.append({"pos": place, **names, **uris, "duration_ms": duration(play.track) * 1000})
            expected.hear(pid, Heard(None, None, uri, None))
            expected.artists[uri], expected.titles[uri] = artist(play.track), title(play.track)
        about = {"name": "Mine", "collaborative": "false", "pid": pid, "modified_at": 1_506_556_800, "num_albums": 1}
        slices[number % 2].append({**about, "num_tracks": len(tracks), "num_followers": 1, "tracks": tracks})
    for file, of_slice in zip(expected.main, slices, strict=True):
        info = {"generated_on": "2017-12-03 08:41:42.057563", "slice": Path(file).stem[10:], "version": "v1"}
        write_lines(folder / file, [json.dumps({"info": info, "playlists": of_slice}, indent=4)])
    write_lines(folder / "license.txt", ["The Million Playlist Dataset"])
    return expected


def thirty_music(folder: Path, plays: list[Play]) -> Expected:
    """Idomaar: tabs between four fields, the last of which has two JSON objects."""
    expected = Expected(["relations/sessions.idomaar"], rejected=1)
    sessions: dict[tuple[int, int], list[Play]] = {}
    for play in plays:
        sessions.setdefault((play.user, play.session), []).append(play)
    lines = []
    for number, of_session in enumerate(sessions.values()):
        user, objects = 44_361 + of_session[0].user, []
        for place, play in enumerate(of_session):
            ratio = [round(play.seconds / duration(play.track), 2), 1.39, None][min((number + place) % 30, 3) % 3]
            offset = play.start - of_session[0].start
            one = {"type": "track", "id": play.track, "playstart": offset, "playtime": play.seconds}
            objects.append({**one, "playratio": ratio, "action": "skip" if play.seconds < 10 else "play"})
            share = None if ratio is None else min(ratio, 1.0)
            expected.hear(user, Heard(number, play.start * 1000, play.track, share))
        about = {"numtracks": len(objects), "playtime": sum(play.seconds for play in of_session)}
        linked = {"subjects": [{"type": "user", "id": user}], "objects": objects}
        texts = [json.dumps(part, separators=(",", ":")) for part in (about, linked)]
        lines.append(f"event.session\t{287_144 + number}\t{of_session[0].start}\t{' '.join(texts)}")
    expected.num_lists = len(lines) + 1
    lines.insert(20, lines[20][:-30])  # a line that was cut off
    write_lines(folder / expected.main[0], lines)
    tracks = []
    for track in range(64):
        name = f"{quote_plus(artist(track))}/_/{quote_plus(title(track))}"
        length = duration(track) * 1000 if track % 5 else -1
        named: dict[str, Any] = {"duration": length, "playcount": 4, "MBID": None, "name": name}
        linked = {"artists": [{"type": "person", "id": track // 4}], "albums": [], "tags": []}
        tracks.append(f"track\t{track}\t-1\t{json.dumps(named)}\t{json.dumps(linked)}")
        expected.artists[track], expected.titles[track] = track // 4, title(track)
    write_lines(folder / "entities/tracks.idomaar", tracks)
    return expected


def nowplaying_sessions(folder: Path, plays: list[Play]) -> Expected:
    """Two compressed files with a session in each line: numbers of tracks, in the order in which they were played."""
    expected = Expected(["train.txt.gz", "test.txt.gz"])
    sessions: dict[tuple[int, int], list[int]] = {}
    for play in plays:
        sessions.setdefault((play.user, play.session), []).append(play.track + 1)
    for number, tracks in enumerate(sessions.values()):
        for track in tracks:
            expected.hear(number, Heard(0, None, track, None))
    lines = [" ".join(map(str, tracks)) for tracks in sessions.values()]
    expected.num_lists = len(lines)
    folder.mkdir(parents=True, exist_ok=True)
    num_train = len(lines) * 9 // 10
    for file, some in zip(expected.main, (lines[:num_train], lines[num_train:]), strict=True):
        (folder / file).write_bytes(gzip.compress("".join(f"{line}\n" for line in some).encode()))
    return expected


def nowplaying(folder: Path, plays: list[Play]) -> Expected:
    """A row for each hashtag of a listen, in no order. Another file has a row for each listen, with the artist."""
    expected = Expected(["user_track_hashtag_timestamp.csv"])
    rows, features = [], []
    for number, play in enumerate(plays):
        track, when = f"{play.track:032x}", clock(play.start, "%Y-%m-%d %H:%M:%S")
        hashtags = ["nowplaying", "music", "今聴いてる"][: 1 + number % 3]
        rows += [f"{81_496_937 + play.user},{track},{hashtag},{when}" for hashtag in hashtags]
        features.append(f"{PLACE},0.1,{play.track // 4:08x},en,{track},{when},{81_496_937 + play.user},{number}")
        expected.duplicates += len(hashtags) - 1
        expected.hear(play.user, Heard(None, play.start * 1000, track, None))
    random.Random(1).shuffle(rows)
    write_lines(folder / expected.main[0], ["user_id,track_id,hashtag,created_at", *rows])
    names = "coordinates,energy,artist_id,tweet_lang,track_id,created_at,user_id,id"
    write_lines(folder / "context_content_features.csv", [names, *features])
    write_lines(folder / "sentiment_values.csv", ["hashtag,vader_min", "music,0.1"])
    return expected


def music4all_onion(folder: Path, plays: list[Play]) -> Expected:
    """Tabs with a header; times without a zone. The names of the tracks are in a file of Music4All."""
    expected = Expected(["userid_trackid_timestamp.tsv"])
    rows = []
    for play in plays:
        track = f"0009fFIM1eYThaP{play.track:02d}"
        rows.append(f"user_{play.user:06d}\t{track}\t{clock(play.start, '%Y-%m-%d %H:%M:%S')}")
        expected.hear(play.user, Heard(None, play.start * 1000, track, None))
        expected.artists[track], expected.titles[track] = artist(play.track), title(play.track)
    write_lines(folder / expected.main[0], ["user_id\ttrack_id\ttimestamp", *rows])
    tracks = [f"0009fFIM1eYThaP{track:02d}\t{artist(track)}\t{title(track)}\tAlbum" for track in range(64)]
    write_lines(folder / "id_information.csv", ["id\tartist\tsong\talbum_name", *tracks])
    return expected


def recbole(folder: Path, plays: list[Play]) -> Expected:
    """Atomic files: the header has types; rows in no order; numbers as floats."""
    expected = Expected(["lfm/lfm.inter"])
    rows = []
    for play in plays:
        rows.append(f"{play.user}\tt{play.track}\t{play.track % 5}.0\t{play.start}.0")
        expected.hear(play.user, Heard(None, play.start * 1000, f"t{play.track}", None))
    random.Random(1).shuffle(rows)
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    write_lines(folder / expected.main[0], [header, *rows])
    write_lines(folder / "lfm/lfm.item", ["item_id:token\tname:token_seq", "t1\tA song"])
    return expected


def _base64(number: int) -> str:
    return base64.b64encode(number.to_bytes(4, "big") * 8).decode()


def kkbox(folder: Path, plays: list[Play]) -> Expected:
    """The rows of a user in the order of listening, without a clock; ids in Base64."""
    expected = Expected(["train.csv"])
    rows = [["msno", "song_id", "source_system_tab", "source_screen_name", "source_type", "target"]]
    for play in plays:
        user, song = _base64(play.user * 10_000 + play.session), _base64(play.track + 250)
        rows.append([user, song, "my library", "", "local-library", str(play.track % 2)])
        expected.hear(user, Heard(None, None, song, None))
    songs = [["song_id", "song_length", "genre_ids", "artist_name", "composer", "lyricist", "language"]]
    for track in range(64):
        if track % 9:  # some songs are not listed
            length = str(duration(track) * 1000)
            songs.append([_base64(track + 250), length, "465|458", artist(track), "A, B| C", "", "3.0"])
            expected.artists[_base64(track + 250)] = artist(track)
    members = [["msno", "city", "bd", "gender", "registered_via", "registration_init_time", "expiration_date"]]
    extra = [["song_id", "name", "isrc"], [_base64(251), "我們", "TWUM71200043"]]
    files = {"train.csv": rows, "songs.csv": songs, "members.csv": members, "song_extra_info.csv": extra}
    folder.mkdir(parents=True, exist_ok=True)
    for file, lines in files.items():
        with (folder / file).open("w", encoding="utf-8", newline="") as out:
            csv.writer(out, lineterminator="\n").writerows(lines)
    return expected
