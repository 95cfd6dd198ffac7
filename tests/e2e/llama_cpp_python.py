"""llama-cpp-python's server with one model, in the Python that FAI_TEST_LLAMA_CPP_PYTHON names."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from fai_project.processes import Process
from tests.conftest import _free_port
from tests.e2e.conftest import wait_for

VARIABLE = "FAI_TEST_LLAMA_CPP_PYTHON"
CONTEXT = 1_024
FP32 = "0"
"""ggml's number for it."""


class LlamaCppPython:
    """A server that lives as long as the context."""

    def __init__(self, path: Path) -> None:
        port = _free_port()
        self.address = f"http://127.0.0.1:{port}"
        # Keys and values in fp32, as ours are; a stream that is under way is not ended for the next request.
        options = {
            "model": path, "port": port, "n_ctx": CONTEXT, "n_threads": 1, "n_threads_batch": 1,
            "type_k": FP32, "type_v": FP32, "interrupt_requests": "false",
        }  # fmt: skip
        command = [os.environ[VARIABLE], "-m", "llama_cpp.server"]
        self._process = Process(
            "llama-cpp-python",
            command + [str(part) for name, value in options.items() for part in (f"--{name}", value)],
            environment=os.environ,
            log=path.with_name("llama-cpp-python.log"),
        )

    def __enter__(self) -> Self:
        self._process.start()
        wait_for(self._answers, seconds=60, what="llama-cpp-python answers")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        self._process.kill()

    def _answers(self) -> bool:
        self._process.check()
        try:
            return httpx.get(f"{self.address}/v1/models").is_success
        except httpx.TransportError:
            return False
