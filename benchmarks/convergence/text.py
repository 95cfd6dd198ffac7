"""The corpus in tokens: shards to train on and a held-out one, made once for each folder and size of the vocabulary."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ml import corpus, data, tokenizer
from ml.files import replacing, sha256_file
from ml.protocol import ShardRef, decode, encode

VALIDATION_SHARE = 0.03
SHARD_TOKENS = 1_000_000
MAX_CHARACTERS = 40_000_000
"""Of training documents, which are shuffled by their content; a small model sees a part of them only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A file of tokens and how it is announced to devices."""

    path: Path
    ref: ShardRef


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A corpus in tokens."""

    shards: tuple[Shard, ...]
    held_out: data.Tokens
    sha256: str
    """Of all its files' hashes: two texts with the same one are the same."""


def prepare(folder: Path, *, vocab_size: int, cache: Path) -> Text:
    """The folder's documents as the coordinator's preparation makes them; delete `cache` to read them anew.

    Raises: CorpusInvalid.
    """
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    home = cache / f"tokens-{place}-{vocab_size}"
    record = home / "text.json"
    if not record.exists():
        refs = _make(folder, vocab_size=vocab_size, home=home)
        # Last, since its presence says that all the files are there.
        with replacing(record) as partial:
            partial.write_text(json.dumps([encode(ref) for ref in refs]), "utf-8")
    *training, held_out = [decode(ShardRef, values) for values in json.loads(record.read_text("utf-8"))]
    return Text(
        shards=tuple(Shard(path=home / ref.sha256, ref=ref) for ref in training),
        held_out=data.open_shard(home / held_out.sha256, held_out.dtype),
        sha256=hashlib.sha256("".join(ref.sha256 for ref in (*training, held_out)).encode()).hexdigest(),
    )


def _make(folder: Path, *, vocab_size: int, home: Path) -> list[ShardRef]:
    training, validation = data.split_documents(corpus.read_documents(folder), validation_share=VALIDATION_SHARE)
    training = _first(training)
    encoder = tokenizer.train(training, vocab_size=vocab_size)
    tokens = data.encode_documents(training, tokenizer=encoder)
    held_out = data.encode_documents(validation, tokenizer=encoder)
    home.mkdir(parents=True, exist_ok=True)
    parts = [*data.split_tokens(tokens, shard_tokens=SHARD_TOKENS), held_out]
    return [_store(part, home) for part in parts]


def _first(documents: list[str]) -> list[str]:
    kept, size = [], 0
    for document in documents:
        kept.append(document)
        size += len(document)
        if size >= MAX_CHARACTERS:
            break
    return kept


def _store(tokens: data.Tokens, home: Path) -> ShardRef:
    path = home / "shard"
    data.write_shard(tokens, path)
    sha256 = sha256_file(path)
    size_bytes = path.stat().st_size
    path.replace(home / sha256)
    return ShardRef(sha256=sha256, size_bytes=size_bytes, num_tokens=len(tokens), dtype=tokens.dtype.name)
