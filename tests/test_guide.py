"""docs/guide and docs/faq against the commands: what the guide says to type is run, in its order, in one folder."""

import argparse
import ast
import importlib
import os
import pkgutil
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import fai.learner
import ml
from fai import cli
from fai.learner.command import COMMANDS
from ml.bad_input import BadInput
from ml.config import ConfigInvalid
from ml.sampling import SamplingInvalid
from tests.variables import ROOT

GUIDE = ROOT / "docs" / "guide"
FAQ = ROOT / "docs" / "faq"
STAGES = sorted(path.name for path in (GUIDE / "en").glob("[0-9]-*.md"))
KINDS = {"sh", "sh minutes", "sh network", "text", ""}
FEWER_STEPS = ("max_steps=600", "max_steps=8")
"""What a block of `sh minutes` runs with here, as the guide's first page says."""
LEFT_BY = {
    "4-data.md": ["data/samples.txt", "data/prepare-report.json", "trial/samples/mine"],
    "5-tokenizer.md": ["data/tokenizer.json", "data/train.bin", "data/val.bin", "data/dataset.json"],
    "7-training.md": ["first/best/model.safetensors", "run/loss.png", "run/metrics.jsonl", "run/config.json"],
    "8-generation-and-serving.md": ["attention.png", "attention-ko.png", "hf/README.md", "hf/model.safetensors"],
}
"""What a stage says that it makes, below study/."""
SHOWN = {
    "1-overview.md": ["evaluate", "chat"],
    "2-environment.md": ["Hardware(device=", "billion operations per second"],
    "3-structure.md": ["--jsonl", "tiny        1,115,520 parameters, 4 layers of 128"],
    "4-data.md": ["[QUESTION]", "374,476", "code 14, ko 66", "[EMAIL]", '"binary"', '"duplicate"', "flutter-docs-ko"],
    "5-tokenizer.md": ["80.3%", "2.92", "['위', '젯'", "[1] ['[QUESTION]']", '"vocab_size": 2048'],
    "6-model.md": ["(2048, 128)", "scores: (1, 64, 2048)", "loss: 7.61, ln 2048 = 7.62"],
    "7-training.md": ["1,115,520 parameters (4 layers of 128", '{"step": 1, "tokens": 512', "bits per byte"],
    "8-generation-and-serving.md": [
        "temperature = 0.7",
        "expected next",
        "study/attention.png",
        "fp32",
        "bits per byte",
    ],
}
"""What the text says that is seen."""
CHECKED: dict[str, type[BadInput]] = {"ml.config": ConfigInvalid, "ml.sampling": SamplingInvalid}
"""Modules that raise the error by `_require(condition, message)`."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Kind and content of each fenced block."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """Every line of a block of commands that begins with fai, or pipes into it, in words."""
    for kind, text in blocks(page):
        if kind.startswith("sh"):
            for line in text.splitlines():
                called = re.search(r"(?:^|\| )fai (.*)", line)
                if called:
                    yield shlex.split(called[1])


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the learner finds in the repository's."""
    folder = tmp_path_factory.mktemp("guide")
    for name in ("data", "ml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run_stage(name: str, desk: Path) -> str:
    """What the stage's commands print."""
    printed = ""
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for kind, text in blocks(GUIDE / "en" / name):
        if kind not in {"sh", "sh minutes"}:
            continue
        script = text.replace(*FEWER_STEPS) if kind == "sh minutes" else text
        done = subprocess.run(
            ["/bin/sh", "-e", "-c", script],
            cwd=desk,
            env=os.environ | {"PATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        printed += done.stdout + done.stderr
    return printed


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_the_commands_of_the_guide_do_what_it_says(desk: Path):
    for name in STAGES:
        printed = run_stage(name, desk)
        assert [shown for shown in SHOWN[name] if shown not in printed] == [], printed
        assert [path for path in LEFT_BY.get(name, []) if not (desk / "study" / path).exists()] == []


def test_there_are_eight_stages_in_both_languages():
    assert [name[0] for name in STAGES] == list("12345678")
    assert {path.name for path in (GUIDE / "en").iterdir()} == {path.name for path in (GUIDE / "ko").iterdir()}


@pytest.mark.parametrize("name", ["README.md", *STAGES])
def test_both_languages_have_the_same_blocks_and_sections(name: str):
    english, korean = GUIDE / "en" / name, GUIDE / "ko" / name
    assert blocks(english) == blocks(korean)
    levels = [re.findall(r"^#+ ", page.read_text("utf-8"), re.MULTILINE) for page in (english, korean)]
    assert levels[0] == levels[1]
    exercises = [len(re.findall(r"^\d\. ", page.read_text("utf-8"), re.MULTILINE)) for page in (english, korean)]
    assert exercises[0] == exercises[1]


@pytest.mark.parametrize("name", STAGES)
def test_every_block_is_of_a_kind_that_the_guide_explains(name: str):
    assert {kind for kind, _ in blocks(GUIDE / "en" / name)} <= KINDS


def test_every_command_knows_its_options():
    called = [words for name in STAGES for words in commands(GUIDE / "en" / name)]
    for words in called:
        if words[0] in COMMANDS:
            parser = argparse.ArgumentParser()
            importlib.import_module(f"fai.learner.{words[0]}").add_arguments(parser)
        else:
            parser = cli._parser()
        if "--help" not in words and "--version" not in words:
            parser.parse_args(words[1:] if words[0] in COMMANDS else words)
    assert set(COMMANDS) <= {words[0] for words in called}


def test_minutes_are_made_shorter_by_the_number_of_steps_alone():
    texts = [text for name in STAGES for kind, text in blocks(GUIDE / "en" / name) if kind == "sh minutes"]
    assert texts
    assert all(FEWER_STEPS[0] in text for text in texts)


def test_pictures_are_small_and_shown():
    pictures = sorted((GUIDE / "pictures").iterdir())
    text = "".join(page.read_text("utf-8") for page in (GUIDE / "en").glob("*.md"))
    assert set(re.findall(r"\.\./pictures/([\w.-]+)", text)) == {path.name for path in pictures}
    for path in pictures:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 100_000
        assert min(struct.unpack(">II", data[16:24])) > 200


@cache
def modules() -> list[ModuleType]:
    """Every module of the learner's side."""
    names = [
        found.name
        for package in (ml, fai.learner)
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return [importlib.import_module(name) for name in names]


def kinds_of(base: type[BadInput]) -> set[type[BadInput]]:
    return {base}.union(*(kinds_of(kind) for kind in base.__subclasses__()))


@cache
def errors() -> dict[str, type[BadInput]]:
    """Every BadInput of the program by its name."""
    return {
        kind.__name__: kind for module in modules() for kind in kinds_of(BadInput) if kind.__module__ == module.__name__
    }


def test_every_error_has_a_page():
    assert len(errors()) > 20
    assert {kind.page for kind in errors().values()} == {page.stem for page in FAQ.glob("[a-z]*.md")}


def longest_piece(message: ast.expr) -> str:
    """The longest part of a message that is the same each time."""
    parts = message.values if isinstance(message, ast.JoinedStr) else [message]
    texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return max(texts, key=len, default="").strip(" :;,.(")


@cache
def messages() -> list[tuple[str, str]]:
    """Page, and a part of each message that an error of it is raised with."""
    found = []
    for module in modules():
        for call in ast.walk(ast.parse(Path(str(module.__file__)).read_text("utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name | ast.Attribute) and call.args:
                name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr
                if name in errors():
                    found.append((errors()[name].page, longest_piece(call.args[0])))
                elif name == "_require" and module.__name__ in CHECKED:
                    found.append((CHECKED[module.__name__].page, longest_piece(call.args[1])))
    return [(page, piece) for page, piece in found if len(piece) > 8]


def searchable(page: str) -> str:
    """The page's text with its lines joined."""
    return re.sub(r"\n(?:> )?", " ", (FAQ / f"{page}.md").read_text("utf-8"))


def test_every_message_can_be_found_on_its_page():
    assert len(messages()) > 80
    assert sorted({(page, piece) for page, piece in messages() if piece not in searchable(page)}) == []


@pytest.mark.parametrize("page", sorted(FAQ.glob("[a-z]*.md")), ids=lambda page: page.stem)
def test_each_page_has_a_korean_half_as_long_in_sections(page: Path):
    english, korean = page.read_text("utf-8").split("\n# 한국어\n")
    assert f"({page.name})" in (FAQ / "README.md").read_text("utf-8")
    assert 1 <= len(re.findall("^## ", korean, re.MULTILINE)) <= len(re.findall("^## ", english, re.MULTILINE)) or (
        "## " not in english and "## " not in korean
    )
