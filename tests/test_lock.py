"""`requirements.lock` agrees with `pyproject.toml`: it holds what `make setup` installs, with hashes, and no more."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDS = [Requirement(need) for need in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
"""What `make setup` installs."""
CHOSEN_BY_RANGE = "torch"
RENEW = "run make lock, then commit pyproject.toml and requirements.lock together"


def entries(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Each package of a lock with its hashes."""
    blocks = re.findall(r"^([^#\s-].*?)((?: \\\n +--hash=\S+)*)$", lock, re.MULTILINE)
    return [(Requirement(name), re.findall(r"--hash=(\S+)", hashes)) for name, hashes in blocks]


PINNED = entries(LOCK)
HERE = {canonicalize_name(need.name): need for need, _ in PINNED if need.marker is None or need.marker.evaluate()}
"""The entries for the Python and the platform of this test."""


def applies(need: Requirement, extras: set[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras | {""})


def needed() -> set[str]:
    """Names of all packages that the project needs here, directly or through others, without those of PyTorch."""
    seen: set[tuple[str, str]] = set()
    waiting = [need for need in NEEDS if applies(need, set())]
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        for extra in need.extras | {""}:
            if name == CHOSEN_BY_RANGE or (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                below = [Requirement(text) for text in requires(name) or []]
            except PackageNotFoundError:
                pytest.fail(f"{name} is not installed; run make setup")
            waiting += [other for other in below if applies(other, {extra})]
    return {name for name, _ in seen}


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: need.name)
def test_each_dependency_is_locked_within_its_range(need: Requirement) -> None:
    name = canonicalize_name(need.name)
    if name == CHOSEN_BY_RANGE:
        assert need.marker is None
        return
    versions = [str(pin.specifier).removeprefix("==") for pin, _ in PINNED if canonicalize_name(pin.name) == name]
    assert versions, f"{need.name} is not in requirements.lock; {RENEW}"
    outside = [version for version in versions if not need.specifier.contains(version, prereleases=True)]
    assert not outside, f"requirements.lock has {need.name} {outside}, pyproject.toml allows {need.specifier}; {RENEW}"


def test_each_entry_is_one_version_with_hashes() -> None:
    assert len(PINNED) > 100
    assert [str(pin) for pin, _ in PINNED if not re.fullmatch(r"==[^,*]+", str(pin.specifier))] == []
    assert [str(pin) for pin, _ in PINNED if pin.url] == []
    assert [str(pin) for pin, hashes in PINNED if not hashes] == []
    assert {key for _, hashes in PINNED for key in hashes if not re.fullmatch(r"sha256:[0-9a-f]{64}", key)} == set()


def test_it_names_no_host_and_no_index() -> None:
    line = r"#.*|[a-z0-9.-]+==\S+( ; .*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
    assert [text for text in LOCK.splitlines() if not re.fullmatch(line, text)] == []
    assert "://" not in LOCK


def test_pytorch_and_what_only_pytorch_needs_are_left_out() -> None:
    names = {canonicalize_name(pin.name) for pin, _ in PINNED}
    assert not [name for name in names if re.match(r"torch$|triton|nvidia-|cuda-", name)]
    assert "pytorch-lightning" in names


def test_it_holds_what_the_project_needs_here_and_nothing_else() -> None:
    missing, superfluous = needed() - HERE.keys() - {CHOSEN_BY_RANGE}, HERE.keys() - needed()
    assert not missing, f"requirements.lock lacks {sorted(missing)}; {RENEW}"
    assert not superfluous, f"nothing needs {sorted(superfluous)} of requirements.lock; {RENEW}"


def test_an_entry_without_a_hash_is_recognised() -> None:
    lock = "# made\na==1 \\\n    --hash=sha256:0\nb==2 ; python_version < '4'\nc==3\n"
    assert [(pin.name, len(hashes)) for pin, hashes in entries(lock)] == [("a", 1), ("b", 0), ("c", 0)]
