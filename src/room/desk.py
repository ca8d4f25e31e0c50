"""The desk: the process that answers the questions of the page. `gate.py` starts it and describes the protocol.

It has a lower priority than the workers, and ends when nobody has asked for a while or when its worker has ended.
"""

import asyncio
import contextlib
import fcntl
import functools
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
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.assignment import GUESTS
from segue.errors import InputError
from segue.room import mapping, sweeps, walking
from segue.room.gate import is_private, not_private
from segue.room.previews import Previews
from segue.room.shelf import MAX_SHOWN, Shelf, alphas_of
from segue.room.title_search import TitleIndex, build_index
from segue.serving.recommender import Recommender
from segue.serving.release import Release
from segue.serving.release_store import FolderStore
from segue.serving.settings import SETTINGS

if TYPE_CHECKING:
    from segue.room.companion import Companion

IDLE_S = 900
"""Seconds without a question after which the desk ends."""

_TICK_S = 1.0
_NICER = 10
_MOST_FOUND = 20
_REST = 10  # an analysis that took s seconds is not repeated for this many times s
_LEAST_REST_S = 3.0
_MAX_LISTED = 200
_JSON = "application/json"

_log = logging.getLogger("segue.room")

Answer = tuple[str, bytes]
"""Media type and body."""


class UnknownError(InputError):
    """What was asked for does not exist."""


@dataclass
class Stock:
    """What the desk answers from: one release, ready to be asked."""

    shelf: Shelf
    recommender: Recommender
    companion: "Companion | None"
    problems: list[str]
    index: TitleIndex | None = None
    indexing: asyncio.Task[None] | None = None
    map: asyncio.Task[bytes] | None = None


