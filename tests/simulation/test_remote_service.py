"""A service over HTTP as an arm: what it is asked, and which services are refused."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from segue.errors import InputError
from segue.simulation.listener import start
from segue.simulation.policies import RemoteService
from segue.simulation.world import World
from tests.e2e.running import PATIENCE_S
from tests.odd_ids import ODD_IDS, with_texts


@pytest.fixture(scope="module")
def odd_world(world: World) -> World:
    """A world whose tracks and listeners have texts as ids."""
    users = np.array([f"listener {number}" for number in range(len(world.listeners))], object)
    users[: len(ODD_IDS)] = ODD_IDS
    return replace(world, catalog=with_texts(world.catalog), listeners=replace(world.listeners, user_ids=users))


@dataclass
class Service:
    """What a service has, and what it was asked."""

    tracks: dict[str, dict[str, Any]]
    answer: Callable[[Any], Any] = lambda track: track
    url: str = ""
    posts: list[tuple[str, str, Any]] = field(default_factory=list)

    def get(self, path: str) -> Any:
        """The answer to a GET; None for 404."""
        track = path.removeprefix("/track/")
        return self.tracks.get(unquote(track))

    def post(self, path: str, body: Any) -> Any:
        """The answer to a POST."""
        _, call, user = path.split("/")
        self.posts.append((call, unquote(user), body))
        return {"user": unquote(user), "track": self.answer(body["track"])}


@pytest.fixture
def service(odd_world: World) -> Iterator[Service]:
    catalog = odd_world.catalog
    artists = catalog.artists[catalog.artist_of].tolist()
    records = zip(catalog.track_ids.tolist(), catalog.titles.tolist(), artists, strict=True)
    tracks = {track: {"track": track, "title": title, "artist": artist} for track, title, artist in records}
    ours = Service(tracks)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply(ours.get(self.path))

        def do_POST(self) -> None:
            self.reply(ours.post(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def reply(self, answer: Any) -> None:
            content = json.dumps(answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    ours.url = f"http://127.0.0.1:{server.server_port}"
    yield ours
    server.shutdown()
    server.server_close()
    thread.join()


def policy_of(service: Service, world: World) -> RemoteService:
    return RemoteService(url=service.url, connections=4, retries=0, timeout_s=PATIENCE_S, token=None, world=world)


def test_ids_are_one_part_of_the_path_and_texts_in_the_body(service: Service, odd_world: World) -> None:
    """Every listener asks once; the service recommends the track that was played."""
    everyone = np.arange(len(odd_world.listeners))
    crowd = start(odd_world, everyone, np.full(len(everyone), 0.5), np.full(len(everyone), 0.5))
    policy = policy_of(service, odd_world)
    policy.check()
    try:
        assert (policy.recommend(crowd).tracks == crowd.current).all()
        policy.finish(crowd)
    finally:
        policy.close()
    users, tracks = odd_world.listeners.user_ids.tolist(), odd_world.catalog.track_ids[crowd.current].tolist()
    for call in ("next", "last"):
        asked = {user: body["track"] for one, user, body in service.posts if one == call}
        assert asked == dict(zip(users, tracks, strict=True))


@pytest.mark.parametrize("track", ["abC", "", 1.5, None])
def test_an_answer_that_is_no_track_of_the_world_is_refused(service: Service, odd_world: World, track: Any) -> None:
    service.answer = lambda _: track
    policy = policy_of(service, odd_world)
    try:
        with pytest.raises(
            InputError, match=rf"recommends {track!r}, which is not one of the 400 tracks of this world"
        ):
            policy.recommend(start(odd_world, np.arange(1), np.full(1, 0.5), np.full(1, 0.5)))
    finally:
        policy.close()


def test_a_service_with_another_catalogue_is_refused(service: Service, odd_world: World, world: World) -> None:
    """Other ids, an id that is another song, and a track too few."""
    remedy = "; start the service with recommendations for this world, or simulate listeners of its tracks: world=cat"
    with pytest.raises(InputError, match=rf"track 0 is .* here, and None there{remedy}"):
        policy_of(service, world).check()
    first, last = odd_world.catalog.track_ids[[0, -1]]
    for name, other in (("title", "Another"), ("artist", "<b>Somebody</b>")):
        record = service.tracks[first]
        service.tracks[first] = {**record, name: other}
        with pytest.raises(InputError, match=rf"track {first} is .* here, and .*{other}.* there{remedy}"):
            policy_of(service, odd_world).check()
        service.tracks[first] = {**record, name: None}  # botify of 2023 does not know all of them
        policy_of(service, odd_world).check()
        service.tracks[first] = record
    del service.tracks[last]
    with pytest.raises(InputError, match=rf"track {last} is .* here, and None there{remedy}"):
        policy_of(service, odd_world).check()
