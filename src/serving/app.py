"""The ASGI application of the service.

`ServiceApp` answers `/next` and `/last` itself, because they come thousands of times a second; FastAPI answers all
other pages.
"""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any, Protocol, runtime_checkable

from pydantic import ValidationError

from segue.assignment import GUESTS
from segue.catalog import key_of
from segue.serving.ids import as_json, id_in_path
from segue.serving.limits import RateLimit
from segue.serving.log_writer import LogUnavailableError, now_ms
from segue.serving.pages import INTERNAL_ERROR, PlayedTrack, make_pages, problem_of, unknown_track
from segue.serving.prometheus_metrics import Metrics
from segue.serving.recommender import Past
from segue.serving.session_memory import Noted
from segue.serving.settings import LimitSettings, LogSettings
from segue.serving.state import State

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_log = logging.getLogger("segue.serving")

_JSON = (b"content-type", b"application/json")
_MAX_DIGITS = 18  # of the length of a body


class Refusal(Exception):  # noqa: N818 - it is an answer
    """A request that is answered with another status than 200, and the reason."""

    def __init__(self, status: HTTPStatus, reason: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers)


@runtime_checkable
class Room(Protocol):
    """What answers the path `/room` and those below it: the listening room, an optional part."""

    open_paths: Collection[str]  # those that need no token

    async def close(self) -> None:
        """End what it has started."""

    async def __call__(self, scope: Message, body: bytes, send: Send) -> None:
        """Answer one request whose body has arrived."""


