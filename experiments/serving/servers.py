"""Which server under the service, and whose routes: python experiments/serving/servers.py

The same application under Granian and under uvicorn, and with `/next` as a route of FastAPI's own; wrk takes turns, 64
connections. Writes servers.md and servers.json beside this file.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.runs import markdown
from experiments.serving.services import (
    Running,
    catalogue,
    drive,
    load_release,
    process,
    random_lists,
    segue,
    stop_in_order,
    wait,
)
from experiments.serving.study import of, spread
from src.runs.atomic import write_record
from src.runs.provenance import provenance
from src.serving.server import SETTINGS, Settings, free_port, import_service, make_service
from src.serving.store import FolderStore
from src.terminal.console import ROOT, console, progress

HERE = Path(__file__).parent
NUM_TRACKS = 50_000
UVICORN = "uvicorn, httptools, uvloop"
GRANIAN = "Granian, uvloop (what serve.py runs)"
ROUTES = "uvicorn, httptools, uvloop; /next a route of FastAPI"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seconds", type=int, default=3, help="of load in each run")
    words.add_argument("--rounds", type=int, default=5, help="in which each has its turn")
    words.add_argument("--child", nargs=3, metavar=("APP", "RUN", "PORT"), help="to be one of them")
    given = words.parse_args()
    if given.child:
        be(given.child[0], Path(given.child[1]), int(given.child[2]))
        return
    stop_in_order()
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="segue-servers-") as folder, ExitStack() as stack:
        work = Path(folder)
        lists = random_lists(NUM_TRACKS, np.random.default_rng(0))
        load_release(FolderStore(work / "store", keep=5), catalogue(NUM_TRACKS), lists)
        ours = stack.enter_context(segue(work / "granian", f"store.folder={work / 'store'}"))
        services = {GRANIAN: ours}
        for name, app in ((UVICORN, "own"), (ROUTES, "fastapi")):
            services[name] = stack.enter_context(under_uvicorn(app, work / "granian", work / app))
        with progress("rounds", given.rounds * len(services)) as advance:
            for number in range(given.rounds + 1):  # the first warms up
                for name, service in services.items():
                    load = {"connections": 64, "seconds": given.seconds if number else 1, "num_tracks": NUM_TRACKS}
                    run = {"service": name, **drive(service, **load, seed=number)}
                    runs += [run] * (number > 0)
                    advance(number > 0)
    rows = [
        {
            "server": name,
            "": "",
            "requests/s": spread(of(runs, "requests_per_second", service=name)),
            "p99 ms": spread(of(runs, "p99_ms", service=name), ".1f"),
            "CPU µs a request": spread(of(runs, "cpu_us_per_request", service=name)),
        }
        for name in services
    ]
    others = spread([run["cores_of_others"] for run in runs], ".2f")
    head = (
        f"Median (least–most) of {given.rounds} rounds of {given.seconds} s; others used {others} cores meanwhile.\n\n"
    )
    (HERE / "servers.md").write_text(head + markdown(pd.DataFrame(rows)) + "\n", encoding="utf-8")
    write_record({"runs": runs, "provenance": provenance(ROOT)}, HERE / "servers.json")
    console.print((HERE / "servers.md").read_text(), markup=False, soft_wrap=True)


@contextmanager
def under_uvicorn(app: str, settings_of: Path, folder: Path) -> Iterator[Running]:
    """The same settings and store as a run of serve.py, and logs of its own."""
    folder.mkdir()
    port = free_port("127.0.0.1", 0)
    command = [sys.executable, str(HERE / "servers.py"), "--child", app, str(settings_of), str(port)]
    with process(command, folder / "out") as started:
        ready_s = wait(port, "/health", started, folder / "out")
        yield Running(port=port, roots=(started.pid,), logs=folder, ready_s=ready_s, counts=False)


def be(app: str, settings_of: Path, port: int) -> None:
    import uvicorn
    from fastapi import FastAPI, Request, Response

    given = Settings(**json.loads((settings_of / SETTINGS).read_text()))
    settings = dataclasses.replace(given, run_dir=str(settings_of.parent / app), port=port)
    import_service()
    service = make_service(settings)
    routed = FastAPI()

    @routed.post("/next/{user}")
    async def follow(user: int, request: Request) -> Response:
        body = await service._listen("next", request.scope, f"/next/{user}", request.receive)
        return Response(body, media_type="application/json")

    if app == "fastapi":
        routed.mount("/", service)
    else:
        routed = service
    os.chdir(settings.run_dir)
    uvicorn.run(routed, port=port, http="httptools", loop="uvloop", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
