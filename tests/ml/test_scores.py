import math

import numpy as np
import pytest
import torch

from ml.data import encode_documents
from ml.dataset import Group, open_dataset
from ml.run import Run
from ml.scores import Score, evaluate
from ml.tokenizer import end_of_text
from tests.ml.make import make_config, make_model, make_tokenizer, make_tokens
from tests.ml.make_run import make_document

TOKENIZER = make_tokenizer()
END = end_of_text(TOKENIZER)
BLOCK_SIZE = 16


def make_group(start: int, stop: int, *, site: str = "a", language: str = "ko", num_bytes: int = 100) -> Group:
    return Group(site=site, language=language, start=start, stop=stop, bytes=num_bytes, documents=1)


@torch.inference_mode()
def one_by_one(tokens: np.ndarray) -> tuple[float, int]:
    """The rule of ml.scores, a token at a time."""
    model = make_model(scale=5.0).eval()
    text = [END, *tokens.tolist()]
    nats, correct = 0.0, 0
    for place in range(1, len(text)):
        window_start = (place - 1) // BLOCK_SIZE * BLOCK_SIZE
        logits = model(torch.tensor([text[window_start:place]]))[0, -1].double()
        nats -= float(torch.log_softmax(logits, dim=-1)[text[place]])
        correct += int(logits.argmax()) == text[place]
    return nats, correct


@pytest.mark.parametrize("num_tokens", [1, 15, 16, 17, 40])
def test_every_token_of_a_group_is_predicted_once_the_tail_included(num_tokens: int) -> None:
    tokens = make_tokens(80)
    evaluation = evaluate(make_model(scale=5.0), tokens, [make_group(20, 20 + num_tokens)], end_of_text=END)
    nats, correct = one_by_one(tokens[20 : 20 + num_tokens])
    assert evaluation.total.tokens == num_tokens
    assert evaluation.total.nats == pytest.approx(nats, rel=1e-5)
    assert evaluation.total.correct == correct


def test_bits_per_byte_is_the_length_of_the_text_when_compressed() -> None:
    documents = [make_document("ko", 1), make_document("en", 2)]
    tokens = encode_documents(documents, tokenizer=TOKENIZER)
    num_bytes = sum(len(document.encode()) for document in documents)
    model = make_model(make_config(block_size=512), scale=0.0)
    score = evaluate(model, tokens, [make_group(0, len(tokens), num_bytes=num_bytes)], end_of_text=END).total
    # A model of zeros gives every token the same probability, 1 / 300.
    assert score.bits_per_byte == pytest.approx(len(tokens) * math.log2(300) / num_bytes, rel=1e-6)
    assert score.perplexity == pytest.approx(300, rel=1e-5)
    assert score.loss == pytest.approx(math.log(300), rel=1e-6)


def test_groups_add_up_to_languages_sites_and_the_whole() -> None:
    tokens = make_tokens(100)
    groups = [
        make_group(0, 30, site="a", language="en"),
        make_group(30, 33, site="a", language="ko"),
        make_group(33, 90, site="나", language="ko"),
        make_group(90, 90, site="empty"),
    ]
    heard: list[int] = []
    evaluation = evaluate(make_model(scale=5.0), tokens, groups, end_of_text=END, on_progress=heard.append)
    scores = [score for _, score in evaluation.groups]
    assert (evaluation.sites["a"], evaluation.sites["나"]) == (scores[0] + scores[1], scores[2])
    assert evaluation.languages == {"en": scores[0], "ko": scores[1] + scores[2]}
    assert evaluation.total.tokens == sum(heard) == 90
    assert evaluation.total.documents == 3
    assert [group["site"] for group in evaluation.to_dict()["groups"]] == ["a", "a", "나"]


def test_the_score_does_not_depend_on_the_rows_of_a_batch_nor_on_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(make_config(dropout=0.5), scale=5.0).train()
    tokens, groups = make_tokens(100), [make_group(0, 100)]
    whole = evaluate(model, tokens, groups, end_of_text=END).total
    assert model.training
    monkeypatch.setattr("ml.scores.BATCH_TOKENS", 1)
    assert evaluate(model.eval(), tokens, groups, end_of_text=END).total.nats == pytest.approx(whole.nats, rel=1e-6)


def test_training_lowers_every_figure(trained: Run) -> None:
    dataset = open_dataset(trained.folder.parent / "DATA")
    before = make_model(trained.model.config)
    raw = evaluate(before, dataset.val, dataset.groups, end_of_text=END).total
    learnt = evaluate(trained.model, dataset.val, dataset.groups, end_of_text=END).total
    assert raw.tokens == learnt.tokens == len(dataset.val)
    assert learnt.bits_per_byte < 0.5 * raw.bits_per_byte
    assert learnt.perplexity < raw.perplexity / 10
    assert learnt.accuracy > 0.6 > raw.accuracy


def test_a_perplexity_that_no_float_holds_is_infinite() -> None:
    assert math.isinf(Score(tokens=1, nats=1e6).perplexity)


def test_json_has_none_for_what_is_infinite() -> None:
    figures = Score(tokens=1, nats=1e6).to_dict()
    assert (figures["loss"], figures["perplexity"], figures["bits_per_byte"]) == (1e6, None, None)
    assert Score(tokens=1, nats=math.log(2), bytes=1).to_dict()["bits_per_byte"] == 1.0
