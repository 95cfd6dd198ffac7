"""Makes what an experiment needs before its first round: tokenizer, token shards, untrained checkpoint."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tokenizers import Tokenizer

from ml import checkpoint, corpus, data, layout, tokenizer
from ml.model import initial_model
from training import aggregation, blobs
from training.models import Blob, Experiment, Shard

VALIDATION_SHARE = 0.1
MODEL_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The untrained checkpoint and what follows from the model."""

    checkpoint: Blob
    validation_loss: float
    max_delta_bytes: int


def prepare(*, experiment: Experiment, now: datetime) -> Prepared:
    """Read the corpus, train the tokenizer, write shards and untrained weights, and measure their loss.

    Raises: ml.corpus.CorpusInvalid or ml.tokenizer's error, with a sentence for the operator.
    """
    config = experiment.model_config
    documents = corpus.read_documents(Path(experiment.corpus_dir))
    training, validation = data.split_documents(documents, validation_share=VALIDATION_SHARE)
    encoder = tokenizer.train(training, vocab_size=config.vocab_size)
    experiment.shards.all().delete()
    with blobs.scratch_dir() as folder:
        _store_tokenizer(experiment, encoder, folder / "tokenizer.json", now=now)
        _store_shards(experiment, Shard.Split.TRAIN, data.encode_documents(training, tokenizer=encoder), folder, now)
        held_out = data.encode_documents(validation, tokenizer=encoder)
        _store_shards(experiment, Shard.Split.VALIDATION, held_out, folder, now)
        return _store_untrained(experiment, folder / "model.safetensors", now=now)


def _store_tokenizer(experiment: Experiment, encoder: Tokenizer, path: Path, *, now: datetime) -> None:
    encoder.save(str(path))
    experiment.tokenizer = blobs.put(path=path, kind=Blob.Kind.TOKENIZER, now=now)
    experiment.save(update_fields=["tokenizer"])


def _store_shards(experiment: Experiment, split: Shard.Split, tokens: data.Tokens, folder: Path, now: datetime) -> None:
    data.require_windows(tokens, block_size=experiment.model_config.block_size)
    # Validation is one shard, so that every checkpoint is measured on the same windows.
    shard_tokens = experiment.shard_tokens if split == Shard.Split.TRAIN else len(tokens)
    for index, part in enumerate(data.split_tokens(tokens, shard_tokens=shard_tokens)):
        data.write_shard(part, folder / "shard.bin")
        Shard.objects.create(
            experiment=experiment,
            split=split,
            index=index,
            blob=blobs.put(path=folder / "shard.bin", kind=Blob.Kind.SHARD, now=now),
            num_tokens=len(part),
            dtype=part.dtype.name,
        )


def _store_untrained(experiment: Experiment, path: Path, *, now: datetime) -> Prepared:
    config = experiment.model_config
    model = initial_model(config, seed=MODEL_SEED)
    checkpoint.save_model(model, path)
    return Prepared(
        checkpoint=blobs.put(path=path, kind=Blob.Kind.CHECKPOINT, now=now),
        validation_loss=aggregation.validation_loss(model, experiment=experiment),
        max_delta_bytes=layout.delta_size_bytes(config, experiment.codec),
    )
