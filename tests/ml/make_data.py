"""Samples, JSONL files and datasets for the tests of what reads them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml.dataset import make_dataset
from ml.vocabulary import make_tokenizer

SAMPLE_CORPUS = Path(__file__).resolve().parents[2] / "data" / "sample"
VOCAB_SIZE = 1_000
DOCUMENTS = {
    "site-a/이름.md.txt": "# 위젯\n위젯은 화면을 이루는 부품이에요. 상태가 바뀌면 다시 그려요.\n",
    "site-a/state.md.txt": "# State\nA widget is rebuilt when its state changes.\n",
    "site-b/lib/main.dart.txt": "void main() {\n  print('안녕');\n}\n",
}


def make_samples(data: Path, documents: Mapping[str, str] = DOCUMENTS) -> Path:
    """DATA with these samples."""
    for name, text in documents.items():
        path = data / "samples" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return data


def make_corpus(data: Path, *, pattern: str = "*.md") -> Path:
    """DATA with the sample corpus, its languages as sites."""
    paths = sorted(SAMPLE_CORPUS.rglob(pattern))
    texts = {f"{path.parent.name}/{path.name}.txt": path.read_text(encoding="utf-8") for path in paths}
    return make_samples(data, texts)


def make_data(data: Path) -> Path:
    """DATA with a fifth of the sample corpus, a tokenizer and a dataset."""
    make_corpus(data, pattern="*[05]-*.md")
    make_tokenizer(data, vocab_size=VOCAB_SIZE)
    make_dataset(data)
    return data


def copy_data(source: Path, target: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(source, target))


def make_jsonl(path: Path, lines: Sequence[object]) -> Path:
    """A file of these lines: text as it is, everything else as JSON."""
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_bytes("".join(text + "\n" for text in texts).encode())
    return path
