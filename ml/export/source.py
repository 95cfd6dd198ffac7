"""What is exported: a model's file and its tokenizer, and what an export says of them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from ml.config import ModelConfig
from ml.run import Run, RunInvalid

STATE_FILE = "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A trained model, wherever it comes from."""

    name: str
    checkpoint: Path
    """The weights, as ml.checkpoint writes them."""
    config: ModelConfig
    tokenizer: Tokenizer
    origin: dict[str, Any] = field(default_factory=dict)
    """Where it comes from, as export.json says it."""
    languages: tuple[str, ...] = ()
    """Codes of the languages that it is known to have learned from."""
    figures: dict[str, str] = field(default_factory=dict)
    """Of its training, by name, in words for people."""
    validation_loss: float | None = None
    """Units: nats per token."""

    @classmethod
    def of_run(cls, run: Run) -> Self:
        """The model of a run.

        Raises: ml.run.RunInvalid where the checkpoint does not say what it is.
        """
        step, loss = _read_state(run.checkpoint.with_name(STATE_FILE))
        name = run.folder.absolute().name
        return cls(
            name=name,
            checkpoint=run.checkpoint,
            config=run.model.config,
            tokenizer=run.tokenizer,
            origin={"run": name, "checkpoint": run.checkpoint.relative_to(run.folder).as_posix()},
            languages=tuple(sorted({group["language"] for group in run.data["val"]["groups"]} & {"ko", "en"})),
            figures={"Training text": f"{run.data['train']['tokens']:,} tokens", "Optimizer steps": f"{step:,}"},
            validation_loss=loss,
        )


def _read_state(path: Path) -> tuple[int, float | None]:
    """The step, and the validation loss where the checkpoint is the best."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return int(state["step"]), state.get("validation_loss")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunInvalid(
            f"{path} is missing or damaged ({error}): export another checkpoint with `--checkpoint`."
        ) from error
