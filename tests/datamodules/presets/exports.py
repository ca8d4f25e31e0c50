"""Layouts of what a listener can export from a service, or download of many listeners: quirks included."""

import json
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from tests.datamodules.presets.plays import Expected, Heard, Play, artist, duration, title

IP, AGENT, NAME = "203.0.113.77", "SecretAgent/9.9", "secret-listener-name"
"""In columns that must not be read."""


def clock(second: int, spelling: str) -> str:
    """A time in UTC, in the spelling of a source."""
    return datetime.fromtimestamp(second, UTC).strftime(spelling)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def lastfm_1k(folder: Path, plays: list[Play]) -> Expected:
    """Tabs, no header, no quotes; users one after another, newest first; mbids are partly empty; some equal times."""
    main = "lastfm-dataset-1K/userid-timestamp-artid-artname-traid-traname.tsv"
    expected = Expected([main], duplicates=1, rejected=2)
    rows: dict[str, list[str]] = {}
    for number, play in enumerate(plays):
        user, start = f"user_{play.user:06d}", play.start
        if number % 20 == 0 and user in expected.events:
            before = int(expected.events[user][-1].timestamp or 0) // 1000
            start = before if start - before < 1000 else start  # two plays were submitted at once
        mbid = str(UUID(int=play.track)) if number % 3 else ""
        when = clock(start, "%Y-%m-%dT%H:%M:%SZ")
        row = "\t".join([user, when, mbid, artist(play.track), mbid, title(play.track)])
        rows.setdefault(user, []).insert(0, row)
        heard = Heard(None, start * 1000, (title(play.track), artist(play.track)), None)
        expected.duplicates += heard in expected.events.get(user, [])
        expected.hear(user, heard)
        if number == 4:
            rows[user].insert(0, row)
        if number in (7, 8):  # a track that has no name
            rows[user].insert(0, row.rpartition("\t")[0] + "\t")
    write_lines(folder / main, [row for of_user in rows.values() for row in of_user])
    profiles = [f"{user}\tm\t3{user[-1]}\tIceland\tAug 13, 2006" for user in rows]
    write_lines(folder / "lastfm-dataset-1K/userid-profile.tsv", ["#id\tgender\tage\tcountry\tregistered", *profiles])
    write_lines(folder / "lastfm-dataset-1K/README.txt", ["Version 1.0, May 2010"])
    return expected


def _listen(play: Play, *, is_mapped: bool) -> tuple[str, dict[str, Any]]:
    """Key of the track, and `track_metadata` of a listen. A third of the tracks is not mapped to MusicBrainz."""
    msid, mbid = str(UUID(int=1000 + play.track)), str(UUID(int=play.track))
    info: dict[str, Any] = {"submission_client": "player"}
    if play.session % 2:
        info |= {"duration_ms": duration(play.track) * 1000, "tracknumber": 1, "artist_names": [artist(play.track)]}
    metadata: dict[str, Any] = {
        "track_name": title(play.track) if play.session % 5 else title(play.track).upper(),
        "artist_name": artist(play.track),
        "release_name": f"Album of {artist(play.track)}",
        "additional_info": info,
    }
    if not is_mapped:
        return msid, metadata
    metadata |= {"recording_msid": msid, "mbid_mapping": None}
    if play.track % 3 == 0:
        return msid, metadata
    artists = [{"artist_mbid": str(UUID(int=7)), "join_phrase": "", "artist_credit_name": artist(play.track)}]
    mapping = {"recording_mbid": mbid, "recording_name": title(play.track), "caa_id": None, "artists": artists}
    return mbid, {**metadata, "mbid_mapping": mapping}


def listenbrainz(folder: Path, plays: list[Play]) -> Expected:
    """The export of a user: a file for each month; PostgreSQL writes seconds with six decimals."""
    expected = Expected([], rejected=1)
    lines: dict[str, list[str]] = {}
    for play in plays:
        key, metadata = _listen(play, is_mapped=True)
        file = clock(play.start, "listens/%Y/") + f"{int(clock(play.start, '%m'))}.jsonl"
        line = f'{{"listened_at": {play.start}.000000, "inserted_at": {play.start + 9}.123456, "track_metadata": '
        lines.setdefault(file, []).append(line + json.dumps(metadata, ensure_ascii=False) + "}")
        expected.hear("me", Heard(None, play.start * 1000, key, None))
    expected.main = list(lines)
    lines[expected.main[-1]].append('{"listened_at": 1500000')  # the download was interrupted
    for file, texts in lines.items():
        write_lines(folder / file, texts)
    write_lines(folder / "user.json", [json.dumps({"user_id": 1, "username": NAME})])
    feedback = {"recording_msid": str(UUID(int=1001)), "recording_mbid": None, "score": 1, "created": 1500000000}
    write_lines(folder / "feedback.jsonl", [json.dumps(feedback)])
    write_lines(folder / "pinned_recording.jsonl", [json.dumps({**feedback, "blurb_content": "listen!"})])
    return expected


