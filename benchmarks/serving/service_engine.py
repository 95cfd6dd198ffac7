"""The engine's own rate, without a service around it: for each line of standard input, tokens a second.

python -m benchmarks.serving.service_engine CHECKPOINT NUM_SLOTS NUM_THREADS PROMPT_TOKENS MAX_TOKENS NUM_ROUNDS
"""

import os
import sys
import time
from pathlib import Path

# Idle threads that spin would take the cores from the service.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import torch

from inference.engine.runner import Choice, Runner
from ml.checkpoint import load_model
from ml.inference_parity import prepare
from ml.sampling import SamplingParams


def main(arguments: list[str]) -> None:
    num_slots, num_threads, prompt_tokens, max_tokens, num_rounds = map(int, arguments[1:])
    torch.set_num_threads(num_threads)
    runner = Runner(prepare(load_model(Path(arguments[0]))), checkpoint_id=0, sha256="", num_slots=num_slots)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(num_rounds):
            decode(runner, num_slots, prompt_tokens, max_tokens)
        print(num_rounds * num_slots * max_tokens / (time.perf_counter() - start), flush=True)


def decode(runner: Runner, num_texts: int, prompt_tokens: int, max_tokens: int) -> None:
    """So many texts, greedily, from their prompts to their ends."""
    choices = [
        Choice(
            request_id="",
            index=index,
            text=[100 + index + place for place in range(prompt_tokens)],
            params=SamplingParams(temperature=0.0, max_tokens=max_tokens),
            stop_tokens=frozenset(),
        )
        for index in range(num_texts)
    ]
    runner.add(choices)
    while not runner.is_idle:
        runner.step()


if __name__ == "__main__":
    main(sys.argv[1:])
