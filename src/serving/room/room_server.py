"""The room server: the process that answers the questions of the page. `proxy.py` starts it and describes the protocol.

It has a lower priority than the workers, and ends when nobody has asked for a while or when its worker has ended.
"""

import asyncio
import contextlib
import fcntl
import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np

from segue.assignment import GUESTS
from segue.catalog import MOST_ID_BYTES, id_problem, key_of
from segue.errors import InputError
from segue.runs.libraries import line_of_import
from segue.runs.provenance import call_of
from segue.serving.ids import as_json
from segue.serving.log_writer import now_ms
from segue.serving.recommender import Past, Recommender
from segue.serving.release_store import FolderStore
from segue.serving.room import track_map, walking
from segue.serving.room.previews import Previews
from segue.serving.room.proxy import RoomServerError, check_private
from segue.serving.room.release_view import MAX_SHOWN, ReleaseView, alphas_of
from segue.serving.room.title_search import TitleIndex, build_index
from segue.serving.session_memory import Played
from segue.serving.settings import SETTINGS, ProfileSettings, store_settings
from segue.serving.stores import make_profiles

_COMPARISONS = Path("outputs/compare")  # where `compare.py` writes, from the folder in which the service was started
_IDLE_S = 900  # seconds without a question after which the room server ends

_TICK_S = 1.0
_MOST_FOUND = 20
_REST = 10  # an analysis that took s seconds is not repeated for this many times s
_LEAST_REST_S = 3.0
_MAX_LISTED = 200
_JSON = "application/json"

_log = logging.getLogger("segue.serving.room")

# Each has a method of that name.
_QUESTIONS = (
    *("state", "search", "compare", "tracks", "row", "listener", "step", "why"),
    *("audio", "map", "experiment", "runs", "picture"),
)


class UnknownError(InputError):
    """What was asked for does not exist."""


@dataclass
class ReadyRelease:
    """What the room server answers from: one release, ready to be asked."""

    view: ReleaseView
    recommender: Recommender
    problems: list[str]
    indexing: asyncio.Task[TitleIndex] | None = None
    map: asyncio.Task[bytes] | None = None


