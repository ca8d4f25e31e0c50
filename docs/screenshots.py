"""Takes screenshots of the MLflow UI for docs/comparing.md: python docs/screenshots.py <folder with mlflow.db>.

Needs Chromium, which is controlled over its DevTools protocol. The store must have a sweep that compare.py has
compared; the newest one is shown.
"""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from segue.errors import InputError  # noqa: E402
from segue.verdicts.comparison.runs import find  # noqa: E402

UI, DEVTOOLS = 5599, 5598
SETTLED_S = 12
"""Seconds after which a page of the UI is drawn completely."""

CLOSE_ASSISTANT = "document.querySelector('[data-component-id=\"mlflow.assistant.chat_panel.close\"]')?.click()"
EXPAND = "document.querySelector('.ag-cell-wrapper button')?.click()"
SHOW_MORE = "[...document.querySelectorAll('button,a,div')].filter(e => e.textContent === 'Show more').at(-1)?.click()"
DIFFERENCES = "document.querySelector('[role=switch]')?.click()"


def pages(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """For the name of each picture: the address of a page, and the scripts that click in it."""
    matching = find(f"sqlite:///{folder}/mlflow.db", "segue", parent=None, filter_string="")
    if matching.parent is None:
        raise InputError(f"{folder} has no sweep; python train.py -m model=track,artist,mean,convex seed=1,2")
    parent, experiment = matching.parent.info.run_id, matching.parent.info.experiment_id
    one_each = {run.data.tags["setup"]: run.info.run_id for run in matching.runs}
    chosen, experiments = quote(json.dumps(list(one_each.values()))), quote(json.dumps([experiment]))
    root = f"http://127.0.0.1:{UI}/#"
    runs = f"{root}/experiments/{experiment}/runs"
    return {
        "sweep": (f"{runs}/{parent}", [SHOW_MORE]),
        "charts": (f"{runs}?compareRunsMode=CHART", [EXPAND]),
        "compare": (f"{root}/compare-runs?runs={chosen}&experiments={experiments}", [DIFFERENCES]),
        "pictures": (f"{runs}/{matching.runs[0].info.run_id}/artifacts/plots/artists.png", []),
    }


async def take_screenshots(addresses: dict[str, tuple[str, list[str]]]) -> None:
    """Show each page in the Chromium that listens on DEVTOOLS, click, and write a screenshot."""
    async with aiohttp.ClientSession() as session:
        await _get(session, f"http://127.0.0.1:{UI}/version")
        tabs = json.loads(await _get(session, f"http://127.0.0.1:{DEVTOOLS}/json/list"))
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        async with session.ws_connect(address, max_msg_size=0) as browser:
            for name, (url, clicks) in addresses.items():
                await _ask(browser, "Page.navigate", url=url)
                for click in [CLOSE_ASSISTANT, *clicks]:
                    await asyncio.sleep(SETTLED_S)
                    await _ask(browser, "Runtime.evaluate", expression=click)
                await asyncio.sleep(SETTLED_S)
                shot = await _ask(browser, "Page.captureScreenshot", format="png")
                path = HERE / "images" / f"mlflow_{name}.png"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(base64.b64decode(shot["data"]))
                print(path)


async def _ask(browser: aiohttp.ClientWebSocketResponse, method: str, **params: Any) -> dict[str, Any]:
    await browser.send_json({"id": 1, "method": method, "params": params})
    while True:
        answer = await browser.receive_json()
        if answer.get("id") == 1:
            return dict(answer.get("result", {}))


async def _get(session: aiohttp.ClientSession, url: str) -> str:
    """The text at an address; waits until a server answers there."""
    for _ in range(120):
        try:
            async with session.get(url) as answer:
                return await answer.text()
        except aiohttp.ClientError:
            await asyncio.sleep(0.5)
    raise InputError(f"{url} does not answer")


@contextmanager
def running(*words: str, cwd: Path) -> Iterator[None]:
    """A process that runs during the block; it is stopped with its children."""
    environment, null = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}, subprocess.DEVNULL
    process = subprocess.Popen(words, cwd=cwd, env=environment, start_new_session=True, stdout=null, stderr=null)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def main(folder: Path) -> None:
    """Start the UI and Chromium, take the screenshots, stop both."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise InputError("no Chromium on this machine; apt-get install chromium")
    addresses = pages(folder)
    store = "--backend-store-uri", "sqlite:///mlflow.db", "--port", str(UI), "--workers", "1"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1500,1000"
        devtools = f"--remote-debugging-port={DEVTOOLS}", f"--user-data-dir={profile}"
        ui = running(sys.executable, "-m", "mlflow", "ui", *store, cwd=folder)
        with ui, running(chromium, *options, *devtools, "about:blank", cwd=folder):
            asyncio.run(take_screenshots(addresses))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
    except InputError as error:
        sys.exit(f"error: {error}")
