"""llama.cpp, with one model."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import xllamacpp


class Llama:
    """A server in this process, on one thread, without what it says."""

    def __init__(self, path: Path, *, context: int = 256) -> None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = context
        parameters.verbosity = 0
        parameters.warmup = False
        parameters.cpuparams.n_threads = 1
        parameters.cpuparams_batch.n_threads = 1
        # Keys, values and attention in fp32, as ours are: the defaults round them to fp16.
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
        parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self.server = xllamacpp.Server(parameters)

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
        (choice,) = self.server.handle_completions(request)["choices"]
        steps = (choice["logprobs"] or {"content": []})["content"]
        return {entry["id"]: entry["logprob"] for step in steps for entry in step["top_logprobs"]}

    def _post(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(request).encode()
        call = urllib.request.Request(self.server.listening_address + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(call, timeout=60) as answer:
            return dict(json.load(answer))
