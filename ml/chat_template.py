"""The chat template: the format of the study documents that the models are trained on. No torch here.

    <|endoftext|>[QUESTION]
    {question}
    [/QUESTION]
    [ANSWER]
    {answer, which the model ends with [/ANSWER]}

Earlier turns stand before, each a whole document.
"""

from tokenizers import Tokenizer

from ml.tokenizer import END_OF_TEXT, TokenizerInvalid

ANSWER = "[ANSWER]"
END_OF_ANSWER = "[/ANSWER]"


class ChatTemplate:
    """Turns as tokens. The markers are tokens of their own: what a person writes cannot forge one.

    Raises: TokenizerInvalid where the tokenizer has no such markers.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._end_of_text = marker(tokenizer, END_OF_TEXT)
        self._question = marker(tokenizer, "[QUESTION]")
        self._end_of_question = marker(tokenizer, "[/QUESTION]")
        self._answer = marker(tokenizer, ANSWER)
        self._end_of_answer = marker(tokenizer, END_OF_ANSWER)
        self._literal = Tokenizer.from_str(tokenizer.to_str())
        self._literal.encode_special_tokens = True
        self._newline = self._encode("\n")

    def question(self, text: str) -> tuple[int, ...]:
        """The first half of a document; an answer comes next."""
        asked = self._encode(f"\n{text}\n")
        return (self._end_of_text, self._question, *asked, self._end_of_question, *self._newline)

    def answer(self, text: str) -> tuple[int, ...]:
        """A whole answer."""
        return (self._answer, *self._encode(f"\n{text}\n"), self._end_of_answer)

    def opening(self) -> tuple[int, ...]:
        """What the model continues with its answer."""
        return (self._answer, *self._newline)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._literal.encode(text, add_special_tokens=False).ids)


def marker(tokenizer: Tokenizer, name: str) -> int:
    """The token of a marker, or of END_OF_TEXT.

    Raises: TokenizerInvalid.
    """
    token = tokenizer.token_to_id(name)
    if token is None:
        raise TokenizerInvalid(f"The tokenizer has no {name}: train one with `fai tokenizer DATA`, and a model on it.")
    return int(token)