class ServiceApp:
    """The service as an ASGI application.

    Args:
        state: what the worker answers from.
        metrics: counts requests, plays and fallbacks.
        limits: of requests.
        logged: says which keys a line of the event log has.
        token: the token that a request must send, if any.
        room: answers `/room`, if there is one.
    """

    def __init__(
        self,
        state: State,
        metrics: Metrics,
        *,
        limits: LimitSettings,
        logged: LogSettings,
        token: str | None,
        room: Room | None = None,
    ) -> None:
        self.state, self._metrics = state, metrics
        self._limits, self._token = limits, None if token is None else token.encode()
        rate = limits.requests_per_second
        self._rate_limit = None if rate is None else RateLimit(per_second=rate, burst=limits.burst)
        self._with_fallback, self._with_propensity = logged.with_fallback, logged.with_propensity
        self._too_large = f"a body must not be larger than {limits.max_body_bytes} bytes"
        self._pages, self._room = make_pages(state), room

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; the server sends nothing else."""
        started = time.perf_counter()
        path: str = scope["raw_path"].decode("latin-1")  # undecoded: a %2F is no end of a part
        label = path[1:5] if path.startswith(("/next/", "/last/")) else "page"
        try:
            self._admit(scope, path)
            if label == "page":
                status = await self._page({**scope, "path": path}, receive, send)
            else:
                body = await self._answer_event(label, scope, path, receive)
                status = HTTPStatus.OK
                await _send(send, status, body)
        except Refusal as refusal:
            status = refusal.status
            await _refuse(send, status, refusal.reason, refusal.headers)
        except Exception:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            _log.exception("internal error: %s %s", scope["method"], label)
            await _refuse(send, status, INTERNAL_ERROR)
        self._metrics.answered(label, status, time.perf_counter() - started)

    def _admit(self, scope: Message, path: str) -> None:
        """Check the token, the page that a browser sends the request from, and the rate limit."""
        if path in ("/health", "/health/live") or (self._room is not None and path in self._room.open_paths):
            return
        if self._token is not None:
            header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            scheme, _, secret = header.partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(secret, self._token):
                reason = "this service requires a token: send the header 'Authorization: Bearer <token>'"
                raise Refusal(HTTPStatus.UNAUTHORIZED, reason, [("www-authenticate", "Bearer")])
        if scope["method"] == "POST":  # nothing else changes anything
            headers = dict(scope["headers"])
            if b"origin" in headers and not _is_of_own_page(headers):
                origin = headers[b"origin"].decode("latin-1")
                reason = f"only a page of this service may send this, and it came from a page of {origin!r}"
                raise Refusal(HTTPStatus.FORBIDDEN, reason)
        if self._rate_limit is not None:
            client = scope.get("client") or ("",)
            if wait_s := self._rate_limit.take(client[0], time.monotonic()):
                reason = f"more than {self._rate_limit.per_second:g} requests a second; wait {wait_s:.2f} s"
                raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, reason, [("retry-after", str(int(wait_s) + 1))])

    async def _answer_event(self, call: str, scope: Message, path: str, receive: Receive) -> bytes:
        """`POST /next/<user>` and `POST /last/<user>`."""
        arrived = time.perf_counter()
        try:
            user, user_key = id_in_path(path[6:])
        except ValueError as error:
            raise Refusal(HTTPStatus.NOT_FOUND, f"/{call}/<user>: user {error}") from None
        if scope["method"] != "POST":
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"/{call} accepts POST only", [("allow", "POST")])
        try:
            played = PlayedTrack.model_validate_json(await self._read(scope, receive))
        except ValidationError as error:
            expected = 'expected {"track": id, "time": share played, from 0 to 1}'
            reason = f"{problem_of(error.errors(include_url=False)[0])}; {expected}"
            raise Refusal(HTTPStatus.BAD_REQUEST, reason) from None
        state, now = self.state, now_ms()
        if state.log.problem:  # before the track is added to the session
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, state.log.problem)
        track_key = key_of(played.track)
        if state.recommender.release.row_of(track_key) < 0:
            await state.look_again()  # another worker may have recommended it, from a newer release
        recommender, release = state.recommender, state.recommender.release
        if (row := release.row_of(track_key)) < 0:
            raise Refusal(HTTPStatus.NOT_FOUND, unknown_track(played.track, release))
        arm = recommender.arm_of(user)
        listener, fallback, extra, past, last_plays = as_json(user), None, "", None, None
        remembers, profiles = state.remember.remembers(played.remember), state.profiles
        if recommender.knows_listeners and profiles is not None and remembers and user_key not in GUESTS:
            past = Past(await profiles.play(user_key, track_key, played.time, now), now)
        if recommender.own and remembers:  # in any arm, as users change theirs
            last_plays = await state.last_plays.play(user_key, track_key, played.time, now)
        if call == "next":
            if recommender.needs_session(arm):
                session = last_plays if arm in recommender.own else None
                session = session or await state.sessions.play(user_key, track_key, played.time, now)
                following, fallback, propensity = await recommender.ask(arm, user_key, row, session, past)
            else:
                following, fallback, propensity = recommender.follow(arm, user_key, row)
            if fallback:
                self._metrics.fell_back(arm, fallback)
            if release.arms[arm].is_of_session:
                given = int(release.keys[following]), propensity, fallback is not None, release.version
                await state.sessions.note(user_key, Noted(*given, with_past=past is not None and len(past.entries) > 0))
            recommendation = as_json(release.id_of(following))
            answer = f'{{"user": {listener}, "track": {recommendation}}}'
            if self._with_propensity:
                extra = f', "propensity": {propensity}, "release": {recommender.version}'
        else:
            if recommender.needs_session(arm):
                await state.sessions.end(user_key)
            recommendation, answer = "null", f'{{"user": {listener}}}'
        if self._with_fallback:
            extra += f', "fallback": {json.dumps(fallback)}'
        if played.remember is False or (state.remember.remember == "consenting" and not remembers):
            extra += ', "remember": false'
        line = (
            f'{{"message": "{call}", "timestamp": {now}, "user": {listener}, "track": {as_json(release.id_of(row))}, '
            f'"time": {played.time}, "latency": {time.perf_counter() - arrived:.9f}, '
            f'"recommendation": {recommendation}, "experiments": {recommender.experiments[arm]}{extra}}}\n'
        )
        try:
            await state.log.append(line.encode())
        except LogUnavailableError as error:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
        self._metrics.played(release.experiment, arm, call, played.time)
        return answer.encode()

    async def _read(self, scope: Message, receive: Receive) -> bytes:
        """Read the body within the limits of size and time."""
        most_bytes = self._limits.max_body_bytes
        for name, value in scope["headers"]:
            # an invalid length cannot make the body longer
            if name == b"content-length" and value.isdigit() and (len(value) > _MAX_DIGITS or int(value) > most_bytes):
                raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large)
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(HTTPStatus.BAD_REQUEST, "the client closed the connection")
                    body += message.get("body", b"")
                    if len(body) > most_bytes:
                        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large)
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            reason = f"the body took longer than {self._limits.body_timeout_s:g} s"
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, reason, [("connection", "close")]) from None

    async def _page(self, scope: Message, receive: Receive, send: Send) -> int:
        status = 0
        if scope["method"] == "HEAD":  # as GET; the server leaves the body out
            scope = {**scope, "method": "GET"}

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._room is not None and f"{scope['path']}/".startswith("/room/"):
                await self._room(scope, await self._read(scope, receive), send_and_note)
            else:
                await self._pages(scope, receive, send_and_note)
        except Exception:
            if not status:
                raise
            _log.exception("internal error: %s page", scope["method"])  # Starlette raises it again after its answer
        return status


async def _refuse(send: Send, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
    body = json.dumps({"reason": reason}, ensure_ascii=False).encode("utf-8", "replace")
    await _send(send, status, body, [(name.encode(), value.encode()) for name, value in (headers or {}).items()])


async def _send(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": int(status), "headers": [_JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body})


def _is_of_own_page(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser sent a request, which has an `Origin`, from a page of this service.

    A browser sends what a page of any site wants to be sent. Of old browsers, and without TLS, only the host says it.
    """
    if (site := headers.get(b"sec-fetch-site")) is not None:
        return site in (b"same-origin", b"none")
    return headers[b"origin"].partition(b"://")[2] == headers.get(b"host")
