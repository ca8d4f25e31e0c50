"""Tests. They read yaml files by libyaml, which takes a tenth of the time that yaml takes in Python."""

import yaml

# OmegaConf's loader derives from this name; a name of a module is no type that may be replaced, says mypy
yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[misc, assignment]  # the same loader, in C
