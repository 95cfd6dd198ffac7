"""Token shards: flat little-endian arrays on disk, and the batches drawn from them."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ml.bad_input import BadInput, CorpusInvalid
from ml.files import replacing
from ml.tokenizer import end_of_text, split_text

DTYPES = ("uint16", "uint32")
CHUNK_CHARACTERS = 2**21
Tokens = NDArray[np.uint16] | NDArray[np.uint32]


class ShardInvalid(BadInput):
    """A file that is no token shard of the announced type."""

    page = "data"


def dtype_for(vocab_size: int) -> str:
    """Name of the smallest type in DTYPES that holds every token."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def rank_of(document: str) -> bytes:
    """What decides a document's side and its place: the SHA-256 of its UTF-8."""
    return hashlib.sha256(document.encode()).digest()


def last_validation_rank(ranks: Iterable[bytes], *, validation_share: float) -> bytes:
    """Documents up to this rank validate, those above it train; at least one different document is on each side.

    Raises: CorpusInvalid where there are fewer than two different documents.
    """
    distinct = sorted(set(ranks))
    if len(distinct) < 2:
        raise CorpusInvalid("The corpus needs two different documents, one to train and one to validate: add files.")
    num_validation = min(max(1, round(len(distinct) * validation_share)), len(distinct) - 1)
    return distinct[num_validation - 1]


def split_documents(documents: Sequence[str], *, validation_share: float) -> tuple[list[str], list[str]]:
    """Training and validation documents, chosen and shuffled by their content: neither order nor place matters.

    Equal documents fall on the same side, so nothing is validated on what was trained. The shuffle spreads every source
    over all shards: a round that draws on a few of them would else learn a few sources and forget the others.

    Raises: CorpusInvalid where there are fewer than two different documents.
    """
    ranks = [rank_of(document) for document in documents]
    last = last_validation_rank(ranks, validation_share=validation_share)
    shuffled = sorted(zip(ranks, documents, strict=True))
    training = [document for rank, document in shuffled if rank > last]
    validation = [document for rank, document in shuffled if rank <= last]
    return training, validation


def encode_each(documents: Iterable[str], *, tokenizer: Tokenizer) -> Iterator[Tokens]:
    """Each document's tokens with END_OF_TEXT after them; memory stays at a few megabytes of text at a time.

    Shapes: (num_tokens,) of dtype_for(vocabulary).
    """
    dtype = dtype_for(tokenizer.get_vocab_size())
    end = np.array([end_of_text(tokenizer)], dtype=dtype)
    pieces: list[Tokens] = []
    for chunk in _chunks(documents):
        encodings = tokenizer.encode_batch_fast([text for text, _ in chunk], add_special_tokens=False)
        for encoding, (_, is_last) in zip(encodings, chunk, strict=True):
            pieces.append(np.array(encoding.ids, dtype=dtype))
            if is_last:
                yield np.concatenate([*pieces, end])
                pieces = []


def _chunks(documents: Iterable[str]) -> Iterator[list[tuple[str, bool]]]:
    """Pieces of documents, each with whether it ends its document, about CHUNK_CHARACTERS at a time."""
    chunk: list[tuple[str, bool]] = []
    size = 0
    for document in documents:
        pieces = list(split_text(document))
        for number, piece in enumerate(pieces, start=1):
            chunk.append((piece, number == len(pieces)))
            size += len(piece)
            if size >= CHUNK_CHARACTERS:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def encode_documents(documents: Iterable[str], *, tokenizer: Tokenizer) -> Tokens:
    """All documents as one stream, END_OF_TEXT after each.

    Shapes: (num_tokens,) of dtype_for(vocabulary).
    """
    nothing = np.zeros(0, dtype=dtype_for(tokenizer.get_vocab_size()))
    return np.concatenate([nothing, *encode_each(documents, tokenizer=tokenizer)])


def split_tokens(tokens: Tokens, *, shard_tokens: int) -> list[Tokens]:
    """The stream in order, in the fewest shards of at most shard_tokens, their sizes equal to within one token."""
    num_shards = max(1, -(-len(tokens) // shard_tokens))
    bounds = [len(tokens) * shard // num_shards for shard in range(num_shards + 1)]
    return [tokens[start:stop] for start, stop in itertools.pairwise(bounds)]


def write_shard(tokens: Tokens, path: Path) -> None:
    """Write the tokens so that open_shard reads them on any machine."""
    with replacing(path) as partial:
        little_endian(tokens).tofile(partial)


def little_endian(tokens: Tokens) -> Tokens:
    """The tokens as they lie in a file, on any machine."""
    return cast(Tokens, tokens.astype(tokens.dtype.newbyteorder("<"), copy=False))


def open_shard(path: Path, dtype: str) -> Tokens:
    """The shard as a read-only memory map.

    Raises: ShardInvalid.
    """
    if dtype not in DTYPES:
        raise ShardInvalid(f"{path.name}: a shard holds {' or '.join(DTYPES)}, not {dtype}")
    size_bytes = path.stat().st_size
    element = np.dtype(dtype).newbyteorder("<")
    if size_bytes == 0 or size_bytes % element.itemsize:
        raise ShardInvalid(f"{path.name}: {size_bytes} bytes are no array of {dtype}")
    return np.memmap(path, dtype=element, mode="r")


def require_windows(tokens: Tokens, *, block_size: int) -> None:
    """Raises: CorpusInvalid where the tokens hold not one window of block_size inputs with their targets."""
    if len(tokens) <= block_size:
        raise CorpusInvalid(
            f"The corpus is too small for the block size: {len(tokens)} tokens, and {block_size + 1} are needed; "
            "add text, or lower block_size."
        )


def sample_batch(shard: Tokens, *, seed: int, step: int, num_rows: int, block_size: int) -> NDArray[np.int64]:
    """Windows at places that depend on seed and step alone, on any machine and with any NumPy.

    Row r is the same whatever num_rows is, so that a batch may be trained in pieces of any size.

    Shapes: (num_rows, block_size + 1).
    Raises: CorpusInvalid.
    """
    places = sample_places(shard, seed=seed, step=step, num_rows=num_rows, block_size=block_size)
    windows: NDArray[np.int64] = shard[places[:, None] + np.arange(block_size + 1)].astype(np.int64)
    return windows


def sample_places(shard: Tokens, *, seed: int, step: int, num_rows: int, block_size: int) -> NDArray[np.int64]:
    """Where in the shard each row of `sample_batch` begins.

    Shapes: (num_rows,).
    Raises: CorpusInvalid.
    """
    require_windows(shard, block_size=block_size)
    # Raw Philox output is the same in every version of NumPy; Generator's methods are not promised to be.
    # With 64 random bits the modulo favours a window by less than 2**-30.
    places = np.random.Philox(key=seed, counter=[0, 0, 0, step]).random_raw(num_rows) % (len(shard) - block_size)
    return places.astype(np.int64)
