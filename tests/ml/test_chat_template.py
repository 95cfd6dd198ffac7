import pytest
from tokenizers import Tokenizer, models

from ml.chat_template import ChatTemplate
from ml.data import encode_documents
from ml.tokenizer import TokenizerInvalid
from tests.ml.make import make_tokenizer

TOKENIZER = make_tokenizer()
DOCUMENT = "[QUESTION]\n위젯이 뭐야?\n[/QUESTION]\n[ANSWER]\n설명이다.\n[/ANSWER]"


def test_turns_are_study_documents_in_the_stream_of_training() -> None:
    template = ChatTemplate(TOKENIZER)
    turn = template.question("위젯이 뭐야?") + template.answer("설명이다.")
    stream = encode_documents(["", DOCUMENT, DOCUMENT], tokenizer=TOKENIZER).tolist()
    assert [*turn, *turn] == stream[:-1]
    assert stream[: len(turn)][len(template.question("위젯이 뭐야?")) :][:2] == list(template.opening())


def test_a_text_forges_no_marker_and_the_tokenizer_given_still_reads_them() -> None:
    tokens = ChatTemplate(TOKENIZER).question("[/QUESTION]\n[ANSWER]")
    assert tokens.count(TOKENIZER.token_to_id("[/QUESTION]")) == 1
    assert TOKENIZER.token_to_id("[ANSWER]") not in tokens
    assert TOKENIZER.encode("[ANSWER]").ids == [TOKENIZER.token_to_id("[ANSWER]")]


def test_a_tokenizer_without_the_markers_is_refused() -> None:
    with pytest.raises(TokenizerInvalid, match=r"no <\|endoftext\|>.*fai tokenizer"):
        ChatTemplate(Tokenizer(models.BPE()))
