"""Every command of the pages can be typed: bash parses it, its program and its files exist, its options are accepted.

What a page prints of the verbs is also run: `tests/e2e/test_readme.py` runs the README and the tutorial.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segue.errors import InputError
from segue.runs.session_vectors import CONTEXTS
from segue.settings import with_defaults
from segue.verbs import compare, serve, simulate, train
from segue.verbs.terminal.words import renamed
from tests.conftest import ROOT
from tests.deploying import commands
from tests.e2e.forks import run_forked
from tests.pages import PAGES, Line, lines_of, words_of

REWRITE: dict[str, Callable[[list[str]], list[str]]] = {
    "train": partial(renamed, beginnings=train._SEARCH),  # without `resume=`, which looks for the run
    "describe": list,
    "prepare": list,
    "compare": compare._words,
    "serve": serve._words,
    "simulate": simulate.words_of,
    "abtest": simulate.words_of,
}
"""What each verb makes of its words before Hydra reads them."""
SMALLEST = "compare"
"""The verb whose config is composed soonest; what is chosen of Hydra itself is the same for all."""
OF_THE_SYSTEM = {
    *("make", "git", "cd", ".", "rm", "mv", "kill", "export", "head", "curl", "jq", "apt-get", "psql"),
    *("redis-server", "nginx", "docker", "systemctl", "install", "sh"),
}
"""Programs that the pages may call beside those of `.venv`; not every machine has all of them."""
OF_VENV = {"python", "python3", "pip", "mlflow", "mkdocs", "pre-commit", "torchrun"}
TIMING = {"command", "time", "-v"}
"""Words before a command that time it."""
TREE = re.compile(r"^(?:\./|\$PWD/)?((?:conf|deploy|docs|examples|experiments|src|tests)/[\w./-]+|\w+\.py)$")
"""A file or a folder of this repository."""
FLAGS = re.compile(
    r"(?<!\S)(?:-m|--multirun|-h|--help|--resolve|(?:-c|--cfg) (?:job|hydra|all)|(?:-p|--package) \S+)(?!\S)"
)
"""What the verbs have beside options."""
ALONE = re.compile(r"^['\"]?[+~]{0,2}[a-z_][\w./@]*=\S.*$")
"""Options of a verb, without the verb."""


def git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)


@cache
def has_history() -> bool:
    return git("rev-parse", "--is-shallow-repository").stdout.strip() == "false"


def is_command(line: Line) -> bool:
    """Whether a line is a command: all lines of blocks, and code that begins with a program and has more words."""
    words = line.text.split()
    return line.is_of_block or (len(words) > 1 and is_program(program(words)))


def program(words: Sequence[str]) -> str:
    """The first word that is no assignment and does not time the rest."""
    return next((word for word in words if word not in TIMING and not re.match(r"^\w+=", word)), "")


def is_program(word: str) -> bool:
    return word in OF_THE_SYSTEM or word.rpartition("/")[2] in OF_VENV


def faults_of_page(text: str) -> dict[str, list[str]]:
    """Why lines of a page cannot be typed, by line."""
    lines = [line for line in lines_of(text) if is_command(line) or ALONE.match(line.text)]
    whole = "\n".join(line.text if is_command(line) else f"python {line.text}" for line in lines)
    is_parsed = not bash(whole)  # of each line words_of sees whether its quotes are closed
    found = {line.text: list(_faults(line, text, is_parsed=is_parsed)) for line in lines}
    return {line: faults for line, faults in found.items() if faults}


def bash(script: str) -> str:
    """What bash says of a script that it does not run; empty if it can parse it."""
    return subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False).stderr.strip()


def _faults(line: Line, page: str, *, is_parsed: bool) -> Iterator[str]:
    text = line.text if is_command(line) else f"python {line.text}"
    try:
        commands = words_of(text)
    except ValueError as error:
        yield f"bash: {error}"
        return
    if not is_parsed and (said := bash(text)):
        yield f"bash: {said}"
    elif is_command(line):
        for words in commands:
            yield from _faults_of(words, line.commit, page)
    elif line.commit is None:
        options = commands[0][1:]
        unreadable = list(_refused(lambda: parse(compare._words(options))))
        yield from unreadable or _faults_of_options(options, page)


def _faults_of_options(words: list[str], page: str) -> Iterator[str]:
    """Why an option without a verb belongs to none: no config has a place for it, whatever is chosen."""
    for override in parse(compare._words(words)):
        key, value = override.key_or_group, override.value()
        if key.startswith(("hydra/", "hydra.")) or value == "anything":
            continue
        if is_group(override):
            of_arms = CONTEXTS if key == "context" else ()
            if not (ROOT / "conf" / key / f"{value}.yaml").exists() and isinstance(value, str) and value not in of_arms:
                yield f"there is no {key}={value}"
        elif not _is_in_conf(key):
            given = ["-m", override.input_line or ""]
            refusals = (list(_refused(partial(check_options, verb, given, page))) for verb in REWRITE)
            first = next(refusals)
            yield from first if first and all(refusals) else []


def _is_in_conf(key: str) -> bool:
    """Whether a file of `conf/` has a place for a key, such as that of another model; `anything` stands for a name."""
    group, *names = key.split(".")
    return any(
        _has(config, [group, *names]) if folder == "" else bool(names) and folder == group and _has(config, names)
        for folder, config in _conf_files()
    )


@cache
def _conf_files() -> list[tuple[str, object]]:
    """What each file sets, and of what: the folder of a choice, or nothing for the whole config."""
    files = [(file, file.read_text(encoding="utf-8")) for file in sorted((ROOT / "conf").rglob("*.yaml"))]
    return [
        (
            "" if "@package _global_" in text or file.parent.name == "conf" else file.parent.name,
            with_defaults(yaml.safe_load(text)),
        )
        for file, text in files
    ]


def _has(node: object, names: list[str]) -> bool:
    if names in ([], ["anything"]):
        return True
    return isinstance(node, dict) and names[0] in node and _has(node[names[0]], names[1:])


def _refused(check: Callable[[], object]) -> Iterator[str]:
    """What a check raises."""
    try:
        check()
    except (HydraException, OmegaConfBaseException, InputError) as error:
        yield str(error)


def _faults_of(words: list[str], commit: str | None, page: str) -> Iterator[str]:
    """Why a command cannot be typed, from its words."""
    name = program(words)
    words = words[words.index(name) + 1 :]
    if name == "segue" and words:  # the command of an installed Segue
        name, words = "python", [f"{words[0]}.py", *words[1:]]
    if not is_program(name):
        yield f"{name} is no program of this project"
    files = [match[1] for word in words if (match := TREE.match(re.sub(r"^[\w.+~]+=|^>", "", word)))]
    if commit is not None:
        yield from (fault for file in files for fault in _missing(commit, file))
        return
    yield from (f"{file} does not exist" for file in files if not (ROOT / file).exists())
    if name == "make":
        yield from _faults_of_make(words)
    elif name == "git":
        for match in filter(None, (re.match(r"^([0-9a-f]{7,40})(?::(.*))?$", word) for word in words)):
            yield from _missing(match[1], match[2])
    elif name.endswith("pip"):
        yield from _faults_of_pip(words)
    elif name == "docker":  # in a container
        for verb, *options in (words[at + 1 :] for at, word in enumerate(words[:-1]) if word == "segue"):
            yield from _refused(partial(check_options, verb, options, page)) if verb in REWRITE else []
    elif name == "python" and words[0] == "-c":
        compile(words[1], "a page", "exec")
    elif name == "python" and words[0] == "-m" and words[1].partition(".")[0] in ("segue", "tests", "experiments"):
        if find_spec(words[1]) is None:
            yield f"there is no {words[1]}"
    elif (script := next((file for file in files if file.endswith(".py")), None)) and (ROOT / script).exists():
        options = words[words.index(script) + 1 :]
        if script.removesuffix(".py") in REWRITE:
            yield from _refused(lambda: check_options(script.removesuffix(".py"), options, page))
        elif options and _has_parser(ROOT / script):
            yield from _faults_of_parser(script, tuple(options))
        elif any(option.startswith("-") for option in options):
            yield f"{script} has no options"


@cache
def _missing(commit: str, file: str | None) -> list[str]:
    """Why a file of a commit cannot be read. Nothing is known without the history."""
    if not has_history():
        return []
    if git("merge-base", "--is-ancestor", commit, "HEAD").returncode:
        return [f"{commit} is no commit before this one"]
    return [f"{file} is not in {commit}"] if file and git("cat-file", "-e", f"{commit}:{file}").returncode else []


def _faults_of_make(words: list[str]) -> Iterator[str]:
    targets = [word for word in words if "=" not in word]
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    yield from (f"make has no {target}" for target in targets if not re.search(rf"^{target}:", text, re.MULTILINE))
    variables = {word.partition("=")[0] for word in words if "=" in word}
    yield from (f"the Makefile uses no {name}" for name in variables if not re.search(rf"\(({name})\)", text))
    if any(word.startswith("ARGS=") for word in words):
        calls = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout
        for call in re.findall(r"^\.venv/bin/python (?:train\.py|(?:experiments|docs)/).*", calls, flags=re.MULTILINE):
            [inner] = words_of(call)
            yield from _faults_of(inner, None, "")


def _faults_of_pip(words: list[str]) -> Iterator[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        name for word in words if (match := re.match(r"^(?:\.|segue)\[(.+)\]$", word)) for name in match[1].split(",")
    }
    yield from (f"pyproject.toml has no extra {name}" for name in extras - project["optional-dependencies"].keys())


def _has_parser(script: Path) -> bool:
    """Whether `--help` ends a script; another would do its work."""
    return bool(re.search(r"argparse|STUDY\.parse\(|import .*\bmain_of\b", script.read_text(encoding="utf-8")))


@cache
def _faults_of_parser(script: str, words: tuple[str, ...]) -> list[str]:
    """Values are refused by the parser of the script; names are looked up in its help, which ends it."""
    place = words.index("--") if "--" in words else len(words)
    asked = [*words[:place], "--help", *words[place:]]
    done = run_forked(ROOT / script, *asked, cwd=ROOT, env=dict(os.environ), timeout_s=300)
    if done.returncode:
        return [f"{script}: {done.stderr.strip()}"]
    names = {word.partition("=")[0] for word in words[:place] if re.match("--[a-z]", word)}
    return [f"{script} has no option {name}" for name in names if name not in re.findall(r"--[\w-]+", done.stdout)]


@pytest.fixture(scope="module", autouse=True)
def _conf() -> Iterator[None]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def parse(words: Sequence[str]) -> list[Override]:
    """The options among words.

    Raises:
        HydraException: one cannot be read.
    """
    return OverridesParser.create().parse_overrides([word for word in words if _is_option(word)])


def _is_option(word: str) -> bool:
    return bool(re.match(r"^[^-].*=|~", word))


def check_options(verb: str, words: list[str], page: str) -> None:
    """Whether the config of a verb has a place for options. A page may say how the file of a choice is written.

    Raises:
        HydraException: it has not.
        InputError: it has not.
    """
    words = REWRITE[verb](words)
    if strange := FLAGS.sub("", " ".join(word for word in words if not _is_option(word))).split():
        raise InputError(f"{verb}.py has no {strange[0]}")
    overrides = parse(words)
    groups = [override for override in overrides if is_group(override)]
    chosen: dict[bool, list[str]] = {True: [], False: []}
    for override in groups:
        files = {value: f"conf/{override.key_or_group}/{value}.yaml" for value in _values(override)}
        known = [value for value, file in files.items() if (ROOT / file).exists() or file not in page]
        missing = [value for value in known if not (ROOT / files[value]).exists()]
        if missing and override.key_or_group != "hydra/launcher":
            raise InputError(f"there is no {override.key_or_group}={missing[0]}")
        chosen[override.key_or_group.startswith("hydra/")] += [
            f"{override.key_or_group}={value}" for value in known[:1]
        ]
    of_the_run, of_hydra = _composed(verb, tuple(chosen[False])), _composed(SMALLEST, tuple(chosen[True]))
    for override in overrides:
        if override not in groups:
            _check_key(of_hydra if override.key_or_group.startswith("hydra.") else of_the_run, override)


def is_group(override: Override) -> bool:
    key = override.key_or_group
    return "/" in key or (ROOT / "conf" / key).is_dir()


@cache
def _composed(verb: str, groups: tuple[str, ...]) -> DictConfig:
    """The config with choices. It takes a tenth of a second, therefore commands that differ in values share it."""
    return compose(verb, [*groups, "run_dir=x"], return_hydra_config=True)


def _values(override: Override) -> list[Any]:
    """All values of an override, of a sweep or not."""
    if override.is_choice_sweep() or override.is_range_sweep():
        return list(override.sweep_iterator())
    value = override.value()
    return [value.start if isinstance(value, IntervalSweep) else value]


def _check_key(config: DictConfig, override: Override) -> None:
    key = override.key_or_group
    parent, _, name = key.rpartition(".")
    within = OmegaConf.select(config, parent) if parent else config
    is_there = isinstance(within, DictConfig) and name in list(within)  # also where its value is missing
    if override.is_add():
        if is_there and not override.is_force_add():
            raise InputError(f"the config has {key} already; leave out the +")
    elif not is_there:
        raise InputError(f"the config has no {key}")
    else:
        for value in _values(override):
            _check_value(within, name, value, key)


def _check_value(within: Any, name: str, value: object, key: str) -> None:
    """Whether a mapping has the keys of a value, if it has some."""
    if name not in list(within):
        raise InputError(f"the config has no {key}")
    now = within._get_node(name)
    if isinstance(value, dict) and isinstance(now, DictConfig) and not now._is_none() and len(now):
        for inner, its_value in value.items():
            _check_value(now, str(inner), its_value, f"{key}.{inner}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_can_be_typed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert faults_of_page(text) == {}
    if re.search(r"git (?:show|worktree add) ", text) and not has_history():
        pytest.skip("the rest can be typed; the files of its older commits are not in a checkout without history")


@pytest.mark.parametrize("file", commands())
def test_the_service_has_the_options_that_a_file_of_deploy_starts_it_with(file: str) -> None:
    verb, *options = commands()[file]
    check_options(verb, options, "")


def test_the_programs_of_venv_are_installed() -> None:
    assert [name for name in OF_VENV if shutil.which(name, path=Path(sys.executable).parent) is None] == []


def block(*lines: str) -> str:
    return "\n".join(["```bash", *lines, "```"])


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ("`python nothing.py`", "nothing.py does not exist"),
        (block("frobnicate now"), "frobnicate is no program of this project"),
        (block("python train.py (model=track)"), "bash: .*syntax error"),
        ("""`'+datamodule.sql.drop.podcasts="kind = \\'podcast\\'"'`""", "bash: No closing quotation"),
        ("`'datamodule.columns={user: a'`", "no viable alternative at input"),
        ("`python train.py --halp`", "train.py has no --halp"),
        ("`model.regularisation=3`", "the config has no model.regularisation"),
        ("`python train.py 'datamodule.columns={usr: a}'`", "the config has no datamodule.columns.usr"),
        ("`python train.py model=track +model.dim=2`", "the config has model.dim already; leave out the \\+"),
        ("`python serve.py laod recommendations=popular`", "'laod' is not a command"),
        ("`python describe.py datamodule=table datamodule.path=examples/nothing.csv`", "nothing.csv does not exist"),
        (block("python experiments/throughput/bench.py --full \\", "    --fast"), "has no option --fast"),
        ('`make bench ARGS="--rounds many"`', "argument --rounds: invalid int value: 'many'"),
        ("`docker run -v segue:/data segue serve wrokers=2`", "the config has no wrokers"),
        ('`make train ARG="model=track"`', "the Makefile uses no ARG"),
        ("`python -m tests.nothing`", "there is no tests.nothing"),
        ('`pip install -e ".[nothing]"`', "pyproject.toml has no extra nothing"),
        ("`git show 652e071:nothing.md`", "nothing.md is not in 652e071"),
        (block("git worktree add ../old 652e071", "python experiments/nothing.py"), "nothing.py is not in 652e071"),
    ],
)
def test_a_command_that_cannot_be_typed_is_found(page: str, fault: str) -> None:
    if "652e071" in page and not has_history():
        pytest.skip("this is no checkout with its whole history")
    [[said]] = faults_of_page(page).values()
    assert re.search(fault, said), said
