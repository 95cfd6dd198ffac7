"""Preparation: a folder of documents becomes a tokenizer, shards and an untrained checkpoint, all in storage."""

import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ml import checkpoint, data, tokenizer
from ml.bad_input import CorpusInvalid
from ml.codec import delta_size_bytes
from tests.ml.make_deltas import MODEL
from tests.training.make import make_corpus, make_experiment
from training import blobs, preparation
from training.models import Blob, Experiment, Shard

pytestmark = pytest.mark.django_db

CONFIG = MODEL.replace(vocab_size=300)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return make_draft(make_corpus(tmp_path / "corpus"))


def make_draft(corpus: Path, **fields: Any) -> Experiment:
    return make_experiment(state=Experiment.State.PREPARING, corpus_dir=str(corpus), model=CONFIG.to_dict(), **fields)


def test_all_that_the_first_round_needs_is_in_storage(experiment: Experiment, storage: Path, now: datetime) -> None:
    prepared = preparation.prepare(experiment=experiment, now=now)
    stored = [prepared.tokenizer, prepared.checkpoint, *(shard.blob for shard in prepared.shards)]
    assert all((storage / blob.path).stat().st_size == blob.size_bytes for blob in stored)
    assert [blob.kind for blob in stored[:3]] == [Blob.Kind.TOKENIZER, Blob.Kind.CHECKPOINT, Blob.Kind.SHARD]
    assert prepared.max_delta_bytes == delta_size_bytes(CONFIG, "int8")
    with blobs.local_path(prepared.tokenizer) as path:
        assert tokenizer.load(path).get_vocab_size() == CONFIG.vocab_size
    with blobs.local_path(prepared.checkpoint) as path:
        assert checkpoint.read_config(path) == CONFIG


def test_an_untrained_model_guesses(experiment: Experiment, now: datetime) -> None:
    prepared = preparation.prepare(experiment=experiment, now=now)
    assert prepared.validation_loss == pytest.approx(math.log(CONFIG.vocab_size), abs=0.3)


def test_shards_hold_the_training_text_and_one_shard_holds_the_rest(tmp_path: Path, now: datetime) -> None:
    experiment = make_draft(make_corpus(tmp_path / "corpus"), shard_tokens=1_000)
    shards = preparation.prepare(experiment=experiment, now=now).shards
    train = [shard for shard in shards if shard.split == Shard.Split.TRAIN]
    validation = [shard for shard in shards if shard.split == Shard.Split.VALIDATION]
    assert len(train) > 1
    assert [shard.index for shard in train] == list(range(len(train)))
    assert len(validation) == 1
    for shard in shards:
        with blobs.local_path(shard.blob) as path:
            assert len(data.open_shard(path, shard.dtype)) == shard.num_tokens > CONFIG.block_size


def test_preparing_writes_no_row_but_those_of_files(experiment: Experiment, now: datetime) -> None:
    preparation.prepare(experiment=experiment, now=now)
    experiment.refresh_from_db()
    assert (experiment.state, experiment.tokenizer) == (Experiment.State.PREPARING, None)
    assert not Shard.objects.exists()


def test_the_same_corpus_gives_the_same_files(experiment: Experiment, now: datetime) -> None:
    first, second = (preparation.prepare(experiment=experiment, now=now) for _ in range(2))
    assert first.tokenizer == second.tokenizer
    assert first.checkpoint == second.checkpoint
    assert [shard.blob for shard in first.shards] == [shard.blob for shard in second.shards]


@pytest.mark.parametrize("num_documents", [0, 1])
def test_a_corpus_that_is_too_small_is_said(num_documents: int, tmp_path: Path, now: datetime) -> None:
    corpus = make_corpus(tmp_path / "corpus", num_documents=num_documents)
    with pytest.raises(CorpusInvalid):
        preparation.prepare(experiment=make_draft(corpus), now=now)
