"""Event logs for the stages: two replicas, rotated at 100 MB, as the service writes them."""

import json
from pathlib import Path

import numpy as np

NUM_TRACKS = 50_000
NUM_ARTISTS = 11_464
_FILE_BYTES = 100 * 2**20
_FIRST_MS = 1_767_571_200_000
_CHUNK = 100_000


def make_logs(folder: Path, *, num_events: int, num_users: int) -> None:
    """Write `tracks.json` and `logs/<replica>/data.json*`: sessions of about ten events, hours to days apart."""
    rng = np.random.default_rng(1)
    lengths = 1 + rng.geometric(1 / 9, size=num_events // 8)
    lengths = lengths[: np.searchsorted(lengths.cumsum(), num_events) + 1]
    users = rng.permutation(np.arange(len(lengths)) % num_users)
    shares = rng.integers(101, size=lengths.sum())
    ends = lengths.cumsum() - 1
    passed = np.cumsum(shares * 2_100 + 1_000)
    started = np.empty(len(users), np.int64)
    started[np.argsort(users, kind="stable")] = _one_after_another(users, rng)
    begins = ends - lengths + 1
    times = _FIRST_MS + np.repeat(started - passed[begins], lengths) + passed
    is_last = np.zeros(len(times), bool)
    is_last[ends] = True
    tracks = (NUM_TRACKS * rng.random(len(times)) ** 3).astype(np.int64)
    who = np.repeat(users, lengths)
    latency = rng.gamma(4, 2e-4, size=len(times))
    order = np.argsort(times, kind="stable")[:num_events]
    columns = (times, who, tracks, shares / 100, latency, np.where(is_last, -1, np.roll(tracks, -1)))
    folder.mkdir(parents=True, exist_ok=True)
    _write_tracks(folder / "tracks.json", rng)
    for replica in range(2):
        chosen = order[who[order] % 2 == replica]
        _write_replica(folder / "logs" / f"replica-{replica + 1}", [column[chosen] for column in columns])


def logs_of(folder: Path) -> list[Path]:
    """The files of the event logs."""
    return sorted(folder.glob("logs/*/data.json*"))


def _one_after_another(users: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Start of each session in ms, user by user: hours after the previous session of the user."""
    waits = rng.integers(4 * 3_600_000, 44 * 3_600_000, size=len(users))
    counts = np.bincount(users)
    total = waits.cumsum()
    before = np.repeat(total[counts.cumsum() - counts] - waits[counts.cumsum() - counts], counts)
    return total - before


def _write_tracks(path: Path, rng: np.random.Generator) -> None:
    artists = rng.integers(NUM_ARTISTS, size=NUM_TRACKS)
    with path.open("w", encoding="utf-8") as file:
        for track, artist in enumerate(artists.tolist()):
            file.write(json.dumps({"artist": f"Artist {artist}", "title": f"Title {track}", "track": track}) + "\n")


def _write_replica(folder: Path, columns: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    parts: list[list[bytes]] = [[]]
    size = 0
    for start in range(0, len(columns[0]), _CHUNK):
        text = _lines([column[start : start + _CHUNK].tolist() for column in columns]).encode()
        if size + len(text) > _FILE_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(text)
        size += len(text)
    for age, pieces in enumerate(reversed(parts)):
        (folder / f"data.json{f'.{age}' if age else ''}").write_bytes(b"".join(pieces))


def _lines(columns: list[list[float]]) -> str:
    return "".join(
        f'{{"message": "{"last" if following < 0 else "next"}", "timestamp": {time}, "user": {user}, "track": {track}, '
        f'"time": {share}, "latency": {latency}, "recommendation": {"null" if following < 0 else following}, '
        f'"experiments": {{"CONVEX": "{"T1" if user % 7 < 3 else "C"}"}}}}\n'
        for time, user, track, share, latency, following in zip(*columns, strict=True)
    )
