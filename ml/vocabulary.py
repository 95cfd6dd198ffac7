"""The tokenizer of a dataset: trained on its training documents, measured on the held-out ones."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from ml import tokenizer as tokenizers
from ml.files import require_free, writing
from ml.languages import LANGUAGES
from ml.locks import writing_in
from ml.samples import FOLDER, Sample, SamplesInvalid, SkippedLine, Track, find_samples, read_all, untracked

MEASURED_BYTES = 2**20
_HANGUL = re.compile("[가-힣]")
_SYLLABLE = re.compile(" ?[가-힣]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """How well the vocabulary fits a language, on text it was not trained on."""

    language: str
    documents: int
    bytes: int
    characters: int
    tokens: int
    hangul_tokens: int
    """Tokens with Hangul in them."""
    syllable_tokens: int
    """Of those, tokens that are one syllable or a part of one, with or without a space before it."""

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens

    @property
    def characters_per_token(self) -> float:
        return self.characters / self.tokens

    @property
    def syllable_share(self) -> float:
        """1 where Korean is split into single syllables."""
        return self.syllable_tokens / max(1, self.hangul_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A tokenizer that was just written."""

    path: Path
    measures: list[Measure]
    skipped: list[SkippedLine]


def make_tokenizer(
    folder: Path, *, vocab_size: int, jsonl: Sequence[Path] = (), force: bool = False, track: Track = untracked
) -> Made:
    """Train folder/tokenizer.json on the documents that `fai dataset` will train on.

    Raises: OutputExists; SamplesInvalid, also where the text gives fewer tokens than vocab_size;
        ml.bad_input.CorpusInvalid where vocab_size is below ml.tokenizer.MIN_VOCAB_SIZE;
        ml.locks.FolderBusy, FolderUnusable; ml.files.FileUnwritable.
    """
    path = folder / tokenizers.FILE_NAME
    require_free(path, force=force)
    with writing_in(folder):
        return _make(folder, vocab_size, jsonl, track)


def _make(folder: Path, vocab_size: int, jsonl: Sequence[Path], track: Track) -> Made:
    path = folder / tokenizers.FILE_NAME
    samples = find_samples(folder, jsonl=jsonl)
    texts = read_all(track(samples.training, "Reading"))
    pieces = (piece for text in texts for piece in tokenizers.split_text(text))
    try:
        tokenizer = tokenizers.train(pieces, vocab_size=vocab_size)
    except tokenizers.VocabularyTooLarge as error:
        raise SamplesInvalid(
            f"{folder / FOLDER} gives a vocabulary of at most {error.largest} tokens, not {vocab_size}: "
            f"add text, or run `fai tokenizer {folder} --vocab-size {error.largest}`."
        ) from error
    with writing(path) as partial:
        partial.write_text(tokenizer.to_str(pretty=True), encoding="utf-8", newline="\n")
    return Made(path=path, measures=measure(tokenizer, samples.validation), skipped=samples.skipped)


def measure(tokenizer: Tokenizer, samples: Sequence[Sample]) -> list[Measure]:
    """A measure of each language, over its first samples of MEASURED_BYTES in all."""
    by_language: dict[str, list[Sample]] = defaultdict(list)
    num_bytes: Counter[str] = Counter()
    # By content, so that no site comes first.
    for sample in sorted(samples, key=lambda sample: sample.rank):
        if num_bytes[sample.language] < MEASURED_BYTES:
            by_language[sample.language].append(sample)
            num_bytes[sample.language] += sample.num_bytes
    return [_measure(tokenizer, by_language[language]) for language in LANGUAGES if language in by_language]


def _measure(tokenizer: Tokenizer, samples: Sequence[Sample]) -> Measure:
    characters = tokens = hangul = syllables = 0
    for text in read_all(samples):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        characters += len(text)
        tokens += len(encoding.ids)
        with_hangul = [text[start:stop] for start, stop in encoding.offsets if _HANGUL.search(text, start, stop)]
        hangul += len(with_hangul)
        syllables += sum(bool(_SYLLABLE.fullmatch(part)) for part in with_hangul)
    return Measure(
        language=samples[0].language,
        documents=len(samples),
        bytes=sum(sample.num_bytes for sample in samples),
        characters=characters,
        tokens=tokens,
        hangul_tokens=hangul,
        syllable_tokens=syllables,
    )
