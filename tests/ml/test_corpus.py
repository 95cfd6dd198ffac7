import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ml.bad_input import CorpusInvalid
from ml.corpus import find_files, read_documents

SAMPLE = Path(__file__).resolve().parent.parent.parent / "data" / "sample"


def write(path: Path, text: str | bytes = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_documents_come_in_the_order_of_their_paths_from_all_folders(tmp_path: Path) -> None:
    for name in ("b/2.md", "a.txt", "b/10.MD", "c/main.dart"):
        write(tmp_path / name, name)
    assert read_documents(tmp_path) == ["a.txt", "b/10.MD", "b/2.md", "c/main.dart"]


def test_other_files_and_blank_documents_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.md")
    write(tmp_path / "blank.md", " \n\t\n")
    write(tmp_path / "picture.png")
    write(tmp_path / "folder.md" / "inner.txt", "inner")
    assert read_documents(tmp_path) == ["text", "inner"]


def test_text_comes_composed_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    write(tmp_path / "a.md", b"\xef\xbb\xbf" + unicodedata.normalize("NFD", "가족").encode())
    assert read_documents(tmp_path) == ["가족"]


def test_bad_utf8_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "a.md", b"caf\xe9!")
    assert read_documents(tmp_path) == ["caf\ufffd!"]


def test_line_ends_are_those_of_unix(tmp_path: Path) -> None:
    write(tmp_path / "a.md", "one\r\ntwo\r\n")
    assert read_documents(tmp_path) == ["one\ntwo\n"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    secret = write(tmp_path / "outside" / "secret.txt", "secret")
    inside = write(tmp_path / "corpus" / "a.md", "inside")
    (tmp_path / "corpus" / "link.txt").symlink_to(secret)
    (tmp_path / "corpus" / "link.md").symlink_to(inside)
    (tmp_path / "corpus" / "loop").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus" / "outside").symlink_to(tmp_path / "outside")
    assert read_documents(tmp_path / "corpus") == ["inside"]
    assert {found.name: found.problem and found.problem.reason for found in find_files(tmp_path / "corpus")} == {
        "a.md": None,
        "link.md": "link",
        "link.txt": "link-out",
        "loop": "link",
        "outside": "link-out",
    }


def test_links_to_nothing_and_to_themselves_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.md")
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere.md")
    (tmp_path / "loop.md").symlink_to(tmp_path / "loop.md")
    assert read_documents(tmp_path) == ["text"]


def test_a_missing_folder_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(CorpusInvalid, match=r"no folder .*nowhere: name one that holds \.md"):
        read_documents(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CorpusInvalid, match="There is no folder"):
        read_documents(write(tmp_path / "a.md"))


def test_an_empty_corpus_says_what_to_put_there(tmp_path: Path) -> None:
    write(tmp_path / "blank.md", "\n")
    with pytest.raises(CorpusInvalid, match="holds no text: put"):
        read_documents(tmp_path)


@contextmanager
def without_root() -> Iterator[None]:
    """Root may read anything; who runs the tests as root is nobody for a moment."""
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)


def test_an_unreadable_file_says_so(open_folder: Path) -> None:
    write(open_folder / "a.md").chmod(0)
    with without_root(), pytest.raises(CorpusInvalid, match=r"/a\.md cannot be read \(Permission denied\): change"):
        read_documents(open_folder)


def test_an_unreadable_folder_says_so(open_folder: Path) -> None:
    write(open_folder / "a.md")
    write(open_folder / "locked" / "b.md")
    (open_folder / "locked").chmod(0)
    with without_root(), pytest.raises(CorpusInvalid, match=r"locked cannot be read \(Permission denied\)"):
        read_documents(open_folder)
    (open_folder / "locked").chmod(0o700)


def test_the_sample_corpus_comes_as_it_is() -> None:
    paths = sorted(SAMPLE.rglob("*.md"), key=lambda path: path.parts)
    assert read_documents(SAMPLE) == [path.read_text(encoding="utf-8") for path in paths]


def test_a_document_comes_once_even_with_other_white_space(tmp_path: Path) -> None:
    write(tmp_path / "a.md", "one two\nthree\n")
    write(tmp_path / "b.md", "one two three")
    assert read_documents(tmp_path) == ["one two\nthree\n"]


def test_a_nearly_equal_document_comes_once(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(400)]
    write(tmp_path / "a.txt", " ".join(words))
    write(tmp_path / "b.txt", " ".join([*words, "and", "a", "new", "end"]))
    write(tmp_path / "c.txt", " ".join(reversed(words)))
    assert read_documents(tmp_path) == [" ".join(words), " ".join(reversed(words))]


LICENCE = "This page is published under a licence that is named at its very end."


def test_a_paragraph_of_an_earlier_document_goes(tmp_path: Path) -> None:
    write(tmp_path / "a.md", f"First.\n\n{LICENCE}\n\nMore.\n")
    write(tmp_path / "b.md", f"Second.\n\n{LICENCE}\n\nOther.\n")
    assert read_documents(tmp_path) == [f"First.\n\n{LICENCE}\n\nMore.\n", "Second.\n\nOther.\n"]


def test_a_line_in_a_paragraph_of_its_own_stays(tmp_path: Path) -> None:
    other = "Yet the sentence that goes on here is of this document alone, and whole."
    write(tmp_path / "a.md", f"{LICENCE}\n")
    write(tmp_path / "b.md", f"{LICENCE}\n{other}\n")
    assert read_documents(tmp_path)[1] == f"{LICENCE}\n{other}\n"


def test_repeated_list_items_go_and_the_others_stay(tmp_path: Path) -> None:
    write(tmp_path / "a.md", f"- {LICENCE}\n")
    write(tmp_path / "b.md", f"- new\n- {LICENCE}\n- newer\n")
    assert read_documents(tmp_path)[1] == "- new\n- newer\n"


def test_repeated_code_stays(tmp_path: Path) -> None:
    code = f"```dart\n// {LICENCE}\n```\n"
    write(tmp_path / "a.md", f"First.\n\n{code}")
    write(tmp_path / "b.md", f"Second.\n\n{code}")
    assert read_documents(tmp_path)[1] == f"Second.\n\n{code}"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "a.md")
    os.mkfifo(tmp_path / "b.md")
    assert [found.problem and found.problem.reason for found in find_files(tmp_path)] == [None, "not-a-file"]


def test_attributions_and_the_folders_of_tools_are_left_out(tmp_path: Path) -> None:
    for name in ("site/ATTRIBUTION.md", "site/.git/a.md", "site/.docs/b.md"):
        write(tmp_path / name, name)
    assert read_documents(tmp_path) == ["site/.docs/b.md"]
