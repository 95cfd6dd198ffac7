"""Tokens per second with a key and value cache, against the same model without one.

    python -m benchmarks.cached_generation [--preset m4] [--tokens 256] [--threads 1]

Without a cache every token costs a pass over the whole text so far. Those passes are timed at lengths spread evenly
over the generation, the logits of the last place alone computed; their mean is the cost of a token.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.tables import Goal, print_goals, print_table
from ml.config import PRESETS
from ml.hardware import limit_threads
from ml.kv_cache import KVCache
from ml.model import GPT, initial_model
from ml.packed import can_pack, pack

PROMPT_TOKENS = 16
TARGET_RATIO = 10.0


def seconds_uncached(model: GPT, text: torch.Tensor, *, num_steps: int) -> float:
    """Mean seconds of a generated token, over lengths from the prompt's to the whole text's."""
    lengths = torch.linspace(PROMPT_TOKENS, text.shape[1], num_steps).long().tolist()
    return statistics.mean(timed(partial(next_logits, model, text[:, :length])) for length in lengths)


def seconds_cached(model: GPT, text: torch.Tensor) -> float:
    """Mean seconds of a generated token, the prompt's pass included."""
    cache = KVCache(model.config, num_slots=1)

    def generate() -> None:
        cache.clear(0)
        next_logits(model, text[:, :PROMPT_TOKENS], cache)
        for place in range(PROMPT_TOKENS, text.shape[1]):
            next_logits(model, text[:, place : place + 1], cache)

    return timed(generate) / (text.shape[1] - PROMPT_TOKENS)


def next_logits(model: GPT, tokens: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
    return model.unembed(model.hidden(tokens, cache=cache)[:, -1])


def timed(work: Callable[[], object]) -> float:
    """Seconds of the faster of two runs."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--tokens", type=int, default=256, help="generated after the prompt")
    parser.add_argument("--no-cache-steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="1 measures the same beside other programs")
    options = parser.parse_args()
    limit_threads(options.threads)
    config = PRESETS[options.preset]
    config = config.replace(block_size=max(config.block_size, PROMPT_TOKENS + options.tokens))
    plain = initial_model(config, 0).eval()
    text = torch.randint(
        config.vocab_size, (1, PROMPT_TOKENS + options.tokens), generator=torch.Generator().manual_seed(0)
    )
    rows = []
    for name, model in (
        [("packed float16", pack(plain)), ("float32", plain)] if can_pack(plain) else [("float32", plain)]
    ):
        uncached = seconds_uncached(model, text, num_steps=options.no_cache_steps)
        cached = seconds_cached(model, text)
        rows.append((uncached / cached, name, 1 / cached, 1 / uncached))
    best = rows[0]
    print_goals(
        Goal(
            measured=f"{best[0]:.1f}x",
            wanted=f"at least {TARGET_RATIO:.0f}x",
            reached=best[0] >= TARGET_RATIO,
            what=f"tokens/s with a cache over without, {options.tokens} tokens, {options.preset}, {best[1]}",
        )
    )
    print_table(
        ("weights", "ratio", "cached tokens/s", "uncached tokens/s"),
        [(name, f"{ratio:.1f}x", f"{cached:.1f}", f"{uncached:.1f}") for ratio, name, cached, uncached in rows],
    )
    print(f"{torch.get_num_threads()} threads, prompt of {PROMPT_TOKENS} tokens, {config.num_parameters:,} parameters")


if __name__ == "__main__":
    main()
