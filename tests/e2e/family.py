"""A coordinator with some weeks behind it, for the browser to look at: `manage.py shell -c "..."` calls fill()."""

import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from django.contrib.auth.models import User

from contributors import ledger
from contributors.models import Device
from ml.config import PRESETS
from ml.protocol import DeviceState, Reason
from tests.training import make
from training import blobs
from training.models import Attempt, Blob, Experiment, Round

OPERATOR = "operator"
PASSWORD = "a long enough password"
EXPERIMENT = "family-gpt"
LOSSES = (10.084, 6.912, 5.438, 4.571, 4.012, 3.644, 3.391)
HOUR = timedelta(hours=1)


def fill(now: datetime) -> None:
    """Rows for an operator, three experiments, six people and their machines."""
    User.objects.create_superuser(OPERATOR, password=PASSWORD)
    _fill_running(now)
    pilot = make.make_experiment(
        slug="dart-pilot",
        title="다트 파일럿 Dart pilot",
        state=Experiment.State.FINISHED,
        num_rounds=3,
        started_at=now - 400 * HOUR,
        finished_at=now - 300 * HOUR,
    )
    make.make_checkpoint(experiment=pilot, validation_loss=7.6)
    for number, loss in enumerate((5.9, 5.2, 4.9), start=1):
        make.make_closed_round(experiment=pilot, number=number, validation_loss=loss)
    make.make_experiment(
        slug="next-one",
        title="The next one",
        state=Experiment.State.DRAFT,
        problem="The corpus folder /data/corpus is missing: create it or name another.",
        started_at=None,
    )


def _fill_running(now: datetime) -> None:
    experiment = make.make_experiment(
        slug=EXPERIMENT,
        title="Family GPT",
        description="Dart and Flutter questions and answers, in Korean and English. 다트와 플러터를 묻고 답합니다.",
        model=PRESETS["m4"].to_dict(),
        num_rounds=20,
        round_tokens=2_000_000,
        round_min_tokens=500_000,
        created_at=now - 30 * HOUR,
        started_at=now - 29 * HOUR,
    )
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(b"weights of the newest round")
    newest = blobs.put(path=Path(file.name), kind=Blob.Kind.CHECKPOINT, now=now)
    machines = [
        make.make_device(
            contributor=make.make_contributor(nickname=nickname),
            name=name,
            hardware={"device": device, "name": hardware},
            last_seen_at=now - timedelta(seconds=seconds),
            state=state,
            idle_reason=reason,
        )
        for nickname, name, device, hardware, seconds, state, reason in (
            ("할머니", "거실 컴퓨터", "cpu", "Intel Core i5-8400", 12, DeviceState.TRAINING, ""),
            ("minsu", "gaming-pc", "cuda", "NVIDIA GeForce RTX 3060", 4, DeviceState.TRAINING, ""),
            ("jiwoo", "macbook-air", "mps", "Apple M2", 25, DeviceState.UPLOADING, ""),
            ("삼촌", "사무실-노트북", "cpu", "AMD Ryzen 5 5600U", 40, DeviceState.IDLE, Reason.ROUND_FULL),
            ("grandpa", "old-thinkpad-x230-in-the-attic", "cpu", "Intel Core i5-3320M", 7_000, DeviceState.LEAVING, ""),
        )
    ]
    make.make_device(contributor=make.make_contributor(nickname="newcomer"), name="desk", last_seen_at=None)
    for device, speed in zip(machines, (2_150.0, 48_700.0, 9_320.0, 3_010.0, 410.0), strict=True):
        make.make_enrollment(device=device, experiment=experiment, tokens_per_second=speed, updated_at=now)
    make.make_checkpoint(experiment=experiment, validation_loss=LOSSES[0], blob=make.make_blob(size_bytes=74_300_000))
    for number, loss in enumerate(LOSSES[1:], start=1):
        opened_at = now - (8 - number) * 4 * HOUR
        last = {"blob": newest} if number == len(LOSSES) - 1 else {"blob": make.make_blob(size_bytes=74_300_000)}
        result = make.make_checkpoint(experiment=experiment, number=number, validation_loss=loss, **last)
        round_ = make.make_round(
            experiment=experiment,
            number=number,
            state="closed",
            result=result,
            opened_at=opened_at,
            closed_at=opened_at + 3.9 * HOUR,
        )
        for device, tokens in zip(machines, (180_000, 1_150_000, 420_000, 210_000, 40_960), strict=True):
            attempt = make.make_accepted_attempt(
                job=make.make_job(round_=round_, token_budget=tokens),
                device=device,
                state=Attempt.State.MERGED,
                merged_into=round_,
                offered_at=opened_at,
                submitted_at=opened_at + HOUR,
                ended_at=opened_at + 4 * HOUR,
            )
            ledger.earn(
                contributor=device.contributor,
                amount=attempt.earned_credits or 0,
                source=f"attempt:{attempt.pk}",
                release_at=None,
                now=attempt.submitted_at or now,
            )
    _fill_open_round(make.make_round(experiment=experiment, number=len(LOSSES), opened_at=now - HOUR), machines, now)


def _fill_open_round(round_: Round, machines: list[Device], now: datetime) -> None:
    for device, progress in zip(machines[:2], (96_256, 503_808), strict=True):
        make.make_attempt(
            job=make.make_job(round_=round_, token_budget=630_784),
            device=device,
            state=Attempt.State.RUNNING,
            offered_at=now,
            claimed_at=now,
            progress_tokens=progress,
            progress_loss=3.372,
        )
    for device, tokens in ((machines[2], 420_000), (machines[3], 210_000)):
        make.make_accepted_attempt(
            job=make.make_job(round_=round_, token_budget=tokens), device=device, offered_at=now, submitted_at=now
        )
    ends = (
        ("rejected", Reason.NORM_OUT_OF_BOUNDS, "norm 812.4, at most 96.1"),
        ("lease_expired", Reason.LEASE_EXPIRED, ""),
        ("lease_expired", Reason.LEASE_EXPIRED, ""),
        ("released", Reason.RELEASED, "Ctrl+C"),
    )
    for state, reason, detail in ends:
        make.make_attempt(
            job=make.make_job(round_=round_),
            device=machines[4],
            state=state,
            reason=reason,
            detail=detail,
            offered_at=now - HOUR,
            ended_at=now,
        )
