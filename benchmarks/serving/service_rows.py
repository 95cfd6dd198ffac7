"""What the service under measurement has in its database and storage; each call in a process that sets Django up.

python -m benchmarks.serving.service_rows make FOLDER PRESET     a model with random weights; FOLDER/keys.json
python -m benchmarks.serving.service_rows bills FOLDER           every request and the ledger; FOLDER/bills.json
"""

import json
import random
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import django
from django.conf import settings
from django.utils import timezone

from ml import tokenizer
from ml.config import PRESETS, ModelConfig

MODEL = "benchmark"
PRICE = 3
RICH_CREDITS = 10**9
SMALL_CREDITS = 14_400
LETTERS = "bcdfghklmnprstvzaeiou"


def main(arguments: list[str]) -> None:
    django.setup()
    folder = Path(arguments[1])
    if arguments[0] == "make":
        (folder / "keys.json").write_text(json.dumps(make(PRESETS[arguments[2]], now=timezone.now())))
    else:
        (folder / "bills.json").write_text(json.dumps(read_bills(now=timezone.now())))


def make(model: ModelConfig, *, now: datetime) -> dict[str, str]:
    """A published model; keys of somebody whose credits do not end, and of somebody whose credits do."""
    # Django is set up by now, and reading the bills needs no torch.
    from ml.checkpoint import save_model  # noqa: PLC0415
    from ml.model import initial_model  # noqa: PLC0415
    from training import blobs  # noqa: PLC0415
    from training.models import Blob, Experiment  # noqa: PLC0415

    path = settings.STATE_DIR / "made"
    tokenizer.train(make_texts(model.vocab_size), vocab_size=model.vocab_size).save(str(path))
    experiment = Experiment.objects.create(
        slug=MODEL,
        title=MODEL,
        state=Experiment.State.FINISHED,
        created_at=now,
        started_at=now,
        corpus_dir="data/sample",
        tokenizer=blobs.put(path=path, kind=Blob.Kind.TOKENIZER, now=now),
        model=model.to_dict(),
        num_rounds=1,
        round_tokens=1,
        round_min_tokens=1,
        credits_per_completion_token=PRICE,
    )
    save_model(initial_model(model, seed=0), path)
    blob = blobs.put(path=path, kind=Blob.Kind.CHECKPOINT, now=now)
    experiment.checkpoints.create(number=0, blob=blob, created_at=now, published_at=now)
    return {"rich": make_key("rich", RICH_CREDITS, now=now), "small": make_key("small", SMALL_CREDITS, now=now)}


def make_texts(vocab_size: int) -> Sequence[str]:
    """Words enough for so many tokens, in no language."""
    letters = random.Random(0)
    return ["".join(letters.choices(LETTERS, k=letters.randint(3, 9))) for _ in range(3 * vocab_size)]


def make_key(nickname: str, amount: int, *, now: datetime) -> str:
    from contributors import api_keys, ledger  # noqa: PLC0415 - Django is set up by now
    from contributors.models import Contributor, Scope  # noqa: PLC0415

    contributor = Contributor.objects.create(nickname=nickname, created_at=now)
    ledger.earn(contributor=contributor, amount=amount, source=f"gift:{nickname}", release_at=None, now=now)
    return api_keys.create(contributor=contributor, name=nickname, scopes=[Scope.COMPLETION], now=now)[1]


def read_bills(*, now: datetime) -> dict[str, object]:
    """By the id that the client was told: state, tokens and credits; what the ledger says is wrong; what is held."""
    from contributors import ledger  # noqa: PLC0415 - Django is set up by now
    from contributors.models import Contributor  # noqa: PLC0415
    from inference.models import Completion  # noqa: PLC0415

    rows = Completion.objects.values_list(
        "request_id", "state", "prompt_tokens", "completion_tokens", "hold__captured_amount"
    )
    balances = {who.nickname: ledger.balance(who) for who in Contributor.objects.all()}
    return {
        "bills": {request_id: list(values) for request_id, *values in rows},
        "violations": ledger.violations(now=now),
        "held": {nickname: balance.held for nickname, balance in balances.items()},
        "available": {nickname: balance.available for nickname, balance in balances.items()},
    }


if __name__ == "__main__":
    main(sys.argv[1:])
