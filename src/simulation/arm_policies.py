"""Creates the policy of each arm from the name of its recommender."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from segue.assignment import check_arms
from segue.errors import InputError
from segue.runs.recommender_names import FILES, SERVICES, parse_name, recommender_name, unknown_recommender
from segue.simulation.policies import Policy
from segue.simulation.world import World

_BY_ADDRESS = {"recommendations": "path", "service": "url"}
"""Policies that are named by the file or service they read, and the setting that takes that name."""

_TEMPLATES = {"url": "service", "stored": "recommendations", "path": "recommendations"}
"""The template of a name that is not itself one, by its kind."""

Locate = Callable[[str], Path]
"""Finds the `recommendations.jsonl` of the name of a run or a registered model."""


def make_policies(
    arms: Any, *, templates: Mapping[str, partial[Any]], world: World, locate: Locate
) -> dict[str, Policy]:
    """Create the policy of each arm.

    Args:
        arms: the recommender of each arm: one of `templates`, a path, `run:…`, `model:…` or `http://…`; or a mapping
            with this name under `recommender` and settings of this arm beside it.
        templates: factory of each kind of policy, with its default settings.
        world: the world whose tracks they recommend.
        locate: finds the file of a run or a model.

    Returns:
        The policy of each arm, in the order of the arms.

    Raises:
        InputError: an arm has an invalid name, names no recommender, or names one that cannot be read.
    """
    if not isinstance(arms, Mapping):
        raise InputError(
            f"arms must be a mapping from arms to recommenders, such as arms={{C: random, T1: popular}}, got {arms!r}"
        )
    return {arm: _policy(f"arms.{arm}", arms[arm], templates, world, locate) for arm in check_arms(arms)}


def template_name(name: str) -> str:
    """The template of a recommender.

    Args:
        name: name of the recommender, as in `arms`.

    Returns:
        Name of the template that creates its policy.
    """
    return _TEMPLATES.get(parse_name(name).kind, name)


def _policy(where: str, given: Any, templates: Mapping[str, partial[Any]], world: World, locate: Locate) -> Policy:
    name = recommender_name(given)
    if name is None:
        raise InputError(f"{where} must name a recommender, got {given!r}; such as random, or {{recommender: random}}")
    settings = {key: given[key] for key in given if key != "recommender"} if isinstance(given, Mapping) else {}
    named, kind = parse_name(name), template_name(name)
    if kind not in templates or name in _BY_ADDRESS:
        others = f"{FILES}, {SERVICES}" if "service" in templates else FILES
        raise InputError(unknown_recommender(where, name, sorted(set(templates) - set(_BY_ADDRESS)), others))
    if named.kind != "word":
        settings[_BY_ADDRESS[kind]] = str(locate(named.name)) if named.kind == "stored" else named.name
    known = set(templates[kind].keywords)
    if unknown := sorted(map(str, set(settings) - known - {_BY_ADDRESS.get(kind)})):
        listed = ", ".join(sorted(known)) or "none"
        raise InputError(f"{where}: {unknown[0]!r} is not a setting of {kind}; its settings are: {listed}")
    policy: Policy = templates[kind](**settings, world=world)
    return policy
