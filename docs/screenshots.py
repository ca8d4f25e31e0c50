"""Photographs the MLflow UI for docs/comparing.md: python docs/screenshots.py <folder with mlflow.db>.

Needs Chromium. The store must hold a sweep that compare.py has looked at; the newest one is shown.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

import matplotlib.image as mpl_image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from src.compared_runs import find  # noqa: E402
from src.errors import InputError  # noqa: E402

PORT = 5599
WIDTH, HEIGHT = 1500, 1000
ASSISTANT = 400
"""Pixels at the right that MLflow gives to its assistant, which is not ours to show."""


def pages(folder: Path) -> dict[str, str]:
    """Name and address of each picture."""
    found = find(f"sqlite:///{folder}/mlflow.db", "segue", parent=None, filter_string="")
    if found.parent is None:
        raise InputError(f"{folder} has no sweep; python train.py -m model=track,artist,mean,convex seed=1,2")
    parent, experiment = found.parent.info.run_id, found.parent.info.experiment_id
    runs = quote(json.dumps([run.info.run_id for run in found.runs]))
    below = quote(f"tags.mlflow.parentRunId = '{parent}'")
    root = f"http://127.0.0.1:{PORT}/#"
    table = f"{root}/experiments/{experiment}/runs?searchFilter={below}&orderByKey=attributes.start_time"
    run = f"{root}/experiments/{experiment}/runs/{found.runs[0].info.run_id}"
    return {
        "sweep": f"{root}/experiments/{experiment}/runs/{parent}",
        "charts": f"{table}&compareRunsMode=CHART",
        "compare": f"{root}/compare-runs?runs={runs}&experiments={quote(json.dumps([experiment]))}",
        "run": run,
        "artifacts": f"{run}/artifacts/plots/artists.png",
    }


def photograph(url: str, path: Path, browser: str) -> None:
    """Let headless Chromium draw a page, once all it asks for has come."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--user-data-dir={profile}", f"--window-size={WIDTH + ASSISTANT},{HEIGHT}"),
                *("--virtual-time-budget=40000", f"--screenshot={path}", url),
            ],
            check=True,
            capture_output=True,
            timeout=180,
        )
    picture = mpl_image.imread(path)
    mpl_image.imsave(path, picture[:, :WIDTH])


def main(folder: Path) -> None:
    """Start the UI, take the pictures, stop it."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise InputError("no Chromium on this machine; apt-get install chromium")
    wanted = pages(folder)
    words = ["-m", "mlflow", "ui", "--backend-store-uri", "sqlite:///mlflow.db", "--port", str(PORT)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with subprocess.Popen(
        [sys.executable, *words, "--workers", "1"], cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as server:  # fmt: skip
        try:
            _wait()
            for name, url in wanted.items():
                path = HERE / "images" / f"mlflow_{name}.png"
                path.parent.mkdir(exist_ok=True)
                photograph(url, path, browser)
                print(path)
        finally:
            os.killpg(server.pid, 15)


def _wait() -> None:
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise InputError(f"the MLflow UI does not come up at port {PORT}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
    except InputError as error:
        sys.exit(f"error: {error}")
