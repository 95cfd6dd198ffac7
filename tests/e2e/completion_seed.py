"""What the completion service under test has in its database and storage; run by `django shell` in its environment."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from contributors import api_keys, ledger
from contributors.models import Contributor, Scope
from inference.models import Completion
from ml import checkpoint, corpus, tokenizer
from ml.config import ModelConfig
from ml.model import initial_model
from training import blobs
from training.models import Blob, Experiment

MODEL = ModelConfig(vocab_size=512, block_size=1_024, n_layer=2, n_head=2, n_kv_head=2, n_embd=64)
SAMPLE = Path(__file__).parents[2] / "data" / "sample"


def seed() -> str:
    """Secrets of the keys as JSON, by what is special about them."""
    now = timezone.now()
    experiment = make_experiment("study", Experiment.State.FINISHED, price=3, now=now)
    experiment.tokenizer = blobs.put(path=write_tokenizer(), kind=Blob.Kind.TOKENIZER, now=now)
    experiment.save(update_fields=["tokenizer"])
    publish(number=0)
    make_experiment("unready", Experiment.State.PAUSED, price=3, now=now)
    everything = list(Scope)
    keys = {
        "rich": make_key("rich", 1_000_000, everything, now=now),
        "poor": make_key("poor", 50, everything, now=now),
        "volunteer": make_key("volunteer", 0, [Scope.VOLUNTEER], now=now),
    }
    return json.dumps(keys)


def violations() -> list[str]:
    return ledger.violations(now=timezone.now())


def bills() -> str:
    """As JSON: what is left to the rich contributor, and state, tokens and credits of every request."""
    left = ledger.balance(Contributor.objects.get(nickname="rich"))
    rows = Completion.objects.values_list("state", "prompt_tokens", "completion_tokens", "hold__captured_amount")
    return json.dumps({"available": left.available, "held": left.held, "bills": list(rows)})


def publish(*, number: int) -> None:
    """A checkpoint with weights of its own."""
    now = timezone.now()
    experiment = Experiment.objects.get(slug="study")
    path = settings.STATE_DIR / "checkpoint"
    checkpoint.save_model(initial_model(MODEL, seed=number), path)
    blob = blobs.put(path=path, kind=Blob.Kind.CHECKPOINT, now=now)
    experiment.checkpoints.create(number=number, blob=blob, created_at=now, published_at=now)


def write_tokenizer() -> Path:
    path: Path = settings.STATE_DIR / "tokenizer"
    documents = corpus.read_documents(SAMPLE)
    tokenizer.train(documents, vocab_size=MODEL.vocab_size).save(str(path))
    return path


def make_experiment(slug: str, state: Experiment.State, *, price: int, now: datetime) -> Experiment:
    return Experiment.objects.create(
        slug=slug,
        title=slug,
        state=state,
        created_at=now,
        started_at=now,
        corpus_dir=str(SAMPLE),
        model=MODEL.to_dict(),
        num_rounds=1,
        round_tokens=1,
        round_min_tokens=1,
        credits_per_completion_token=price,
    )


def make_key(nickname: str, amount: int, scopes: Sequence[Scope], *, now: datetime) -> str:
    contributor = Contributor.objects.create(nickname=nickname, created_at=now)
    if amount:
        ledger.earn(contributor=contributor, amount=amount, source=f"gift:{nickname}", release_at=None, now=now)
    return api_keys.create(contributor=contributor, name="tests", scopes=scopes, now=now)[1]
