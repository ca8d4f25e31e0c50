"""What the files of `deploy/` say: the image, what compose.yaml starts, the unit of systemd, and the queries."""

import json
import re
import shlex
from typing import Any

import yaml

from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"


def image() -> dict[str, list[list[str]]]:
    """Instructions of the Dockerfile, each with the words of all its lines; those in JSON are parsed."""
    said: dict[str, list[list[str]]] = {}
    for line in (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition(" ")
        if re.fullmatch("[A-Z]+", name):
            words = json.loads(rest[rest.index("[") :]) if rest.endswith("]") else shlex.split(rest)
            said.setdefault(name, []).append(words)
    return said


def compose(**given: str) -> dict[str, Any]:
    """The services of compose.yaml, as they are where these environment variables are set."""

    def value(match: re.Match[str]) -> str:
        name, sign, other = match.groups()
        assert sign != ":?" or name in given, f"{name} must be set"
        return given.get(name, other)

    text = re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", value, (DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    return services


SECRETS = {"SEGUE_TOKEN": "a secret", "GRAFANA_PASSWORD": "another secret"}
"""What compose.yaml does not start without."""


def panels() -> list[dict[str, Any]]:
    """The panels of the board that show something."""
    board = json.loads((DEPLOY / "grafana/segue.json").read_text(encoding="utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """The query of each curve of the board, and of each alarm."""
    shown = {f"{panel['title']}, {one['refId']}": one["expr"] for panel in panels() for one in panel["targets"]}
    [group] = yaml.safe_load((DEPLOY / "alarms.yml").read_text(encoding="utf-8"))["groups"]
    return shown | {rule["alert"]: rule["expr"] for rule in group["rules"]}


def commands() -> dict[str, list[str]]:
    """The words of `segue serve` in each file."""
    [start] = re.findall(r"^ExecStart=\S+ (.*)$", (DEPLOY / "segue.service").read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "Dockerfile": image()["CMD"][0],
        "compose.yaml": compose(**SECRETS)["service"]["command"],
        "segue.service": shlex.split(start),
    }
