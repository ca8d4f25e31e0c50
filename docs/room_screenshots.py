"""Takes the screenshots of docs/room.md: python docs/room_screenshots.py http://127.0.0.1:5001.

A service must be running there, with arms that have vectors and with listeners (`simulate.py`). Needs Playwright and
Debian's Chromium.
"""

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
COLOURS = 128
"""Colours of a picture; few make the file small."""

DESKTOP, PHONE = {"width": 1300, "height": 860}, {"width": 390, "height": 800}


def views(track: int, arm: str) -> dict[str, tuple[str, str, dict[str, int], str]]:
    """For the name of each picture: the address, what must be there, the size and the colour scheme."""
    return {
        "compare": (f"compare?t={track}", ".tracks li", DESKTOP, "light"),
        "compare_dark": (f"compare?t={track}", ".tracks li", DESKTOP, "dark"),
        "compare_phone": (f"compare?t={track}", ".tracks li", PHONE, "light"),
        "walk": (f"walk?t={track}&arm={arm}", ".walk-step", DESKTOP, "light"),
        "walk_phone": (f"walk?t={track}&arm={arm}", ".walk-step", PHONE, "dark"),
        "map": ("map", "canvas", DESKTOP, "dark"),
        "experiment": ("experiment", ".plot canvas", {"width": 1300, "height": 1000}, "light"),
        "runs": ("runs", ".numbers", DESKTOP, "light"),
    }


def shoot(browser: Any, base: str, name: str, address: str, ready: str, size: dict[str, int], scheme: str) -> None:
    """Open a view, walk where it is a walk, and write the picture."""
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{base}/room#/{address}")
    page.locator(ready).first.wait_for()
    if name.startswith("walk"):
        page.get_by_role("button", name="Play", exact=False).first.click()
        page.locator(".walk-step").nth(1).get_by_role("button", name="Skip").click()
        page.locator(".walk-step").nth(2).wait_for()
        page.get_by_role("button", name="Play on").click()
        page.get_by_text("Ten tracks.").wait_for()
        page.locator("summary").nth(2).click()
    page.wait_for_timeout(1500)  # pictures and curves
    path = HERE / "images" / f"room_{name}.png"
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS)
    image.save(path, optimize=True)
    print(path)
    context.close()


def main(base: str) -> None:
    """Take all pictures."""
    with sync_playwright() as started:
        options = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=options)
        state = browser.new_context().request.get(f"{base}/room/api/state").json()
        arm = next((one["key"] for one in state["players"] if one["is_arm"] and one["alpha"] is not None), "C")
        for name, (address, ready, size, scheme) in views(state["examples"][0]["track"], arm).items():
            shoot(browser, base, name, address, ready, size, scheme)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:5001")
