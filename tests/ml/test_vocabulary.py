from pathlib import Path

import pytest

from ml import tokenizer, vocabulary
from ml.files import OutputExists
from ml.samples import SamplesInvalid, find_samples, read_all
from tests.ml.make_data import make_corpus, make_jsonl, make_samples

VOCAB_SIZE = 12_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def made(corpus: Path) -> vocabulary.Made:
    return vocabulary.make_tokenizer(corpus, vocab_size=VOCAB_SIZE)


def test_korean_it_was_not_trained_on_is_not_split_into_syllables(made: vocabulary.Made) -> None:
    korean = next(measure for measure in made.measures if measure.language == "ko")
    # A syllable is three bytes: a tokenizer of syllables would have 3 bytes a token and a share of 1.
    assert korean.bytes_per_token > 4
    assert korean.syllable_share < 0.5


def test_a_tokenizer_of_syllables_would_be_seen_by_the_measure(corpus: Path) -> None:
    held_out = find_samples(corpus).validation
    bytes_alone = tokenizer.train(["a"], vocab_size=tokenizer.MIN_VOCAB_SIZE)
    measures = {measure.language: measure for measure in vocabulary.measure(bytes_alone, held_out)}
    assert measures["ko"].syllable_share == 1
    assert measures["ko"].bytes_per_token == pytest.approx(1, abs=0.05)


def test_the_measures_are_of_the_held_out_documents(corpus: Path, made: vocabulary.Made) -> None:
    encoder = tokenizer.load(made.path)
    english = next(measure for measure in made.measures if measure.language == "en")
    texts = list(read_all(sample for sample in find_samples(corpus).validation if sample.language == "en"))
    assert english.documents == len(texts)
    assert english.bytes == sum(len(text.encode()) for text in texts)
    assert english.tokens == sum(len(encoder.encode(text).ids) for text in texts)
    assert english.characters_per_token == sum(map(len, texts)) / english.tokens
    assert english.bytes_per_token == english.bytes / english.tokens


def test_it_learns_from_the_training_documents_alone_and_the_same_from_the_same(tmp_path: Path) -> None:
    one = make_corpus(tmp_path / "one", pattern="*5-*.md")
    two = make_corpus(tmp_path / "two", pattern="*5-*.md")
    made = [vocabulary.make_tokenizer(data, vocab_size=500).path.read_text(encoding="utf-8") for data in (one, two)]
    expected = tokenizer.train(read_all(find_samples(one).training), vocab_size=500)
    assert made == [expected.to_str(pretty=True)] * 2


def test_jsonl_is_learned_from_too(tmp_path: Path) -> None:
    lines = [{"text": f"unheardofword {number}"} for number in range(20)]
    path = make_jsonl(tmp_path / "x.jsonl", [*lines, "no document"])
    made = vocabulary.make_tokenizer(tmp_path, vocab_size=265, jsonl=[path])
    assert [skipped.line for skipped in made.skipped] == [21]
    assert len(tokenizer.load(made.path).encode("unheardofword").ids) < len("unheardofword")


def test_a_vocabulary_larger_than_the_data_can_give_writes_nothing(tmp_path: Path) -> None:
    make_samples(tmp_path)
    with pytest.raises(
        SamplesInvalid, match=rf"at most \d+ tokens, not 24000: .*`fai tokenizer {tmp_path} --vocab-size"
    ):
        vocabulary.make_tokenizer(tmp_path, vocab_size=24_000)
    assert [path.name for path in tmp_path.iterdir()] == ["samples"]


def test_a_tokenizer_is_replaced_only_by_force(tmp_path: Path) -> None:
    make_samples(tmp_path)
    first = vocabulary.make_tokenizer(tmp_path, vocab_size=262).path.read_bytes()
    with pytest.raises(OutputExists, match=r"tokenizer\.json exists already: add --force"):
        vocabulary.make_tokenizer(tmp_path, vocab_size=263)
    assert (tmp_path / "tokenizer.json").read_bytes() == first
    vocabulary.make_tokenizer(tmp_path, vocab_size=263, force=True)
    assert tokenizer.load(tmp_path / "tokenizer.json").get_vocab_size() == 263
