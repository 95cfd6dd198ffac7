"""Which formats there are, and one export to a folder."""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from ml.bad_input import BadInput
from ml.export.card import write_card
from ml.export.folder import RECORD_FILE, building
from ml.export.source import Source
from ml.files import sha256_file

FORMATS = {
    "hf": "hf",
    "gguf": "gguf",
    "onnx": "onnx",
    "torchscript": "torchscript",
    "torch-export": "torch_export",
}
"""Module of this package."""


class ExportInvalid(BadInput):
    """A choice that a format has no place for."""

    page: ClassVar[str] = "export"


class Format(Protocol):
    """What a format's module has."""

    DTYPES: tuple[str, ...]
    ABOUT: str
    """What the README says first, in Markdown."""
    SNIPPET: str
    """Python that loads the model from FOLDER and prints the token after a prompt."""
    write: Callable[..., None]
    """write(source, folder, *, dtype)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A folder that was written."""

    folder: Path
    sizes: dict[str, int]
    """Bytes of each file, by name."""
    snippet: str
    """Python that loads it."""

    @property
    def listing(self) -> str:
        """Its files and how it is loaded, for people."""
        files = "".join(f"  {size_bytes:>15,} bytes  {name}\n" for name, size_bytes in self.sizes.items())
        return f"{files}\nLoad it:\n\n{self.snippet}"


def export(source: Source, *, format_name: str, out: Path, dtype: str = "fp32", force: bool = False) -> Exported:
    """Write the model to the folder `out`, whole or not at all; `force` replaces an export that stands there.

    Raises: ExportInvalid, ml.export.folder.OutputTaken and OutputUnwritable, ml.export.gguf.GGUFImpossible,
        ml.export.weights.WeightsTooLarge; ModuleNotFoundError without the extra `learn`.
    """
    # A format brings its own library: only the one asked for is loaded.
    chosen = cast(Format, importlib.import_module(f"ml.export.{FORMATS[format_name]}"))
    if dtype not in chosen.DTYPES:
        allowed = " or ".join(f"`--dtype {name}`" for name in chosen.DTYPES)
        raise ExportInvalid(f"{format_name} cannot hold {dtype}: choose {allowed}.")
    with building(out, force=force) as folder:
        chosen.write(source, folder, dtype=dtype)
        card = write_card(source, dtype=dtype, about=chosen.ABOUT, snippet=chosen.SNIPPET)
        (folder / "README.md").write_text(card, encoding="utf-8")
        record = _record(source, format_name=format_name, dtype=dtype)
        (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    return Exported(folder=out, sizes=sizes, snippet=chosen.SNIPPET.replace("FOLDER", out.as_posix()))


def _record(source: Source, *, format_name: str, dtype: str) -> dict[str, Any]:
    return {
        "format": format_name,
        "dtype": dtype,
        **source.origin,
        "checkpoint_sha256": sha256_file(source.checkpoint),
        "model": source.config.to_dict(),
    }
