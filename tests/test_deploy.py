"""The files of `deploy/` as far as they can be checked without a container; `make container` runs what they say."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.deploying import DEPLOY, SECRETS, compose, image, panels
from tests.e2e.running import binary


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_has_a_title_a_description_a_unit_and_the_data_source_of_compose(panel: dict[str, object]) -> None:
    [source] = yaml.safe_load((DEPLOY / "grafana/datasource.yaml").read_text(encoding="utf-8"))["datasources"]
    assert panel["title"]
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]  # type: ignore[index]
    assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}


def test_the_service_writes_to_one_volume_and_nothing_else() -> None:
    service = compose(**SECRETS)["service"]
    assert service["read_only"]
    assert [volume for volume in service["volumes"] if not volume.endswith(":ro")] == ["data:/data"]
    assert image()["VOLUME"] == [["/data"]] == image()["WORKDIR"]
    [(user,)] = image()["USER"]
    assert int(user.partition(":")[0]) > 0


@pytest.mark.parametrize("secret", SECRETS)
def test_compose_refuses_to_start_without_a_secret_and_names_none(secret: str) -> None:
    with pytest.raises(AssertionError, match=f"{secret} must be set"):
        compose(**{name: value for name, value in SECRETS.items() if name != secret})
    said = re.findall(
        r"^\s+\w*(?:TOKEN|PASSWORD|SECRET)\w*: (.*)$", (DEPLOY / "compose.yaml").read_text(), re.MULTILINE
    )
    assert [value for value in said if not re.match(r'"?\$\{\w+:\?', value)] == []


def test_what_compose_and_the_image_name_of_this_project_exists() -> None:
    mounted = [volume.split(":")[0] for one in compose(**SECRETS).values() for volume in one["volumes"]]
    files = [name for name in mounted if name.startswith("./")]
    assert [name for name in files if not (DEPLOY / name).is_file()] == []
    assert {str(path.relative_to(DEPLOY)) for path in DEPLOY.glob("grafana/*")} == {name[2:] for name in files[2:]}
    kept = re.findall(r"^!(\S+)", (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in kept if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", ["segue.service", "segue-nightly.service", "segue-nightly.timer"])
def test_systemd_accepts_the_units(name: str, tmp_path: Path) -> None:
    for path in (DEPLOY / "segue.service", *ROOT.glob("examples/nightly/segue-nightly.*")):
        unit = re.sub(r"/opt/segue(?:-train)?/bin/\w+", "/bin/true", path.read_text(encoding="utf-8"))
        (tmp_path / path.name).write_text(unit, encoding="utf-8")
    verify = [binary("systemd-analyze"), "verify", str(tmp_path / name)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_mlflow_of_compose_is_that_of_the_lock() -> None:
    """A store that a newer MLflow wrote is closed to an older one."""
    [locked] = re.findall(r"^mlflow==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert compose(**SECRETS)["mlflow"]["image"].endswith(f":v{locked}")
