"""Takes chosen files of a git repository, without its history and without the files that are not wanted."""

import os
import re
import subprocess
from pathlib import Path

from ml.files import remove_folder
from ml.sources import GitSource, SourceInvalid, SourceUnreachable, Taken, unreachable

LICENCE_PATTERNS = ("/LICENSE*", "/LICENCE*", "/COPYING*", "/NOTICE*")
STALLED_SECONDS = 60
_LICENCE = re.compile(r"(LICEN[SC]E|COPYING|NOTICE)([.-].*)?", re.IGNORECASE)
# What a git that calls us, for a hook, would have us work on: its repository instead of the new one.
_OF_ANOTHER_REPOSITORY = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_CONFIG",
        "GIT_DIR",
        "GIT_INDEX_FILE",
        "GIT_NAMESPACE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    }
)
_OPTIONS = {
    "core.autocrlf": "false",
    "core.longpaths": "true",
    "core.hooksPath": os.devnull,
    "advice.detachedHead": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": str(STALLED_SECONDS),
}


def clone(source: GitSource, folder: Path) -> Taken:
    """Put the source's files into `folder`, anew: links, licence files and git's own files do not stay.

    Raises: SourceUnreachable; SourceInvalid where no file matches source.paths.
    """
    remove_folder(folder)
    folder.mkdir(parents=True)
    _git(source, folder, "init", "--quiet")
    _git(source, folder, "remote", "add", "--", "origin", source.repo)
    patterns = "\n".join([*source.paths, *LICENCE_PATTERNS])
    _git(source, folder, "sparse-checkout", "set", "--no-cone", "--stdin", text=patterns)
    _git(source, folder, "fetch", "--quiet", "--depth=1", "--no-tags", "--filter=blob:none", "--", "origin", source.ref)
    _git(source, folder, "checkout", "--quiet", "--detach", "FETCH_HEAD")
    revision, date = _git(source, folder, "show", "--no-patch", "--format=%H %cs", "HEAD").split()
    remove_folder(folder / ".git")
    taken = Taken(revision=revision, date=date, licence_texts=_take_licences(folder))
    _drop_links(folder)
    if not any(path.is_file() for path in folder.rglob("*")):
        raise SourceInvalid(f"{source.name}: {source.repo} has no file that matches its paths: change them.")
    return taken


def _take_licences(folder: Path) -> dict[str, str]:
    texts = {}
    for path in sorted(folder.iterdir()):
        if _LICENCE.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            texts[path.name] = path.read_text(encoding="utf-8", errors="replace")
            path.unlink()
    return texts


def _drop_links(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_symlink():
            path.unlink()


def _git(source: GitSource, folder: Path, *words: str, text: str | None = None) -> str:
    options = [word for name, value in _OPTIONS.items() for word in ("-c", f"{name}={value}")]
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY}
    # A repository that is gone asks for a password, which nobody is there to give.
    environment = inherited | {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", *options, *words],
            cwd=folder,
            env=environment,
            input=text or "",
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
        )
    except FileNotFoundError:
        raise SourceUnreachable(
            f"{source.name} is fetched with git: install git, and run the same command again."
        ) from None
    except subprocess.CalledProcessError as error:
        raise unreachable(source, _why(error.stderr)) from error
    return done.stdout


def _why(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith(("fatal:", "error:"))] or stderr.splitlines()
    return lines[0].partition(": ")[2] or lines[0] if lines else "git failed"
