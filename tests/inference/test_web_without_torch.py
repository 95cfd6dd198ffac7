import os
import subprocess
import sys
from pathlib import Path

RESOLVE_ALL = """
import sys
import fai_project.asgi
from django.urls import get_resolver

def resolve(patterns):
    for pattern in patterns:
        if hasattr(pattern, "url_patterns"):
            resolve(pattern.url_patterns)
        else:
            assert pattern.callback

resolve(get_resolver().url_patterns)
assert "inference.completions.streams" in sys.modules
print("torch" in sys.modules)
"""


def test_the_web_process_never_loads_torch(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", RESOLVE_ALL],
        env={**os.environ, "FAI_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "False\n"
