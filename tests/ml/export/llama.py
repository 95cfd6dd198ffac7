"""llama.cpp, with one model, in a process of its own: python -m tests.ml.export.llama MODEL.

The process is killed, not ended: its server joins a thread that waits for the interpreter, which waits for the server.
"""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import xllamacpp

CONTEXT = 256


def serve(path: str) -> None:
    """Answer on one thread until killed; the first line of standard output is the address."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx = CONTEXT
    parameters.verbosity = 0
    parameters.warmup = False
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    # Keys, values and attention in fp32, as ours are: the defaults round them to fp16.
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(parameters)
    sys.stdout.write(server.listening_address + "\n")
    sys.stdout.flush()
    while True:
        time.sleep(3600)


class Llama:
    """A server that lives as long as the context."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", __name__, str(path)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        lines = iter(self._process.stdout.readline, "")
        self.address = next(line.strip() for line in lines if line.startswith("http"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdout is not None
        self.kill()
        self._process.stdout.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def tokenize(self, text: str) -> list[int]:
        return list(self._post("/tokenize", {"content": text, "parse_special": True})["tokens"])

    def render(self, messages: list[dict[str, str]]) -> str:
        return str(self._post("/apply-template", {"messages": messages})["prompt"])

    def complete(self, tokens: list[int], *, num_tokens: int, favoured: int = 0, by: float = 0.0) -> list[int]:
        """The likeliest text; `by` is added to the logit of the `favoured` token."""
        request = {
            "prompt": tokens,
            "n_predict": num_tokens,
            "temperature": 0,
            "return_tokens": True,
            "logit_bias": [[favoured, by]],
        }
        return list(self._post("/completion", request)["tokens"])

    def top_logprobs(self, tokens: list[int], *, num_candidates: int) -> dict[int, float]:
        """The likeliest next tokens with their log-probabilities; none where the likeliest is a part of a character."""
        request = {"prompt": tokens, "max_tokens": 1, "temperature": 0, "logprobs": num_candidates}
        (choice,) = self._post("/v1/completions", request)["choices"]
        steps = (choice["logprobs"] or {"content": []})["content"]
        return {entry["id"]: entry["logprob"] for step in steps for entry in step["top_logprobs"]}

    def _post(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(request).encode()
        call = urllib.request.Request(self.address + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(call, timeout=60) as answer:
            return dict(json.load(answer))


if __name__ == "__main__":
    serve(sys.argv[1])
