"""The Dockerfiles against pyproject.toml and the code: what is copied exists, what is imported is installed."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.docker.compose import ROOT, read_dockerfile

DOCKERFILES = ["server.Dockerfile", "worker.Dockerfile"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = {"server.Dockerfile": ["server"], "worker.Dockerfile": []}
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def copied(name: str) -> list[str]:
    """What the Dockerfile takes from the repository."""
    lines = [line.rest for line in read_dockerfile(name) if line.word == "COPY" and "--from" not in line.rest]
    return [source for line in lines for source in line.split()[:-1]]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_with(requirements: list[str]) -> set[str]:
    """Distributions that pip brings for `requirements`, what they require included."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        for extra in requirement.extras or {""}:
            key = f"{canonical(requirement.name)}[{extra}]"
            if key in found:
                continue
            found.add(key)
            further = [Requirement(text) for text in requires(requirement.name) or []]
            waiting += [one for one in further if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {key.partition("[")[0] for key in found}


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker sees."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}):
            yield from _executed(child)


def imported_by(path: Path) -> set[str]:
    """Full names of what a file imports; of `from a import b` both a and a.b, since b may be a module."""
    names: set[str] = set()
    for node in _executed(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def foreign_imports(sources: list[str]) -> set[str]:
    """Top-level names outside the standard library that the image's programs import, themselves or through each other.

    A learner's commands are loaded by name, and none runs in an image; of ml they reach what no program here does.
    """
    paths = [path for source in sources for path in [*(ROOT / source).rglob("*.py"), ROOT / source]]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths if path.suffix == ".py"}
    waiting = [name for name in modules if not name.startswith(("ml.", "fai.learner."))]
    reached: set[str] = set()
    foreign: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        imported = imported_by(modules[name])
        waiting += [one for one in imported if one in modules]
        foreign |= {one.partition(".")[0] for one in imported}
    return foreign - sys.stdlib_module_names - {source.partition("/")[0] for source in sources}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_image_installs_all_that_its_code_imports(name: str):
    wanted = PROJECT["dependencies"] + [
        one for extra in EXTRAS[name] for one in PROJECT["optional-dependencies"][extra]
    ]
    installed = installed_with(wanted)
    distributions = packages_distributions()
    imported = foreign_imports(copied(name))
    assert {"celery", "torch"} <= imported
    missing = {
        module for module in imported if not {canonical(one) for one in distributions.get(module, [])} & installed
    }
    assert not missing


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_exists_and_reaches_the_build(name: str):
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert copied(name)
    for source in copied(name):
        assert (ROOT / source).exists(), source
        assert any(Path(source).match(pattern) for pattern in kept), source


def test_the_server_image_has_all_server_packages_and_the_worker_image_none():
    own = {"contributors", "training", "inference", "fai_project"}
    assert own <= set(copied("server.Dockerfile"))
    assert not own & set(copied("worker.Dockerfile"))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_image_installs_the_extras_that_its_role_needs(name: str):
    install = next(
        line.rest for line in read_dockerfile(name) if line.word == "RUN" and re.search(r'install "?\.', line.rest)
    )
    asked = re.search(r'install "?\.(?:\[(\w+)\])?', install)
    assert asked is not None
    assert ([asked[1]] if asked[1] else []) == EXTRAS[name]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_image_runs_as_nobody_in_particular(name: str):
    lines = read_dockerfile(name)
    last_stage = lines[max(index for index, line in enumerate(lines) if line.word == "FROM") :]
    assert [line.rest for line in last_stage if line.word == "USER"] == ["10001:10001"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_images_python_is_one_that_the_project_supports(name: str):
    bases = {line.rest.split()[0] for line in read_dockerfile(name) if line.word == "FROM"}
    assert len(bases) == 1
    version = re.fullmatch(r"python:(\d+\.\d+)-slim", bases.pop())
    assert version is not None
    assert version[1] in SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize("name", DOCKERFILES)
def test_torch_is_the_one_of_pyproject_and_without_cuda_unless_asked(name: str):
    lines = read_dockerfile(name)
    installs = [line.rest for line in lines if line.word == "RUN" and "torch" in line.rest]
    assert len(installs) == 1
    requirement = re.search(r'"(torch[^"]*)"', installs[0])
    assert requirement is not None
    assert requirement[1] in PROJECT["dependencies"]
    arguments = {line.rest for line in lines if line.word == "ARG"}
    assert CPU_INDEX in installs[0] or (f"TORCH_INDEX={CPU_INDEX}" in arguments and '"$TORCH_INDEX"' in installs[0])
