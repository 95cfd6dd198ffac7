"""Storage of the test's own."""

from pathlib import Path
from typing import Any

import pytest

from inference.completions import prompts


@pytest.fixture
def storage(tmp_path: Path, settings: Any) -> Path:
    """The folder of the default storage; tokenizers of other tests are forgotten."""
    backend = "django.core.files.storage.FileSystemStorage"
    settings.STORAGES = {
        **settings.STORAGES,
        "default": {"BACKEND": backend, "OPTIONS": {"location": tmp_path / "storage"}},
    }
    prompts.load_tokenizer.cache_clear()
    prompts.load_template.cache_clear()
    return tmp_path / "storage"
