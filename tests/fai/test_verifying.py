"""fai verify against real HTTP and real merges."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fai import client as client_module
from fai import verifying
from fai.cli import main
from fai.credentials import Credentials, save_credentials
from ml.config import CODECS, RULES, STEP_CODECS, OuterConfig
from ml.locks import exclusive
from tests.fai.coordinator import API_KEY, Coordinator, Problem
from tests.fai.make import WIDE
from tests.fai.rounds import Round, announce, make_rounds


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("FAI_", "LC_")) or name == "LANG":
            monkeypatch.delenv(name)
    monkeypatch.setenv("FAI_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("FAI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(client_module, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(verifying, "PATIENCE_SECONDS", 0.2)


@pytest.fixture
def rounds(coordinator: Coordinator, tmp_path: Path) -> list[Round]:
    return make_rounds(coordinator, tmp_path / "rounds", num_rounds=2)


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert not (tmp_path / "cache" / "verify").exists()


def verify(coordinator: Coordinator, *arguments: str) -> int:
    return main(["verify", "--server", coordinator.url, *(arguments or ("tiny", "2"))])


def test_a_round_that_gives_the_same_bytes_is_equal(
    coordinator: Coordinator, rounds: list[Round], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(coordinator) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"Downloading 5 files, {verifying.Size(_downloaded_bytes(coordinator, rounds[1]))}.",
        "Merging 3 deltas of round 2 again.",
        f"Equal: round 2 of tiny gives checkpoint {rounds[1].result.sha256[:12]} again, byte for byte.",
    ]
    assert printed.err == ""


def _downloaded_bytes(coordinator: Coordinator, merged: Round) -> int:
    manifest = json.loads(coordinator.blobs[merged.manifest_sha256])
    names = [manifest["base_sha256"], manifest["outer_state_sha256"], *(one["sha256"] for one in manifest["deltas"])]
    return sum(len(coordinator.blobs[name]) for name in names)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_can_be_verified(coordinator: Coordinator, tmp_path: Path, codec: str) -> None:
    make_rounds(coordinator, tmp_path / "rounds", num_rounds=2, codec=codec, model=WIDE)
    assert verify(coordinator) == 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("codec", ["int8", "topk-64"])
def test_every_rule_can_be_verified(coordinator: Coordinator, tmp_path: Path, rule: str, codec: str) -> None:
    outer = OuterConfig(rule=rule)
    make_rounds(coordinator, tmp_path / "rounds", num_rounds=2, num_deltas=4, codec=codec, outer=outer, model=WIDE)
    assert verify(coordinator) == 0


@pytest.mark.parametrize("step_codec", STEP_CODECS)
def test_every_kind_of_step_can_be_verified(coordinator: Coordinator, tmp_path: Path, step_codec: str) -> None:
    make_rounds(coordinator, tmp_path / "rounds", num_rounds=2, outer=OuterConfig(step_codec=step_codec))
    assert verify(coordinator) == 0


def test_no_key_is_needed_and_none_is_sent(
    coordinator: Coordinator, rounds: list[Round], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = Credentials(server_url=coordinator.url, api_key=API_KEY, nickname="mina", experiment=None)
    save_credentials(tmp_path / "config", stored)
    headers = []
    send = client_module.httpx.Client.send

    def watch(self: client_module.httpx.Client, request: client_module.httpx.Request, **options: object) -> object:
        headers.append(request.headers)
        return send(self, request, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(client_module.httpx.Client, "send", watch)
    assert main(["verify", "tiny", "1"]) == 0
    assert headers
    assert all("Authorization" not in one for one in headers)


def _flip_last(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("spoil", [_flip_last, lambda content: content[:-1], lambda content: content + b"\0"])
def test_a_delta_that_was_tampered_with_is_named(
    coordinator: Coordinator,
    rounds: list[Round],
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[bytes], bytes],
) -> None:
    delta = rounds[1].deltas[1]
    coordinator.blobs[delta.sha256] = spoil(coordinator.blobs[delta.sha256])
    assert verify(coordinator) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "Not equal: round 2 of tiny does not give its checkpoint again."
    assert lines[-1].startswith(f"- the delta of attempt {delta.attempt_id} is not the file that was merged")


def test_the_base_and_the_outer_state_are_named_too(
    coordinator: Coordinator, rounds: list[Round], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads(coordinator.blobs[rounds[1].manifest_sha256])
    for name in ("base_sha256", "outer_state_sha256"):
        coordinator.blobs[manifest[name]] = _flip_last(coordinator.blobs[manifest[name]])
    assert verify(coordinator) == 1
    problems = capsys.readouterr().out.splitlines()[-2:]
    assert problems[0].startswith("- the base is not the file")
    assert problems[1].startswith("- the outer state is not the file")


def test_a_merge_that_gave_other_weights_than_its_deltas_is_found(
    coordinator: Coordinator, rounds: list[Round], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads(coordinator.blobs[rounds[1].manifest_sha256])
    manifest["result_sha256"] = coordinator.put_blob(b"other weights")
    rounds[1].manifest_sha256 = coordinator.put_blob(json.dumps(manifest).encode())
    rounds[1].result = type(rounds[1].result)(sha256=manifest["result_sha256"], size_bytes=13)
    announce(coordinator, rounds)
    assert verify(coordinator) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("- merging gives the weights")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("round_number", 1, "the manifest's round is 1, the coordinator announces 2"),
        ("experiment", "other", "the manifest's experiment is other"),
        ("result_sha256", "ab" * 32, "the manifest's result is abab"),
        ("base_sha256", "ab" * 32, "the manifest's base is abab"),
        ("step_sha256", None, "the manifest's step is None"),
        ("deltas", 5, "is no manifest of a merge"),
    ],
)
def test_a_manifest_of_something_else_is_found_before_anything_large_is_downloaded(
    coordinator: Coordinator,
    rounds: list[Round],
    capsys: pytest.CaptureFixture[str],
    field: str,
    value: object,
    words: str,
) -> None:
    manifest = json.loads(coordinator.blobs[rounds[1].manifest_sha256]) | {field: value}
    rounds[1].manifest_sha256 = coordinator.put_blob(json.dumps(manifest).encode())
    announce(coordinator, rounds)
    assert verify(coordinator) == 1
    assert words in capsys.readouterr().out
    assert coordinator.num_requests("GET", f"blobs/{rounds[1].base.sha256}") == 0


def test_a_manifest_that_was_tampered_with_is_named(
    coordinator: Coordinator, rounds: list[Round], capsys: pytest.CaptureFixture[str]
) -> None:
    sha256 = rounds[1].manifest_sha256
    coordinator.blobs[sha256] = coordinator.blobs[sha256].replace(b"tiny", b"tidy")
    assert verify(coordinator) == 1
    assert "- the manifest is not the file that was merged" in capsys.readouterr().out


def test_a_manifest_too_large_to_be_one_is_not_read(
    coordinator: Coordinator,
    rounds: list[Round],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verifying, "MAX_MANIFEST_BYTES", 100)
    assert verify(coordinator) == 1
    assert "which none can have" in capsys.readouterr().out
    assert coordinator.num_requests("GET", f"blobs/{rounds[1].manifest_sha256}") == 1


def test_a_download_that_breaks_off_goes_on(
    coordinator: Coordinator, rounds: list[Round], monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks = iter(range(100))

    def hook(method: str, path: str) -> None:
        if path.startswith("blobs/") and next(breaks) % 3 == 2:
            raise ConnectionResetError

    coordinator.hook = hook
    assert verify(coordinator) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none", "1"), "has no experiment 'none'; it has: tiny."),
        (("../tiny", "1"), "has no experiment '../tiny'; it has: tiny."),
        (("tiny", "9"), "tiny has no round 9; its newest is 3."),
        (("tiny", "3"), "Round 3 of tiny is not merged (open); choose one that is."),
        (("tiny", "0"), "ROUND must be a whole number above 0, not '0'."),
        (("tiny", "-1"), "ROUND must be a whole number above 0, not '-1'."),
        (("tiny", "one"), "ROUND must be a whole number above 0, not 'one'."),
        (("tiny", "9" * 5_000), "ROUND must be a whole number above 0"),
    ],
)
def test_what_cannot_be_verified_is_one_sentence_and_exit_code_2(
    coordinator: Coordinator,
    rounds: list[Round],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, str],
    words: str,
) -> None:
    assert verify(coordinator, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_longer_kept_is_named(
    coordinator: Coordinator, rounds: list[Round], capsys: pytest.CaptureFixture[str]
) -> None:
    delta = rounds[1].deltas[0]
    del coordinator.blobs[delta.sha256]
    assert verify(coordinator) == 2
    assert f"no longer keeps the delta of attempt {delta.attempt_id} ({delta.sha256[:12]})" in capsys.readouterr().err


def test_korean_is_spoken_too(
    coordinator: Coordinator, rounds: list[Round], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(coordinator, "tiny", "2", "--lang", "ko") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("같습니다. tiny 2라운드에서")
    del coordinator.blobs[rounds[1].base.sha256]
    assert verify(coordinator, "tiny", "2", "--lang", "ko") == 2
    assert "서버에 시작 체크포인트 파일(" in capsys.readouterr().err


def test_without_a_coordinator_it_asks_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "tiny", "1"]) == 2
    assert capsys.readouterr().err == "Say which coordinator with --server URL.\n"


def test_a_coordinator_that_is_away_is_one_sentence(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fai.cli.PATIENCE_SECONDS", 0.1)
    coordinator.stop()
    assert verify(coordinator) == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_a_coordinator_that_goes_away_meanwhile_is_one_sentence_with_the_file(
    coordinator: Coordinator, rounds: list[Round], capsys: pytest.CaptureFixture[str]
) -> None:
    def hook(method: str, path: str) -> None:
        if path == f"blobs/{rounds[1].base.sha256}" and coordinator.num_requests("GET", path) > 1:
            raise Problem(503, "down")

    coordinator.hook = hook
    assert verify(coordinator) == 2
    assert "the base: HTTP 503" in capsys.readouterr().err


def test_a_full_disk_is_told_before_anything_large_is_downloaded(
    coordinator: Coordinator,
    rounds: list[Round],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 64 * 2**20 + 20_000))
    assert verify(coordinator) == 2
    assert "The disk is full" in capsys.readouterr().err
    assert coordinator.num_requests("GET", f"blobs/{rounds[1].base.sha256}") == 1


def test_a_disk_that_fills_up_meanwhile_is_one_sentence(
    coordinator: Coordinator,
    rounds: list[Round],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ml.manifest.merge", refuse)
    assert verify(coordinator) == 2
    assert "The disk is full" in capsys.readouterr().err


def test_two_at_once_do_not_spoil_each_others_files(
    coordinator: Coordinator, rounds: list[Round], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with exclusive(tmp_path / "cache" / "verify.lock", wait=False):
        assert verify(coordinator) == 2
    assert "Another fai verify is running" in capsys.readouterr().err


def test_what_a_killed_one_left_is_removed(coordinator: Coordinator, rounds: list[Round], tmp_path: Path) -> None:
    left = tmp_path / "cache" / "verify"
    left.mkdir(parents=True)
    (left / rounds[1].base.sha256).write_bytes(b"half")
    assert verify(coordinator) == 0
