"""Recipes that do not fit a model."""

import pytest

from segue.errors import InputError
from segue.runs.recipe import check_recipe, named_recipe
from tests.contracts.building import composed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("model=convex", "recipe=counting"), "takes values from its recipe, and recipe=counting has none for it"),
        (("model=rules", "+optimizer.lr=1"), "optimizer cannot be used with model=rules, which has no gradients"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(words: tuple[str, ...], line: str) -> None:
    config = composed(*words)
    choices = config.hydra.runtime.choices
    with pytest.raises(InputError, match=line):
        check_recipe(config, model=choices.model, recipe=choices.recipe)


@pytest.mark.parametrize("words", [("model=convex",), ("model=rules",), ("datamodule=yes", "model=contextual")])
def test_a_recipe_that_fits_is_not(words: tuple[str, ...]) -> None:
    config = composed(*words)
    choices = config.hydra.runtime.choices
    check_recipe(config, model=choices.model, recipe=choices.recipe)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["model=convex", "datamodule=yes"], None),
        (["recipe=published"], "published"),
        (["experiment=published"], "published"),
    ],
)
def test_a_run_is_named_by_a_recipe_that_was_chosen(words: list[str], name: str | None) -> None:
    assert named_recipe(words, "published") == name
