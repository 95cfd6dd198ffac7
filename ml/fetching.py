"""Fetches a source into a folder of its own, whole or not at all, with an ATTRIBUTION.md."""

from pathlib import Path

from ml.files import PARTIAL, remove_folder, require_free
from ml.git_clone import clone
from ml.locks import writing_in
from ml.sources import GitSource, HubSource, Source, Taken

ATTRIBUTION_FILE = "ATTRIBUTION.md"


def is_fetched(source: Source, raw: Path) -> bool:
    """Whether all of the source is in the folder already."""
    return (raw / source.name / ATTRIBUTION_FILE).exists()


def fetch(source: Source, raw: Path, *, force: bool = False) -> Path:
    """Put the source's files into raw/NAME; the folder appears when all of it is there.

    What was downloaded before an interruption stays in a hidden folder beside it, for the next time.

    Raises: SourceUnreachable, SourceInvalid; ml.files.OutputExists where raw/NAME is there and not to be replaced;
        ml.locks.FolderBusy, FolderUnusable.
    """
    folder = raw / source.name
    require_free(folder, force=force)
    partial = raw / f".{source.name}{PARTIAL}"
    with writing_in(raw):
        taken = clone(source, partial) if isinstance(source, GitSource) else _download(source, partial)
        (partial / ATTRIBUTION_FILE).write_text(_attribution(source, taken), encoding="utf-8", newline="\n")
        remove_folder(folder)
        partial.rename(folder)
    return folder


def _download(source: HubSource, folder: Path) -> Taken:
    # datasets is slow to load, and a volunteer's installation has it not.
    from ml.hub_download import download  # noqa: PLC0415

    return download(source, folder)


def _attribution(source: Source, taken: Taken) -> str:
    lines = [
        f"# {source.name}",
        "",
        f"- What: {source.what}",
        f"- Source: {source.origin}",
        f"- Revision: {taken.revision or 'a folder on this machine'}",
        f"- Date: {taken.date or 'unknown'}",
        f"- Licence: {source.licence}",
        f"- Language: {source.language}",
        f"- Taken, unchanged: {_what_was_taken(source)}",
    ]
    if source.notice:
        lines.append(f"- Notice: {source.notice}")
    for name, text in taken.licence_texts.items():
        lines += ["", f"## {name}", "", text.strip()]
    return "\n".join(lines) + "\n"


def _what_was_taken(source: Source) -> str:
    if isinstance(source, GitSource):
        return "files that match " + ", ".join(f"`{pattern}`" for pattern in source.paths)
    return f"the texts of {source.config or 'the dataset'}, {source.split}"
