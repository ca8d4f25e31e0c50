"""The listening room in a real browser: each view, as a person uses it, in one session.

Needs Playwright and axe-core (both in the development requirements) and Debian's Chromium.
"""

import json
import re
import shutil
import wave
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; run make setup")
axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed; run make setup")
pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed; run make setup")

from segue.assignment import GUESTS  # noqa: E402 - after the checks of what is installed
from segue.catalog import Catalog  # noqa: E402
from segue.picking.listener_scores import FEATURES  # noqa: E402
from segue.runs.catalog_files import write_plays, write_top_tracks  # noqa: E402
from segue.runs.recommendations import Recommendations  # noqa: E402
from segue.runs.session_vectors import SessionVectors  # noqa: E402
from tests.conftest import make_vectors, write_lines  # noqa: E402
from tests.e2e.running import Running, serving  # noqa: E402
from tests.serving.room.test_sweeps import comparison  # noqa: E402

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; apt-get install chromium"),
    pytest.mark.timing,
]

NUM_TRACKS, NUM_ARTISTS, ALPHA = 300, 40, 0.4
NAMED = {0: ("Yesterday", "The Beatles"), 1: ("Группа крови", "Кино"), 2: ("群青日和", "東京事変")}
SOFTWARE_GL = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
IS_DRAWN = "() => { const one = document.querySelector('canvas'); return one.width === one.clientWidth; }"
"""Whether the map has its size, for a screen with one pixel to a point; it can then be used."""


def unit(table: Any) -> Any:
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def write_run(folder: Path) -> tuple[Any, Any, Any]:
    """A run as the default recipe exports it, with shrinkage and an item bias.

    Returns:
        The shrunk cosines of tracks and of artists, and the bias of each track.
    """
    folder.mkdir()
    rng = np.random.default_rng(0)
    artist_of = rng.integers(0, NUM_ARTISTS, NUM_TRACKS)
    titles = [NAMED.get(row, (f"Song {row}", ""))[0] for row in range(NUM_TRACKS)]
    artists = [NAMED.get(row, ("", f"Band {artist}"))[1] for row, artist in enumerate(artist_of)]
    catalog = Catalog.from_columns(list(range(NUM_TRACKS)), titles, artists, source="test")
    tracks, of_artist = unit(rng.standard_normal((NUM_TRACKS, 8))), unit(rng.standard_normal((catalog.num_artists, 8)))
    of_artist = of_artist[catalog.artist_of]
    tracks, bias = tracks * rng.uniform(0.4, 1, (NUM_TRACKS, 1)), rng.normal(0, 0.1, NUM_TRACKS)
    both = np.hstack([tracks * ALPHA**0.5, of_artist * (1 - ALPHA) ** 0.5])
    queries = np.hstack([both, np.ones((NUM_TRACKS, 1))]).astype(np.float32)
    items = np.hstack([both, bias[:, None]]).astype(np.float32)
    make_vectors(
        NUM_TRACKS,
        queries=queries,
        items=items,
        ends=np.array([8, 16]),
        shares=np.array([ALPHA, 1 - ALPHA], np.float32),
        age_weights=np.array([[1, 0.5, 0.2]] * 2, np.float32),
        skipped=-0.5,
    ).write(folder / "vectors.npz", catalog)
    scores = queries @ items.T
    np.fill_diagonal(scores, -np.inf)
    best = np.argsort(-scores, axis=1)[:, :20]
    lists = Recommendations(rows=best, scores=np.take_along_axis(scores, best, 1))
    lists.write(folder / "recommendations.jsonl", catalog, format="botify")
    plays = np.arange(NUM_TRACKS)[::-1].copy()
    write_plays(catalog, plays, folder / "plays.npz")
    write_top_tracks(catalog.track_ids[:50], folder / "top_tracks.json")
    write_previews(folder.parent)
    return tracks @ tracks.T, of_artist @ of_artist.T, bias


def write_previews(folder: Path) -> None:
    """Each track has the same second of silence as its preview."""
    (folder / "previews").mkdir()
    with wave.open(str(folder / "previews" / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))
    lines = (json.dumps({"track": track, "audio": "previews/a.wav"}) for track in range(NUM_TRACKS))
    (folder / "tracks.json").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=list(SOFTWARE_GL))
        yield found
        found.close()


