"""How the demo's model learns: its experiment by the same functions, without HTTP, Redis or database.

python -m benchmarks.demo_learning [--corpus DIR] [--seed 0]
"""

import argparse
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tables import Goal, print_goals, print_table
from fai_project.demo import EXPERIMENT, NICKNAMES, ROOT
from ml import checkpoint, codec, corpus, data, delta_file, evaluation, hardware, local, merging, tokenizer
from ml.config import InnerConfig, ModelConfig, OuterConfig
from ml.files import sha256_file
from ml.merging import WeightedDelta
from ml.model import initial_model
from ml.protocol import ShardRef

VALIDATION_SHARE = 0.1
MAX_VALIDATION_TOKENS = 131_072
MICRO_BATCH = 8
MAX_RISES = 1
LEAST_FALL = 0.35

MODEL = ModelConfig.from_dict(EXPERIMENT["model"])
INNER = InnerConfig.from_dict(EXPERIMENT["inner"])
OUTER = OuterConfig.from_dict(EXPERIMENT["outer"])
NUM_ROUNDS: int = EXPERIMENT["num_rounds"]
JOB_TOKENS: int = EXPERIMENT["round_tokens"] // len(NICKNAMES) // INNER.batch_tokens * INNER.batch_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Tokens to train on, as a shard in a file, and tokens to validate on."""

    shard_path: Path
    shard: ShardRef
    held_out: data.Tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=ROOT / "data" / "sample")
    parser.add_argument("--seed", type=int, default=0, help="of the model and the jobs")
    options = parser.parse_args()
    # As in the demo, where two volunteers share the cores.
    hardware.limit_threads(1)
    with tempfile.TemporaryDirectory(prefix="fai-learning-") as folder:
        losses = learn(prepare(options.corpus, Path(folder)), Path(folder), seed=options.seed)
    rises = sum(after >= before for before, after in itertools.pairwise(losses))
    fall = 1 - losses[-1] / losses[0]
    print_goals(
        Goal(
            measured=f"{fall:.0%}",
            wanted=f"at least {LEAST_FALL:.0%}",
            reached=fall >= LEAST_FALL,
            what="validation loss below the untrained model's",
        ),
        Goal(
            measured=f"{rises} of {NUM_ROUNDS}",
            wanted=f"at most {MAX_RISES}",
            reached=rises <= MAX_RISES,
            what="rounds in which it did not fall",
        ),
    )
    print_table(
        ("round", "validation loss", "below untrained"),
        [(str(number), f"{loss:.3f}", f"{1 - loss / losses[0]:.1%}") for number, loss in enumerate(losses)],
    )
    print(f"{len(NICKNAMES)} devices, {JOB_TOKENS:,} tokens each a round, {MODEL.num_parameters:,} parameters")


def prepare(folder: Path, scratch: Path) -> Corpus:
    """What the coordinator's preparation makes of the corpus."""
    training, validation = data.split_documents(corpus.read_documents(folder), validation_share=VALIDATION_SHARE)
    encoder = tokenizer.train(training, vocab_size=MODEL.vocab_size)
    tokens = data.encode_documents(training, tokenizer=encoder)
    path = scratch / "shard"
    data.write_shard(tokens, path)
    shard = ShardRef(
        sha256=sha256_file(path), size_bytes=path.stat().st_size, num_tokens=len(tokens), dtype=tokens.dtype.name
    )
    return Corpus(shard_path=path, shard=shard, held_out=data.encode_documents(validation, tokenizer=encoder))


def learn(text: Corpus, folder: Path, *, seed: int) -> list[float]:
    """Validation loss of the untrained model and after each round."""
    base_path, state_path = folder / "model-0", None
    checkpoint.save_model(initial_model(MODEL, seed=seed), base_path)
    losses = [validation_loss(base_path, text.held_out)]
    for number in range(1, NUM_ROUNDS + 1):
        deltas = [train(text, base_path, folder, number, device, seed=seed) for device in range(len(NICKNAMES))]
        result_path, result_state_path = folder / f"model-{number}", folder / f"state-{number}"
        merging.merge(
            base_path=base_path,
            base_sha256=sha256_file(base_path),
            deltas=deltas,
            outer=OUTER,
            progress=(number - 1) / NUM_ROUNDS,
            outer_state_path=state_path,
            result_path=result_path,
            result_state_path=result_state_path,
            step_path=None,
        )
        base_path, state_path = result_path, result_state_path
        losses.append(validation_loss(base_path, text.held_out))
    return losses


def train(text: Corpus, base_path: Path, folder: Path, number: int, device: int, *, seed: int) -> WeightedDelta:
    """One device's job of a round, encoded and checked as an upload is."""
    result = local.run_job(
        model_config=MODEL,
        inner=INNER,
        base_path=base_path,
        shard_path=text.shard_path,
        shard=text.shard,
        token_budget=JOB_TOKENS,
        seed=int(np.random.SeedSequence([seed, number, device]).generate_state(1)[0]),
        progress_start=(number - 1) / NUM_ROUNDS,
        progress_end=number / NUM_ROUNDS,
        hardware=hardware.detect(),
        micro_batch=MICRO_BATCH,
        on_step=lambda progress: True,
    )
    path = folder / f"delta-{number}-{device}"
    label = codec.DeltaLabel(
        experiment=EXPERIMENT["slug"],
        round_number=number,
        base_sha256=sha256_file(base_path),
        codec=EXPERIMENT["codec"],
        attempt_id=device,
    )
    tokens = result.report.tokens
    sha256 = codec.encode(result.delta, label=label, tokens=tokens, path=path)
    bound = delta_file.norm_bound(model=MODEL, inner=INNER, codec=EXPERIMENT["codec"], tokens=tokens)
    facts = delta_file.check(path, model=MODEL, label=label, token_budget=tokens, max_norm=bound)
    return WeightedDelta(
        path=path,
        attempt_id=device,
        sender=device,
        sha256=sha256,
        tokens=tokens,
        weight=tokens,
        norm=facts.norm,
    )


def validation_loss(path: Path, held_out: data.Tokens) -> float:
    model = checkpoint.load_model(path).to(hardware.detect().device)
    return evaluation.validation_loss(model, held_out, block_size=MODEL.block_size, max_tokens=MAX_VALIDATION_TOKENS)


if __name__ == "__main__":
    main()
