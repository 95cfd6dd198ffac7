"""A talk with a model: turns by the chat template, as many of them as the context holds."""

from collections.abc import Generator
from dataclasses import dataclass, replace

from tokenizers import Tokenizer

from ml.chat_template import END_OF_ANSWER, ChatTemplate
from ml.generation import Completion, Continuation, require_unicode, room_after
from ml.model import GPT
from ml.sampling import SamplingParams


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A question and its answer, as the tokens of a whole document."""

    question: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.question) + len(self.answer)


class Chat:
    """Remembers the turns; the oldest are forgotten where the next answer needs their room."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, params: SamplingParams) -> None:
        self.params = params
        """Of the next answer; max_tokens is the most it may have."""
        self.num_forgotten = 0
        """Turns that the last question pushed out."""
        self.last: Completion | None = None
        """The last answer, however it ended."""
        self._model = model
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)
        self._turns: list[Turn] = []
        self._num_asked = 0

    @property
    def num_turns(self) -> int:
        """Turns that the next answer will know of."""
        return len(self._turns)

    def set(self, **changes: object) -> None:
        """Change params.

        Raises: ml.sampling.SamplingInvalid; the params are as they were then.
        """
        self.params = replace(self.params, **changes)  # type: ignore[arg-type]

    def reset(self) -> None:
        """Forget every turn."""
        self._turns.clear()

    def ask(self, question: str) -> Generator[str, None, None]:
        """The answer, piece by piece; one that the caller stops half-way is remembered as far as it came.

        Raises: ml.generation.PromptInvalid where the question alone fills the context.
        """
        asked = self._template.question(require_unicode(question))
        prompt, max_tokens = self._fit(asked)
        # A seed of its own for each answer: the same question may be asked for another one.
        params = replace(
            self.params, max_tokens=max_tokens, seed=self.params.seed + self._num_asked, stop=(END_OF_ANSWER,)
        )
        self._num_asked += 1
        continuation = Continuation(self._model, self._tokenizer, prompt, params)
        try:
            yield from continuation
        finally:
            self.last = continuation.completion
            if self.last.completion_tokens:
                # The template writes the newline before the closing marker itself.
                answer = self._template.answer(self.last.text.removesuffix("\n"))
                self._turns.append(Turn(question=asked, answer=answer))

    def _fit(self, asked: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """The prompt of the turns that fit, and how many tokens the answer may have."""
        opening = self._template.opening()
        max_tokens = min(self.params.max_tokens, room_after(self._model, asked + opening))
        room = self._model.config.block_size - len(asked) - len(opening) - max_tokens
        self.num_forgotten = 0
        while sum(turn.num_tokens for turn in self._turns) > room:
            self._turns.pop(0)
            self.num_forgotten += 1
        history = tuple(token for turn in self._turns for token in turn.question + turn.answer)
        return history + asked + opening, max_tokens