def listen(port: int, num_users: int) -> None:
    """Users who hear three tracks each."""
    connection = HTTPConnection("127.0.0.1", port)
    rng = np.random.default_rng(0)
    for user in range(num_users):
        track = 7
        for call in ("next", "next", "last"):
            body = json.dumps({"track": track, "time": round(float(rng.random()), 3)})
            connection.request("POST", f"/{call}/{user}", body)
            track = json.loads(connection.getresponse().read()).get("track", track)
    connection.close()


def serious(page: Any, rules: str = "undefined") -> list[str]:
    """What axe-core finds that is serious, by all rules or by some."""
    found = page.evaluate(f"() => axe.run({{ resultTypes: ['violations'], runOnly: {rules} }})")
    return [
        f"{page.url}: {one['id']}: {[node['html'][:100] for node in one['nodes']][:3]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def test_a_person_uses_every_view(tmp_path: Path, browser: Any) -> None:
    cosines = write_run(tmp_path / "run0")
    lists = tmp_path / "run0" / "recommendations.jsonl"
    arm = f'recommender: "{lists}", pick: ranked'
    arms = f"arms={{C: {{{arm}, context: last}}, T1: {{{arm}}}}}"
    room = (f"room.audio={tmp_path}/tracks.json", f"room.audio_from=[{tmp_path}/previews]")
    with serving(tmp_path, arms, *room) as service:
        listen(service.port, 150)
        _use(service, browser, *cosines)


def test_the_page_shows_what_is_remembered_of_a_listener_and_why_a_known_track_was_chosen(
    tmp_path: Path, browser: Any
) -> None:
    write_run(run := tmp_path / "run")
    _, catalog = Recommendations.read_with_catalog(run / "recommendations.jsonl")
    vectors = SessionVectors.read(run / "vectors.npz", catalog)
    weights = np.array([9.0 * (name == "heard") for name in FEATURES], np.float32)
    replace(vectors, context="listener", listener=weights).write(run / "vectors.npz", catalog)
    words = f"recommendations={run}/recommendations.jsonl", "pick=ranked"
    with serving(tmp_path, *words, env={"SEGUE_TOKEN": "secret"}) as service:
        token = {"authorization": "Bearer secret"}
        for call, track in (("next", 0), ("last", 5), ("next", 7)):
            body = {"track": track, "time": 1.0}
            assert service.ask("POST", f"/{call}/ann%2Fb", body, token).status == 200
        assert service.ask("GET", "/profile/ann%2Fb").status == 401
        assert "secret" not in service.said() + (service.run / "serve.json").read_text()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{service.port}/room#/listener")
        page.get_by_label("Token").fill("secret")
        page.get_by_role("button", name="Open the room").click()
        page.get_by_label("Id of the listener").fill("ann/b")
        page.get_by_role("button", name="Show").click()
        page.get_by_text(re.compile(r"Own past: heard once, last less than an hour ago, \+9\.00")).wait_for()
        assert page.get_by_role("row").count() == 4
        assert page.get_by_role("link", name="Yesterday").get_attribute("href") == "#/compare?t=0"
        page.goto(f"http://127.0.0.1:{service.port}/room#/walk?t=7&u=ann%2Fb")
        page.get_by_role("button", name="Play on, to 10 tracks").click()
        page.get_by_text("2 of 10 tracks were known before.").wait_for()
        assert page.get_by_text("Own past: heard once").count() == 2
        page.get_by_label("How much may be familiar").fill("0")
        page.get_by_role("button", name="Play", exact=True).click()
        page.get_by_text("0 of 1 track was known before.").wait_for()
        page.goto(f"http://127.0.0.1:{service.port}/room#/listener?u=ann%2Fb")
        page.get_by_label("Id of the listener").fill("8")
        page.get_by_role("button", name="Show").click()
        page.get_by_text("The service remembers nothing of listener 8").wait_for()
        page.close()


def test_ids_are_texts_on_the_page_and_never_part_of_it(tmp_path: Path, browser: Any) -> None:
    """Tracks without titles, which the page names by their ids."""
    ids = ["<script>document.title='broken'</script>", "a/b?c=#%2F&é+", "=1+1", "'\"><img src=x onerror=alert(1)>"]
    lines = (
        {"track": track, "recommendations": [ids[(row + step) % len(ids)] for step in (1, 2, 3)]}
        for row, track in enumerate(ids)
    )
    write_lines(tmp_path / "lists.jsonl", lines)
    faults: list[str] = []
    with serving(tmp_path, f"recommendations={tmp_path}/lists.jsonl", "pick=ranked") as service:
        page = browser.new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.goto(f"http://127.0.0.1:{service.port}/room")
        field = page.get_by_role("combobox")
        for track in reversed(ids):
            field.fill(track)
            page.get_by_role("option", name=f"Track {track}").wait_for()
        field.press("Enter")
        page.get_by_role("heading", name=f"Track {ids[0]}").wait_for()
        page.locator(".tracks a").nth(0).get_by_text(f"Track {ids[1]}", exact=True).click()
        page.get_by_role("heading", name=f"Track {ids[1]}").wait_for()
        page.get_by_role("link", name="Walk from here").click()
        page.get_by_role("checkbox").check()
        page.get_by_role("button", name="Play", exact=True).click()
        page.locator(".walk-step").nth(1).get_by_text(f"Track {ids[2]}").first.wait_for()
        assert page.title() == "Walk · Listening room"
        assert [(line["track"], line["recommendation"]) for line in service.lines()] == [(ids[1], ids[2])]
        page.close()
    assert faults == []


def _use(service: Running, browser: Any, track_cosines: Any, artist_cosines: Any, bias: Any) -> None:
    context = browser.new_context(viewport={"width": 1300, "height": 850}, color_scheme="light")
    page = context.new_page()
    page.set_default_timeout(60_000)
    faults: list[str] = []
    hosts: set[str] = set()
    sizes: list[int] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.on("response", lambda answer: sizes.append(int(answer.headers.get("content-length", 0))))
    room = f"http://127.0.0.1:{service.port}/room"
    page.goto(room)
    field = page.get_by_role("combobox")
    field.wait_for()
    assert sum(sizes) < 300_000

    # search: typos, three scripts, keyboard
    for typed, expected in (("yestreday", "Yesterday"), ("групп кро", "Группа крови"), ("群青", "群青日和")):
        field.fill(typed)
        page.get_by_role("option", name=expected).first.wait_for()
    field.press("Enter")
    page.get_by_role("heading", name="群青日和").wait_for()
    page.locator(".tracks li").first.wait_for()

    # α ranks as a direct calculation does
    alpha = 0.85
    scores = (alpha * track_cosines[2] + (1 - alpha) * artist_cosines[2] + bias).round(6)
    scores[2] = -np.inf
    column = page.get_by_role("article", name="T1")
    column.get_by_role("slider").fill(str(alpha))
    best = int(np.argmax(scores))
    column.locator(".tracks li").nth(0).get_by_text(NAMED.get(best, (f"Song {best}",))[0], exact=True).wait_for()
    order = [int(one.get_attribute("href").split("t=")[1].split("&")[0]) for one in column.locator(".tracks a").all()]
    assert order == np.argsort(-scores)[:15].tolist()
    assert f"a=T1:{alpha}" in page.url
    shared = page.url

    # a preview is heard, and stops
    listen_to = column.get_by_role("button", name="preview of").first
    listen_to.click()
    column.locator(".listen[aria-pressed=true]").wait_for()
    listen_to.click()
    column.locator(".listen[aria-pressed=false]").first.wait_for()

    # a walk of ten, with a skip; then as a listener
    page.get_by_role("link", name="Walk from here").click()
    page.get_by_role("button", name="Skip").click()
    page.get_by_role("button", name="Play on").click()
    page.get_by_text("Ten tracks.").wait_for()
    assert page.locator(".walk-step").count() == 11
    assert page.locator(".why").last.inner_text().endswith(".")
    num_events = len(service.lines())
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Play", exact=True).click()
    page.locator(".walk-step").nth(1).wait_for()
    assert len(service.lines()) == num_events + 1
    assert sum(one["user"] in GUESTS for one in service.lines()) == 1

    # the map: of artists, then of tracks; lasso, then click
    page.goto(f"{room}#/map?of=artists")
    page.get_by_role("heading", name=re.compile(r"^Map \d+ artists")).wait_for()
    page.locator("canvas").press("Enter")
    page.get_by_role("heading", name=re.compile(r"^\d+ artists")).wait_for()
    page.get_by_role("button", name="Tracks", exact=True).click()
    page.get_by_role("heading", name="Map 300 tracks").wait_for()
    canvas = page.locator("canvas")
    canvas.wait_for()
    page.wait_for_function(IS_DRAWN)
    page.get_by_role("button", name="Lasso").click()
    page.locator("canvas.is-lasso").wait_for()
    frame = canvas.bounding_box()
    middle = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    reach = 0.3 * min(frame["width"], frame["height"])
    page.mouse.move(middle[0] - reach, middle[1] - reach)
    page.mouse.down()
    for corner in ((1, -1), (1, 1), (-1, 1), (-1, -1)):
        page.mouse.move(middle[0] + reach * corner[0], middle[1] + reach * corner[1], steps=4)
    page.mouse.up()
    page.locator(".map-list .tracks li").first.wait_for()
    page.get_by_role("button", name="Lasso").click()
    page.locator("canvas:not(.is-lasso)").wait_for()
    page.goto(f"{room}#/map?t=2")
    page.locator(".map-here").wait_for()  # the point of track 2, in the middle
    page.mouse.move(*middle)
    tip = page.locator(".map-tip b")
    tip.wait_for()
    name = tip.inner_text()
    page.mouse.down()
    page.mouse.up()
    page.get_by_role("heading", name=name, exact=True).wait_for()

    # the experiment, and the runs
    page.get_by_role("link", name="Experiment", exact=True).click()
    page.get_by_role("heading", name="Verdict").wait_for()
    page.locator(".plot canvas").wait_for()
    text = page.locator("main").inner_text()
    assert "150 users" in text, "the guest does not count"
    assert "mean time per session" in text
    assert re.search(r"50.0 %\s+[\d.]+ ms\s+–", text), "latency of each arm; fallbacks are not in this log"
    page.get_by_role("link", name="Runs", exact=True).click()
    page.get_by_role("heading", name="No comparison yet").wait_for()
    mean = {"num_runs": 1, "mean": 0.5, "lower": None, "upper": None, "leads": True}
    metrics = {f"online/val_mean_time_per_session_{place}": mean for place in range(8)}
    setup = {"setup": "convex α=learned context=session", "run_ids": ["ab" * 16], "metrics": metrics}
    comparison(service.run.parent / "outputs" / "compare" / "one", metrics=list(metrics), setups=[setup])

    # nothing serious for people with impairments, in light and dark
    source = Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    problems: list[str] = []
    for scheme, rules in (("light", "undefined"), ("dark", "['color-contrast']")):  # nothing but colours differs
        page.emulate_media(color_scheme=scheme)
        for address, ready in (
            (shared, ".tracks li"),
            (f"{room}#/walk?t=2", ".walk-step"),
            (f"{room}#/map", "canvas"),
            (f"{room}#/map?of=artists", "canvas"),
            (f"{room}#/experiment", ".verdict"),
            (f"{room}#/runs", ".numbers"),
        ):
            page.goto(address)
            page.locator(ready).first.wait_for()
            page.evaluate(source)
            problems += serious(page, rules)
    assert problems == []

    # a phone: no table is wider than the screen, each value has the name of its column
    page.set_viewport_size({"width": 375, "height": 800})
    for view, column in (("experiment", "latency"), ("runs", "online/val_mean_time_per_session_7")):
        page.goto(f"{room}#/{view}")
        page.locator(f".numbers td[data-column='{column}']").first.wait_for()
        widths = page.evaluate(
            "[document.documentElement, ...document.querySelectorAll('.numbers')].map(e => e.scrollWidth)"
        )
        assert max(widths) <= 375
        shown = f"getComputedStyle(document.querySelector(\"td[data-column='{column}']\"), '::before').content"
        assert column in page.evaluate(shown)

    # the page of the endpoints loads nothing from elsewhere either
    page.goto(room.removesuffix("room") + "docs")
    page.get_by_text("/track/{track}").click()
    page.get_by_role("button", name="Try it").locator("visible=true").click()
    page.get_by_text('"title": "Song 10"').wait_for()
    assert faults == []
    assert hosts == {f"127.0.0.1:{service.port}"}
    context.close()
