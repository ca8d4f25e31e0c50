"""What Segue's service is compared with: the predecessor's, as a competent person would write it anew.

Flask, one gevent worker of gunicorn, lists in Redis as JSON, the event log by Python's logging. `study.py` starts it:
`gunicorn -k gevent -w 1 --pythonpath experiments/serving "rival:make_app(<port of Redis>, '<folder of the log>')"`.
Not on gevent's own server, as the predecessor: that sends the head of an answer and then its body, and so
waits some 40 ms for the client's acknowledgement where connections are kept. That is the predecessor's 180 requests/s.
"""

import json
import logging
import random
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import mmh3
from flask import Flask, Response, abort, request
from redis import BlockingConnectionPool, Redis

EXPERIMENT, ARMS = "SEGUE", ("C",)


def make_app(redis_port: int, folder: str) -> Flask:
    app = Flask("rival")
    # redis-py opens no more than a hundred connections, and fails instead of waiting, unless told
    pool = BlockingConnectionPool(port=redis_port, max_connections=64, timeout=5)  # type: ignore[no-untyped-call]
    redis = Redis(connection_pool=pool)
    log = event_log(Path(folder))
    salt = mmh3.hash(EXPERIMENT) & 0xFFFFFFFF

    def arm_of(user: int) -> str:
        return ARMS[mmh3.hash(str(user), salt, signed=False) % len(ARMS)]

    def listened() -> tuple[int, float]:
        given = request.get_json(silent=True)
        if not isinstance(given, dict):
            abort(400)
        track, share = given.get("track"), given.get("time")
        if not isinstance(track, int) or not isinstance(share, int | float) or bool in (type(track), type(share)):
            abort(400)
        if not 0 <= share <= 1:
            abort(400)
        return track, float(share)

    def note(message: str, user: int, track: int, share: float, began: float, recommendation: int | None) -> None:
        event = {
            "message": message,
            "timestamp": time.time_ns() // 1_000_000,
            "user": user,
            "track": track,
            "time": share,
            "latency": time.perf_counter() - began,
            "recommendation": recommendation,
            "experiments": {EXPERIMENT: arm_of(user)},
        }
        log.info(json.dumps(event))

    def answer(content: dict[str, Any]) -> Response:
        return Response(json.dumps(content), mimetype="application/json")

    @app.post("/next/<int:user>")
    def following(user: int) -> Response:
        began = time.perf_counter()
        track, share = listened()
        value: Any = redis.get(f"recommendations:{track}")
        if value is None:
            abort(404)
        recommendation = random.choice(json.loads(value))
        note("next", user, track, share, began, recommendation)
        return answer({"user": user, "track": recommendation})

    @app.post("/last/<int:user>")
    def last(user: int) -> Response:
        began = time.perf_counter()
        track, share = listened()
        note("last", user, track, share, began, None)
        return answer({"user": user})

    @app.get("/health")
    def health() -> Response:
        return answer({"ready": redis.ping()})

    return app


def event_log(folder: Path) -> logging.Logger:
    folder.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(folder / "data.json", maxBytes=100_000_000, backupCount=10, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("events")
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    return log
