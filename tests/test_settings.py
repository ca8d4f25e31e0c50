"""A setting is described once: its check, its message, its default in a config and its row of a page follow."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

import segue
from segue.datamodules.pairs.pair_rules import Policies
from segue.datamodules.reading.table_settings import CatalogueSettings, Columns, FileSettings, SqlSettings, Units
from segue.errors import InputError
from segue.settings import Setting, described, settings, with_defaults
from tests.conftest import ROOT


@settings("model")
class Made:
    """Something with settings of every type."""

    def __init__(
        self,
        first: str,
        *,
        dim: Annotated[int, Setting("width", least=1, most=9)],
        share: Annotated[float | Literal["learned"], Setting("share", above=0, hint="0.2 is usual")] = 0.5,
        weights: Annotated[Mapping[str, float] | Sequence[str] | None, Setting("weights", least=0)] = None,
        is_on: Annotated[bool, Setting("switch")] = True,
        rule: Annotated[str, Setting("rule", choices=("a", "b"))] = "a",
        other: int = 3,
    ) -> None:
        self.made = first, dim, share, weights, is_on, rule, other


@settings()
@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Settings of a verb: no group is before their names, and one has another name."""

    days: Annotated[int, Setting("number of days", least=1)] = 1
    logged: Annotated[bool, Setting("whether there are logs", key="log.all")]


def test_settings_within_their_range_arrive() -> None:
    given: dict[str, Any] = {"weights": {"a": 1}, "is_on": False, "rule": "b", "other": 4}
    assert Made("x", dim=9, share="learned", **given).made == ("x", 9, "learned", {"a": 1}, False, "b", 4)
    assert Made("x", dim=1, weights=["a"]).made == ("x", 1, 0.5, ["a"], True, "a", 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            ({"dim": bad}, "model.dim must be a whole number of at least 1 and at most 9, got")
            for bad in (0, 10, True, 1.0, "1")
        ),
        *(
            ({"share": bad}, "model.share must be a number above 0 or learned, got .*; 0.2 is usual")
            for bad in (0, float("nan"), float("inf"), "learn", None, False)
        ),
        *(
            (
                {"weights": bad},
                "model.weights must be a mapping to a number of at least 0 or a list of a text or null, got",
            )
            for bad in ("ab", {"a": -1}, {"a": "b"}, [1])
        ),
        *(({"is_on": bad}, "model.is_on must be true or false, got") for bad in (1, "yes", None)),
        *(({"rule": bad}, "model.rule must be one of a, b, got") for bad in ("c", 1, None)),
    ],
)
def test_a_setting_out_of_range_is_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Made("x", **{"dim": 1, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"days": 0}, "^days must be a whole number of at least 1, got 0"),
        ({"logged": 1}, "^log.all must be true or false, got 1"),
    ],
)
def test_the_message_has_the_name_on_the_command_line(change: dict[str, Any], message: str) -> None:
    assert Traffic(logged=True).days == 1
    with pytest.raises(InputError, match=message):
        Traffic(**{"logged": True, **change})


def test_a_page_shows_name_rule_and_meaning() -> None:
    assert described(Made)["share"] == ("model.share", "a number above 0 or learned", "share; 0.2 is usual")
    assert "other" not in described(Made)
    assert described(Traffic)["logged"] == ("log.all", "true or false", "whether there are logs")


def test_a_config_gets_the_defaults_that_it_leaves_out_in_any_depth() -> None:
    head = {"_target_": "segue.models.heads.CosineMix", "parts": ["track"]}
    found = with_defaults({"ranker": [head], "other": {"_target_": "torch.optim.Adam"}})
    assert found["other"] == {"_target_": "torch.optim.Adam"}
    assert found["ranker"][0]["parts"] == ["track"]
    assert found["ranker"][0]["order_std"] == 0.0


def test_a_config_gets_the_defaults_of_parts_as_their_classes_have_them() -> None:
    shown = with_defaults({"_target_": "segue.datamodules.sources.from_logs"})
    parts: dict[str, Any] = {
        "files": FileSettings(group=""),
        "columns": Columns(),
        "units": Units(),
        "catalogue": CatalogueSettings(group=""),
        "sql": SqlSettings(group=""),
        "policies": Policies(),
    }
    for key, part in parts.items():
        assert {"group": "", **shown[key]} == {"group": "", **asdict(part)}, key
    assert (shown["zone"], shown["cold_share"], shown["max_rejected"], shown["attributes"]) == ("UTC", 0.0, 0.01, None)


def test_every_default_can_be_read_without_running_the_code() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
                    if default is not None and argument.annotation and "Setting(" in ast.unparse(argument.annotation):
                        ast.literal_eval(default)
    assert Path(segue.__file__).resolve() == ROOT / "src" / "__init__.py"
