import os
import subprocess
import sys

import pytest

PROGRAM = "import ml, os, sys; print(os.environ['PYTORCH_ENABLE_MPS_FALLBACK'], 'torch' in sys.modules)"


@pytest.mark.parametrize(("chosen", "expected"), [(None, "1"), ("0", "0")])
def test_the_fallback_is_on_before_torch_is_loaded_unless_somebody_chose(chosen: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTORCH_ENABLE_MPS_FALLBACK"}
    if chosen is not None:
        environment["PYTORCH_ENABLE_MPS_FALLBACK"] = chosen
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == [expected, "False"]
