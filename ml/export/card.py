"""The README of an exported model: what it is, its figures, and how it is loaded."""

import math

from ml.export.source import Source

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


def write_card(source: Source, *, dtype: str, about: str, snippet: str) -> str:
    """The README in Markdown, with the metadata that model hubs read."""
    return _TEMPLATE.format(
        name=source.name,
        languages=f"language: [{', '.join(source.languages)}]\n" if source.languages else "",
        dtype=dtype,
        about=about,
        snippet=snippet.replace("FOLDER", "."),
        figures="\n".join(f"| {name} | {value} |" for name, value in _figures(source).items()),
    )


def _figures(source: Source) -> dict[str, str]:
    config, loss = source.config, source.validation_loss
    shape = {
        "Parameters": f"{config.num_parameters:,}",
        "Layers, width": f"{config.n_layer}, {config.n_embd}",
        "Heads, key and value heads": f"{config.n_head}, {config.n_kv_head}",
        "Context": f"{config.block_size:,} tokens",
        "Vocabulary": f"{config.vocab_size:,} tokens",
    }
    score = {} if loss is None else {"Validation loss": f"{loss:.4f} nats per token (perplexity {math.exp(loss):.2f})"}
    return shape | source.figures | score
