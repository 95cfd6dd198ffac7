import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from ml.chat_template import END_OF_ANSWER, ChatTemplate, marker
from ml.export.formats import export
from ml.export.gguf import GGUFImpossible
from ml.export.source import Source
from ml.run import Run
from ml.tokenizer import END_OF_TEXT
from tests.ml.export.llama import Llama
from tests.ml.export.make import PROMPT, TEXTS, our_continuation, our_logits, readme_code

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def export_gguf(run: Run, out: Path, *, dtype: str = "fp32") -> Path:
    return export(Source.of_run(run), format_name="gguf", out=out, dtype=dtype).folder / "model.gguf"


def their_name(name: str) -> str:
    for ours, theirs in GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def check_logits(run: Run, llama: Llama, *, atol: float) -> None:
    """Compare the ten likeliest tokens after beginnings of the texts."""
    num_compared = 0
    for text in TEXTS:
        tokens = run.tokenizer.encode(text).ids[:60]
        ours = our_logits(run, torch.tensor([tokens]))[0].log_softmax(-1)
        for length in range(1, len(tokens) + 1, 4):
            logprobs = llama.top_logprobs(tokens[:length], num_candidates=10)
            expected = ours[length - 1, list(logprobs)].numpy()
            np.testing.assert_allclose(list(logprobs.values()), expected, atol=atol, rtol=0)
            num_compared += len(logprobs)
    assert num_compared > 100


@pytest.fixture(scope="module")
def path(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_gguf(run, tmp_path_factory.mktemp("gguf") / "D")


@pytest.fixture(scope="module")
def llama(path: Path) -> Iterator[Llama]:
    with Llama(path) as llama:
        yield llama


def test_llama_cpp_computes_the_logits_of_a_grouped_model(run: Run, llama: Llama) -> None:
    check_logits(run, llama, atol=2e-5)


def test_llama_cpp_computes_the_logits_of_an_ungrouped_model(ungrouped_run: Run, tmp_path: Path) -> None:
    with Llama(export_gguf(ungrouped_run, tmp_path / "D")) as llama:
        check_logits(ungrouped_run, llama, atol=2e-5)


def test_llama_cpp_writes_the_same_text(run: Run, llama: Llama) -> None:
    for text in TEXTS:
        tokens = run.tokenizer.encode(text).ids[:20]
        ours = our_continuation(run, tokens, num_tokens=40)
        assert llama.complete(tokens, num_tokens=40) == ours


@pytest.mark.parametrize("end", [END_OF_TEXT, END_OF_ANSWER])
def test_llama_cpp_ends_with_a_document_and_with_an_answer(run: Run, llama: Llama, end: str) -> None:
    tokens = run.tokenizer.encode(PROMPT).ids
    assert len(llama.complete(tokens, num_tokens=5)) == 5
    token = marker(run.tokenizer, end)
    assert llama.complete(tokens, num_tokens=5, favoured=token, by=1_000.0) == [token]


@pytest.mark.parametrize("text", TEXTS)
def test_llama_cpp_tokenizes_as_we_do(run: Run, llama: Llama, text: str) -> None:
    assert llama.tokenize(text) == run.tokenizer.encode(text).ids


def test_llama_cpp_renders_the_chat_template(run: Run, llama: Llama) -> None:
    template = ChatTemplate(run.tokenizer)
    messages = [
        {"role": "system", "content": "짧게"},
        {"role": "user", "content": "Dart는?"},
        {"role": "assistant", "content": "언어"},
        {"role": "user", "content": "왜?"},
    ]
    ours = (
        template.question("짧게\n\nDart는?") + template.answer("언어") + template.question("왜?") + template.opening()
    )
    assert tuple(llama.tokenize(llama.render(messages))) == ours


def test_tensors_are_the_checkpoint_to_the_byte(run: Run, path: Path) -> None:
    theirs = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    ours = {their_name(name): values for name, values in load_file(run.checkpoint).items()}
    assert set(theirs) == set(ours)
    for name, values in ours.items():
        assert theirs[name].tobytes() == values.tobytes()
        assert theirs[name].shape == values.shape


@pytest.mark.parametrize(("dtype", "atol"), [("fp16", 0.02), ("bf16", 0.2)])
def test_half_precision_matrices_are_ours_rounded(run: Run, tmp_path: Path, dtype: str, atol: float) -> None:
    path = export_gguf(run, tmp_path / "D", dtype=dtype)
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name, values in load_file(run.checkpoint).items():
        stored = theirs[their_name(name)]
        rounded = torch.from_numpy(values).to(kind if values.ndim == 2 else torch.float32)
        assert stored.data.tobytes() == rounded.view(torch.uint8).numpy().tobytes()
        assert list(stored.shape) == list(reversed(values.shape))
    with Llama(path) as llama:
        check_logits(run, llama, atol=atol)


def test_the_readme_loads_it_and_writes_our_text(run: Run, path: Path) -> None:
    continuation = our_continuation(run, run.tokenizer.encode(PROMPT).ids, num_tokens=20)
    expected = (run.tokenizer.decode(continuation) + "\n").encode()
    command = [sys.executable, "-u", "-c", readme_code(path.parent)]
    with subprocess.Popen(command, cwd=path.parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        written = process.stdout.read(len(expected))
        # Why it is killed: see tests/ml/export/llama.py.
        process.kill()
    assert written == expected


def test_rows_beyond_the_vocabulary_are_unused_tokens(run: Run, tmp_path: Path) -> None:
    small = Tokenizer.from_str(run.tokenizer.to_str())
    parts = json.loads(small.to_str())
    last = parts["model"]["merges"].pop()
    del parts["model"]["vocab"]["".join(last)]
    smaller = dataclasses.replace(run, tokenizer=Tokenizer.from_str(json.dumps(parts)))
    with Llama(export_gguf(smaller, tmp_path / "D")) as llama:
        assert llama.tokenize("[PAD299]") == smaller.tokenizer.encode("[PAD299]").ids


@pytest.mark.parametrize("pre_tokenizer", [None, {"type": "Whitespace"}])
def test_words_that_llama_cpp_has_no_name_for_are_refused(
    run: Run, tmp_path: Path, pre_tokenizer: dict[str, str] | None
) -> None:
    parts = json.loads(run.tokenizer.to_str()) | {"pre_tokenizer": pre_tokenizer}
    other = dataclasses.replace(run, tokenizer=Tokenizer.from_str(json.dumps(parts)))
    with pytest.raises(GGUFImpossible, match="fai tokenizer"):
        export_gguf(other, tmp_path / "D")
    assert not list(tmp_path.iterdir())