class Desk:
    """Answers the questions of the page.

    Args:
        run_dir: run folder of the service.
        locate: finds the `recommendations.jsonl` of a run or a model.
    """

    def __init__(self, run_dir: Path, locate: Callable[[str], Path]) -> None:
        settings = json.loads((run_dir / SETTINGS).read_bytes())
        self._run_dir, self._locate = run_dir, locate
        self._settings: dict[str, Any] = settings["room"]
        self._store = FolderStore(Path(settings["store"]["folder"]), keep=settings["store"]["keep"])
        self._kind, self._with_fallback = settings["store"]["kind"], settings["log"]["with_fallback"]
        self._stock: asyncio.Future[Stock] | None = None
        self._pool: ProcessPoolExecutor | None = None
        self._watched: tuple[float, float, dict[str, Any]] | None = None
        self._watching = asyncio.Lock()
        self._asked_s = time.monotonic()
        self._pages: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "state": self._state,
            "search": self._search,
            "compare": self._compare,
            "tracks": self._tracks,
            "row": self._row,
            "listener": self._listener,
            "step": self._step,
            "why": self._why,
            "audio": self._audio,
            "map": self._map,
            "experiment": self._experiment,
            "runs": self._runs,
            "picture": self._picture,
            "serve": self._serve_run,
        }

    async def answer(self, question: dict[str, Any]) -> tuple[int, str, bytes]:
        """Answer one question: HTTP status, media type and body."""
        self._asked_s = time.monotonic()
        page = self._pages.get(question["path"])
        try:
            if page is None:
                raise UnknownError(f"the room has no question {question['path']!r}")
            found = await page(question)
            kind, body = found if isinstance(found, tuple) else (_JSON, _json(found))
            return 200, kind, body
        except InputError as error:
            return (404 if isinstance(error, UnknownError) else 400), _JSON, _json({"reason": str(error)})
        except Exception:
            _log.exception("internal error: %s", question["path"])
            return 500, _JSON, _json({"reason": "internal error; the log of the service has the details"})

    @property
    def idle_s(self) -> float:
        """Seconds since the last question."""
        return time.monotonic() - self._asked_s

    def begin(self) -> None:
        """Begin to read the release."""
        self._stock = asyncio.ensure_future(self._read())

    async def follow(self) -> None:
        """Change to the release that is served, after a load or a rollback."""
        if self._stock is None or not self._stock.done() or self._stock.exception() is not None:
            return
        with contextlib.suppress(InputError, OSError):
            if self._store.index().current != self._stock.result().shelf.release.version:
                self.begin()

    def close(self) -> None:
        """End the processes that compute."""
        if self._pool is not None:
            for process in active_children():  # this process has no others
                process.terminate()
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            gc.collect()  # removes its semaphores, which nothing else does before `os._exit`

    async def _read(self) -> Stock:
        loop = asyncio.get_running_loop()
        release, _ = await loop.run_in_executor(None, self._store.open_whole)
        stock = await loop.run_in_executor(None, self._open, release)
        stock.indexing = asyncio.ensure_future(self._make_index(stock))
        return stock

    def _open(self, release: Release) -> Stock:
        given, previews, companion = self._settings, None, None
        problems: list[str] = []  # they do not close the room
        if given["audio"] is not None:
            try:
                previews = Previews(Path(given["audio"]), given["audio_from"])
                if previews.num_refused:
                    problems.append(f"{previews.num_refused:,} previews are missing or not in room.audio_from")
            except InputError as error:
                problems.append(str(error))
        if given["world"] is not None:
            from segue.room.companion import Companion  # imports pandas, which takes a while

            try:
                companion = Companion(Path(given["world"]), release.track_ids)
            except InputError as error:
                problems.append(str(error))
        shelf = Shelf(release, given["recommenders"], self._locate, previews)
        return Stock(shelf, Recommender(release, np.random.default_rng()), companion, problems)

    async def _make_index(self, stock: Stock) -> None:
        shelf, path = stock.shelf, self._folder / f"titles-{stock.shelf.release.version}.sqlite"
        if not path.exists():
            texts = (shelf.text_of(int(row)) for row in shelf.by_plays)
            build = functools.partial(build_index, path, texts, shelf.by_plays)
            await asyncio.get_running_loop().run_in_executor(None, build)
            for old in self._folder.glob("titles-*.sqlite"):
                if old != path:
                    old.unlink(missing_ok=True)
        stock.index = TitleIndex(path, shelf.text_of)

    @property
    def _folder(self) -> Path:
        return self._run_dir / "room"

    async def _ready(self) -> Stock:
        if self._stock is None or (self._stock.done() and self._stock.exception() is not None):
            self.begin()
        assert self._stock is not None
        return await asyncio.shield(self._stock)

    async def _apart(self, work: Callable[..., Any], *given: Any) -> Any:
        """Compute in a process of its own."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *given)

    async def _state(self, question: dict[str, Any]) -> dict[str, Any]:
        stock = await self._ready()
        shelf, release = stock.shelf, stock.shelf.release
        popular = [shelf.record(int(row)) for row in shelf.by_plays[:300] if release.track(int(row))["title"]]
        by_artist = {track["artist"]: track for track in reversed(popular)}  # the most played one of each artist
        return {
            "experiment": release.experiment,
            "version": release.version,
            "tracks": len(shelf),
            "knows_plays": shelf.knows_plays,
            "has_token": question["has_token"],
            "mlflow": self._settings["mlflow"],
            "problems": stock.problems,
            "examples": [track for track in popular if by_artist[track["artist"]] is track][:6],
            "players": [
                {
                    "key": player.key,
                    "label": player.label,
                    "recommender": player.recommender,
                    "policy": player.policy,
                    "pick": player.arm.pick if player.arm and player.arm.has_lists else None,
                    "artist_gap": player.arm.artist_gap if player.arm and player.arm.has_lists else None,
                    "context": player.arm.context if player.arm and player.arm.has_lists else None,
                    "is_arm": player.arm is not None,
                    "has_lists": player.lists is not None,
                    "alpha": None if player.alpha is None else round(player.alpha, 6),
                    "problem": player.problem,
                }
                for player in shelf.players.values()
            ],
        }

    async def _search(self, question: dict[str, Any]) -> dict[str, Any]:
        stock, typed = await self._ready(), str(question["query"].get("q", ""))[:200]
        assert stock.indexing is not None
        if stock.index is None:
            if not stock.indexing.done():
                return {"query": typed, "is_building": True, "found": []}
            stock.indexing.result()
        assert stock.index is not None
        rows = stock.index.find(typed, _MOST_FOUND)
        if typed.strip().isdecimal() and len(typed) < 19 and (row := stock.shelf.release.row_of(int(typed))) >= 0:
            rows = [row, *(other for other in rows if other != row)][:_MOST_FOUND]
        return {"query": typed, "is_building": False, "found": [stock.shelf.record(row) for row in rows]}

    async def _compare(self, question: dict[str, Any]) -> dict[str, Any]:
        shelf, query = (await self._ready()).shelf, question["query"]
        row = _row(shelf, query.get("track"))
        keys = [key for key in query.get("players", "").split(",") if key]
        if unknown := [key for key in keys if key not in shelf.players]:
            raise InputError(f"there is no recommender {unknown[0]!r}; there are {', '.join(shelf.players)}")
        if len(keys) > 4:
            raise InputError(f"at most four recommenders are shown side by side, got {len(keys)}")
        num, alphas = _whole(query.get("num", "15"), 1, MAX_SHOWN), alphas_of(query.get("alpha", ""))
        columns = []
        for key in keys:
            shown = shelf.following(key, row, num=num, alpha=alphas.get(key))
            columns.append(
                {
                    "key": key,
                    "is_reranked": shown.is_reranked,
                    "items": [
                        {
                            **shelf.record(found),
                            "score": None if score is None else round(float(score), 6),
                            "parts": shelf.parts(key, row, found),
                        }
                        for found, score in zip(shown.rows, shown.scores, strict=True)
                    ],
                }
            )
        return {"track": shelf.record(row), "columns": columns}

    async def _tracks(self, question: dict[str, Any]) -> dict[str, Any]:
        shelf = (await self._ready()).shelf
        given = question["body"]
        if not isinstance(given, list) or len(given) > _MAX_LISTED or not all(type(one) is int for one in given):
            raise InputError(f"the body must be a list of at most {_MAX_LISTED} rows of the map")
        rows = [row for row in given if 0 <= row < len(shelf)]
        rows.sort(key=lambda row: (-(shelf.plays_of(row) or 0), row))
        return {"found": [shelf.record(row) for row in rows]}

    async def _row(self, question: dict[str, Any]) -> dict[str, Any]:
        return {"row": _row((await self._ready()).shelf, question["query"].get("track"))}

    async def _listener(self, question: dict[str, Any]) -> dict[str, Any]:
        stock = await self._ready()
        return {"user": str(walking.new_listener(stock.recommender, _arm(stock, question["query"].get("arm"))))}

    async def _step(self, question: dict[str, Any]) -> dict[str, Any]:
        stock, given = await self._ready(), _body(question)
        played = walking.checked_session(stock.shelf, given.get("tracks"), given.get("shares"))
        arm = _arm(stock, given.get("arm"))
        return walking.step(stock.shelf, stock.recommender, stock.companion, arm, GUESTS.start, played)

    async def _why(self, question: dict[str, Any]) -> dict[str, Any]:
        stock, given = await self._ready(), _body(question)
        played = walking.checked_session(stock.shelf, given.get("tracks"), given.get("shares"))
        following = walking.checked_session(stock.shelf, [given.get("track")], [0]).tracks[0]
        arm = _arm(stock, given.get("arm"))
        return walking.why(stock.shelf, stock.recommender, stock.companion, arm, played, following, None, None)

    async def _audio(self, question: dict[str, Any]) -> Answer:
        shelf = (await self._ready()).shelf
        track = int(shelf.release.track_ids[_row(shelf, question["query"].get("track"))])
        found = None if shelf.previews is None else shelf.previews.read(track)
        if found is None:
            raise UnknownError(f"track {track} has no preview on this machine")
        return found

    async def _map(self, _: dict[str, Any]) -> Answer:
        stock = await self._ready()
        if stock.map is None or (stock.map.done() and stock.map.exception() is not None):
            stock.map = asyncio.ensure_future(self._make_map(stock))
        return "application/octet-stream", await asyncio.shield(stock.map)

    async def _make_map(self, stock: Stock) -> bytes:
        """Of each track, as float32: place (two numbers), row of its artist, popularity, plays where they are known,
        and how many lists of each recommender have it. The last two are logarithms: 0 for none, 1 for the most.
        """
        shelf = stock.shelf
        drawn = [one for one in shelf.players.values() if one.lists is not None or one.vectors is not None]
        drawn.sort(key=lambda one: (one.alpha is None, one.vectors is None))  # at best tracks and artists have a place
        if not drawn:
            raise UnknownError("no recommender here has lists or vectors, therefore there is no map; serve a run")
        player, path = drawn[0], self._folder / f"map-{shelf.release.version}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            vectors = None if player.vectors is None else np.asarray(player.vectors.items)
            lists = None if player.lists is None else np.asarray(player.lists)
            await self._apart(mapping.write_layout, path, {"lists": lists, "vectors": vectors})
        columns = [np.load(path).T, shelf.release.artist_of[None], shelf.popularity[None] ** 3]
        counts = [] if shelf.plays is None else [shelf.plays]
        every = [one.lists for one in shelf.players.values() if one.lists is not None]
        counts += [np.bincount(lists[lists >= 0], minlength=len(shelf)) for lists in every]
        columns += [np.log1p(count)[None] / np.log1p(count.max(initial=1)) for count in counts]
        return np.concatenate(columns).astype("<f4").tobytes()

    async def _experiment(self, _: dict[str, Any]) -> dict[str, Any]:
        from segue.room.watching import watch

        async with self._watching:
            now_s = time.monotonic()
            if self._watched is None or now_s >= self._watched[0]:
                release = (await self._ready()).shelf.release
                arms = {name: arm.recommender for name, arm in release.arms.items()}
                found = await self._apart(watch, self._run_dir / "logs", release.experiment, arms)
                took_s = time.monotonic() - now_s
                self._watched = (time.monotonic() + max(_LEAST_REST_S, _REST * took_s), time.time(), found)
            until_s, at_s, found = self._watched
        found = found | {"with_fallback": self._with_fallback}
        return found | {"computed_ms": round(1000 * at_s), "again_s": max(1.0, round(until_s - time.monotonic(), 1))}

    async def _runs(self, question: dict[str, Any]) -> dict[str, Any]:
        folder = sweeps.last_comparison()
        served = {arm.recommender for arm in (await self._ready()).shelf.release.arms.values()}
        may_serve = question["has_token"] and self._kind == "embedded"
        return {"comparison": None if folder is None else sweeps.side_by_side(folder), "served": sorted(served)} | {
            "may_serve": may_serve,
            "why_not": ""
            if may_serve
            else "start the service with a token (SEGUE_TOKEN) to serve a run from here"
            if not question["has_token"]
            else "this service follows a shared store; use serve.py load store=redis",
        }

    async def _picture(self, _: dict[str, Any]) -> Answer:
        folder = sweeps.last_comparison()
        path = None if folder is None else folder / "comparison.png"
        if path is None or not path.is_file():
            raise UnknownError("there is no picture of a comparison; run python compare.py")
        return "image/png", path.read_bytes()

    async def _serve_run(self, question: dict[str, Any]) -> dict[str, Any]:
        if not question["has_token"] or self._kind != "embedded" or question["method"] != "POST":
            raise InputError("a run can be served from here only if the service has a token and a store of its own")
        stock, given = await self._ready(), _body(question)
        arms = sweeps.arms_with(stock.shelf.release, _arm(stock, given.get("arm")), str(given.get("run", "")))
        load = functools.partial(sweeps.load, arms, self._store.folder, stock.shelf.release.experiment)
        return {"said": await asyncio.get_running_loop().run_in_executor(None, load)}


def _json(found: Any) -> bytes:
    return json.dumps(found, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _row(shelf: Shelf, given: Any) -> int:
    try:
        row = shelf.release.row_of(int(given))
    except (TypeError, ValueError, OverflowError):
        row = -1
    if row < 0:
        raise UnknownError(f"track {given} is not in the catalogue of {len(shelf):,} tracks; search for another one")
    return row


def _whole(given: str, least: int, most: int) -> int:
    if not given.isdecimal() or len(given) > len(str(most)) or not least <= int(given) <= most:
        raise InputError(f"num must be a whole number from {least} to {most}, got {given!r}")
    return int(given)


def _arm(stock: Stock, given: Any) -> str:
    if not isinstance(given, str) or given not in stock.shelf.release.arms:
        raise InputError(f"there is no arm {given!r}; there are {', '.join(stock.shelf.release.arms)}")
    return given


def _body(question: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(question["body"], dict):
        raise InputError("the body must be a JSON object")
    return question["body"]


async def serve(desk: Desk, socket: Path, parent: int) -> None:
    """Answer at a socket until the parent has ended or nobody has asked for a while.

    Args:
        desk: which answers.
        socket: the socket.
        parent: process id of the worker that started this process.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            status, kind, body = await desk.answer(json.loads(await reader.readline()))
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
    desk.begin()
    while not stopped.is_set() and os.getppid() == parent and desk.idle_s < IDLE_S:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), _TICK_S)
        await desk.follow()
    server.close()
    socket.unlink(missing_ok=True)
    desk.close()


def main(run_dir: Path, socket: Path, parent: int) -> None:
    """Run the desk, unless another one listens at the socket.

    Args:
        run_dir: run folder of the service.
        socket: where to listen.
        parent: process id of the worker that started this process.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s room: %(message)s", level=logging.WARNING)
    with contextlib.suppress(FileExistsError):
        socket.parent.mkdir(mode=0o700)
    if not is_private(socket.parent):
        _log.error(not_private(socket.parent))
        sys.exit(2)
    with (socket.parent / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        os.nice(_NICER)
        asyncio.run(serve(Desk(run_dir, _locate), socket, parent))
    os._exit(0)  # threads that still compute must not keep this process


def _locate(name: str) -> Path:
    from segue.tracking.recommenders import locate_recommendations  # imports MLflow, which takes seconds

    return locate_recommendations(name)


if __name__ == "__main__":
    _, *given = sys.argv
    main(Path(given[0]), Path(given[1]), int(given[2]))
