"""A service with the endpoints of the real one that only answers, to measure its clients.

python experiments/throughput/service.py <number of tracks>; prints its address.
"""

import socket
import sys

from aiohttp import web


def main(num_tracks: int) -> None:
    async def follow(request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"user": int(request.match_info["user"]), "track": (body["track"] + 1) % num_tracks})

    async def last(request: web.Request) -> web.Response:
        await request.json()
        return web.json_response({"user": int(request.match_info["user"])})

    async def record(request: web.Request) -> web.Response:
        return web.json_response({"track": int(request.match_info["track"])})

    async def announce(_: web.Application) -> None:
        print(f"http://127.0.0.1:{port}", flush=True)

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    app = web.Application()
    app.add_routes(
        [web.post("/next/{user}", follow), web.post("/last/{user}", last), web.get("/track/{track}", record)]
    )
    app.on_startup.append(announce)
    web.run_app(app, sock=listener, print=None, access_log=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
