"""All pages of the service except `/next` and `/last`, which are described here as well."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from starlette.exceptions import HTTPException

from segue.catalog import AN_ID, Id, key_of
from segue.runs.profiles import ENTRY
from segue.serving.explanation import explain, profile_of
from segue.serving.ids import as_json, id_in_path, id_of_json
from segue.serving.log_writer import now_ms
from segue.serving.prometheus_metrics import exposition
from segue.serving.recommender import Past
from segue.serving.release import Release
from segue.serving.state import State

INTERNAL_ERROR = "internal error; the service's own log has the details"

_REASONS = {
    400: "the body is not as expected",
    401: "the token is missing or wrong",
    403: "a browser sent it from a page of another site",
    404: "there is nothing to explain, or the track is not in the catalogue, or what the path ends in is no id",
    408: "the body took too long to arrive",
    413: "the body is too large",
    429: "too many requests of this client",
    500: "an internal error; the terminal of the service shows the details",
    503: "the event log cannot be written",
}
_OPEN = ("/health", "/health/live")  # paths without token and rate limit

# The page at `/docs`: all endpoints, to read and to try. It loads nothing else but `/openapi.json`.
_DOCS = Path(__file__).with_name("docs.html").read_text(encoding="utf-8")

_IN_PATH = PlainValidator(lambda part: id_in_path(part)[0], json_schema_input_type=str)
Track = Annotated[Id, _IN_PATH, InPath(description=f"id of the track, percent-encoded: {AN_ID}")]
User = Annotated[Id, _IN_PATH, InPath(description=f"id of the user, percent-encoded: {AN_ID}")]


class PlayedTrack(BaseModel):
    """Body of `/next` and `/last`: the track that has just ended."""

    model_config = ConfigDict(strict=True)

    track: Annotated[
        Id, PlainValidator(id_of_json, json_schema_input_type=Id), Field(description=f"id of the track: {AN_ID}")
    ]
    time: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, description="share of it that was played")]
    remember: Annotated[
        bool | None, Field(description="whether it may be kept in the listener's profile and be answered from it")
    ] = None


class Ended(BaseModel):
    """Answer of `/last`."""

    user: Id


class NextTrack(Ended):
    """Answer of `/next`."""

    track: Id


def _hash_of(element: str) -> str:
    """The hash by which a content security policy knows the one script or style of the page at `/docs`."""
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", _DOCS, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


# Content security policy of that page.
_POLICY = (
    f"default-src 'none'; script-src {_hash_of('script')}; style-src {_hash_of('style')}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI description of the answers that have a reason."""
    reason = {"type": "object", "properties": {"reason": {"type": "string"}}, "required": ["reason"]}
    content = {"application/json": {"schema": reason}}
    return {str(status): {"description": _REASONS[status], "content": content} for status in statuses}


