"""Makes what an experiment needs before its first round: tokenizer, token shards, untrained checkpoint."""

from datetime import datetime
from pathlib import Path

from tokenizers import Tokenizer

from ml import checkpoint, codec, corpus, data, tokenizer
from ml.model import initial_model
from training import aggregation, blobs
from training.experiments import Prepared
from training.models import Blob, Experiment, Shard

VALIDATION_SHARE = 0.1
MODEL_SEED = 0


def prepare(*, experiment: Experiment, now: datetime) -> Prepared:
    """Read the corpus, train the tokenizer, write shards and untrained weights, and measure their loss.

    Files go to storage; the database is left to whoever takes the result, so that two preparations at once do no harm.

    Raises: ml.bad_input.CorpusInvalid, with a sentence for the operator; blobs.BlobUnavailable, OSError.
    """
    config = experiment.model_config
    documents = corpus.read_documents(Path(experiment.corpus_dir))
    training, validation = data.split_documents(documents, validation_share=VALIDATION_SHARE)
    encoder = tokenizer.train(training, vocab_size=config.vocab_size)
    held_out = data.encode_documents(validation, tokenizer=encoder)
    model = initial_model(config, seed=MODEL_SEED)
    with blobs.scratch_dir() as folder:
        checkpoint.save_model(model, folder / "model.safetensors")
        return Prepared(
            tokenizer=_store_tokenizer(encoder, folder / "tokenizer.json", now=now),
            shards=[
                *_store_shards(
                    experiment, Shard.Split.TRAIN, data.encode_documents(training, tokenizer=encoder), folder, now
                ),
                *_store_shards(experiment, Shard.Split.VALIDATION, held_out, folder, now),
            ],
            checkpoint=blobs.put(path=folder / "model.safetensors", kind=Blob.Kind.CHECKPOINT, now=now),
            validation_loss=aggregation.validation_loss(model, held_out),
            max_delta_bytes=codec.delta_size_bytes(config, experiment.codec),
        )


def _store_tokenizer(encoder: Tokenizer, path: Path, *, now: datetime) -> Blob:
    encoder.save(str(path))
    return blobs.put(path=path, kind=Blob.Kind.TOKENIZER, now=now)


def _store_shards(
    experiment: Experiment, split: Shard.Split, tokens: data.Tokens, folder: Path, now: datetime
) -> list[Shard]:
    """The stream as files in storage, and rows that are not yet saved."""
    data.require_windows(tokens, block_size=experiment.model_config.block_size)
    # Validation is one shard, so that every checkpoint is measured on the same windows.
    shard_tokens = experiment.shard_tokens if split == Shard.Split.TRAIN else len(tokens)
    shards = []
    for index, part in enumerate(data.split_tokens(tokens, shard_tokens=shard_tokens)):
        data.write_shard(part, folder / "shard.bin")
        blob = blobs.put(path=folder / "shard.bin", kind=Blob.Kind.SHARD, now=now)
        shards.append(
            Shard(
                experiment=experiment,
                split=split,
                index=index,
                blob=blob,
                num_tokens=len(part),
                dtype=part.dtype.name,
            )
        )
    return shards
