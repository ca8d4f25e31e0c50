"""The service: the predecessor's endpoints, and what operating one needs.

`ServiceApp` is the ASGI application. It answers `/next` and `/last`, which come thousands of times a second, itself;
all other pages are FastAPI's.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from src.serving.limits import RateLimit
from src.serving.log_writer import LogUnavailableError, now_ms
from src.serving.metrics import Metrics
from src.serving.pages import OUR_BUG, make_pages, unknown_track
from src.serving.state import State

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_log = logging.getLogger("segue.serving")

_LISTENING = ("/next/", "/last/")
_MOST_DIGITS = 18
_JSON = (b"content-type", b"application/json")


class Listened(BaseModel):
    """What a listener tells of the track that has just ended."""

    model_config = ConfigDict(strict=True)

    track: Annotated[int, Field(gt=-(2**63), lt=2**63, description="raw id of the track")]
    time: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, description="share of it that was played")]


class Refused(Exception):  # noqa: N818 - it is an answer
    """A request that gets another status than 200, and why."""

    def __init__(self, status: HTTPStatus, reason: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers)


class ServiceApp:
    """The service as an ASGI application.

    Args:
        state: what to work with.
        metrics: counts what happens.
        upkeep: runs beside the requests until cancelled.
        closing: is called at the end, when nothing more will be answered.
        max_body_bytes: of a request.
        body_timeout_s: seconds in which a body must have arrived.
        token: what a request must bear, if anything.
        rate_limit: of a client, if any.
        with_fallback: whether lines of the log say where an answer came from that no list gave.
    """

    def __init__(
        self,
        *,
        state: State,
        metrics: Metrics,
        upkeep: Iterable[Callable[[], Awaitable[None]]],
        closing: Iterable[Callable[[], Awaitable[None]]],
        max_body_bytes: int,
        body_timeout_s: int | float,
        token: str | None,
        rate_limit: RateLimit | None,
        with_fallback: bool,
    ) -> None:
        self.state, self._metrics = state, metrics
        self._upkeep, self._closing = list(upkeep), list(closing)
        self._max_body_bytes, self._body_timeout_s = max_body_bytes, body_timeout_s
        self._token = None if token is None else token.encode()
        self._rate_limit, self._with_fallback = rate_limit, with_fallback
        self._listened = TypeAdapter(Listened)
        self._pages = make_pages(state, listening=_listening_paths())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or start and stop."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        started = time.perf_counter()
        path: str = scope["path"]
        label = path[1:5] if path.startswith(_LISTENING) else "page"
        try:
            self._admit(scope, path)
            if label == "page":
                status = await self._page(scope, receive, send)
            else:
                body = await self._listen(label, scope, path, receive)
                status = HTTPStatus.OK
                await _send(send, status, body)
        except Refused as refused:
            status = refused.status
            await _send(send, status, _reason(refused.reason), refused.headers)
        except Exception:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            _log.exception("a bug: %s %s", scope["method"], label)
            await _send(send, status, _reason(OUR_BUG))
        self._metrics.answered(label, status, time.perf_counter() - started)

    def _admit(self, scope: Message, path: str) -> None:
        """Who may ask, and how often."""
        if path in ("/health", "/health/live"):
            return
        if self._token is not None:
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            scheme, _, secret = given.partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(secret, self._token):
                reason = "this service wants a token: send the header 'Authorization: Bearer <token>'"
                raise Refused(HTTPStatus.UNAUTHORIZED, reason, [("www-authenticate", "Bearer")])
        if self._rate_limit is not None:
            client = scope.get("client") or ("",)
            wait_s = self._rate_limit.take(client[0], time.monotonic())
            if wait_s:
                reason = f"more than {self._rate_limit.per_second:g} requests a second; wait {wait_s:.2f} s"
                raise Refused(HTTPStatus.TOO_MANY_REQUESTS, reason, [("retry-after", str(int(wait_s) + 1))])

    async def _listen(self, call: str, scope: Message, path: str, receive: Receive) -> bytes:
        """`POST /next/<user>` and `POST /last/<user>`."""
        arrived = time.perf_counter()
        digits = path[6:]
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS):
            raise Refused(HTTPStatus.NOT_FOUND, f"/{call}/<user> wants a user that is a whole number")
        if scope["method"] != "POST":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"/{call} wants POST", [("allow", "POST")])
        user = int(digits)
        try:
            listened = self._listened.validate_json(await self._read(scope, receive))
        except ValidationError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, _what_is_wrong(error)) from None
        state, now = self.state, now_ms()
        if state.log.problem:  # before the session hears of it
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, state.log.problem)
        recommender = state.recommender
        row = recommender.release.row_of(listened.track)
        if row < 0:
            raise Refused(HTTPStatus.NOT_FOUND, unknown_track(listened.track, recommender.release))
        arm = recommender.arm_of(user)
        head = (
            f'{{"message": "{call}", "timestamp": {now}, "user": {user}, '
            f'"track": {listened.track}, "time": {listened.time}, '
        )
        fallback = None
        if call == "next":
            played: list[int] = []
            if recommender.remembers(arm):
                played = await state.sessions.play(user, listened.track, now)
            following, fallback = recommender.follow(arm, row, played)
            if fallback:
                self._metrics.fell_back(arm, fallback)
            track = int(recommender.release.track_ids[following])
            recommendation, answer = str(track), b'{"user": %d, "track": %d}' % (user, track)
        else:
            if recommender.remembers(arm):
                await state.sessions.end(user)
            recommendation, answer = "null", b'{"user": %d}' % user
        extra = f', "fallback": {json.dumps(fallback)}' if self._with_fallback else ""
        line = (
            f'{head}"latency": {time.perf_counter() - arrived:.9f}, "recommendation": {recommendation}, '
            f'"experiments": {recommender.experiments[arm]}{extra}}}\n'
        )
        try:
            await state.log.append(line.encode())
        except LogUnavailableError as error:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
        return answer

    async def _read(self, scope: Message, receive: Receive) -> bytes:
        """The body, which must not be larger or slower than allowed."""
        for name, value in scope["headers"]:
            if name != b"content-length" or not value.isdigit():  # what is no length cannot make the body longer
                continue
            if len(value) > _MOST_DIGITS or int(value) > self._max_body_bytes:
                raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(HTTPStatus.BAD_REQUEST, "the client went away")
                    body += message.get("body", b"")
                    if len(body) > self._max_body_bytes:
                        raise self._too_large()
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            reason = f"the body took longer than {self._body_timeout_s:g} s"
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, reason, [("connection", "close")]) from None

    def _too_large(self) -> Refused:
        reason = f"a body must not be larger than {self._max_body_bytes} bytes"
        return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)

    async def _page(self, scope: Message, receive: Receive, send: Send) -> int:
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pages(scope, receive, noting)
        except Exception:
            if not status:
                raise
            _log.exception("a bug: %s page", scope["method"])  # Starlette raises it once more after its answer
        return status

    async def _live(self, receive: Receive, send: Send) -> None:
        tasks: list[asyncio.Task[None]] = []
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                tasks = [asyncio.ensure_future(work()) for work in self._upkeep]
                await send({"type": "lifespan.startup.complete"})
            else:
                for task in tasks:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.gather(*tasks, return_exceptions=True)
                for close in self._closing:
                    await close()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _send(send: Send, status: int, body: bytes, headers: MutableMapping[str, str] | None = None) -> None:
    more = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": int(status), "headers": [_JSON, length, *more]})
    await send({"type": "http.response.body", "body": body})


def _reason(text: str) -> bytes:
    return json.dumps({"reason": text}, ensure_ascii=False).encode("utf-8", "replace")


def _what_is_wrong(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "the body"
    return f'{where}: {first["msg"]}; expected {{"track": whole number, "time": share played, from 0 to 1}}'


def _listening_paths() -> dict[str, Any]:
    """OpenAPI of `/next` and `/last`."""

    def operation(summary: str, answer: dict[str, str]) -> dict[str, Any]:
        properties = {name: {"type": kind} for name, kind in answer.items()}
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        reasons = {
            "400": "the body is not as expected",
            "404": "no such track",
            "408": "the body came too slowly",
            "413": "the body is too large",
            "503": "nothing can be logged, so nothing is answered",
        }
        reason = {"type": "object", "properties": {"reason": {"type": "string"}}, "required": ["reason"]}
        responses = {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}}
        for status, text in reasons.items():
            responses[status] = {"description": text, "content": {"application/json": {"schema": reason}}}
        user = {"type": "integer", "minimum": 0, "maximum": 10**_MOST_DIGITS - 1}
        return {
            "summary": summary,
            "parameters": [{"name": "user", "in": "path", "required": True, "schema": user}],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": Listened.model_json_schema()}},
            },
            "responses": responses,
        }

    return {
        "/next/{user}": {
            "post": operation("What follows the track just played", {"user": "integer", "track": "integer"})
        },
        "/last/{user}": {"post": operation("The session is over", {"user": "integer"})},
    }
