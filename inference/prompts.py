"""Texts to tokens, and the chat template: the format of the study documents that the models are trained on.

    <|endoftext|>[QUESTION]
    {question}
    [/QUESTION]
    [ANSWER]
    {answer, which the model ends with [/ANSWER]}

Earlier turns stand before, each a whole document; instructions (roles system and developer) stand before the question
that follows them. The markers are tokens of their own: what a user writes cannot forge one.
"""

import functools
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

from inference.errors import ApiError, bad_parameter
from inference.messages import INSTRUCTION_ROLES, Message
from ml import tokenizer as ml_tokenizer
from ml.tokenizer import END_OF_TEXT, SPECIAL_TOKENS
from training import blobs
from training.models import Blob


@functools.lru_cache(maxsize=8)
def load_tokenizer(sha256: str) -> Tokenizer:
    """The tokenizer with that SHA-256, read from storage once per process."""
    with blobs.local_path(Blob.objects.get(pk=sha256)) as path:
        return ml_tokenizer.load(path)


@functools.lru_cache(maxsize=8)
def load_literal_tokenizer(sha256: str) -> Tokenizer:
    """The same tokenizer, to which the markers of the format are text like any other."""
    with blobs.local_path(Blob.objects.get(pk=sha256)) as path:
        tokenizer = ml_tokenizer.load(path)
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_prompts(prompts: Sequence[str | tuple[int, ...]], *, sha256: str) -> tuple[tuple[int, ...], ...]:
    """Tokens of raw prompts; the markers are recognised in them, and an empty one begins a document.

    Raises: ApiError.
    """
    tokenizer = load_tokenizer(sha256)
    start = (_marker(tokenizer, END_OF_TEXT),)
    return tuple(
        (_encode(tokenizer, prompt, param="prompt") or start)
        if isinstance(prompt, str)
        else _check_tokens(prompt, vocab_size=tokenizer.get_vocab_size())
        for prompt in prompts
    )


def encode_chat(messages: Iterable[Message], *, sha256: str) -> tuple[int, ...]:
    """Tokens of a chat by the template above, up to where the answer begins.

    Raises: ApiError.
    """
    markers = {name: (_marker(load_tokenizer(sha256), name),) for name in SPECIAL_TOKENS}
    literal = load_literal_tokenizer(sha256)
    newline = _encode(literal, "\n", param="messages")
    tokens: tuple[int, ...] = ()
    instructions: list[str] = []
    for message in messages:
        if message.role in INSTRUCTION_ROLES:
            instructions.append(message.text)
            continue
        if message.role == "user":
            text = _encode(literal, "\n" + "\n\n".join([*instructions, message.text]) + "\n", param="messages")
            tokens += markers[END_OF_TEXT] + markers["[QUESTION]"] + text + markers["[/QUESTION]"] + newline
            instructions.clear()
        else:
            text = _encode(literal, f"\n{message.text}\n", param="messages")
            tokens += markers["[ANSWER]"] + text + markers["[/ANSWER]"]
    return tokens + markers["[ANSWER]"] + newline


def stop_tokens(*, sha256: str, is_chat: bool) -> tuple[int, ...]:
    """Tokens that end a text: the end of the document, and in a chat the end of the answer."""
    tokenizer = load_tokenizer(sha256)
    return tuple(_marker(tokenizer, name) for name in ([END_OF_TEXT, "[/ANSWER]"] if is_chat else [END_OF_TEXT]))


def check_context(prompts: Sequence[Sequence[int]], *, max_tokens: int | None, block_size: int, param: str) -> int:
    """How many tokens each completion may have; every prompt leaves room for so many.

    Raises: ApiError, context_length_exceeded.
    """
    longest = max(len(prompt) for prompt in prompts)
    wanted = 1 if max_tokens is None else max_tokens
    if longest + wanted > block_size:
        raise bad_parameter(
            param,
            "context_length_exceeded",
            f"This model's maximum context length is {block_size} tokens. However, you requested {longest + wanted} "
            f"tokens ({longest} in the prompt, {wanted} for the completion): reduce the prompt or the completion.",
        )
    return block_size - longest if max_tokens is None else max_tokens


def _encode(tokenizer: Tokenizer, text: str, *, param: str) -> tuple[int, ...]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise bad_parameter(param, "invalid_value", f"'{param}' holds half a surrogate pair.") from error
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


def _marker(tokenizer: Tokenizer, name: str) -> int:
    token = tokenizer.token_to_id(name)
    if token is None:
        raise ValueError(f"the tokenizer has no {name}")
    return token


def _check_tokens(tokens: tuple[int, ...], *, vocab_size: int) -> tuple[int, ...]:
    if not all(0 <= token < vocab_size for token in tokens):
        raise ApiError(
            400, "invalid_value", f"Invalid 'prompt': tokens must lie between 0 and {vocab_size - 1}.", param="prompt"
        )
    return tokens
