"""What generates the same number of tokens from the same prompts, each in a process of its own.

python -m benchmarks.serving.engine_contenders NAME HOME THREADS BATCH NEW_TOKENS: for each line of standard input it
prints the seconds that a batch of texts took, their prompts included.
"""

import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PROMPT_TOKENS = 16

Generate = Callable[[], object]


def prompts(batch: int) -> list[list[int]]:
    """Different ones, so that no prefix is shared."""
    return [[300 + 50 * index + place for place in range(PROMPT_TOKENS)] for index in range(batch)]


def ours(home: Path, *, threads: int, batch: int, new_tokens: int) -> Generate:
    import torch  # noqa: PLC0415 - only this contender's process needs it

    from inference.engine.runner import Choice, Runner  # noqa: PLC0415
    from ml.inference_parity import prepare  # noqa: PLC0415
    from ml.prefix_cache import PrefixCache  # noqa: PLC0415
    from ml.run import open_run  # noqa: PLC0415
    from ml.sampling import SamplingParams  # noqa: PLC0415

    torch.set_num_threads(threads)
    model = prepare(open_run(home).model)
    # A second run of the same prompts must not find what the first has computed.
    runner = Runner(model, checkpoint_id=0, sha256="", num_slots=batch, prefixes=PrefixCache(max_bytes=0))
    params = SamplingParams(temperature=0.0, max_tokens=new_tokens)

    def generate() -> None:
        texts = enumerate(prompts(batch))
        runner.add(
            [
                Choice(request_id="", index=index, text=text, params=params, stop_tokens=frozenset())
                for index, text in texts
            ]
        )
        while not runner.is_idle:
            runner.step()

    return generate


def transformers(home: Path, *, threads: int, batch: int, new_tokens: int) -> Generate:
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(home / "hf", dtype=torch.float32)
    model.eval()
    tokens = torch.tensor(prompts(batch))

    @torch.inference_mode()
    def generate() -> None:
        model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
        )

    return generate


def llama_cpp(home: Path, *, threads: int, batch: int, new_tokens: int) -> Generate:
    import xllamacpp  # noqa: PLC0415

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(home / "gguf" / "model.gguf")
    parameters.n_parallel = batch
    parameters.n_ctx = batch * 256
    parameters.verbosity = 0
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)
    pool = ThreadPoolExecutor(batch)

    def complete(prompt: list[int]) -> object:
        body = {
            "prompt": prompt,
            "n_predict": new_tokens,
            "ignore_eos": True,
            "cache_prompt": False,
            "samplers": ["top_k"],
            "top_k": 1,
        }
        request = urllib.request.Request(
            f"{server.listening_address}/completion", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            found = json.load(answer)
        if found["tokens_predicted"] != new_tokens:
            raise RuntimeError(f"llama.cpp stopped after {found['tokens_predicted']} tokens")
        return found

    return lambda: list(pool.map(complete, prompts(batch)))


def ctranslate2(home: Path, *, threads: int, batch: int, new_tokens: int) -> Generate:
    import ctranslate2  # noqa: PLC0415

    generator = ctranslate2.Generator(
        str(home / "ctranslate2"), device="cpu", compute_type="float32", intra_threads=threads, inter_threads=1
    )
    names = json.loads((home / "ctranslate2" / "vocabulary.json").read_text())
    tokens = [[names[token] for token in prompt] for prompt in prompts(batch)]

    def generate() -> None:
        generator.generate_batch(
            tokens,
            max_length=new_tokens,
            min_length=new_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
            max_batch_size=batch,
        )

    return generate


CONTENDERS = {
    "ours": ours,
    "transformers fp32": transformers,
    "llama.cpp f16": llama_cpp,
    "CTranslate2 fp32": ctranslate2,
}


def main(arguments: list[str]) -> None:
    name, home, threads, batch, new_tokens = arguments
    generate = CONTENDERS[name](Path(home), threads=int(threads), batch=int(batch), new_tokens=int(new_tokens))
    generate()
    answers = os.fdopen(os.dup(1), "w")
    for _ in sys.stdin:
        start = time.perf_counter()
        generate()
        print(time.perf_counter() - start, file=answers, flush=True)
    # llama.cpp's server joins a thread that waits for the interpreter, which waits for the server.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
