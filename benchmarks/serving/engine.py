"""The engine against what else serves the same model: tokens a second, bandwidth, exactness, beside a trainer.

python -m benchmarks.serving.engine [--quick] [--corpus DIR] [--repeats 7] [--threads 2] [--train-seconds 180]

All generate greedily, 128 tokens after 16, from one model and the same prompts, each in a process of its own, in turn:
ours through Runner; transformers' generate in fp32; llama.cpp f16, our GGUF in its own server over HTTP, with a slot
for each text; CTranslate2 fp32. Prompts are read within the time; nothing is kept from one run to the next.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.serving import engine_model
from benchmarks.serving.engine_rates import ALL, Setting, beside_trainer, rates, ratio
from benchmarks.tables import Goal, print_goals, print_table
from ml.config import ModelConfig
from ml.inference_model import InferenceModel
from ml.inference_parity import divergence
from ml.linears import formats_of
from ml.run import open_run
from ml.slot_cache import Span

NEW_TOKENS = 128
GREEDY_TOKENS = 200
GOALS = {
    ("m4", 1): {"transformers fp32": 5.0, "llama.cpp f16": 0.9},
    ("m4", 8): {"llama.cpp f16": 1.5, "CTranslate2 fp32": 1.5},
    ("small", 8): {"llama.cpp f16": 1.5},
}
GOAL_SHARE = 0.45
GOAL_DIVERGENCE = 1e-5
GOAL_BESIDE = 0.5


def main() -> None:
    options = read_options()
    goals: list[Goal] = []
    rows: list[tuple[str, ...]] = []
    trained = engine_model.make("m4", corpus_folder=options.corpus, train_seconds=options.train_seconds)
    for (preset, batch), wanted in GOALS.items():
        if options.quick and preset != "m4":
            continue
        home = trained if preset == "m4" else engine_model.make(preset, corpus_folder=options.corpus, train_seconds=0)
        setting = Setting(home=home, threads=options.threads, batch=batch, new_tokens=options.tokens)
        names = ALL if preset == "m4" else ("ours", *wanted)
        measured = rates(setting, names=names, repeats=options.repeats)
        goals += [rate_goal(measured, preset, batch, rival, least) for rival, least in wanted.items()]
        rows += [rate_row(measured, preset, batch, name) for name in names]
        if batch == 1:
            goals.append(bandwidth_goal(max(measured["ours"]), open_run(home).model.config))
    goals += exactness_goals(trained)
    setting = Setting(home=trained, threads=options.threads, batch=1, new_tokens=options.tokens)
    goals.append(beside_goal(*beside_trainer(setting, repeats=options.repeats)))
    print_goals(*goals)
    print_table(("model", "texts", "by", "ours over it", "median tokens/s", "best"), rows)
    print(f"{options.threads} threads, {options.repeats} repeats, {options.tokens} tokens after 16")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="m4, hardly trained, two repeats: does it run at all?")
    parser.add_argument("--corpus", type=Path, default=Path("data/sample"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--train-seconds", type=float, default=180.0)
    options = parser.parse_args()
    options.tokens = NEW_TOKENS
    if options.quick:
        options.repeats, options.train_seconds, options.tokens = 2, 5.0, 32
    return options


def rate_goal(measured: dict[str, list[float]], preset: str, batch: int, rival: str, least: float) -> Goal:
    found = ratio(measured, rival)
    return Goal(
        measured=f"{found:.2f}x",
        wanted=f"at least {least}x",
        reached=found >= least,
        what=f"tokens/s over {rival}, {preset}, {batch} {'text' if batch == 1 else 'texts'}",
    )


def rate_row(measured: dict[str, list[float]], preset: str, batch: int, name: str) -> tuple[str, ...]:
    found = measured[name]
    over = f"{ratio(measured, name):.2f}x"
    return (preset, str(batch), name, over, f"{statistics.median(found):,.0f}", f"{max(found):,.0f}")


def bandwidth_goal(rate: float, config: ModelConfig) -> Goal:
    """Our best rate as a share of how often the weights could be read in float16."""
    command = [sys.executable, "-m", "benchmarks.bandwidth"]
    kernels = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    bytes_per_second = max(kernels.values())
    ceiling = bytes_per_second / (2 * config.num_parameters)
    return Goal(
        measured=f"{rate / ceiling:.0%}",
        wanted=f"at least {GOAL_SHARE:.0%}",
        reached=rate / ceiling >= GOAL_SHARE,
        what=f"of {ceiling:,.0f} tokens/s, which {bytes_per_second / 1e9:.0f} GB/s of reading allow, m4, 1 text",
    )


def exactness_goals(home: Path) -> list[Goal]:
    model = open_run(home).model.eval()
    weight_format = formats_of(model.device)[0]
    made = InferenceModel(model, weight_format=weight_format)
    found = divergence(model, made, engine_model.held_out(home, rows=8, length=model.config.block_size))
    prompt = engine_model.held_out(home, rows=1, length=16)[0].tolist()
    same = num_same(greedy(InferenceModel(model, weight_format="fp32"), prompt), greedy(made, prompt))
    return [
        Goal(
            measured=f"{found:.1e}",
            wanted=f"below {GOAL_DIVERGENCE:.0e}",
            reached=found < GOAL_DIVERGENCE,
            what=f"divergence of {weight_format} from fp32 on held-out text, nats per token, m4",
        ),
        Goal(
            measured=f"{same} of {GREEDY_TOKENS}",
            wanted="all",
            reached=same == GREEDY_TOKENS,
            what=f"greedy tokens the same in {weight_format} as in fp32",
        ),
    ]


def num_same(one: list[int], other: list[int]) -> int:
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


@torch.inference_mode()
def greedy(model: InferenceModel, prompt: list[int]) -> list[int]:
    cache, text = model.make_cache(1), list(prompt)
    logits = model.prefill(torch.tensor(text), [Span(0, 0, len(text))], cache)
    for _ in range(GREEDY_TOKENS):
        text.append(int(logits[0].argmax()))
        last, place = torch.tensor(text[-1:]), torch.tensor([len(text) - 1])
        logits = model.decode(last, place, cache, length=len(text), is_ragged=False)
    return text[len(prompt) :]


def beside_goal(alone: list[float], beside: list[float]) -> Goal:
    share = statistics.median(b / a for a, b in zip(alone, beside, strict=True))
    return Goal(
        measured=f"{share:.0%}",
        wanted=f"at least {GOAL_BESIDE:.0%}",
        reached=share >= GOAL_BESIDE,
        what=f"of {statistics.median(alone):,.0f} tokens/s kept beside a volunteer's training, m4, 1 text",
    )


if __name__ == "__main__":
    main()
