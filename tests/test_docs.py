"""The documents against the code: what they name exists, and what must be named is."""

import ast
import re
from pathlib import Path

import pytest
from django.core.management import get_commands

from fai import cli
from fai.learner.command import COMMANDS
from ml.protocol import UPLOAD_CHUNK_BYTES
from tests.docker.compose import SERVICES
from tests.variables import ROOT, SERVER_MODULE, server_variables, volunteer_variables

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OPERATING = (ROOT / "docs" / "operating.md").read_text("utf-8")
TARGETS = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
EVERY_DOCUMENT = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def table(text: str, heading: str) -> list[list[str]]:
    """Cells of the rows of the first table below `heading`, its head left out."""
    below = text.split(f"\n{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert lines is not None
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(text: str) -> str:
    """Fenced blocks and inline code, one piece a line; comments in blocks left out."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return "\n".join([re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()] + inline)


def test_there_are_documents():
    assert len(DOCUMENTS) > 10


@EVERY_DOCUMENT
def test_every_relative_link_leads_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


@EVERY_DOCUMENT
def test_every_make_target_that_is_named_exists(path: Path):
    assert set(re.findall(r"\bmake (\w+)", code(path.read_text("utf-8")))) <= TARGETS


@EVERY_DOCUMENT
def test_every_management_command_that_is_named_exists(path: Path):
    assert set(re.findall(r"manage\.py (\w+)", code(path.read_text("utf-8")))) <= set(get_commands())


@EVERY_DOCUMENT
def test_every_command_of_fai_that_is_named_exists(path: Path):
    parser = cli._parser()
    for command in set(re.findall(r"^fai (\w+)", code(path.read_text("utf-8")), re.MULTILINE)) - set(COMMANDS):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([command, "--help"])
        assert ended.value.code == 0, command


@EVERY_DOCUMENT
def test_every_source_file_that_is_named_exists(path: Path):
    packages = "ml|fai|contributors|training|inference|fai_project|docker|tools|tests|data|docs|benchmarks"
    for name in re.findall(rf"^((?:{packages})/[\w./-]*)$", code(path.read_text("utf-8")), re.MULTILINE):
        assert (ROOT / name).exists() or name == "docker/.env", name


@EVERY_DOCUMENT
def test_nothing_is_left_to_be_written(path: Path):
    assert not re.search(r"\b(TODO|FIXME|TBD|XXX)\b", path.read_text("utf-8"))


@EVERY_DOCUMENT
def test_every_variable_that_is_named_is_one_that_the_code_reads(path: Path):
    of_tests = {"FAI_TEST_DATABASE_URL", "FAI_TEST_LLAMA_CPP_PYTHON", "FAI_FUZZ_EXAMPLES"}
    known = server_variables() | volunteer_variables() | of_tests
    assert set(re.findall(r"\bFAI_[A-Z0-9_]+\b", path.read_text("utf-8"))) <= known


def test_the_first_screen_of_the_readme_has_the_two_commands():
    first_screen = (ROOT / "README.md").read_text("utf-8").splitlines()[:14]
    assert {"make demo", "make test"} <= set(first_screen)


def test_the_tables_of_variables_are_what_the_code_reads():
    server = [row[0].strip("`") for row in table(OPERATING, "## Variables of the server")]
    volunteer = [row[0].strip("`") for row in table(OPERATING, "## Variables of a volunteer")]
    assert sorted(server) == sorted(server_variables())
    assert sorted(volunteer) == sorted(volunteer_variables())


def test_defaults_in_the_table_are_those_of_the_settings():
    calls = [node for node in ast.walk(ast.parse(SERVER_MODULE.read_text("utf-8"))) if isinstance(node, ast.Call)]
    defaults = {
        call.args[0].value: call.args[1].value
        for call in calls
        if len(call.args) == 2 and all(isinstance(argument, ast.Constant) for argument in call.args)
    }
    written = {row[0].strip("`"): row[1] for row in table(OPERATING, "## Variables of the server")}
    stated = {name: default for name, default in defaults.items() if name in written and default and len(default) < 40}
    assert {"FAI_REDIS_URL", "FAI_TICK_SECONDS", "FAI_LEASE_SECONDS"} <= set(stated)
    for name, default in stated.items():
        if name != "FAI_ALLOWED_HOSTS":
            assert written[name] == f"`{default}`"


def test_the_services_of_the_table_are_those_of_compose():
    named = {name for row in table(OPERATING, "## What runs") for name in re.findall(r"`([\w-]+)`", row[0])}
    assert named == set(SERVICES)


def test_the_size_of_a_piece_is_the_protocols():
    assert f"{UPLOAD_CHUNK_BYTES // 2**20} MiB" in (ROOT / "docs/decisions/0008-bounded-uploads.md").read_text("utf-8")
    assert f"bodies of {UPLOAD_CHUNK_BYTES // 2**20} MiB" in OPERATING


def test_decisions_are_numbered_without_gaps_and_titled_by_their_number():
    paths = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in paths] == list(range(1, len(paths) + 1))
    for path in paths:
        assert path.read_text("utf-8").startswith(f"# {int(path.name[:4])}. ")


def test_the_guide_in_korean_has_the_sections_and_commands_of_the_english_one():
    english, korean = ((ROOT / "docs" / name).read_text("utf-8") for name in ("volunteering.md", "volunteering.ko.md"))
    assert len(re.findall("^## ", english, re.MULTILINE)) == len(re.findall("^## ", korean, re.MULTILINE))
    assert set(re.findall(r"`(FAI_\w+|fai \w+)`", english)) <= set(re.findall(r"`(FAI_\w+|fai \w+)`", korean))


def test_the_license_is_the_one_of_pyproject_in_full():
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text("utf-8")
