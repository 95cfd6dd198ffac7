import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from ml.chat_template import ChatTemplate
from ml.export.formats import export
from ml.export.source import Source
from ml.run import Run
from tests.ml.export.make import PROMPT, TEXTS, make_inputs, our_continuation, our_logits, readme_code


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(Source.of_run(run), format_name="hf", out=tmp_path_factory.mktemp("hf") / "D").folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def load(folder: Path) -> Any:
    model, found = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


def test_transformers_computes_the_logits_of_a_grouped_model(run: Run, folder: Path) -> None:
    model = load(folder)
    for tokens in make_inputs(run):
        ours = our_logits(run, tokens)
        torch.testing.assert_close(model(tokens).logits, ours, atol=2e-5, rtol=1e-5)
        assert ours.std() > 1


def test_transformers_computes_the_logits_of_an_ungrouped_model(ungrouped_run: Run, tmp_path: Path) -> None:
    model = load(export(Source.of_run(ungrouped_run), format_name="hf", out=tmp_path / "D").folder)
    for tokens in make_inputs(ungrouped_run):
        torch.testing.assert_close(model(tokens).logits, our_logits(ungrouped_run, tokens), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_weights_are_ours_rounded(run: Run, tmp_path: Path, dtype: str) -> None:
    folder = export(Source.of_run(run), format_name="hf", out=tmp_path / "D", dtype=dtype).folder
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    for name, tensor in load_file(folder / "model.safetensors").items():
        torch.testing.assert_close(tensor, run.model.state_dict()[name].to(kind), atol=0, rtol=0)
    assert transformers.AutoModelForCausalLM.from_pretrained(folder).dtype == kind


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_tokenizes_as_we_do(run: Run, tokenizer: Any, text: str) -> None:
    ours = run.tokenizer.encode(text).ids
    assert tokenizer(text)["input_ids"] == ours
    assert tokenizer.decode(ours) == text


def test_markers_are_special_to_transformers(tokenizer: Any) -> None:
    tokens = tokenizer("<|endoftext|>[QUESTION]\n무엇?")["input_ids"]
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "\n무엇?"
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0)


def test_the_chat_template_gives_the_tokens_of_ours(run: Run, tokenizer: Any) -> None:
    template = ChatTemplate(run.tokenizer)
    messages = [
        {"role": "system", "content": "짧게"},
        {"role": "user", "content": "Dart는?"},
        {"role": "assistant", "content": "언어"},
        {"role": "user", "content": "왜?\n"},
    ]
    ours = template.question("짧게\n\nDart는?") + template.answer("언어") + template.question("왜?\n")
    answered = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    asked = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, add_generation_prompt=True)
    assert (tuple(answered), tuple(asked)) == (ours, ours + template.opening())


def test_the_readme_loads_it_and_writes_our_text(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = run.tokenizer.encode(PROMPT).ids
    continuation = our_continuation(run, tokens, num_tokens=20)
    monkeypatch.chdir(folder)
    exec(readme_code(folder), {})
    text = run.tokenizer.decode(tokens + continuation, skip_special_tokens=False)
    assert capsys.readouterr().out == text + "\n"
    assert len(set(continuation)) > 5


def test_generation_ends_with_an_answer(run: Run, folder: Path) -> None:
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [run.tokenizer.token_to_id("<|endoftext|>"), run.tokenizer.token_to_id("[/ANSWER]")]
