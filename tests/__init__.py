"""Tests. They read yaml files by libyaml, which takes a tenth of the time that yaml takes in Python."""

import yaml

yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[misc, assignment]  # that of OmegaConf
