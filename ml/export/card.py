"""The README of an exported model: what it is, its figures, and how it is loaded."""

import json
import math

from ml.run import Run, RunInvalid

STATE_FILE = "state.json"
_TEMPLATE = """\
---
license: apache-2.0
{languages}pipeline_tag: text-generation
tags: [fai, dart, flutter]
---

# {name}

A small GPT in Qwen3's architecture, trained from scratch with [fai](https://pypi.org/project/fai/), as {dtype}.

{about}

## Load it

From this folder:

```python
{snippet}```

## Figures

| | |
|---|---|
{figures}

## Format of questions

```
<|endoftext|>[QUESTION]
(instructions and the question)
[/QUESTION]
[ANSWER]
(the answer, which the model ends with [/ANSWER])
```

A message that holds one of these markers is read as if it were the marker.

## Licence

The weights are under Apache-2.0. The texts that it learned from keep their own licences: see the ATTRIBUTION.md of each
site. It says false things, as every model of this size does: for study only.
"""


def write_card(run: Run, *, dtype: str, about: str, snippet: str) -> str:
    """The README in Markdown, with the metadata that model hubs read.

    Raises: ml.run.RunInvalid where the checkpoint does not say what it is.
    """
    spoken = sorted({group["language"] for group in run.data["val"]["groups"]} & {"ko", "en"})
    return _TEMPLATE.format(
        name=run.folder.absolute().name,
        languages=f"language: [{', '.join(spoken)}]\n" if spoken else "",
        dtype=dtype,
        about=about,
        snippet=snippet.replace("FOLDER", "."),
        figures="\n".join(f"| {name} | {value} |" for name, value in _figures(run).items()),
    )


def _figures(run: Run) -> dict[str, str]:
    config = run.model.config
    step, loss = _read_state(run)
    figures = {
        "Parameters": f"{config.num_parameters:,}",
        "Layers, width": f"{config.n_layer}, {config.n_embd}",
        "Heads, key and value heads": f"{config.n_head}, {config.n_kv_head}",
        "Context": f"{config.block_size:,} tokens",
        "Vocabulary": f"{config.vocab_size:,} tokens",
        "Training text": f"{run.data['train']['tokens']:,} tokens",
        "Optimizer steps": f"{step:,}",
    }
    if loss is not None:
        figures["Validation loss"] = f"{loss:.4f} nats per token (perplexity {math.exp(loss):.2f})"
    return figures


def _read_state(run: Run) -> tuple[int, float | None]:
    """The step, and the validation loss where the checkpoint is the best."""
    path = run.checkpoint.with_name(STATE_FILE)
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return int(state["step"]), state.get("validation_loss")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunInvalid(
            f"{path} is missing or damaged ({error}): export another checkpoint with `--checkpoint`."
        ) from error
