"""All pages of the service but `/next` and `/last`, which `/docs` describes with them."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from src.serving.metrics import exposition
from src.serving.release import Release
from src.serving.state import State

OUR_BUG = "a bug of ours; the service's own log has more"


class _Pages(FastAPI):
    listening: Mapping[str, Any]

    def openapi(self) -> dict[str, Any]:
        """As FastAPI has it, with `/next` and `/last` before the pages."""
        if not self.openapi_schema:
            schema = super().openapi()
            schema["paths"] = {**self.listening, **schema["paths"]}
        return super().openapi()


def make_pages(state: State, *, listening: Mapping[str, Any]) -> FastAPI:
    """The pages of a service.

    Args:
        state: what to show.
        listening: OpenAPI of `/next` and `/last`.
    """
    app = _Pages(
        title="Segue", summary="Which track should follow which.", version=state.release.version, redirect_slashes=False
    )
    app.listening = listening
    Id = Annotated[int, Path(gt=-(2**63), lt=2**63)]  # noqa: N806 - a type

    @app.exception_handler(HTTPException)
    async def refuse(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"reason": str(error.detail)}, error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def admit_bug(_: Request, __: Exception) -> Response:
        return JSONResponse({"reason": OUR_BUG}, HTTPStatus.INTERNAL_SERVER_ERROR)

    @app.exception_handler(RequestValidationError)
    async def refuse_value(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return JSONResponse({"reason": f"{where}: {first['msg']}"}, HTTPStatus.NOT_FOUND)

    @app.get("/")
    async def root() -> dict[str, str]:
        """The service is there."""
        return {"status": "alive", "message": "Segue: POST /next/<user> tells what follows; see /docs"}

    @app.get("/track/{track}")
    async def track_record(track: Id) -> dict[str, Any]:
        """The record of a track."""
        return state.release.track(_row(state.release, track))

    @app.get("/recommendations/{track}")
    async def recommendations(track: Id) -> dict[str, Any]:
        """Each arm's list after a track, best first."""
        release = state.release
        row = _row(release, track)
        return {
            **release.track(row),
            "version": release.version,
            "recommendations": {arm: release.recommended(arm, row) for arm in release.arms},
        }

    @app.get("/experiments")
    async def experiments() -> dict[str, Any]:
        """The experiment that is served, and its arms."""
        release = state.release
        arms = {
            arm: {"recommender": given.recommender, "policy": given.policy}
            | ({"pick": given.pick, "artist_gap": given.artist_gap} if given.policy == "lists" else {})
            for arm, given in release.arms.items()
        }
        return {"experiment": release.experiment, "arms": arms, "version": release.version, "tracks": len(release)}

    @app.get("/health")
    async def health() -> Response:
        """Whether requests can be answered (200) or not (503), and what is wrong."""
        is_ready = state.log.problem is None
        problems = state.problems()
        status = "unready" if not is_ready else "degraded" if problems else "ok"
        body = {"status": status, "live": True, "ready": is_ready, "problems": problems}
        body["version"] = state.release.version
        return JSONResponse(body, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)

    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        """The process is there."""
        return {"live": True}

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus; of all workers of this machine."""
        return PlainTextResponse(exposition(state.workers), media_type=CONTENT_TYPE_LATEST)

    return app


def _row(release: Release, track: int) -> int:
    row = release.row_of(track)
    if row < 0:
        raise HTTPException(HTTPStatus.NOT_FOUND, unknown_track(track, release))
    return row


def unknown_track(track: int, release: Release) -> str:
    """Why a request for a track gets 404."""
    return f"track {track} is not in the catalogue of {len(release)} tracks"
