"""What a config of somebody else may build: what `conf/` names, and what trusted packages define."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from segue.errors import InputError
from segue.runs import targets
from segue.runs.folder import as_dict
from segue.runs.provenance import ROOT
from segue.runs.targets import check_targets, read_config
from tests.contracts.building import composed

STRANGERS = [
    "pandas.read_pickle",
    "joblib.load",
    "numpy.load",
    "torch.load",
    "torch.hub.load",
    "os.system",
    "subprocess.run",
    "builtins.eval",
    "mlflow.utils.process._exec_cmd",
    "mlflow.pyfunc.load_model",
    "hydra.utils.instantiate",
    "pytorch_lightning.LightningModule.load_from_checkpoint",
    "segue.runs.provenance.subprocess.run",  # reached through a module of ours
    "segue.runs.provenance._git",  # runs a program of any configuration
    "segue.verbs.sweeps.jobs._restore_job",  # imports a file of any folder
    "segue.models.heads.CosineMix.load_state_dict",
    "segue.models.heads",
]


@pytest.mark.parametrize("target", STRANGERS)
def test_what_conf_does_not_name_is_not_built(target: str) -> None:
    with pytest.raises(InputError, match=rf"^add=x: its settings build {target}, .*trust={target.split('.')[0]}$"):
        check_targets({"_target_": target}, trust=None, of="add=x")


@pytest.mark.parametrize(
    "config",
    [
        {"a": {"b": [1, {"c": {"_target_": "os.system", "_partial_": True}}]}},
        {"_target_": "torch.optim.Adam", "params": {"_target_": "os.system"}},
        {"_target_": "hydra.utils.get_method", "path": "os.system"},
        {"_target_": "hydra.utils.get_class", "path": "os.system"},
        {"_target_": "hydra.utils.get_object", "_args_": ["os.system"]},
        {"_target_": "hydra.utils.get_static_method", "_args_": "os.system"},
        {"_target_": "hydra.utils.get_method", "path": "segue.reports.progress.progress", "_args_": ["os.system"]},
    ],
)
def test_a_target_is_found_wherever_it_is(config: Any) -> None:
    with pytest.raises(InputError, match=r"build os\.system"):
        check_targets(config, trust="hydra", of="add=x")


@pytest.mark.parametrize("target", [{"_target_": "os.system"}, ["os.system"], None, 7])
def test_a_target_that_is_no_text_is_refused(target: Any) -> None:
    with pytest.raises(InputError, match="settings build"):
        check_targets({"_target_": target}, trust=None, of="add=x")


@pytest.mark.parametrize("text", ["${evil}", "a${oc.env:HOME}", "${oc.create:'{_target_: os.system}'}"])
def test_a_reference_is_refused_since_building_would_follow_it(text: str) -> None:
    with pytest.raises(InputError, match=r"add=x: its settings have a?\$\{"):
        check_targets({"a": {"b": [text]}}, trust=None, of="add=x")


@pytest.mark.parametrize("words", [(), ("datamodule=yes", "context=session"), ("model=ease",), ("model=contextual",)])
def test_every_config_of_ours_is_built(words: tuple[str, ...]) -> None:
    config = {name: value for name, value in composed(*words).items() if name != "hydra"}
    check_targets(as_dict(OmegaConf.create(config)), trust=None, of="resume=x")


def test_a_group_has_its_own_targets() -> None:
    head = {"_target_": "segue.models.heads.CosineMix"}
    check_targets(head, trust=None, of="add=x", group="model")
    with pytest.raises(InputError, match=r"build pytorch_lightning.Trainer, which is not in conf/model"):
        check_targets({**head, "alpha": {"_target_": "pytorch_lightning.Trainer"}}, trust=None, of="x", group="model")


def test_what_is_not_in_a_file_of_conf_as_yaml_is_not_found_in_it() -> None:
    """The names are found in the texts of `conf/`; reading all of it takes a second."""

    def names(node: Any) -> set[str]:
        inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        own = {node["_target_"]} if isinstance(node, dict) and "_target_" in node else set()
        if own == {"hydra.utils.get_method"}:
            own = {node["path"]}
        return own.union(*map(names, inner))

    parsed = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in (ROOT / "conf").rglob("*.yaml"))
    assert targets._named_in("") == set().union(*map(names, parsed))


def test_a_package_is_trusted_by_its_name() -> None:
    spy = {"_target_": "tests.e2e.spy.KillInExport"}
    for trusted in ("tests", ["collections", "tests.e2e"]):
        check_targets(spy, trust=trusted, of="add=x")
    for trust in (None, "test", "tests.e2e.running", ["collections"]):
        with pytest.raises(InputError, match=r"build tests\.e2e\.spy"):
            check_targets(spy, trust=trust, of="add=x")


def test_what_a_trusted_package_has_imported_is_not_trusted() -> None:
    with pytest.raises(InputError, match=r"build segue\.runs\.provenance\.subprocess\.run"):
        check_targets({"_target_": "segue.runs.provenance.subprocess.run"}, trust="segue", of="add=x")


@pytest.mark.parametrize("trust", ["a b", "a..b", [7], "*"])
def test_trust_names_packages(trust: Any) -> None:
    with pytest.raises(InputError, match=r"must name packages, such as trust=mypackage"):
        check_targets({"_target_": "b.c"}, trust=trust, of="add=x")


def test_a_config_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: ${oc.env:HOME}\nb: 1e-5\nc: [{d: x, '_target_': segue.x.Y}]\n")
    assert read_config(path) == {"a": "${oc.env:HOME}", "b": 1e-5, "c": [{"_target_": "segue.x.Y", "d": "x"}]}


@pytest.mark.parametrize("text", ["a: [", "- 1", "a: !!python/object/apply:os.system [x]", "\x00", "7"])
def test_a_damaged_config_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config.yaml.*train the run again") as error:
        read_config(tmp_path / "config.yaml")
    assert "\n" not in str(error.value)