def listenbrainz_zip(folder: Path, plays: list[Play]) -> Expected:
    """The same as one zip, as it is downloaded."""
    expected = listenbrainz(folder / "unpacked", plays)
    with zipfile.ZipFile(folder / "listenbrainz_me_1700000000.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((folder / "unpacked").rglob("*.json*")):
            archive.write(file, file.relative_to(folder / "unpacked"))
            file.unlink()
    expected.main = ["listenbrainz_me_1700000000.zip"]
    return expected


def listenbrainz_dump(folder: Path, plays: list[Play]) -> Expected:
    """The public dump of all users, unpacked: it has no mapping to MusicBrainz."""
    top = "listenbrainz-listens-dump-1-20260101-000000-full"
    expected = Expected([])
    lines: dict[str, list[str]] = {}
    for play in plays:
        key, metadata = _listen(play, is_mapped=False)
        file = f"{top}/listens/{clock(play.start, '%Y')}/{int(clock(play.start, '%m'))}.listens"
        listen = {"user_id": play.user + 5, "user_name": f"{NAME} {play.user}", "listened_at": play.start}
        lines.setdefault(file, []).append(json.dumps({**listen, "track_metadata": metadata, "recording_msid": key}))
        expected.hear(play.user, Heard(None, play.start * 1000, key, None))
    expected.main = list(lines)
    for file, texts in lines.items():
        write_lines(folder / file, texts)
    for name in ("COPYING", "SCHEMA_SEQUENCE", "TIMESTAMP"):
        write_lines(folder / top / name, ["1"])
    return expected


def listenbrainz_spark(folder: Path, plays: list[Play]) -> Expected:
    """The dump for Spark: flat Parquet files with numbers as names."""
    expected = Expected(["0.parquet", "1.parquet"])
    rows = []
    for play in plays:
        mbid = str(UUID(int=play.track)) if play.track % 3 else None
        msid = str(UUID(int=1000 + play.track))
        rows.append(
            {
                "listened_at": datetime.fromtimestamp(play.start, UTC).replace(tzinfo=None),
                "created": datetime.fromtimestamp(play.start + 60, UTC).replace(tzinfo=None),
                "user_id": play.user + 5,
                "recording_msid": msid,
                "artist_name": artist(play.track),
                "artist_credit_id": play.track // 4 if mbid else None,
                "release_name": None,
                "release_mbid": None,
                "recording_name": title(play.track),
                "recording_mbid": mbid,
                "artist_credit_mbids": [str(UUID(int=play.track // 4))] if mbid else None,
            }
        )
        expected.hear(play.user, Heard(None, play.start * 1000, mbid or msid, None))
    names = {"listened_at": pa.timestamp("ms"), "created": pa.timestamp("ms"), "user_id": pa.int64()}
    fields = [pa.field(name, names.get(name, pa.string())) for name in rows[0]]
    schema = pa.schema(fields)
    for name, type_ in (("artist_credit_id", pa.int64()), ("artist_credit_mbids", pa.list_(pa.string()))):
        schema = schema.set(schema.get_field_index(name), pa.field(name, type_))
    half = len(rows) // 2
    for file, part in zip(expected.main, (rows[:half], rows[half:]), strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(part, schema), folder / file)
    return expected


EPISODE = {"spotify_episode_uri": "spotify:episode:1", "episode_name": "A talk", "episode_show_name": "Talks"}
UNUSED: dict[str, Any] = {
    "username": NAME,
    "platform": "linux",
    "conn_country": "IS",
    "ip_addr": IP,
    "user_agent_decrypted": AGENT,
}
UNUSED |= {"master_metadata_album_album_name": "Album", "reason_start": "trackdone", **dict.fromkeys(EPISODE)}
UNUSED |= {"shuffle": False, "offline": False, "offline_timestamp": None}
"""Columns of a song that are not read."""
ENDS = ("trackdone", "fwdbtn", "endplay", None)
"""How plays end: the track is over, a skip, something that is not known, and not reported."""


def spotify(folder: Path, plays: list[Play]) -> Expected:
    """The extended history: JSON arrays, times of the end, duplicates, podcasts, private sessions."""
    top = "Spotify Extended Streaming History"
    main = [f"{top}/Streaming_History_Audio_2017_0.json", f"{top}/Streaming_History_Audio_2017-2018_1.json"]
    expected = Expected(main, dropped={"not_music": 3, "incognito": 2})
    rows: list[dict[str, Any]] = []
    for number, play in enumerate(plays):
        is_whole = play.seconds >= duration(play.track)
        end = "trackdone" if is_whole else ENDS[1 + number % 3]
        skipped = {"trackdone": False, "fwdbtn": True, "endplay": False, None: number % 2 == 0}[end]
        row: dict[str, Any] = UNUSED | {
            "ts": clock(play.start + play.seconds, "%Y-%m-%dT%H:%M:%SZ"),
            "ms_played": play.seconds * 1000 - 300,
            "master_metadata_track_name": title(play.track),
            "master_metadata_album_artist_name": artist(play.track),
            "spotify_track_uri": f"spotify:track:{play.track:022d}",
            "reason_end": end,
            "skipped": skipped if number % 4 or end is None else None,  # null in older rows
            "incognito_mode": False,
        }
        if end is None:
            del row["reason_end"]
            if number % 5 == 0:
                del row["skipped"]
        share = {"trackdone": 1.0, "fwdbtn": 0.0, "endplay": None}.get(str(end))
        if end is None and "skipped" in row:
            share = 0.0 if row["skipped"] else 1.0
        timestamp = (play.start + play.seconds) * 1000 - row["ms_played"]
        expected.hear("me", Heard(None, timestamp, row["spotify_track_uri"], share))
        expected.titles[row["spotify_track_uri"]] = title(play.track)
        rows.append(row)
        if number in (3, 30):
            rows.append(row)  # twice in a file
            expected.duplicates += 1
        if number in (5, 50, 51):
            music = {name: None for name in row if name.startswith("master_")} | {"spotify_track_uri": None}
            rows.append({**row, **music, **(EPISODE if number != 51 else {"audiobook_title": "A book"})})
        if number in (9, 60):
            rows.append({**row, "incognito_mode": True, "ms_played": 1234})
    half = len(rows) // 2
    expected.duplicates += 4
    for file, part in zip(main, (rows[:half], rows[half - 4 :]), strict=True):  # four rows are in both files
        write_lines(folder / file, [json.dumps(part, indent=2, ensure_ascii=False)])
    video = {**rows[0], "ts": "2017-01-01T00:00:00Z"}
    write_lines(folder / top / "Streaming_History_Video_2017.json", [json.dumps([video])])
    return expected


def spotify_short(folder: Path, plays: list[Play]) -> Expected:
    """The account data: minutes of the end, no ids."""
    main = ["Spotify Account Data/StreamingHistory_music_0.json", "Spotify Account Data/StreamingHistory_music_1.json"]
    expected = Expected(main, duplicates=1)
    rows = []
    for play in plays:
        end = (play.start + play.seconds) // 60 * 60
        key = title(play.track), artist(play.track)
        names = {"artistName": key[1], "trackName": key[0]}
        rows.append({"endTime": clock(end, "%Y-%m-%d %H:%M"), **names, "msPlayed": play.seconds * 1000})
        expected.hear("me", Heard(None, end * 1000, key, play.seconds * 1000.0))
    half = len(rows) // 2
    for file, part in zip(main, (rows[:half], rows[half - 1 :]), strict=True):  # one row is in both files
        write_lines(folder / file, [json.dumps(part, indent=2, ensure_ascii=False)])
    podcast = {"endTime": "2017-08-01 10:00", "podcastName": "Talks", "episodeName": "A talk", "msPlayed": 900000}
    write_lines(folder / "Spotify Account Data/StreamingHistory_podcast_0.json", [json.dumps([podcast])])
    write_lines(folder / "Spotify Account Data/Userdata.json", [json.dumps({"username": NAME})])
    return expected
