import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from ml.bad_input import CorpusInvalid
from ml.documents import MAX_BYTES
from ml.locks import FolderBusy, FolderUnusable, writing_in
from ml.preparation import BATCH_FILES, OUTPUTS, PreparationRefused, prepare
from ml.samples import find_samples
from tests.ml.test_corpus import without_root, write

TEXT = "A document that is worth learning from.\n"


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def report_of(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "prepare-report.json").read_text(encoding="utf-8"))
    return report


def reasons_of(out: Path) -> dict[str, set[str]]:
    return {entry["path"]: set(entry["reasons"]) for entry in report_of(out)["files"]}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Something of each trouble that a file as a whole can be."""
    raw = tmp_path / "raw"
    write(raw / "site-b" / "guide" / "one.md", f"# One\n\n{TEXT}")
    write(raw / "site-b" / "main.dart", "void main() {}\r\n")
    write(raw / "site-a" / "two.md", "---\ntitle: 둘\n---\n\n한국어 글입니다. <b>굵게</b>\n")
    write(raw / "site-a" / "copy.md", f"# One\n\n{TEXT}\n")
    write(raw / "site-a" / "empty.md", "")
    write(raw / "site-a" / "blank.txt", " \n\t\n")
    write(raw / "site-a" / "tags.md", "<div></div>\n")
    write(raw / "site-a" / "photo.md", b"\x89PNG\r\n\x1a\n" + bytes(100))
    write(raw / "site-a" / "logo.svg", "<svg/>")
    write(raw / "site-a" / "ATTRIBUTION.md", "From somewhere.\n")
    write(raw / "top.txt", "Directly in the folder.\n")
    (raw / "site-a" / "loop").symlink_to(raw)
    (raw / "site-a" / "secret.txt").symlink_to("/etc/hostname")
    (raw / "site-a" / "gone.md").symlink_to("nowhere")
    return raw


def test_samples_text_and_report_are_made(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    summary = prepare([raw], out=out, num_processes=1)
    assert {name: text.decode() for name, text in tree(out / "samples").items()} == {
        "raw/top.txt.txt": "Directly in the folder.\n",
        "site-a/copy.md.txt": f"# One\n\n{TEXT}",
        "site-a/two.md.txt": "# 둘\n\n한국어 글입니다. 굵게\n",
        "site-b/main.dart.txt": "void main() {}\n",
    }
    assert (out / "samples.txt").read_text(encoding="utf-8") == (
        f"# One\n\n{TEXT}<|endoftext|>\n# 둘\n\n한국어 글입니다. 굵게\n<|endoftext|>\nvoid main() {{}}\n"
        "<|endoftext|>\nDirectly in the folder.\n"
    )
    assert sorted(path.name for path in out.iterdir()) == sorted(OUTPUTS)
    report = report_of(out)
    assert {key: value for key, value in report.items() if key != "files"} == summary
    assert summary["totals"] == summary["totals"] | {"files": 14, "kept": 4, "changed": 3, "left_out": 10}
    assert summary["sites"]["site-a"]["languages"] == {"en": 1, "ko": 1}
    assert summary["languages"]["code"]["kept"] == 1


def test_every_file_that_was_left_out_or_changed_is_named_with_its_reason(raw: Path, tmp_path: Path) -> None:
    prepare([raw], out=tmp_path / "data", num_processes=1)
    assert reasons_of(tmp_path / "data") == {
        "site-a/ATTRIBUTION.md": {"attribution"},
        "site-a/blank.txt": {"empty"},
        "site-a/copy.md": {"white-space"},
        "site-a/empty.md": {"empty"},
        "site-a/gone.md": {"link-broken"},
        "site-a/logo.svg": {"other-kind"},
        "site-a/loop": {"link"},
        "site-a/photo.md": {"binary"},
        "site-a/secret.txt": {"link-out"},
        "site-a/tags.md": {"nothing-left"},
        "site-a/two.md": {"front-matter", "html"},
        "site-b/guide/one.md": {"duplicate"},
        "site-b/main.dart": {"line-ends"},
    }


def test_the_bytes_are_the_same_with_any_number_of_processes(tmp_path: Path) -> None:
    for number in range(2 * BATCH_FILES + 5):
        write(tmp_path / "raw" / f"site-{number % 3}" / f"{number}.md", f"Text {number // 2} <br> with some words.\n")
    for num_processes in (1, 2):
        prepare([tmp_path / "raw"], out=tmp_path / str(num_processes), num_processes=num_processes)
    assert tree(tmp_path / "1") == tree(tmp_path / "2")
    assert len(tree(tmp_path / "1" / "samples")) == BATCH_FILES + 3


def test_names_that_a_file_system_may_refuse_become_names_that_none_does(tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "site"
    names = [
        b"a\nb.md",
        b"\xff\xfe.md",
        unicodedata.normalize("NFD", "가족").encode() + b".md",
        b"what?.md",
        b"x" * 252 + b".md",
    ]
    for number, name in enumerate(names):
        write(raw / os.fsdecode(name), f"Document {number}.\n")
    prepare([tmp_path / "raw"], out=tmp_path / "data", num_processes=1)
    made = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "data" / "samples" / "site").iterdir()}
    assert made["a%0Ab.md.txt"] == "Document 0.\n"
    assert made["%5Cxff%5Cxfe.md.txt"] == "Document 1.\n"
    assert made["가족.md.txt"] == "Document 2.\n"
    assert made["what%3F.md.txt"] == "Document 3.\n"
    assert all(len(name.encode()) <= 255 for name in made)
    assert len(made) == len(names)
    assert all("file-name" in reasons for reasons in reasons_of(tmp_path / "data").values())


def test_two_folders_may_hold_the_same_path(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name / "site" / "a.md", f"Of {name}.\n")
    prepare([tmp_path / "one", tmp_path / "two"], out=tmp_path / "data", num_processes=1)
    assert tree(tmp_path / "data" / "samples") == {"site/a.md.txt": b"Of one.\n", "site/a.md~2.txt": b"Of two.\n"}


def test_a_folder_may_be_called_as_the_sample_of_a_file_is(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "site" / "a.md", "One.\n")
    write(tmp_path / "raw" / "site" / "a.md.txt" / "b.md", "Two.\n")
    prepare([tmp_path / "raw"], out=tmp_path / "data", num_processes=1)
    assert tree(tmp_path / "data" / "samples") == {"site/a.md.txt": b"One.\n", "site/a.md.txt~/b.md.txt": b"Two.\n"}


def test_a_file_beyond_the_bound_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "site" / "a.md", TEXT)
    with (tmp_path / "raw" / "site" / "b.txt").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    prepare([tmp_path / "raw"], out=tmp_path / "data", num_processes=1)
    assert reasons_of(tmp_path / "data") == {"site/b.txt": {"too-big"}}


def test_what_cannot_be_read_is_reported_and_the_rest_goes_on(open_folder: Path) -> None:
    write(open_folder / "raw" / "site" / "a.md", TEXT)
    write(open_folder / "raw" / "site" / "b.md").chmod(0)
    write(open_folder / "raw" / "site" / "locked" / "c.md")
    (open_folder / "raw" / "site" / "locked").chmod(0)
    (open_folder / "data").mkdir(mode=0o777)
    (open_folder / "data").chmod(0o777)
    with without_root():
        prepare([open_folder / "raw"], out=open_folder / "data", num_processes=1)
    (open_folder / "raw" / "site" / "locked").chmod(0o700)
    assert reasons_of(open_folder / "data") == {"site/b.md": {"unreadable"}, "site/locked": {"unreadable"}}


def test_a_second_run_is_refused_and_forced(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    prepare([raw], out=out, num_processes=1)
    first = tree(out)
    with pytest.raises(PreparationRefused, match=r"samples is there already: give `fai prepare` --force"):
        prepare([raw], out=out, num_processes=1)
    write(out / "tokenizer.json", "{}")
    write(out / "samples" / "stale.txt", "stale")
    prepare([raw], out=out, force=True, num_processes=1)
    assert tree(out) == {**first, "tokenizer.json": b"{}"}


@pytest.mark.parametrize("files", [{}, {"picture.png": "x"}, {"blank.md": "\n"}])
def test_a_folder_without_text_says_what_to_do_and_leaves_nothing(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "raw").mkdir()
    for name, text in files.items():
        write(tmp_path / "raw" / name, text)
    with pytest.raises(CorpusInvalid, match=r"raw holds no text: .* `fai fetch"):
        prepare([tmp_path / "raw"], out=tmp_path / "data", num_processes=1)
    assert not (tmp_path / "data").exists()


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CorpusInvalid, match=r"no folder .*nowhere: .* `fai fetch NAME --out .*nowhere`"):
        prepare([tmp_path / "nowhere"], out=tmp_path / "data")


def test_samples_are_not_made_inside_what_they_are_made_of(raw: Path) -> None:
    with pytest.raises(PreparationRefused, match="lies inside"):
        prepare([raw], out=raw / "data")


def test_a_place_that_cannot_be_written_is_bad_input(raw: Path, tmp_path: Path) -> None:
    write(tmp_path / "file")
    with pytest.raises(FolderUnusable, match="cannot be written"):
        prepare([raw], out=tmp_path / "file" / "data")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_is_interrupted_leaves_what_was_there(raw: Path, tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "data"
    prepare([raw], out=out, num_processes=1)
    before = tree(out)

    def stop(num_files: int) -> None:
        if num_files == 5:
            raise error

    with pytest.raises((KeyboardInterrupt, PreparationRefused)):
        prepare([raw], out=out, force=True, num_processes=1, progress=stop)
    assert tree(out) == before
    with pytest.raises((KeyboardInterrupt, PreparationRefused)):
        prepare([raw], out=tmp_path / "new", num_processes=1, progress=stop)
    assert not (tmp_path / "new").exists()


def test_lines_of_jsonl_are_documents_cleaned_as_the_rest(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write(raw / "위키" / "a.txt", TEXT)
    lines = [
        {"text": "첫째 문서\r\n write to a@b.co.kr", "language": "ko"},
        {"text": TEXT},
        {"text": unicodedata.normalize("NFD", "둘째 문서예요.\n")},
        {"title": "no text"},
    ]
    written = [json.dumps(line) for line in lines]
    write(raw / "위키" / "part-00000.jsonl", "\n\n".join([*written, "{broken", ""]))
    prepare([raw], out=tmp_path / "data", num_processes=1)
    made = (tmp_path / "data/samples/위키/part-00000.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in made] == [
        {"text": "첫째 문서\n write to [EMAIL]", "language": "ko"},
        {"text": "둘째 문서예요.\n", "language": "ko"},
    ]
    assert (tmp_path / "data" / "samples.txt").read_text(encoding="utf-8") == (
        f"{TEXT}<|endoftext|>\n첫째 문서\n write to [EMAIL]\n<|endoftext|>\n둘째 문서예요.\n"
    )
    assert reasons_of(tmp_path / "data") == {
        "위키/part-00000.jsonl:1": {"line-ends", "email"},
        "위키/part-00000.jsonl:3": {"duplicate"},
        "위키/part-00000.jsonl:5": {"nfc"},
        "위키/part-00000.jsonl:7": {"no-document"},
        "위키/part-00000.jsonl:9": {"no-document"},
    }
    found = find_samples(tmp_path / "data")
    assert {(sample.site, sample.language) for sample in found.training + found.validation} == {
        ("위키", "ko"),
        ("위키", "en"),
    }


def test_a_line_beyond_the_bound_is_left_out_and_the_next_is_read(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "site" / "a.jsonl", b'{"text": "' + b"x" * MAX_BYTES + b'"}\n{"text": "after it"}\n')
    write(tmp_path / "raw" / "site" / "b.jsonl", b"")
    prepare([tmp_path / "raw"], out=tmp_path / "data", num_processes=1)
    assert reasons_of(tmp_path / "data") == {"site/a.jsonl:1": {"too-big"}, "site/b.jsonl": {"empty"}}
    assert (tmp_path / "data" / "samples.txt").read_text() == "after it\n"


def test_jsonl_of_two_folders_with_the_same_path_is_kept_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name / "site" / "a.jsonl", json.dumps({"text": f"Of {name}."}))
    prepare([tmp_path / "one", tmp_path / "two"], out=tmp_path / "data", num_processes=1)
    assert tree(tmp_path / "data" / "samples") == {
        "site/a.jsonl": b'{"text": "Of one.", "language": "en"}\n',
        "site/a~2.jsonl": b'{"text": "Of two.", "language": "en"}\n',
    }


def test_a_download_that_is_not_whole_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "site" / "a.md", TEXT)
    write(tmp_path / "raw" / ".wiki.partial" / "b.md", "Half of it.\n")
    prepare([tmp_path / "raw"], out=tmp_path / "data", num_processes=1)
    assert reasons_of(tmp_path / "data") == {"raw/.wiki.partial": {"unfinished"}}


def test_what_a_killed_run_left_is_removed(raw: Path, tmp_path: Path) -> None:
    write(tmp_path / "data" / ".prepare.0123456789abcdef.tmp" / "samples" / "half.txt", "half")
    prepare([raw], out=tmp_path / "data", num_processes=1)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted(OUTPUTS)


def test_two_runs_never_write_in_one_folder(raw: Path, tmp_path: Path) -> None:
    with writing_in(tmp_path / "data"), pytest.raises(FolderBusy):
        prepare([raw], out=tmp_path / "data", num_processes=1)


def test_the_report_changes_with_every_sample(tmp_path: Path) -> None:
    for name, text in {"one": "abc", "two": "abd"}.items():
        write(tmp_path / name / "site" / "a.md", text)
        prepare([tmp_path / name], out=tmp_path / f"{name}-data", num_processes=1)
    assert tree(tmp_path / "one-data")["prepare-report.json"] != tree(tmp_path / "two-data")["prepare-report.json"]
