"""How fast is the listening room, and does it slow the service down? python experiments/room/study.py.

Writes results.md and results.json beside this file. `--sizes 50000` leaves out the index of a million titles. `--page
http://127.0.0.1:5001/room` only opens the page of a service that runs, and prints what that took.
"""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.processes import children_of, cpu_s
from experiments.studying import Study, sized, skip
from segue.catalog import Catalog
from segue.room.title_search import TitleIndex, build_index
from segue.runs.catalog_files import write_plays, write_top_tracks
from segue.runs.provenance import ROOT
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import SessionVectors

STUDY = Study(__file__, __doc__)
CHROMIUM = "/usr/bin/chromium"

SYLLABLES = re.findall("..", "kalomiratenshobelintriuranvesnorilquazenotheingerstmavidu")
CYRILLIC = re.findall("..", "каломиратеншобелприурвесногротыла")
HAN = "東京夜空歌新世界愛海山風花雪月光夢道星河春秋"
PEOPLE, PAUSE_S = 10, 0.5
"""People who look, and the seconds between two questions of one of them."""
CONNECTIONS = 32


def make_titles(num: int, rng: random.Random) -> list[str]:
    """Titles and artists: four fifths in Latin letters, a tenth each in Cyrillic and Chinese ones."""
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(max(2000, num // 20))]
    russian = ["".join(rng.choices(CYRILLIC, k=rng.randint(2, 4))) for _ in range(5000)]

    def name() -> str:
        kind = rng.random()
        if kind < 0.8:
            return " ".join(words[int(len(words) * rng.random() ** 2)] for _ in range(rng.randint(1, 4)))
        if kind < 0.9:
            return " ".join(rng.choices(russian, k=rng.randint(1, 3)))
        return "".join(rng.choices(HAN, k=rng.randint(2, 6)))

    artists = [name() for _ in range(num // 10 + 1)]
    return [f"{name()} {rng.choice(artists)}" for _ in range(num)]


def measure_search(num: int, folder: Path) -> dict[str, Any]:
    """Seconds of the index, and milliseconds of searches: beginnings of titles, and titles with a typo."""
    rng = random.Random(0)
    texts = make_titles(num, rng)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"titles-{num}.sqlite"
    began_s = time.process_time()
    build_index(path, texts)
    found = {"titles": num, "index_cpu_s": time.process_time() - began_s, "index_mb": path.stat().st_size / 1e6}
    index = TitleIndex(path, texts.__getitem__, np.arange(num))
    typed, wrong = [], []
    for _ in range(300):
        text = rng.choice(texts)
        typed.append(text[: rng.randint(1, len(text))])
        if len(text) > 7:
            place = rng.randrange(1, len(text) - 1)
            wrong.append((text[:place] + rng.choice("abcdeк") + text[place + 1 :], text))
    for name, queries in (("typed", typed), ("typo", [query for query, _ in wrong])):
        wall, cpu = [], []
        for query in queries:
            start, start_cpu = time.perf_counter(), time.thread_time()
            index.find(query, 20)
            wall.append(1000 * (time.perf_counter() - start))
            cpu.append(1000 * (time.thread_time() - start_cpu))
        found |= {f"{name}_p95_ms": np.percentile(wall, 95), f"{name}_p95_cpu_ms": np.percentile(cpu, 95)}
    found["typos_found"] = float(
        np.mean([text in [texts[row] for row in index.find(query, 20)] for query, text in wrong])
    )
    return {name: round(float(value), 3) for name, value in found.items()}


def write_run(folder: Path, num: int) -> None:
    """A run with lists of 50 and vectors of 2 · 32."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    texts = make_titles(num, random.Random(1))
    catalog = Catalog.from_columns(
        list(range(num)), texts, [f"Artist {row % (num // 10)}" for row in range(num)], source="study"
    )
    tracks, artists = rng.standard_normal((num, 32)), rng.standard_normal((num // 10, 32))[np.arange(num) % (num // 10)]
    unit = [table / np.linalg.norm(table, axis=1, keepdims=True) * 0.5**0.5 for table in (tracks, artists)]
    both = np.hstack(unit).astype(np.float32)
    SessionVectors(
        queries=both,
        items=both,
        parts=("track", "artist"),
        ends=np.array([32, 64]),
        lengths=np.full(2, 0.5**0.5, np.float32),
        shares=np.full(2, 0.5, np.float32),
        powers=np.zeros(2, np.float32),
        age_weights=np.ones((2, 8), np.float32),
        skipped=0.0,
        boosts=np.full(1000, -np.inf, np.float32),
        artist_boosts=np.empty(0, np.float32),
        context="last",
    ).write(folder / "vectors.npz", catalog)
    steps = 1 + rng.integers(0, num // 60, (num, 50)).cumsum(1) + np.arange(50)  # grows: no track occurs twice
    rows = (np.arange(num)[:, None] + steps) % num
    lists = Recommendations(rows=rows, scores=np.full((num, 50), np.nan, np.float32))
    lists.write(folder / "recommendations.jsonl", catalog, format="botify")
    write_plays(catalog, np.arange(num)[::-1].copy(), folder / "plays.npz")
    write_top_tracks(catalog.track_ids[:1000], folder / "top_tracks.json")


def measure_page(base: str) -> dict[str, Any]:
    """Seconds and kilobytes until the first view can be used, and the frame rate of the map, in Chromium.

    The best of five openings counts, because other programs of the machine only add to it.
    """
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        opened = []
        for _ in range(sized(5, 1)):
            page = browser.new_context().new_page()  # nothing is cached
            sizes: list[int] = []
            page.on("response", lambda answer, sizes=sizes: sizes.append(int(answer.headers.get("content-length", 0))))
            began_s = time.perf_counter()
            page.goto(base)
            page.get_by_role("combobox").wait_for()
            opened.append((time.perf_counter() - began_s, sum(sizes) / 1000))
        page.set_default_timeout(120_000)
        page.goto(f"{base}#/map")
        page.locator("canvas").wait_for()
        page.wait_for_timeout(1000)
        page.get_by_role("button", name="Frame rate").click()
        shown = page.get_by_text("frames a second")
        shown.wait_for()
        rate, _, renderer = shown.inner_text().removeprefix("Frame rate").strip().partition(" frames a second, ")
        browser.close()
    seconds, kilobytes = min(opened)
    return {
        "first_view_s": round(seconds, 2),
        "first_view_kb": round(kilobytes),
        "map_frames_per_second": int(rate),
        "renderer": renderer,
    }


def page_of(base: str) -> dict[str, Any]:
    """What `measure_page` measures; a smoke leaves it out where there is no Chromium."""
    if sized(True, Path(CHROMIUM).exists()):
        return measure_page(base)
    skip(f"the page: {CHROMIUM} is missing; apt-get install chromium")
    return {}


async def _load(port: int, seconds: float, num_tracks: int) -> int:
    """Answers to `/next` within some seconds, over connections that each wait for their answer."""
    until, answered, rng = time.monotonic() + seconds, 0, random.Random(0)

    async def listener(user: int) -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < until:
            body = b'{"track": %d, "time": 0.8}' % rng.randrange(num_tracks)
            writer.write(b"POST /next/%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (user, len(body), body))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            answered += 1
        writer.close()

    await asyncio.gather(*map(listener, range(CONNECTIONS)))
    return answered


def look(port: int, seconds: float, num_tracks: int, seed: int) -> int:
    """One person: types, compares, moves the slider, walks; returns the number of questions."""
    rng, until, asked = random.Random(seed), time.monotonic() + seconds, 0
    time.sleep(rng.random() * PAUSE_S)
    while time.monotonic() < until:
        track, kind, body = rng.randrange(num_tracks), rng.random(), None
        if kind < 0.6:
            path = f"search?q={''.join(rng.choices(SYLLABLES, k=rng.randint(1, 3)))}"
        elif kind < 0.75:
            path = f"compare?track={track}&players=C,T1&num=15"
        elif kind < 0.9:
            path = f"compare?track={track}&players=C,T1&num=15&alpha=C:{rng.random():.2f}"
        else:
            path, body = "step", json.dumps({"arm": "C", "tracks": [track], "shares": [1]}).encode()
        with urlopen(Request(f"http://127.0.0.1:{port}/room/api/{path}", body), timeout=60) as answer:
            answer.read()
        asked += 1
        time.sleep(PAUSE_S)
    return asked


def measure_service(num: int, rounds: int, seconds: float, folder: Path) -> dict[str, Any]:
    """`/next` per second in rounds without and with people who look, in turns."""
    write_run(folder / "run0", num)
    lists = folder / "run0" / "recommendations.jsonl"
    words = [f"arms={{C: {lists}, T1: {lists}}}", "port=0", f"run_dir={folder / 'serve'}"]
    output = folder / "serve.txt"
    with output.open("wb") as file:
        service = subprocess.Popen([sys.executable, str(ROOT / "serve.py"), *words], cwd=folder, stdout=file)
    try:
        while "\nstop  " not in output.read_text():
            assert service.poll() is None, output.read_text()
            time.sleep(0.1)
        port = json.loads((folder / "serve" / "serve.json").read_text())["port"]
        base = f"http://127.0.0.1:{port}/room"
        began_s = time.monotonic()
        urlopen(f"{base}/api/state", timeout=120).read()
        ready_s = time.monotonic() - began_s
        while json.loads(urlopen(f"{base}/api/search?q=a", timeout=60).read())["is_building"]:
            time.sleep(0.2)
        page = page_of(base)
        rates: dict[bool, list[float]] = {False: [], True: []}
        costs: dict[bool, list[float]] = {False: [], True: []}
        [worker] = children_of(service.pid)
        asked = 0
        with get_context(sized("spawn", "fork")).Pool(2) as pool:
            pool.map(time.sleep, [0.1, 0.1])
            for number in range(2 * rounds):
                is_watched = number % 4 in (1, 2)  # in the order without, with, with, without
                people = None
                if is_watched:
                    given = [(port, seconds + 1, num, PEOPLE * number + one) for one in range(PEOPLE)]
                    people = pool.apply_async(crowd, (given,))
                    time.sleep(0.5)
                used = cpu_s(worker)
                answered = asyncio.run(_load(port, seconds, num))
                rates[is_watched].append(answered / seconds)
                costs[is_watched].append(1e6 * (cpu_s(worker) - used) / answered)
                if people is not None:
                    asked += people.get(120)
        without, watched = (float(np.median(rates[key])) for key in (False, True))
        ratios = [one / other for one, other in zip(rates[True], rates[False], strict=True)]
        return {
            "tracks": num,
            "first_answer_of_the_desk_s": round(ready_s, 2),
            **page,
            "next_per_second_alone": round(without),
            "next_per_second_with_ten_people": round(watched),
            "ratio": round(float(np.median(ratios)), 3),
            "ratio_least": round(min(ratios), 3),
            "ratio_most": round(max(ratios), 3),
            "worker_cpu_us_per_next_alone": round(float(np.median(costs[False])), 1),
            "worker_cpu_us_per_next_with_ten_people": round(float(np.median(costs[True])), 1),
            "questions_per_second": round(asked / (seconds + 1) / rounds, 1),
        }
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(20)


def crowd(given: list[tuple[int, float, int, int]]) -> int:
    """Ten people at once, as threads of one process."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(given)) as threads:
        return sum(threads.map(lambda one: look(*one), given))


def main() -> None:
    """Measure, and write the results."""
    parser = STUDY.parser()
    parser.add_argument("--sizes", type=int, nargs="+", default=sized([50_000, 1_000_000], [500]))
    parser.add_argument("--rounds", type=int, default=sized(6, 1))
    parser.add_argument("--seconds", type=float, default=sized(5.0, 0.5))
    parser.add_argument("--page")
    given = STUDY.parse(parser)
    if given.page:
        print(json.dumps({**measure_page(given.page), "load_average": round(os.getloadavg()[0], 1)}, indent=1))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        service = measure_service(sized(50_000, 2_000), given.rounds, given.seconds, folder / "service")
        search = [measure_search(num, folder) for num in given.sizes]
    load = os.getloadavg()[0]
    results = {"service": service, "search": search, "load_average": load, "provenance": STUDY.provenance()}
    STUDY.write_record("results.json", results)
    lines = ["# Results", "", "## The service, while ten people look", "", "| measure | value |", "|---|--:|"]
    lines += [
        f"| {name.replace('_', ' ')} | {value if isinstance(value, str) else format(value, ',')} |"
        for name, value in service.items()
    ]
    lines += ["", "## Search", "", f"| {' | '.join(name.replace('_', ' ') for name in search[0])} |"]
    lines += [f"|{'--:|' * len(search[0])}"]
    lines += [f"| {' | '.join(f'{value:,}' for value in one.values())} |" for one in search]
    lines += ["", f"Load average of the machine at the end: {load:.1f}."]
    STUDY.write_table("results.md", lines)


if __name__ == "__main__":
    STUDY.run(main)
