import dataclasses
from pathlib import Path

import pytest

from ml.export.source import Source
from ml.run import Run, RunInvalid
from tests.ml.export.make import make_run


def test_texts_in_no_language_of_ours_are_not_listed(run: Run) -> None:
    data = run.data | {"val": {"groups": [{"language": "code"}, {"language": "ko"}]}}
    assert Source.of_run(dataclasses.replace(run, data=data)).languages == ("ko",)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": null}'])
def test_a_damaged_state_is_named(tmp_path: Path, text: str) -> None:
    broken = make_run(tmp_path / "run")
    (tmp_path / "run/best/state.json").write_text(text)
    with pytest.raises(RunInvalid, match=r"best/state\.json .*--checkpoint"):
        Source.of_run(broken)
