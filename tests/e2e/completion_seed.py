"""What the completion service under test has in its database and storage; run by `django shell` in its environment."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import torch
from django.conf import settings
from django.utils import timezone

from contributors import api_keys, ledger
from contributors.models import Contributor, Scope
from inference import tasks
from inference.billing import charges
from inference.models import Completion
from ml import checkpoint, corpus, tokenizer
from ml.config import ModelConfig
from ml.model import GPT, initial_model
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


def give_key(nickname: str, amount: int) -> str:
    """Secret of a key of somebody who has so many credits."""
    return make_key(nickname, amount, list(Scope), now=timezone.now())


def credits_of(nickname: str) -> str:
    """As JSON: what is available and held, and what each request of the contributor was paid with."""
    contributor = Contributor.objects.get(nickname=nickname)
    left = ledger.balance(contributor)
    paid = Completion.objects.filter(api_key__contributor=contributor).values_list("hold__captured_amount", flat=True)
    return json.dumps({"available": left.available, "held": left.held, "paid": list(paid)})


def violations() -> list[str]:
    return ledger.violations(now=timezone.now())


def bills() -> str:
    """As JSON: what is left to the rich contributor, and state, tokens and credits of every request."""
    left = ledger.balance(Contributor.objects.get(nickname="rich"))
    rows = Completion.objects.values_list("state", "prompt_tokens", "completion_tokens", "hold__captured_amount")
    return json.dumps({"available": left.available, "held": left.held, "bills": list(rows)})


def reap_later() -> int:
    """Requests that are given up once their web process has been silent for long enough."""
    return tasks.give_up(now=timezone.now() + charges.LEASE_DURATION + timedelta(seconds=1))


def publish(*, number: int, is_public: bool = True, text: str = "") -> None:
    """A checkpoint with weights of its own, which know `text` by heart.

    One that is not public yet is made so by its published_at.
    """
    now = timezone.now()
    experiment = Experiment.objects.get(slug="study")
    path = settings.STATE_DIR / "checkpoint"
    model = initial_model(MODEL, seed=number)
    if text:
        with blobs.local_path(experiment.tokenizer) as tokenizer_path:
            learn(model, tokenizer.load(tokenizer_path).encode(text).ids)
    checkpoint.save_model(model, path)
    blob = blobs.put(path=path, kind=Blob.Kind.CHECKPOINT, now=now)
    experiment.checkpoints.create(number=number, blob=blob, created_at=now, published_at=now if is_public else None)


def learn(model: GPT, tokens: Sequence[int]) -> None:
    """Train until each of the tokens is far likelier than any other after those before it."""
    row = torch.tensor([tokens])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(row[:, :-1], row[:, 1:]).backward()
        optimizer.step()


def damage(*, number: int) -> None:
    """Publish a checkpoint whose file has a wrong byte in storage."""
    publish(number=number, is_public=False)
    stored = Experiment.objects.get(slug="study").checkpoints.get(number=number)
    with blobs.local_path(stored.blob) as path:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    stored.published_at = stored.created_at
    stored.save(update_fields=["published_at"])


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
