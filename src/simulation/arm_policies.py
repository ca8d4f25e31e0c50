"""From the arms of an experiment, each with the name of a recommender, to the policies that play them."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from src.assignment import check_arms
from src.errors import InputError
from src.recommender_names import FILES, SERVICES, parse_name, recommender_name, unknown_recommender
from src.simulation.policies import Policy
from src.simulation.world import World

_BY_ADDRESS = {"recommendations": "path", "service": "url"}
"""Policies that are named by what they read, and which of their settings that is."""

Locate = Callable[[str], Path]
"""From the name of a run or a registered model to its `recommendations.jsonl`."""


def make_policies(
    arms: Any, *, templates: Mapping[str, partial[Any]], world: World, locate: Locate
) -> dict[str, Policy]:
    """A policy for each arm.

    Args:
        arms: for each arm a recommender's name: one of `templates`, a path, `run:…`, `model:…` or `http://…`; or a
            mapping with that under `recommender` and settings of its own beside it.
        templates: what makes each kind of policy, with its usual settings.
        world: what they recommend from.
        locate: finds the file of a run or a model.

    Raises:
        InputError: an arm is misnamed, or names no recommender, or one that cannot be had.
    """
    if not isinstance(arms, Mapping):
        raise InputError(
            f"arms must give each arm a recommender, such as arms={{C: random, T1: popular}}, got {arms!r}"
        )
    return {
        arm: _policy(f"arms.{arm}", arms[arm], templates=templates, world=world, locate=locate)
        for arm in check_arms(arms)
    }


def template_name(name: str) -> str:
    """Name of the template that makes the policy for a recommender of this name."""
    kinds = {"url": "service", "stored": "recommendations", "path": "recommendations", "word": name}
    return kinds[parse_name(name).kind]


def _policy(where: str, given: Any, *, templates: Mapping[str, partial[Any]], world: World, locate: Locate) -> Policy:
    settings = (
        {key: value for key, value in given.items() if key != "recommender"} if isinstance(given, Mapping) else {}
    )
    name = recommender_name(given)
    if name is None:
        raise InputError(f"{where} must name a recommender, got {given!r}; such as random, or {{recommender: random}}")
    named, kind = parse_name(name), template_name(name)
    if named.kind == "stored":
        settings["path"] = str(locate(name))
    elif kind not in templates or name in _BY_ADDRESS:
        others = f"{FILES}, {SERVICES}" if "service" in templates else FILES
        raise InputError(unknown_recommender(where, name, sorted(set(templates) - set(_BY_ADDRESS)), others))
    elif named.kind != "word":
        settings[_BY_ADDRESS[kind]] = named.name
    allowed = set(templates[kind].keywords) | {_BY_ADDRESS.get(kind, "")}
    if wrong := sorted(map(str, set(settings) - allowed)):
        own = ", ".join(sorted(set(templates[kind].keywords))) or "none"
        raise InputError(f"{where}: {wrong[0]!r} is no setting of {kind}; it has {own}")
    policy: Policy = templates[kind](**settings, world=world)
    return policy
