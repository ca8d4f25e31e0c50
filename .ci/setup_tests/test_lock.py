"""Both locks agree with `pyproject.toml`: they hold what `make setup` and a service need, with hashes, and no more."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
CHOSEN_BY_RANGE = "torch"
RENEW = "run make lock, then commit pyproject.toml and both locks together"


def flattened(needs: list[str]) -> list[Requirement]:
    """Requirements; instead of `segue[…]` those of the extras that it names."""
    found = []
    for need in map(Requirement, needs):
        if need.name == PROJECT["name"]:
            for extra in sorted(need.extras):
                found += flattened(PROJECT["optional-dependencies"][extra])
        else:
            found.append(need)
    return found


NEEDS = flattened(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])
"""What `make setup` installs."""
OF_A_SERVICE = flattened(PYPROJECT["dependency-groups"]["serving"])


def entries(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Each package of a lock with its hashes."""
    blocks = re.findall(r"^([^#\s-].*?)((?: \\\n +--hash=\S+)*)$", lock, re.MULTILINE)
    return [(Requirement(name), re.findall(r"--hash=(\S+)", hashes)) for name, hashes in blocks]


LOCKS = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("requirements.lock", "requirements-serve.lock")}
ALL_PINNED = {name: entries(lock) for name, lock in LOCKS.items()}
PINNED, SERVING = ALL_PINNED.values()


def applies(need: Requirement, extras: set[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras | {""})


def needed(needs: list[Requirement]) -> set[str]:
    """Names of all packages that are needed here, directly or through others, without those of PyTorch."""
    seen: set[tuple[str, str]] = set()
    waiting = [need for need in needs if applies(need, set())]
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


def test_a_service_has_the_versions_of_everybody_else() -> None:
    ranges = flattened(PROJECT["dependencies"] + ["segue[serve,room]"])
    assert {need.name for need in OF_A_SERVICE} <= {need.name for need in ranges}
    assert [str(need) for need in OF_A_SERVICE if need.specifier] == []  # the others say which versions
    locked = {str(pin): hashes for pin, hashes in PINNED}
    assert [str(pin) for pin, hashes in SERVING if locked.get(str(pin)) != hashes] == []


def test_a_service_carries_nothing_that_only_training_needs() -> None:
    large = {"duckdb", "matplotlib", "mlflow", "pandas", "pyarrow", "pytorch-lightning", "scipy", "torch"}
    assert {canonicalize_name(pin.name) for pin, _ in SERVING} & large == set()


@pytest.mark.parametrize("name", LOCKS)
def test_each_entry_is_one_version_with_hashes(name: str) -> None:
    pinned = ALL_PINNED[name]
    assert len(pinned) > 20
    assert [str(pin) for pin, _ in pinned if not re.fullmatch(r"==[^,*]+", str(pin.specifier))] == []
    assert [str(pin) for pin, _ in pinned if pin.url] == []
    assert [str(pin) for pin, hashes in pinned if not hashes] == []
    assert {key for _, hashes in pinned for key in hashes if not re.fullmatch(r"sha256:[0-9a-f]{64}", key)} == set()


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_it_names_no_host_and_no_index(lock: str) -> None:
    line = r"#.*|[a-z0-9.-]+==\S+( ; .*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
    assert [text for text in lock.splitlines() if not re.fullmatch(line, text)] == []
    assert "://" not in lock


def test_pytorch_and_what_only_pytorch_needs_are_left_out() -> None:
    names = {canonicalize_name(pin.name) for pin, _ in PINNED}
    assert not [name for name in names if re.match(r"torch$|triton|nvidia-|cuda-", name)]
    assert "pytorch-lightning" in names


@pytest.mark.parametrize(("name", "needs"), [*zip(LOCKS, (NEEDS, OF_A_SERVICE), strict=True)], ids=LOCKS)
def test_it_holds_what_is_needed_here_and_nothing_else(name: str, needs: list[Requirement]) -> None:
    here = {canonicalize_name(pin.name) for pin, _ in ALL_PINNED[name] if pin.marker is None or pin.marker.evaluate()}
    missing, superfluous = needed(needs) - here - {CHOSEN_BY_RANGE}, here - needed(needs)
    assert not missing, f"{name} lacks {sorted(missing)}; {RENEW}"
    assert not superfluous, f"nothing needs {sorted(superfluous)} of {name}; {RENEW}"
