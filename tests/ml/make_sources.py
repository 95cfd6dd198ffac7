"""Repositories and datasets on this machine, for the tests of what fetches them."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ml.sources import GitSource, HubSource

FILES = {
    "docs/ko/위젯.md": "# 위젯\n",
    "docs/index.md": "# Widgets\n",
    "docs/picture.svg": "<svg/>\n",
    "lib/main.dart": "void main() {}\n",
    "LICENSE": "Everyone may do everything. 누구나.\n",
}


def git(folder: Path, *words: str) -> str:
    # A test run from a hook of git must not work on the hook's repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *author, *words], cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout


def make_repo(folder: Path, files: Mapping[str, str] = FILES) -> Path:
    """A repository with one commit, which serves partial clones as GitHub does."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    git(folder, "config", "uploadpack.allowFilter", "true")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    commit(folder, files)
    return folder


def commit(repo: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = repo / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    git(repo, "add", "--all")
    git(repo, "-c", "core.hooksPath=/dev/null", "commit", "--quiet", "--message", "x")


def make_git_source(repo: Path, **changes: object) -> GitSource:
    values: dict[str, object] = {
        "name": "mine",
        "what": "문서",
        "language": "ko",
        "licence": "MIT",
        "repo": repo.as_uri(),
        "paths": ["/docs/**/*.md", "*.dart"],
    }
    return GitSource(**values | changes)  # type: ignore[arg-type]


def make_hub_dataset(folder: Path, texts: list[str], *, num_shards: int = 3) -> Path:
    """A dataset of the datasets library in JSON lines."""
    folder.mkdir(parents=True)
    for shard in range(num_shards):
        rows = texts[len(texts) * shard // num_shards : len(texts) * (shard + 1) // num_shards]
        lines = "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(rows))
        (folder / f"train-{shard:05}-of-{num_shards:05}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def make_hub_source(folder: Path, **changes: object) -> HubSource:
    values: dict[str, object] = {
        "name": "wiki",
        "what": "백과",
        "language": "ko",
        "licence": "CC-BY-SA-3.0",
        "dataset": str(folder),
    }
    return HubSource(**values | changes)  # type: ignore[arg-type]
