"""Requests made from our own OpenAPI document, right and wrong ones, against the real service with all checks.

The quick form covers each operation's boundaries with a key that may do all, the same in every run. FAI_FUZZ_EXAMPLES
makes it long: so many random examples of each operation beside them, and sequences of calls, with other keys too.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.completion_service import CompletionService

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3_600)]
ROOT = Path(__file__).parents[2]
PATHS = "^/(api/)?v1/"
NUM_EXAMPLES = os.environ.get("FAI_FUZZ_EXAMPLES", "")
# What no schema can tell: whether a thing is there, the model's context, the balance, a client that is too old.
CONFIG = """
hooks = "tests.e2e.fuzz_hooks"
[checks]
positive_data_acceptance.expected-statuses = [
    "2xx", "400", "403", "404", "409", "410", "413", "422", "426", "429", "503"
]
negative_data_rejection.expected-statuses = [
    "400", "401", "403", "404", "405", "409", "410", "413", "415", "422", "426", "429", "503"
]
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompletionService]:
    with CompletionService(tmp_path_factory.mktemp("fuzz")) as running:
        yield running
        assert running.evaluate("violations()") == "[]"


@pytest.mark.parametrize("who", ["rich", "poor", "volunteer"] if NUM_EXAMPLES else ["rich"])
def test_every_operation_answers_as_it_is_documented(service: CompletionService, tmp_path: Path, who: str) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG, encoding="utf-8")
    amount = ["--phases", "coverage,fuzzing,stateful", "-n", NUM_EXAMPLES] if NUM_EXAMPLES else ["--phases", "coverage"]
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config),
            "run", f"{service.url}/api/schema/", "--header", f"Authorization: Bearer {service.keys[who]}",
            "--include-path-regex", PATHS, "--checks", "all", "--generation-deterministic", "--continue-on-failure",
            "--request-timeout", "60", "--no-color", *amount,
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    service.check()
