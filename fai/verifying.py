"""Merging a round again from its public files, and comparing every byte. Needs no key."""

import contextlib
import functools
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from fai.cache import disk_errors, receive, require_space
from fai.client import Client, CoordinatorError, CoordinatorUnreachable
from fai.messages import sentence
from fai.sizes import Size
from fai.stop import Stop
from ml import manifest as manifests
from ml.files import sha256_file
from ml.locks import AlreadyLocked, exclusive
from ml.manifest import Manifest, ManifestInvalid
from ml.protocol import BlobRef

PATIENCE_SECONDS = 30.0
"""How long a coordinator that brings nothing is waited for."""
DOWNLOAD_TRIES = 2
MAX_MANIFEST_BYTES = 64 * 2**20
"""Of hundreds of thousands of deltas; it is read as a whole."""
NUM_RESULTS = 4
"""Most files of a base's size that a merge writes: the weights, two buffers of the optimizer, the step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Named:
    """A file of a merge, with its name in the language of the volunteer."""

    name: str
    blob: BlobRef


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What merging a round again has shown."""

    problems: tuple[str, ...]
    """What differs, in sentences; nothing where all bytes are equal."""
    result_sha256: str
    """Of the checkpoint that the coordinator announces."""


@dataclass(kw_only=True)
class Verifier:
    """Downloads the files of a merge into `folder`, which is its alone, and repeats it."""

    client: Client
    folder: Path
    language: str
    say: Callable[..., None]

    def verify(self, experiment: str, round_number: int) -> Outcome:
        """Raises: Stop where it cannot be found out; CoordinatorUnreachable, CoordinatorError."""
        announced = self._round(experiment, round_number)
        with self._own_folder():
            problems = self._problems(announced, experiment)
        return Outcome(problems=problems, result_sha256=announced["result_sha256"])

    def _problems(self, announced: dict[str, Any], experiment: str) -> tuple[str, ...]:
        (file,) = self._sized([(sentence(self.language, "file_manifest"), announced["manifest_sha256"])])
        if file.blob.size_bytes > MAX_MANIFEST_BYTES:
            return (f"{file.name} has {Size(file.blob.size_bytes)}, which none can have",)
        require_space(self.folder, file.blob.size_bytes)
        self._download(file, lambda num_bytes: None)
        path = self._path(file.blob.sha256)
        if sha256_file(path) != file.blob.sha256:
            return (f"{file.name} is not the file that was merged: its SHA-256 is {sha256_file(path)}",)
        try:
            manifest = manifests.read(path)
        except ManifestInvalid as error:
            return (str(error),)
        return tuple(_contradictions(manifest, announced, experiment)) or self._merge_again(manifest)

    def _merge_again(self, manifest: Manifest) -> tuple[str, ...]:
        files = self._sized(self._inputs(manifest))
        total_bytes = sum(file.blob.size_bytes for file in files)
        require_space(self.folder, total_bytes + NUM_RESULTS * files[0].blob.size_bytes)
        self.say("verify_downloading", num_files=len(files), size_bytes=Size(total_bytes))
        with _progress(total_bytes) as on_bytes:
            done_bytes = 0
            for file in files:
                self._download(file, functools.partial(_after, on_bytes, done_bytes))
                done_bytes += file.blob.size_bytes
        self.say("verify_merging", num_deltas=len(manifest.deltas), round=manifest.round_number)
        return manifests.remerge(manifest, fetch=self._path).problems

    def _round(self, experiment: str, round_number: int) -> dict[str, Any]:
        """What the coordinator announces of a merged round."""
        by_number = {one["number"]: one for one in self._rounds(experiment)}
        if round_number not in by_number:
            newest = max(by_number, default="-")
            raise Stop("round_unknown", experiment=experiment, round=round_number, newest=newest)
        announced: dict[str, Any] = by_number[round_number]
        if announced["manifest_sha256"] is None:
            raise Stop("round_unmerged", experiment=experiment, round=round_number, state=announced["state"])
        return announced

    def _rounds(self, experiment: str) -> list[dict[str, Any]]:
        known = [one["slug"] for one in self.client.get("experiments", patience_seconds=PATIENCE_SECONDS)]
        if experiment not in known:
            url = self.client.server_url
            raise Stop("experiment_unknown", url=url, experiment=experiment, known=", ".join(known) or "-")
        rounds: list[dict[str, Any]] = self.client.get(
            f"experiments/{experiment}/rounds", patience_seconds=PATIENCE_SECONDS
        )
        return rounds

    def _inputs(self, manifest: Manifest) -> list[tuple[str, str]]:
        """Name and SHA-256 of each file that went into the merge; the base is the first."""
        inputs = [(sentence(self.language, "file_base"), manifest.base_sha256)]
        if manifest.outer_state_sha256:
            inputs.append((sentence(self.language, "file_state"), manifest.outer_state_sha256))
        for delta in manifest.deltas:
            inputs.append((sentence(self.language, "file_delta", attempt_id=delta.attempt_id), delta.sha256))
        return list({sha256: (name, sha256) for name, sha256 in reversed(inputs)}.values())[::-1]

    def _sized(self, inputs: list[tuple[str, str]]) -> list[_Named]:
        """Raises: Stop where the coordinator has a file no more."""
        return [
            _Named(name=name, blob=BlobRef(sha256=sha256, size_bytes=self._size(name, sha256)))
            for name, sha256 in inputs
        ]

    def _size(self, name: str, sha256: str) -> int:
        try:
            return self.client.patiently(lambda: self.client.blob_size(sha256), patience_seconds=PATIENCE_SECONDS)
        except CoordinatorError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            raise Stop("files_gone", url=self.client.server_url, name=name, sha256=sha256[:12]) from error

    def _download(self, file: _Named, on_bytes: Callable[[int], None]) -> None:
        """Have the file in the folder; one that is wrong twice over stays, for whoever compares it."""
        path = self._path(file.blob.sha256)
        for _ in range(DOWNLOAD_TRIES):
            path.unlink(missing_ok=True)
            self._receive(file, path, on_bytes)
            if sha256_file(path) == file.blob.sha256:
                return

    def _receive(self, file: _Named, path: Path, on_bytes: Callable[[int], None]) -> None:
        """Go on for as long as something comes."""
        while True:
            before_bytes = path.stat().st_size if path.exists() else -1
            try:
                self.client.patiently(
                    lambda: receive(file.blob, self.client, path, on_bytes), patience_seconds=PATIENCE_SECONDS
                )
            except CoordinatorUnreachable as error:
                if not path.exists() or path.stat().st_size <= before_bytes:
                    raise CoordinatorUnreachable(f"{file.name}: {error}", has_answered=error.has_answered) from error
            else:
                return

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256

    @contextlib.contextmanager
    def _own_folder(self) -> Iterator[None]:
        """The folder, empty, for as long as the block lasts.

        Raises: Stop where another process has it, or the disk refuses.
        """
        try:
            with disk_errors(self.folder), exclusive(self.folder.with_suffix(".lock"), wait=False):
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                try:
                    yield
                finally:
                    shutil.rmtree(self.folder, ignore_errors=True)
        except AlreadyLocked as error:
            raise Stop("verify_busy", path=self.folder) from error


def _after(on_bytes: Callable[[int], None], before_bytes: int, num_bytes: int) -> None:
    on_bytes(before_bytes + num_bytes)


def _contradictions(manifest: Manifest, announced: dict[str, Any], experiment: str) -> Iterator[str]:
    """What the coordinator says of the round elsewhere, against its manifest."""
    told = {
        "experiment": (manifest.experiment, experiment),
        "round": (manifest.round_number, announced["number"]),
        "base": (manifest.base_sha256, announced["base_sha256"]),
        "result": (manifest.result_sha256, announced["result_sha256"]),
        "step": (manifest.step_sha256, announced["step_sha256"]),
    }
    for name, (in_manifest, elsewhere) in told.items():
        if in_manifest != elsewhere:
            yield f"the manifest's {name} is {in_manifest}, the coordinator announces {elsewhere}"


@contextlib.contextmanager
def _progress(total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; what to call with the bytes so far."""
    columns = BarColumn(), DownloadColumn(), TimeRemainingColumn()
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=total_bytes)
        yield lambda done_bytes: progress.update(task, completed=done_bytes)
