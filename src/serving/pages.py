"""All pages of the service except `/next` and `/last`, which `/docs` describes as well."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from segue.serving.docs_page import DOCS, POLICY
from segue.serving.explanation import explain
from segue.serving.log_writer import now_ms
from segue.serving.prometheus_metrics import exposition
from segue.serving.release import Release
from segue.serving.state import State

INTERNAL_ERROR = "internal error; the service's own log has the details"

_REASONS = {
    400: "the body is not as expected",
    401: "the token is missing or wrong",
    403: "a browser sent it from a page of another site",
    404: "there is nothing to explain, or the track is not in the catalogue, or the user is not a whole number of at "
    "most 18 digits",
    408: "the body took too long to arrive",
    413: "the body is too large",
    429: "too many requests of this client",
    500: "an internal error; the terminal of the service shows the details",
    503: "the event log cannot be written",
}
_OPEN = ("/health", "/health/live")
"""Paths without token and rate limit."""


def refusals(*statuses: int) -> dict[str, Any]:
    """OpenAPI description of the answers that have a reason.

    Args:
        statuses: their statuses.
    """
    reason = {"type": "object", "properties": {"reason": {"type": "string"}}, "required": ["reason"]}
    content = {"application/json": {"schema": reason}}
    return {str(status): {"description": _REASONS[status], "content": content} for status in statuses}


class _Pages(FastAPI):
    event_paths: Mapping[str, Any]

    def openapi(self) -> dict[str, Any]:
        """The description by FastAPI, with our refusals, and with `/next` and `/last` before the other pages."""
        if not self.openapi_schema:
            schema = super().openapi()
            for path, operations in schema["paths"].items():
                for answers in (operation["responses"] for operation in operations.values()):
                    has_value = answers.pop("422", None) is not None  # `refuse_value` answers with 404, as Flask does
                    answers |= refusals(*[404] * has_value, *[401, 429] * (path not in _OPEN), 500)
            del schema["components"]  # the form of a 422
            schema["paths"] = {**self.event_paths, **schema["paths"]}
        return super().openapi()


def make_pages(state: State, *, event_paths: Mapping[str, Any]) -> FastAPI:
    """The pages of a service.

    Args:
        state: what the pages show.
        event_paths: OpenAPI description of `/next` and `/last`.
    """
    app = _Pages(
        title="Segue",
        summary="Recommends the next track.",
        version=state.release.version,
        redirect_slashes=False,
        docs_url=None,  # those of FastAPI load their scripts from a public host
        redoc_url=None,
    )
    app.event_paths = event_paths
    Id = Annotated[int, Path(gt=-(2**63), lt=2**63)]  # noqa: N806 - a type

    @app.exception_handler(HTTPException)
    async def refuse(_: Request, error: HTTPException) -> Response:
        headers = {"allow": "GET, HEAD"} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
        return JSONResponse({"reason": str(error.detail)}, error.status_code, headers=headers)

    @app.exception_handler(Exception)
    async def report_internal_error(_: Request, __: Exception) -> Response:
        return JSONResponse({"reason": INTERNAL_ERROR}, HTTPStatus.INTERNAL_SERVER_ERROR)

    @app.exception_handler(RequestValidationError)
    async def refuse_value(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return JSONResponse({"reason": f"{where}: {first['msg']}"}, HTTPStatus.NOT_FOUND)

    @app.get("/")
    async def root() -> dict[str, str]:
        """The service is running."""
        return {"status": "alive", "message": "Segue: POST /next/<user> answers the next track; see /docs"}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(DOCS, headers={"content-security-policy": POLICY})

    @app.get("/track/{track}")
    async def track_record(track: Id) -> dict[str, Any]:
        """The record of a track, with the ids that the first arm with lists of tracks has after it, best first."""
        release = state.release
        row = _row(release, track)
        return {**release.track(row), "recommendations": release.recommended_ids(row)}

    @app.get("/recommendations/{track}")
    async def recommendations(track: Id) -> dict[str, Any]:
        """The list of each arm after a track, best first."""
        release = state.release
        row = _row(release, track)
        return {
            **release.track(row),
            "version": release.version,
            "recommendations": {arm: release.recommended(arm, row) for arm in release.arms},
        }

    @app.get("/experiments")
    async def experiments() -> dict[str, Any]:
        """The experiment and its arms."""
        release = state.release
        arms = {
            name: {"recommender": arm.recommender, "policy": arm.policy}
            | ({"pick": arm.pick, "artist_gap": arm.artist_gap} if arm.has_lists else {})
            | ({"context": arm.context, "num_lists": arm.num_lists} if arm.is_of_session else {})
            | (_exploration(release, name) if arm.exploration else {})
            for name, arm in release.arms.items()
        }
        return {"experiment": release.experiment, "arms": arms, "version": release.version, "tracks": len(release)}

    @app.get("/explain/{user}")
    async def explain_last_answer(user: Annotated[int, Path(ge=0, lt=10**18)]) -> dict[str, Any]:
        """Why the last answer to a user: the session and its weights, and the score by parts. For `context=session`."""
        recommender = state.recommender
        arm = recommender.arm_of(user)
        if not recommender.release.arms[arm].is_of_session:
            reason = f"user {user} is in arm {arm}, which does not answer from the session (context=session)"
            raise HTTPException(HTTPStatus.NOT_FOUND, f"{reason}; /recommendations/<track> shows its lists")
        kept = await state.sessions.look(user, now_ms())
        if kept is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"user {user} has no session with an answer to explain")
        if kept[1].release != recommender.release.version:
            reason = f"user {user} was answered by release {kept[1].release}, which is not served any more"
            raise HTTPException(HTTPStatus.NOT_FOUND, reason)
        return explain(recommender, arm, user, *kept)

    @app.get("/health", responses={503: {"description": "Requests are not answered"}})
    async def health() -> Response:
        """Whether requests are answered (200) or not (503), and the problems of this service."""
        is_ready = state.log.problem is None
        problems = state.problems()
        status = "unready" if not is_ready else "degraded" if problems else "ok"
        body = {"status": status, "live": True, "ready": is_ready, "problems": problems}
        body["version"] = state.release.version
        return JSONResponse(body, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)

    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        """The process is running."""
        return {"live": True}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics of all workers of this service, in Prometheus' text format."""
        return PlainTextResponse(exposition(state.workers), media_type=CONTENT_TYPE_LATEST)

    return app


def _exploration(release: Release, arm: str) -> dict[str, Any]:
    """How an arm explores, and how many tracks are new."""
    given = release.arms[arm]
    num = {"exploration_plays": given.exploration_plays, "new_tracks": len(release.new[arm])}
    return {"exploration": given.exploration, **num}


def _row(release: Release, track: int) -> int:
    row = release.row_of(track)
    if row < 0:
        raise HTTPException(HTTPStatus.NOT_FOUND, unknown_track(track, release))
    return row


def unknown_track(track: int, release: Release) -> str:
    """The reason of a 404 for a track."""
    return f"track {track} is not in the catalogue of {len(release)} tracks"
