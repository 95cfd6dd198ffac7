"""Rows and deltas for benchmarks.job_cycles, made in a process of its own that sets Django up.

python -m benchmarks.job_rows make FOLDER NUM      one offered attempt each for NUM devices; FOLDER/tickets.json
python -m benchmarks.job_rows validate ALL NUM     ALL attempts are submitted; the validator accepts NUM of them
"""

import dataclasses
import hashlib
import json
import sys
from datetime import datetime, timedelta
from pathlib import Path

import django
import numpy as np
from django.db import transaction
from django.utils import timezone

from benchmarks.job_load import Ticket
from ml import codec, layout
from ml.config import InnerConfig, ModelConfig

SLUG = "benchmark"
MODEL = ModelConfig(vocab_size=256, block_size=32, n_layer=1, n_head=2, n_kv_head=2, n_embd=32)
INNER = InnerConfig(batch_tokens=1_024)
TOKENS = 4 * INNER.batch_tokens
BASE_SHA256 = hashlib.sha256(b"base").hexdigest()


def main(arguments: list[str]) -> None:
    django.setup()
    if arguments[0] == "make":
        make(Path(arguments[1]), int(arguments[2]), now=timezone.now())
    else:
        validate(int(arguments[1]), int(arguments[2]), now=timezone.now())


def make(folder: Path, num_devices: int, *, now: datetime) -> None:
    """An experiment with one open round, and so many contributors with a device and an offered attempt."""
    folder.mkdir(parents=True, exist_ok=True)
    with transaction.atomic():
        round_id, shard_id = make_round(num_devices, now=now)
        tickets = [make_ticket(folder, round_id, shard_id, index, now=now) for index in range(num_devices)]
    (folder / "tickets.json").write_text(json.dumps([dataclasses.asdict(ticket) for ticket in tickets]))


def make_round(num_devices: int, *, now: datetime) -> tuple[int, int]:
    """Keys of the open round and of its shard. Nothing here is downloaded, so base and shard are rows alone."""
    from training.models import Blob, Checkpoint, Experiment, Round, Shard  # noqa: PLC0415 - Django is set up by now

    experiment = Experiment.objects.create(
        slug=SLUG,
        title="Benchmark",
        state=Experiment.State.RUNNING,
        created_at=now,
        started_at=now,
        corpus_dir="data/sample",
        model=MODEL.to_dict(),
        inner=INNER.to_dict(),
        num_rounds=8,
        round_tokens=2 * num_devices * TOKENS,
        round_min_tokens=TOKENS,
        max_delta_bytes=codec.delta_size_bytes(MODEL, "int8"),
    )
    base = Blob.objects.create(sha256=BASE_SHA256, kind=Blob.Kind.CHECKPOINT, size_bytes=100_000, created_at=now)
    slice_ = Blob.objects.create(sha256="0" * 64, kind=Blob.Kind.SHARD, size_bytes=8_000_000, created_at=now)
    shard = Shard.objects.create(
        experiment=experiment, split=Shard.Split.TRAIN, index=0, blob=slice_, num_tokens=4_000_000, dtype="uint16"
    )
    round_ = Round.objects.create(
        experiment=experiment,
        number=1,
        base=Checkpoint.objects.create(experiment=experiment, number=0, blob=base, created_at=now, published_at=now),
        target_tokens=experiment.round_tokens,
        min_tokens=experiment.round_min_tokens,
        credit_budget=experiment.credits_for(experiment.round_tokens),
        opened_at=now,
        next_transition_at=now + timedelta(hours=1),
    )
    return round_.pk, shard.pk


def make_ticket(folder: Path, round_id: int, shard_id: int, index: int, *, now: datetime) -> Ticket:
    """A contributor with a key, a device, an offer to it, and the delta that it will hand in."""
    from contributors import api_keys, ledger  # noqa: PLC0415 - Django is set up by now
    from contributors.models import Account, Contributor, Device, Scope  # noqa: PLC0415
    from training.models import Attempt, Enrollment, Job, Round  # noqa: PLC0415

    experiment = Round.objects.select_related("experiment").get(pk=round_id).experiment
    contributor = Contributor.objects.create(nickname=f"contributor-{index}", created_at=now)
    ledger.account_of(contributor, Account.Kind.AVAILABLE)
    _, secret = api_keys.create(contributor=contributor, name="benchmark", scopes=[Scope.VOLUNTEER], now=now)
    device = Device.objects.create(
        contributor=contributor, name="machine", protocol_version=1, created_at=now, last_seen_at=now
    )
    Enrollment.objects.create(device=device, experiment=experiment, tokens_per_second=1_000.0, updated_at=now)
    attempt = Attempt.objects.create(
        job=Job.objects.create(round_id=round_id, index=index, shard_id=shard_id, seed=index, token_budget=TOKENS),
        device=device,
        nonce=f"{index:032d}",
        token_budget=TOKENS,
        quoted_credits=experiment.credits_for(TOKENS),
        next_transition_at=now + timedelta(hours=1),
        offered_at=now,
    )
    path = folder / f"delta-{attempt.pk}"
    return Ticket(
        device_id=device.pk,
        attempt_id=attempt.pk,
        nonce=attempt.nonce,
        api_key=secret,
        experiment=SLUG,
        tokens=TOKENS,
        delta_path=str(path),
        delta_sha256=write_delta(path, attempt.pk),
    )


def write_delta(path: Path, attempt_id: int) -> str:
    """SHA-256 of a delta such as the attempt's device could have made."""
    random = np.random.default_rng(attempt_id)
    delta = {
        name: random.standard_normal(shape, dtype=np.float32) * np.float32(1e-3)
        for name, shape in layout.parameter_shapes(MODEL).items()
    }
    label = codec.DeltaLabel(
        experiment=SLUG, round_number=1, base_sha256=BASE_SHA256, codec="int8", attempt_id=attempt_id
    )
    return codec.encode(delta, label=label, tokens=TOKENS, path=path)


def validate(num_submitted: int, num_validated: int, *, now: datetime) -> None:
    """Accept some attempts as the control plane would.

    Raises: ml.delta_file.DeltaInvalid where one is not acceptable; SystemExit where not all have been submitted.
    """
    from training import validation  # noqa: PLC0415 - Django is set up by now
    from training.models import Attempt  # noqa: PLC0415

    submitted = Attempt.objects.filter(state=Attempt.State.SUBMITTED)
    if submitted.count() != num_submitted:
        raise SystemExit(f"{submitted.count()} of {num_submitted} attempts were submitted")
    rows = submitted.select_related("delta", "device__contributor", "job__round__experiment", "job__round__base")
    for attempt in rows.order_by("pk")[:num_validated]:
        validation.begin(attempt=attempt, now=now)
        validation.accept(attempt=attempt, facts=validation.check(attempt), now=now)


if __name__ == "__main__":
    main(sys.argv[1:])
