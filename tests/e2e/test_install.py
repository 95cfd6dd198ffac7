"""A volunteer's installation has no server in it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_the_package_without_the_server_extra_imports_in_an_empty_environment(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    install = [*pip, "install", "--quiet", "--no-compile"]
    # The torch that is here already: on a machine without a GPU not the one with gigabytes of CUDA.
    wanted = f"torch=={torch.__version__}"
    if subprocess.run([*install, wanted], check=False, capture_output=True).returncode:
        subprocess.run([*install, wanted, "--index-url", CPU_INDEX], check=True)
    # From a copy, so that building leaves nothing behind in the working tree.
    shutil.copytree(ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "build", "data", "*.egg-info"))
    subprocess.run([*install, str(tmp_path / "source")], check=True)

    listed = subprocess.run([*pip, "list"], check=True, capture_output=True, text=True).stdout
    names = {line.split()[0].lower() for line in listed.splitlines()[2:]}
    assert "fai" in names
    assert not names & {
        "django",
        "djangorestframework",
        "django-storages",
        "uvicorn",
        "psycopg",
        "datasets",
        "ftfy",
        "gguf",
    }
    imports = "import fai, fai.celery, fai.cli, fai.runner, ml.local; print(fai.__version__)"
    ran = subprocess.run([str(python), "-c", imports], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    helped = subprocess.run([str(python.with_name("fai")), "--help"], capture_output=True, text=True, check=False)
    assert helped.returncode == 0, helped.stderr
