from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml import data
from ml.bad_input import CorpusInvalid
from ml.tokenizer import END_OF_TEXT
from tests.ml.make import TEXT, make_tokenizer

DOCUMENTS = [f"document {number}" for number in range(50)]


def test_a_vocabulary_of_65536_still_fits_in_16_bits() -> None:
    assert [data.dtype_for(size) for size in (2**16, 2**16 + 1)] == ["uint16", "uint32"]


def test_the_split_holds_every_document_once_and_the_asked_share() -> None:
    training, validation = data.split_documents(DOCUMENTS, validation_share=0.1)
    assert sorted(training + validation) == sorted(DOCUMENTS)
    assert len(validation) == 5


def test_the_split_does_not_depend_on_the_order() -> None:
    forwards = data.split_documents(DOCUMENTS, validation_share=0.1)
    backwards = data.split_documents(DOCUMENTS[::-1], validation_share=0.1)
    assert [set(side) for side in forwards] == [set(side) for side in backwards]


def test_equal_documents_fall_on_the_same_side() -> None:
    training, validation = data.split_documents(DOCUMENTS * 3, validation_share=0.3)
    assert not set(training) & set(validation)
    assert len(training) + len(validation) == 150


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_both_sides_get_a_document(share: float) -> None:
    training, validation = data.split_documents(["one", "two", "two"], validation_share=share)
    assert training
    assert validation


def test_one_document_cannot_be_split() -> None:
    with pytest.raises(CorpusInvalid, match="needs two different documents"):
        data.split_documents(["same", "same"], validation_share=0.1)


def test_each_document_ends_with_end_of_text() -> None:
    tokenizer = make_tokenizer()
    tokens = data.encode_documents([TEXT, "two"], tokenizer=tokenizer)
    assert tokens.dtype == np.uint16
    assert tokenizer.decode(tokens.tolist(), skip_special_tokens=False) == TEXT + END_OF_TEXT + "two" + END_OF_TEXT


@pytest.mark.parametrize("chunk_characters", [1, 30, 10_000])
def test_how_much_is_encoded_at_a_time_changes_no_token(monkeypatch: pytest.MonkeyPatch, chunk_characters: int) -> None:
    tokenizer = make_tokenizer()
    documents = ["", TEXT, "one\ntwo\n\nthree", "", "last"]
    expected = [[*tokenizer.encode(document).ids, 0] for document in documents]
    monkeypatch.setattr(data, "CHUNK_CHARACTERS", chunk_characters)
    monkeypatch.setattr("ml.tokenizer.PIECE_CHARACTERS", 10)
    assert [tokens.tolist() for tokens in data.encode_each(documents, tokenizer=tokenizer)] == expected


def test_encoding_reads_no_further_ahead_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "CHUNK_CHARACTERS", 10)
    read: list[int] = []

    def documents() -> Iterator[str]:
        for number in range(100):
            read.append(number)
            yield "a word"

    next(data.encode_each(documents(), tokenizer=make_tokenizer()))
    assert len(read) == 2


def test_no_documents_are_no_tokens() -> None:
    assert len(data.encode_documents([], tokenizer=make_tokenizer())) == 0


@given(st.integers(1, 500), st.integers(1, 200))
def test_shards_are_the_stream_in_order_and_of_nearly_equal_size(num_tokens: int, shard_tokens: int) -> None:
    tokens = np.arange(num_tokens, dtype=np.uint16)
    shards = data.split_tokens(tokens, shard_tokens=shard_tokens)
    sizes = [len(shard) for shard in shards]
    assert np.array_equal(np.concatenate(shards), tokens)
    assert len(shards) == -(-num_tokens // shard_tokens)
    assert max(sizes) <= shard_tokens
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("dtype", data.DTYPES)
def test_a_written_shard_opens_as_the_same_tokens(tmp_path: Path, dtype: str) -> None:
    tokens = np.array([0, 1, 258, 65_535], dtype=dtype)
    data.write_shard(tokens, tmp_path / "shard.bin")
    opened = data.open_shard(tmp_path / "shard.bin", dtype)
    assert opened.tolist() == tokens.tolist()
    assert not opened.flags.writeable


@pytest.mark.parametrize("stored", [">u2", "<u2"])
def test_a_shard_is_little_endian_whatever_the_array_was(tmp_path: Path, stored: str) -> None:
    data.write_shard(np.array([1, 258], dtype=stored), tmp_path / "shard.bin")
    assert (tmp_path / "shard.bin").read_bytes() == b"\x01\x00\x02\x01"


@pytest.mark.parametrize(("content", "dtype"), [(b"", "uint16"), (b"abc", "uint16"), (b"abcdef", "uint32")])
def test_bytes_that_are_no_array_are_refused(tmp_path: Path, content: bytes, dtype: str) -> None:
    (tmp_path / "shard.bin").write_bytes(content)
    with pytest.raises(data.ShardInvalid, match=f"{len(content)} bytes are no array of {dtype}"):
        data.open_shard(tmp_path / "shard.bin", dtype)


@pytest.mark.parametrize("dtype", ["int64", "object", ""])
def test_other_types_than_tokens_are_refused(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "shard.bin").write_bytes(bytes(16))
    with pytest.raises(data.ShardInvalid, match="uint16 or uint32"):
        data.open_shard(tmp_path / "shard.bin", dtype)


SHARD = np.arange(1_000, dtype=np.uint16)


def test_a_batch_is_windows_of_the_shard() -> None:
    batch = data.sample_batch(SHARD, seed=1, step=0, num_rows=8, block_size=16)
    assert batch.shape == (8, 17)
    assert batch.dtype == np.int64
    assert (np.diff(batch, axis=1) == 1).all()


def test_a_batch_is_the_same_on_every_machine_and_in_every_release() -> None:
    batch = data.sample_batch(SHARD, seed=7, step=3, num_rows=4, block_size=16)
    assert batch[:, 0].tolist() == [601, 722, 341, 432]


@given(st.integers(0, 2**63), st.integers(0, 10_000), st.integers(1, 40))
def test_a_row_does_not_depend_on_how_many_rows_there_are(seed: int, step: int, num_rows: int) -> None:
    few = data.sample_batch(SHARD, seed=seed, step=step, num_rows=num_rows, block_size=4)
    many = data.sample_batch(SHARD, seed=seed, step=step, num_rows=50, block_size=4)
    assert np.array_equal(few, many[:num_rows])


def test_seeds_and_steps_give_different_batches() -> None:
    firsts = {
        tuple(data.sample_batch(SHARD, seed=seed, step=step, num_rows=4, block_size=4)[:, 0].tolist())
        for seed in range(10)
        for step in range(10)
    }
    assert len(firsts) == 100


def test_every_window_can_be_drawn_the_last_one_too() -> None:
    batch = data.sample_batch(SHARD[:20], seed=0, step=0, num_rows=400, block_size=16)
    assert set(batch[:, 0].tolist()) == {0, 1, 2, 3}


def test_a_shard_of_exactly_one_window_will_do() -> None:
    assert data.sample_batch(SHARD[:17], seed=0, step=0, num_rows=1, block_size=16).tolist() == [list(range(17))]


def test_a_shard_below_one_window_says_what_to_do() -> None:
    with pytest.raises(CorpusInvalid, match=r"too small for the block size: 16 tokens, and 17 .*lower block_size"):
        data.sample_batch(SHARD[:16], seed=0, step=0, num_rows=1, block_size=16)
