"""The simulator of benchmarks/convergence, held against real workers and a real coordinator."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.convergence.coordinator import Accepted, Job
from benchmarks.convergence.text import Shard, Text
from benchmarks.convergence.training import RealWork
from benchmarks.convergence.work import Task
from ml import data, hardware
from ml.config import InnerConfig, ModelConfig, OuterConfig
from ml.protocol import ShardRef
from ml.seeds import job_seed
from tests.benchmarks.make_scenarios import make_device, make_rules, make_scenario
from tests.e2e.conftest import Cluster, wait_for, working
from training.aggregation import MAX_VALIDATION_TOKENS
from training.preparation import MODEL_SEED

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SLUG = "replayed"
NUM_ROUNDS = 4
MODEL = ModelConfig(vocab_size=400, block_size=32, n_layer=1, n_head=2, n_kv_head=2, n_embd=64)
# One row a step: how many rows fit, which each machine finds for itself, would decide how sums are rounded.
INNER = InnerConfig(learning_rate=3e-3, batch_tokens=32, warmup_steps=2)
OUTER = OuterConfig(learning_rate=0.7, momentum=0.5)
CODEC = "topk-128"


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A delta that the real coordinator merged."""

    job: Job
    tokens: int
    weight: float
    merged_into: int
    size_bytes: int


def losses(cluster: Cluster) -> list[float]:
    """Of the untrained model and after each round that is over."""
    sql = """SELECT c.validation_loss FROM training_checkpoint c JOIN training_experiment e ON e.id = c.experiment_id
             WHERE e.slug = ? AND c.published_at IS NOT NULL ORDER BY c.number"""
    return [loss for (loss,) in cluster.query(sql, SLUG)]


def read_done(cluster: Cluster) -> list[Done]:
    """In the order of the attempts; shards by their index, devices by the order of their numbers."""
    sql = """SELECT a.id, a.device_id, r.number, j."index", s."index", a.token_budget, j.seed, a.verified_tokens,
             a.weight, m.number, b.size_bytes
             FROM training_attempt a JOIN training_job j ON j.id = a.job_id JOIN training_round r ON r.id = j.round_id
             JOIN training_shard s ON s.id = j.shard_id JOIN training_round m ON m.id = a.merged_into_id
             JOIN training_blob b ON b.sha256 = a.delta_id JOIN training_experiment e ON e.id = r.experiment_id
             WHERE e.slug = ? AND a.state = 'merged' ORDER BY a.id"""
    rows = cluster.query(sql, SLUG)
    devices = sorted({row[1] for row in rows})
    done = []
    for attempt_id, device, number, index, shard, budget, seed, tokens, weight, merged_into, size_bytes in rows:
        assert seed == job_seed(SLUG, round_number=number, index=index)
        job = Job(
            attempt_id=attempt_id,
            device=devices.index(device),
            round_number=number,
            index=index,
            shard=shard,
            token_budget=budget,
        )
        done.append(Done(job=job, tokens=tokens, weight=weight, merged_into=merged_into, size_bytes=size_bytes))
    return done


def read_text(cluster: Cluster) -> Text:
    """The experiment's shards where the coordinator has them."""
    sql = """SELECT s.split, s.num_tokens, s.dtype, b.sha256, b.size_bytes FROM training_shard s
             JOIN training_blob b ON b.sha256 = s.blob_id JOIN training_experiment e ON e.id = s.experiment_id
             WHERE e.slug = ? ORDER BY s.split, s."index" """
    shards: dict[str, list[Shard]] = {"train": [], "validation": []}
    for split, num_tokens, dtype, sha256, size_bytes in cluster.query(sql, SLUG):
        path = next(path for path in cluster.folder.rglob(sha256) if "volunteers" not in path.parts)
        ref = ShardRef(sha256=sha256, size_bytes=size_bytes, num_tokens=num_tokens, dtype=dtype)
        shards[split].append(Shard(path=path, ref=ref))
    (held_out,) = shards["validation"]
    return Text(
        shards=tuple(shards["train"]), held_out=data.open_shard(held_out.path, held_out.ref.dtype), sha256="real"
    )


def replay(done: list[Done], text: Text, folder: Path) -> tuple[list[float], list[int]]:
    """Losses after each round, and bytes of each delta, when the simulator's devices do the same jobs."""
    scenario = make_scenario(
        model=MODEL,
        inner=INNER,
        outer=OUTER,
        codec=CODEC,
        rules=make_rules(num_rounds=NUM_ROUNDS),
        devices=(make_device(),) * 2,
        validation_tokens=MAX_VALIDATION_TOKENS,
    )
    work = RealWork(scenario, text=text, slug=SLUG, seed=MODEL_SEED, hardware=hardware.detect(), folder=folder)
    found_losses, sizes = [work.evaluate()], {}
    for number in range(1, NUM_ROUNDS + 1):
        progress = (number - 1) / NUM_ROUNDS, number / NUM_ROUNDS
        for one in done:
            if one.job.round_number == number:
                task = Task(job=one.job, last_step=one.tokens // INNER.batch_tokens)
                (handed,) = work.train([task], progress=progress)
                assert handed.tokens == one.tokens
                assert work.check(one.job) == ""
                work.settle(one.job, counts=True)
                sizes[one.job.attempt_id] = handed.size_bytes
        merged = [(Accepted(job=one.job, tokens=one.tokens), one.weight) for one in done if one.merged_into == number]
        work.merge(merged, round_number=number, progress=progress[0])
        found_losses.append(work.evaluate())
    return found_losses, [sizes[one.job.attempt_id] for one in done]


def test_the_simulator_gives_the_losses_and_the_bytes_of_real_workers(cluster: Cluster, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": MODEL.to_dict(), "inner": INNER.to_dict(), "outer": OUTER.to_dict()}
    cluster.create_experiment(
        SLUG,
        codec=CODEC,
        round_tokens=8_192,
        round_min_tokens=4_096,
        job_seconds=3,
        rounds=NUM_ROUNDS,
        **{name: json.dumps(value) for name, value in options.items()},
    )
    volunteers = [cluster.volunteer(nickname, SLUG) for nickname in ("replayed-1", "replayed-2")]
    with working(*volunteers):
        wait_for(lambda: len(losses(cluster)) == NUM_ROUNDS + 1, seconds=200, what=f"{NUM_ROUNDS} rounds")
    done = read_done(cluster)
    assert len(Counter(one.job.device for one in done)) == 2
    found_losses, sizes = replay(done, read_text(cluster), tmp_path)
    assert sizes == [one.size_bytes for one in done]
    assert found_losses == pytest.approx(losses(cluster), rel=1e-6)
    # How many tokens a round has depends on the machine: half of them at least.
    assert found_losses[-1] < 0.98 * found_losses[0]
