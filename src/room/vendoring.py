"""Fetches the libraries of the page from npm into `static/vendor/`: python -m segue.room.vendoring, or make vendor.

The page is served as it is in the repository: there is no build step, and nothing is loaded from the network. The
versions are below. `vendor.json` records for each library version, licence, npm's own hash of the package, and the
SHA-256 of each file that is served.
"""

import hashlib
import json
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "static" / "vendor"

LIBRARIES = {
    "preact": ("11.2.0", {"dist/preact.mjs": "preact.mjs", "hooks/dist/hooks.mjs": "hooks.mjs"}),
    "htm": ("3.1.1", {"dist/htm.mjs": "htm.mjs"}),
    "uplot": ("1.6.32", {"dist/uPlot.iife.min.js": "uplot.js", "dist/uPlot.min.css": "uplot.css"}),
}
"""Version of each library, and under which name each of its files is served."""

_BARE_IMPORT = re.compile(r'from"preact"')
_SOURCE_MAP = re.compile(r"^//# sourceMappingURL=.*\n?", re.MULTILINE)


def served(text: str) -> str:
    """A file as it is served: a browser needs a path where npm has a name, and there are no source maps.

    Args:
        text: of the file in the package.
    """
    return _SOURCE_MAP.sub("", _BARE_IMPORT.sub('from"./preact.mjs"', text))


def fetch(name: str, version: str, files: dict[str, str], folder: Path) -> dict[str, Any]:
    """Fetch one library; returns its entry of `vendor.json`.

    Args:
        name: of the package.
        version: of the package.
        files: path in the package of each file, and its name in `folder`.
        folder: where they go.
    """
    with tempfile.TemporaryDirectory() as scratch:
        words = ["npm", "pack", f"{name}@{version}", "--json", "--silent"]
        packed = json.loads(subprocess.run(words, cwd=scratch, check=True, capture_output=True, text=True).stdout)
        with tarfile.open(Path(scratch, packed[0]["filename"])) as archive:
            archive.extractall(scratch, filter="data")
        package = Path(scratch, "package")
        about = json.loads((package / "package.json").read_text(encoding="utf-8"))
        (folder / f"{name}.LICENSE").write_bytes((package / "LICENSE").read_bytes())
        hashes = {}
        for path, target in files.items():
            text = served((package / path).read_text(encoding="utf-8"))
            (folder / target).write_text(text, encoding="utf-8")
            hashes[target] = hashlib.sha256(text.encode()).hexdigest()
    return {"version": version, "license": about["license"], "integrity": packed[0]["integrity"], "sha256": hashes}


def main() -> None:
    """Fetch all libraries and write `vendor.json`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    record = {name: fetch(name, version, files, FOLDER) for name, (version, files) in LIBRARIES.items()}
    (FOLDER / "vendor.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for name, entry in record.items():
        print(f"{name:8} {entry['version']:8} {entry['license']:12} {', '.join(entry['sha256'])}")


if __name__ == "__main__":
    main()
