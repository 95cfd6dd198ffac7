"""What a volunteer chose, from the command line, the environment and the config folder, parsed once.

The only module of this package that reads the environment.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from fai.credentials import Credentials, load_credentials
from fai.stop import Stop

DEFAULT_CACHE_BYTES = 20 * 2**30
LANGUAGES = ("en", "ko")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Choices before the stored credentials are consulted; None where nothing was chosen."""

    server_url: str | None
    api_key: str | None
    nickname: str | None
    experiment: str | None
    device_name: str
    config_dir: Path
    cache_dir: Path
    cache_max_bytes: int
    num_threads: int | None
    """Torch threads; None leaves one physical core to the volunteer."""
    language: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """All that a worker needs to know before it meets its coordinator."""

    server_url: str
    api_key: str
    experiment: str | None
    device_name: str
    cache_dir: Path
    cache_max_bytes: int
    num_threads: int | None
    language: str
    was_joined: bool
    """The coordinator has answered at this URL before, so a worker may wait for it as long as it takes."""


def read_options(arguments: Mapping[str, Any] | None = None) -> Options:
    """Options from `arguments` (command line, by environment name without FAI_), then the environment, then defaults.

    Raises: Stop on a value that cannot be used.
    """
    values = {
        name.removeprefix("FAI_"): value for name, value in os.environ.items() if name.startswith("FAI_") and value
    }
    values |= {name: value for name, value in (arguments or {}).items() if value is not None}
    url = values.get("SERVER_URL")
    return Options(
        server_url=None if url is None else normalize_url(url),
        api_key=values.get("API_KEY"),
        nickname=values.get("NAME"),
        experiment=values.get("EXPERIMENT"),
        device_name=values.get("DEVICE") or socket.gethostname(),
        config_dir=Path(values.get("CONFIG_DIR") or platformdirs.user_config_path("fai", appauthor=False)),
        cache_dir=Path(values.get("CACHE_DIR") or platformdirs.user_cache_path("fai", appauthor=False)),
        cache_max_bytes=_positive(values, "CACHE_GIB", default=DEFAULT_CACHE_BYTES // 2**30) * 2**30,
        num_threads=_positive(values, "THREADS", default=0) or None,
        language=_language(values.get("LANG")),
    )


def preferred_language() -> str:
    """Language in which to say that the options cannot be read."""
    chosen = os.environ.get("FAI_LANG")
    return _language(chosen if chosen in LANGUAGES else None)


def worker_config(options: Options) -> WorkerConfig:
    """The configuration of a worker.

    Raises: Stop where no key is known for the coordinator, or no coordinator at all.
    """
    stored = load_credentials(options.config_dir, options.server_url)
    server_url = options.server_url or (stored.server_url if stored else None)
    api_key = options.api_key or (stored.api_key if stored else None)
    if server_url is None or api_key is None:
        raise Stop("not_joined", url=server_url or "URL")
    return WorkerConfig(
        server_url=server_url,
        api_key=api_key,
        experiment=options.experiment or (stored.experiment if stored else None),
        device_name=options.device_name,
        cache_dir=options.cache_dir,
        cache_max_bytes=options.cache_max_bytes,
        num_threads=options.num_threads,
        language=options.language,
        was_joined=stored is not None,
    )


def credentials_of(options: Options) -> Credentials | None:
    """What is stored for the chosen coordinator, or for the one joined last."""
    return load_credentials(options.config_dir, options.server_url)


def normalize_url(url: str) -> str:
    """`url` with a scheme and without a trailing slash or API path.

    Raises: Stop where it names no http(s) host.
    """
    text = url.strip()
    try:
        if "://" not in text:
            host = urlsplit(f"//{text}").hostname or ""
            text = f"{'http' if host in LOCAL_HOSTS else 'https'}://{text}"
        text = text.rstrip("/").removesuffix("/api/v1").rstrip("/")
        parts = urlsplit(text)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        # Brackets without an IPv6 address between them, or a port that is no number up to 65535.
        is_address = False
    if not is_address:
        raise Stop("bad_url", exit_code=2, url=url)
    return text


def _positive(values: Mapping[str, Any], name: str, *, default: int) -> int:
    raw = values.get(name)
    if raw is None:
        return default
    if not str(raw).isdecimal() or int(raw) < 1:
        raise Stop("bad_number", exit_code=2, name=f"FAI_{name}", value=raw)
    return int(raw)


def _language(chosen: str | None) -> str:
    """The volunteer's choice, else that of the locale, by POSIX precedence."""
    if chosen is not None:
        if chosen not in LANGUAGES:
            raise Stop("bad_language", exit_code=2, value=chosen)
        return chosen
    locale = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    return "ko" if locale.startswith("ko") else "en"