class RoomServer:
    """Answers the questions of the page.

    Args:
        run_dir: run folder of the service.
        locate: finds the `recommendations.jsonl` of a run or a model.
    """

    def __init__(self, run_dir: Path, locate: Callable[[str], Path]) -> None:
        settings = json.loads((run_dir / SETTINGS).read_bytes())
        self._run_dir, self._folder, self._locate = run_dir, run_dir / "room", locate
        self._settings: dict[str, Any] = settings["room"]
        self._policies: list[str] = settings.get("policies", [])
        self._store = FolderStore(Path(settings["store"]["folder"]), keep=settings["store"]["keep"])
        self._with_fallback = settings["log"]["with_fallback"]
        remember, store = ProfileSettings(**settings["profiles"]), store_settings(settings["store"])
        self._profiles = None if remember.remember == "none" else make_profiles(store, remember)
        self._reading: asyncio.Future[ReadyRelease] | None = None
        self._pool: ProcessPoolExecutor | None = None
        self._watched: tuple[float, float, dict[str, Any]] | None = None
        self._watching = asyncio.Lock()
        self.asked_s = time.monotonic()

    async def answer(self, question: dict[str, Any]) -> tuple[int, str, bytes]:
        """Answer one question: HTTP status, media type and body."""
        self.asked_s = time.monotonic()
        try:
            if question["path"] not in _QUESTIONS:
                raise UnknownError(f"the room has no question {question['path']!r}")
            found = getattr(self, f"_{question['path']}")(await self._ready(), question["query"], question["body"])
            found = await found if isinstance(found, Awaitable) else found
            kind, body = found if isinstance(found, tuple) else (_JSON, _json(found))
            return 200, kind, body
        except InputError as error:
            return (404 if isinstance(error, UnknownError) else 400), _JSON, _json({"reason": str(error)})
        except Exception as error:
            if missing := line_of_import(error):
                return 501, _JSON, _json({"reason": missing})
            _log.exception("internal error: %s", question["path"])
            return 500, _JSON, _json({"reason": "internal error; the log of the service has the details"})

    def begin(self) -> None:
        """Begin to read the release."""
        self._reading = asyncio.ensure_future(self._read())

    async def follow(self) -> None:
        """Change to the release that is served, after a load or a rollback."""
        if self._reading is None or not self._reading.done() or _has_failed(self._reading):
            return
        with contextlib.suppress(InputError, OSError):
            if self._store.index().current != self._reading.result().view.release.version:
                self.begin()

    def close(self) -> None:
        """End the processes that compute."""
        if self._pool is not None:
            for process in active_children():  # this process has no others
                process.terminate()
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            gc.collect()  # removes its semaphores, which nothing else does before `os._exit`

    async def _read(self) -> ReadyRelease:
        ready = await asyncio.to_thread(self._open)
        ready.indexing = asyncio.ensure_future(asyncio.to_thread(self._make_index, ready.view))
        return ready

    def _open(self) -> ReadyRelease:
        release, _ = self._store.open_whole()
        given, previews = self._settings, None
        problems: list[str] = []  # they do not close the room
        if given["audio"] is not None:
            try:
                previews = Previews(Path(given["audio"]), given["audio_from"])
                if previews.num_refused:
                    problems.append(f"{previews.num_refused:,} previews are missing or not in room.audio_from")
            except InputError as error:
                problems.append(str(error))
        view = ReleaseView(release, given["recommenders"], self._locate, previews)
        return ReadyRelease(view, Recommender(release, np.random.default_rng(), self._policies), problems)

    def _make_index(self, view: ReleaseView) -> TitleIndex:
        def text_of(row: int) -> str:
            record = view.release.track(row)
            return f"{record['title']} {record['artist'] or ''}"

        if not (path := self._folder / f"titles-{view.release.version}.sqlite").exists():
            build_index(path, map(text_of, view.by_plays.tolist()))
            for old in self._folder.glob("titles-*.sqlite"):
                if old != path:
                    old.unlink(missing_ok=True)
        return TitleIndex(path, text_of, view.by_plays)

    async def _ready(self) -> ReadyRelease:
        if self._reading is None or _has_failed(self._reading):
            self.begin()
        assert self._reading is not None
        return await asyncio.shield(self._reading)

    async def _apart(self, work: Callable[..., Any], *given: Any) -> Any:
        """Compute in a process of its own."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *given)

    def _state(self, ready: ReadyRelease, *_: Any) -> dict[str, Any]:
        view, release = ready.view, ready.view.release
        popular = [view.record(int(row)) for row in view.by_plays[:300] if release.track(int(row))["title"]]
        by_artist = {track["artist"]: track for track in reversed(popular)}  # the most played one of each artist
        return {
            "experiment": release.experiment,
            "version": release.version,
            "tracks": len(view),
            "knows_plays": view.plays is not None,
            "mlflow": self._settings["mlflow"],
            "problems": ready.problems,
            "examples": [track for track in popular if by_artist[track["artist"]] is track][:6],
            "players": [
                {name: getattr(player, name) for name in ("key", "label", "recommender", "policy", "problem")}
                | {
                    name: getattr(player.arm, name) if player.arm and player.arm.has_lists else None
                    for name in ("pick", "artist_gap", "context", "familiar")
                }
                | {
                    "is_arm": player.arm is not None,
                    "has_lists": player.lists is not None,
                    "alpha": None if player.alpha is None else round(player.alpha, 6),
                }
                for player in view.players.values()
            ],
        }

    def _search(self, ready: ReadyRelease, query: dict[str, str], _: Any) -> dict[str, Any]:
        typed = query.get("q", "")[:MOST_ID_BYTES]
        assert ready.indexing is not None
        if not ready.indexing.done():
            return {"query": typed, "is_building": True, "found": []}
        rows = ready.indexing.result().find(typed, _MOST_FOUND)
        named = [row for row in map(ready.view.row_of, (typed, typed.strip())) if row >= 0]
        rows = list(dict.fromkeys(named + rows))[:_MOST_FOUND]
        return {"query": typed, "is_building": False, "found": [ready.view.record(row) for row in rows]}

    def _compare(self, ready: ReadyRelease, query: dict[str, str], _: Any) -> dict[str, Any]:
        view, row = ready.view, _row(ready.view, query.get("track"))
        keys = [key for key in query.get("players", "").split(",") if key]
        if unknown := [key for key in keys if key not in view.players]:
            raise InputError(f"there is no recommender {unknown[0]!r}; there are {', '.join(view.players)}")
        if len(keys) > 4:
            raise InputError(f"at most four recommenders are shown side by side, got {len(keys)}")
        num, alphas = query.get("num", "15"), alphas_of(query.get("alpha", ""))
        if not num.isdecimal() or len(num) > 2 or not 1 <= int(num) <= MAX_SHOWN:
            raise InputError(f"num must be a whole number from 1 to {MAX_SHOWN}, got {num!r}")
        columns = []
        for key in keys:
            shown = view.following(key, row, num=int(num), alpha=alphas.get(key))
            items = [
                {
                    **view.record(found),
                    "score": None if score is None else round(float(score), 6),
                    "parts": view.parts(key, row, found),
                }
                for found, score in zip(shown.rows, shown.scores, strict=True)
            ]
            columns.append({"key": key, "is_reranked": shown.is_reranked, "items": items})
        return {"track": view.record(row), "columns": columns}

    def _tracks(self, ready: ReadyRelease, _: Any, given: Any) -> dict[str, Any]:
        view = ready.view
        if not isinstance(given, list) or len(given) > _MAX_LISTED or not all(type(one) is int for one in given):
            raise InputError(f"the body must be a list of at most {_MAX_LISTED} rows of the map")
        rows = [row for row in given if 0 <= row < len(view)]
        rows.sort(key=lambda row: (-(view.plays_of(row) or 0), row))
        return {"found": [view.record(row) for row in rows]}

    def _row(self, ready: ReadyRelease, query: dict[str, str], _: Any) -> dict[str, Any]:
        return {"row": _row(ready.view, query.get("track"))}

    def _listener(self, ready: ReadyRelease, query: dict[str, str], _: Any) -> dict[str, Any]:
        return {"user": str(walking.new_listener(ready.recommender, _arm(ready, query.get("arm"))))}

    async def _step(self, ready: ReadyRelease, _: Any, given: Any) -> dict[str, Any]:
        arm, played = _walked(ready, given)
        past, familiar, user = None, given.get("familiar"), given.get("user")
        if familiar is not None:
            familiar = ready.view.release.arms[arm].with_familiar(familiar).familiar
        if user is not None:
            if problem := id_problem(user):
                raise InputError(f"listener {problem}")
            if self._profiles is not None:
                past = Past(await self._profiles.look(key_of(user), now_ms()), now_ms())
        return walking.step(ready.view, ready.recommender, arm, GUESTS.start, played, past, familiar)

    def _why(self, ready: ReadyRelease, _: Any, given: Any) -> dict[str, Any]:
        arm, played = _walked(ready, given)
        following = walking.checked_session(ready.view, [given.get("track")], [0]).tracks[0]
        return walking.why(ready.view, ready.recommender, arm, played, following)

    def _audio(self, ready: ReadyRelease, query: dict[str, str], _: Any) -> tuple[str, bytes]:
        release, row = ready.view.release, _row(ready.view, query.get("track"))
        found = None if ready.view.previews is None else ready.view.previews.read(int(release.keys[row]))
        if found is None:
            raise UnknownError(f"track {as_json(release.id_of(row))} has no preview on this machine")
        return found

    async def _map(self, ready: ReadyRelease, *_: Any) -> tuple[str, bytes]:
        if ready.map is None or _has_failed(ready.map):
            ready.map = asyncio.ensure_future(self._make_map(ready.view))
        return "application/octet-stream", await asyncio.shield(ready.map)

    async def _make_map(self, view: ReleaseView) -> bytes:
        """Of each track, as float32: place (two numbers), row of its artist, popularity, plays where they are known,
        and how many lists of each recommender have it. The last two are logarithms: 0 for none, 1 for the most.
        """
        if not (every := [one.lists for one in view.players.values() if one.lists is not None]):
            raise UnknownError("no recommender here has lists, therefore there is no map; serve a run")
        if not (path := self._folder / f"map-{view.release.version}.npy").exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            await self._apart(track_map.write_layout, path, np.asarray(every[0]))
        popularity = np.empty((1, len(view)))
        popularity[0, view.by_plays] = np.linspace(1, 0, len(view))  # 1 for the most played
        columns = [np.load(path).T, view.release.artist_of[None], popularity**3]
        counts = [] if view.plays is None else [view.plays]
        counts += [np.bincount(lists[lists >= 0], minlength=len(view)) for lists in every]
        columns += [np.log1p(count)[None] / np.log1p(count.max(initial=1)) for count in counts]
        return np.concatenate(columns).astype("<f4").tobytes()

    async def _experiment(self, ready: ReadyRelease, *_: Any) -> dict[str, Any]:
        from segue.serving.room.watching import watch

        async with self._watching:
            now_s = time.monotonic()
            if self._watched is None or now_s >= self._watched[0]:
                release = ready.view.release
                arms = {name: arm.recommender for name, arm in release.arms.items()}
                found = await self._apart(watch, self._run_dir / "logs", release.experiment, arms)
                took_s = time.monotonic() - now_s
                self._watched = (time.monotonic() + max(_LEAST_REST_S, _REST * took_s), time.time(), found)
            until_s, at_s, found = self._watched
        found = found | {"with_fallback": self._with_fallback}
        return found | {"computed_ms": round(1000 * at_s), "again_s": max(1.0, round(until_s - time.monotonic(), 1))}

    def _runs(self, ready: ReadyRelease, *_: Any) -> dict[str, Any]:
        folder = last_comparison()
        return {
            "comparison": None if folder is None else side_by_side(folder),
            "served": sorted({arm.recommender for arm in ready.view.release.arms.values()}),
        }

    def _picture(self, *_: Any) -> tuple[str, bytes]:
        if not (path := (last_comparison() or Path()) / "comparison.png").is_file():
            raise UnknownError(f"there is no picture of a comparison; run {call_of('compare')}")
        return "image/png", path.read_bytes()


def last_comparison(folder: Path = _COMPARISONS) -> Path | None:
    """Folder of the newest comparison; None where there is none."""
    found = [path.parent for path in folder.glob("*/comparison.json")]
    return max(found, key=lambda path: (path / "comparison.json").stat().st_mtime, default=None)


def side_by_side(folder: Path) -> dict[str, Any]:
    """A comparison as the page shows it.

    Raises:
        InputError: its file is damaged.
    """
    path = folder / "comparison.json"
    try:
        record = json.loads(path.read_bytes())
        metrics = [name for name in record["metrics"] if any(name in one["metrics"] for one in record["setups"])]
        setups = [
            {
                "setup": one["setup"],
                "num_runs": len(one["run_ids"]),
                "run": one["run_ids"][0],
                "metrics": {name: one["metrics"].get(name) for name in metrics},
            }
            for one in record["setups"]
        ]
        alike = {name: record[name] for name in ("verdict", "disagreement", "select", "better")}
        has_picture = (folder / "comparison.png").is_file()
        return {**alike, "folder": str(folder), "metrics": metrics, "has_picture": has_picture, "setups": setups}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); run {call_of('compare')} again") from None


def _has_failed(task: asyncio.Future[Any]) -> bool:
    return task.done() and task.exception() is not None


def _json(found: Any) -> bytes:
    return json.dumps(found, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _row(view: ReleaseView, given: Any) -> int:
    if problem := id_problem(given):
        raise UnknownError(f"track {problem}; search for another one")
    if (row := view.row_of(given)) < 0:
        name = as_json(given)
        raise UnknownError(f"track {name} is not in the catalogue of {len(view):,} tracks; search for another one")
    return row


def _arm(ready: ReadyRelease, given: Any) -> str:
    if not isinstance(given, str) or given not in ready.view.release.arms:
        raise InputError(f"there is no arm {given!r}; there are {', '.join(ready.view.release.arms)}")
    return given


def _walked(ready: ReadyRelease, given: Any) -> tuple[str, Played]:
    if not isinstance(given, dict):
        raise InputError("the body must be a JSON object")
    return _arm(ready, given.get("arm")), walking.checked_session(ready.view, given.get("tracks"), given.get("shares"))


async def serve(room: RoomServer, socket: Path, parent: int) -> None:
    """Answer at a socket until the parent has ended or nobody has asked for a while.

    Args:
        room: which answers.
        socket: the socket.
        parent: process id of the worker that started this process.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            status, kind, body = await room.answer(json.loads(await reader.readline()))
            writer.write(json.dumps({"status": status, "type": kind}).encode() + b"\n" + body)
            await writer.drain()
        except (OSError, ValueError, RecursionError):  # the worker has gone, or sent what no page sends
            pass
        finally:
            writer.close()

    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    socket.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(talk, str(socket), limit=2**20)
    room.begin()
    while not stopped.is_set() and os.getppid() == parent and time.monotonic() - room.asked_s < _IDLE_S:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), _TICK_S)
        await room.follow()
    server.close()
    socket.unlink(missing_ok=True)
    room.close()


def main(run_dir: Path, socket: Path, parent: int) -> None:
    """Run the room server, unless another one listens at the socket.

    Args:
        run_dir: run folder of the service.
        socket: where to listen.
        parent: process id of the worker that started this process.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s room: %(message)s", level=logging.WARNING)
    with contextlib.suppress(FileExistsError):
        socket.parent.mkdir(mode=0o700)
    try:
        check_private(socket.parent)
    except RoomServerError as error:
        _log.error(error)
        sys.exit(2)
    with (socket.parent / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        os.nice(10)
        asyncio.run(serve(RoomServer(run_dir, _locate), socket, parent))
    os._exit(0)  # threads that still compute must not keep this process


def _locate(name: str) -> Path:
    from segue.runs.tracking.named_runs import locate_recommendations  # imports MLflow, which takes seconds

    return locate_recommendations(name)


if __name__ == "__main__":
    _, of_run, at, of_parent = sys.argv
    main(Path(of_run), Path(at), int(of_parent))