class _Pages(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The description by FastAPI, with our refusals, and in one piece."""
        if not self.openapi_schema:
            schema = super().openapi()
            for path, operations in schema["paths"].items():
                for answers in (operation["responses"] for operation in operations.values()):
                    has_value = answers.pop("422", None) is not None  # `refuse_value` answers with 404, as Flask does
                    answers |= _refusals(*[404] * has_value, *[401, 429] * (path not in _OPEN), 500)
            parts, text = schema.pop("components")["schemas"], json.dumps(schema)
            for name, part in parts.items():
                text = text.replace(json.dumps({"$ref": f"#/components/schemas/{name}"}), json.dumps(part))
            self.openapi_schema = json.loads(text)
        return self.openapi_schema


def make_pages(state: State) -> FastAPI:
    """The pages of a service.

    Args:
        state: what the pages show.
    """
    app = _Pages(
        title="Segue",
        summary="Recommends the next track.",
        version=state.recommender.release.version,
        redirect_slashes=False,
        docs_url=None,  # those of FastAPI load their scripts from a public host
        redoc_url=None,
    )

    @app.exception_handler(HTTPException)
    async def refuse(_: Request, error: HTTPException) -> Response:
        headers = {"allow": "GET, HEAD"} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
        return JSONResponse({"reason": str(error.detail)}, error.status_code, headers=headers)

    @app.exception_handler(Exception)
    async def report_internal_error(_: Request, __: Exception) -> Response:
        return JSONResponse({"reason": INTERNAL_ERROR}, HTTPStatus.INTERNAL_SERVER_ERROR)

    @app.exception_handler(RequestValidationError)
    async def refuse_value(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"reason": problem_of(error.errors()[0])}, HTTPStatus.NOT_FOUND)

    async def answer(user: User, played: PlayedTrack) -> None:  # noqa: ARG001 - ServiceApp answers before
        raise AssertionError

    for path, made, summary in (
        ("/next/{user}", NextTrack, "The next track after the one just played"),
        ("/last/{user}", Ended, "The session has ended"),
    ):
        app.post(path, response_model=made, summary=summary, responses=_refusals(400, 403, 408, 413, 503))(answer)

    @app.get("/")
    async def root() -> dict[str, str]:
        """The service is running."""
        return {"status": "alive", "message": "Segue: POST /next/<user> answers the next track; see /docs"}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(_DOCS, headers={"content-security-policy": _POLICY})

    @app.get("/track/{track}")
    async def track_record(track: Track) -> dict[str, Any]:
        """The record of a track, with the ids that the first arm with lists of tracks has after it, best first."""
        release = state.recommender.release
        row = _row(release, track)
        return {**release.track(row), "recommendations": release.recommended_ids(row)}

    @app.get("/recommendations/{track}")
    async def recommendations(track: Track) -> dict[str, Any]:
        """The list of each arm after a track, best first."""
        release = state.recommender.release
        row = _row(release, track)
        return {
            **release.track(row),
            "version": release.version,
            "recommendations": {arm: release.recommended(arm, row) for arm in release.arms},
        }

    @app.get("/experiments")
    async def experiments() -> dict[str, Any]:
        """The experiment and its arms."""
        release = state.recommender.release
        arms = {name: arm.record() for name, arm in release.arms.items()}
        described = {"experiment": release.experiment, "arms": arms, "version": release.version, "tracks": len(release)}
        return described | ({"kept": len(release.kept)} if len(release.kept) else {})

    @app.get("/explain/{user}")
    async def explain_last_answer(user: User) -> dict[str, Any]:
        """Why the last answer to a user: the score by parts, and what each track of the session adds.

        For arms with `context=session` or `context=listener`.
        """
        recommender, name = state.recommender, f"user {as_json(user)}"
        arm = recommender.arm_of(user)
        if not recommender.release.arms[arm].is_of_session:
            reason = f"{name} is in arm {arm}, which does not answer from the session (context=session or listener)"
            raise HTTPException(HTTPStatus.NOT_FOUND, f"{reason}; /recommendations/<track> shows its lists")
        if (kept := await state.sessions.look(key_of(user), now_ms())) is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"{name} has no session with an answer to explain")
        if kept[1].release != recommender.release.version:
            reason = f"{name} was answered by release {kept[1].release}, which is not served any more"
            raise HTTPException(HTTPStatus.NOT_FOUND, reason)
        past = None
        if kept[1].with_past and state.profiles is not None:
            profile = await state.profiles.look(key_of(user), now_ms())
            past = Past(profile, int(profile["last_ms"].max(initial=0)))  # when it was answered, a play was added
        return explain(recommender, arm, user, *kept, past)

    @app.get("/profile/{user}")
    async def profile(user: User) -> dict[str, Any]:
        """What is remembered of a listener over all sessions, for `context=listener`."""
        entries = np.zeros(0, ENTRY) if state.profiles is None else await state.profiles.look(key_of(user), now_ms())
        if not len(entries):
            raise HTTPException(HTTPStatus.NOT_FOUND, f"user {as_json(user)} has no profile")
        return {"user": user, "tracks": profile_of(state.recommender.release, entries, now_ms())}

    @app.get("/health", responses={503: {"description": "Requests are not answered"}})
    async def health() -> Response:
        """Whether requests are answered (200) or not (503), and the problems of this service."""
        is_ready, problems = state.log.problem is None, state.problems()
        status = "unready" if not is_ready else "degraded" if problems else "ok"
        body = {"status": status, "live": True, "ready": is_ready, "problems": problems}
        body |= {"version": state.recommender.release.version}
        return JSONResponse(body, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)

    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        """The process is running."""
        return {"live": True}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics of all workers of this service, in Prometheus' text format."""
        return PlainTextResponse(exposition(state.workers, state.recommender.release), media_type=CONTENT_TYPE_LATEST)

    return app


def _row(release: Release, track: Id) -> int:
    if (row := release.row_of(key_of(track))) < 0:
        raise HTTPException(HTTPStatus.NOT_FOUND, unknown_track(track, release))
    return row


def unknown_track(track: Id, release: Release) -> str:
    """The reason of a 404 for a track."""
    return f"track {as_json(track)} is not in the catalogue of {len(release)} tracks"


def problem_of(error: Mapping[str, Any]) -> str:
    """What is wrong, in the words of ours where pydantic has them.

    Args:
        error: an error of pydantic.
    """
    where = ".".join(map(str, error["loc"])) or "the body"
    return f"{where} {error['ctx']['error']}" if error["type"] == "value_error" else f"{where}: {error['msg']}"
