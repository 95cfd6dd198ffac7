"""API keys on disk: one file per config folder, keyed by the coordinator's URL, readable by its owner alone."""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fai.stop import Stop
from ml.files import replacing

FILE_NAME = "credentials.json"
TRIAL_BYTES = 16 * 2**10
"""More than a file of keys has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """What joining a coordinator left behind."""

    server_url: str
    api_key: str
    nickname: str
    experiment: str | None


def load_credentials(config_dir: Path, server_url: str | None) -> Credentials | None:
    """What is stored for `server_url`, or for the coordinator joined last; None where there is nothing.

    Raises: Stop where the file cannot be read.
    """
    data = _read(config_dir / FILE_NAME)
    url = server_url or str(data.get("current"))
    values = data.get("servers", {}).get(url)
    return None if values is None else Credentials(server_url=url, **values)


def save_credentials(config_dir: Path, credentials: Credentials) -> None:
    """Store `credentials` and make their coordinator the current one; no half file is ever there.

    Raises: Stop where the folder cannot be written.
    """
    path = config_dir / FILE_NAME
    data = _read(path)
    values = dataclasses.asdict(credentials)
    url = values.pop("server_url")
    data = {"current": url, "servers": {**data.get("servers", {}), url: values}}
    with _writing(path), replacing(path) as temporary:
        # Private before a byte is in it.
        temporary.touch(mode=0o600, exist_ok=False)
        temporary.write_text(json.dumps(data, ensure_ascii=False, indent=2), encoding="utf-8")


def require_writable(config_dir: Path) -> None:
    """Return if a key could be stored there: the coordinator shows it once, for a nickname that is then taken.

    Raises: Stop.
    """
    path = config_dir / FILE_NAME
    _read(path)
    with _writing(path), tempfile.TemporaryFile(dir=config_dir) as trial:
        trial.write(bytes(TRIAL_BYTES))
        trial.flush()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raises: Stop where the folder of `path` cannot be made or written."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise Stop("config_unwritable", path=path, why=error.strerror or error) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Stop("config_unreadable", path=path, why=error) from error
    if not isinstance(data, dict):
        raise Stop("config_unreadable", path=path, why="not a JSON object")
    return data
