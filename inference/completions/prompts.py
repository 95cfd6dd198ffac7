"""Texts to tokens: prompts as they are, and chats by ml.chat_template.

Instructions (roles system and developer) stand before the question that follows them; where none does, they are it.
"""

import functools
from collections.abc import Sequence

from tokenizers import Tokenizer

from inference.openai.errors import ApiError, bad_parameter
from inference.openai.messages import INSTRUCTION_ROLES, Message
from ml import tokenizer as ml_tokenizer
from ml.chat_template import END_OF_ANSWER, ChatTemplate, marker
from ml.tokenizer import END_OF_TEXT
from training import blobs
from training.models import Blob


@functools.lru_cache(maxsize=8)
def load_tokenizer(sha256: str) -> Tokenizer:
    """The tokenizer with that SHA-256, read from storage once per process.

    Raises: blobs.BlobUnavailable, BlobCorrupt.
    """
    with blobs.local_path(Blob.objects.get(pk=sha256)) as path:
        return ml_tokenizer.load(path)


@functools.lru_cache(maxsize=8)
def load_template(sha256: str) -> ChatTemplate:
    """The chat template in the tokens of that tokenizer."""
    return ChatTemplate(load_tokenizer(sha256))


@functools.lru_cache(maxsize=8)
def _longest_token_bytes(sha256: str) -> int:
    return ml_tokenizer.longest_token_bytes(load_tokenizer(sha256))


def encode_prompts(
    prompts: Sequence[str | tuple[int, ...]], *, sha256: str, block_size: int
) -> tuple[tuple[int, ...], ...]:
    """Tokens of raw prompts; the markers are recognised in them, and an empty one begins a document.

    Raises: ApiError.
    """
    tokenizer = load_tokenizer(sha256)
    start = (marker(tokenizer, END_OF_TEXT),)
    for prompt in prompts:
        if isinstance(prompt, str):
            _require_text([prompt], param="prompt", sha256=sha256, block_size=block_size)
    return tuple(
        (tuple(tokenizer.encode(prompt, add_special_tokens=False).ids) or start)
        if isinstance(prompt, str)
        else _check_tokens(prompt, vocab_size=tokenizer.get_vocab_size())
        for prompt in prompts
    )


def encode_chat(messages: Sequence[Message], *, sha256: str, block_size: int) -> tuple[int, ...]:
    """Tokens of a chat by the template, up to where the answer begins.

    Raises: ApiError.
    """
    _require_text([message.text for message in messages], param="messages", sha256=sha256, block_size=block_size)
    template = load_template(sha256)
    tokens: tuple[int, ...] = ()
    instructions: list[str] = []
    for message in messages:
        if message.role in INSTRUCTION_ROLES:
            instructions.append(message.text)
        elif message.role == "user":
            tokens += template.question("\n\n".join([*instructions, message.text]))
            instructions.clear()
        else:
            tokens += template.answer(message.text)
    if instructions:
        tokens += template.question("\n\n".join(instructions))
    return tokens + template.opening()


def check_biases(logit_bias: Sequence[tuple[int, float]], *, sha256: str) -> None:
    """Raises: ApiError where a biased token is none of the model's."""
    vocab_size = load_tokenizer(sha256).get_vocab_size()
    for token, _ in logit_bias:
        if token >= vocab_size:
            raise bad_parameter(
                f"logit_bias.{token}",
                "invalid_value",
                f"Invalid key in 'logit_bias': tokens must lie between 0 and {vocab_size - 1}, not be {token}.",
            )


def stop_tokens(*, sha256: str, is_chat: bool) -> tuple[int, ...]:
    """Tokens that end a text: the end of the document, and in a chat the end of the answer."""
    tokenizer = load_tokenizer(sha256)
    return tuple(marker(tokenizer, name) for name in ([END_OF_TEXT, END_OF_ANSWER] if is_chat else [END_OF_TEXT]))


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


def _require_text(texts: Sequence[str], *, param: str, sha256: str, block_size: int) -> None:
    """Raises: ApiError where the texts are no Unicode, or longer than any text that fits the context.

    Megabytes would keep a thread busy for seconds before their tokens are counted.
    """
    try:
        num_bytes = sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError as error:
        raise bad_parameter(param, "invalid_value", f"'{param}' holds half a surrogate pair.") from error
    if num_bytes > block_size * _longest_token_bytes(sha256):
        raise bad_parameter(
            param,
            "context_length_exceeded",
            f"This model's maximum context length is {block_size} tokens. However, '{param}' has {num_bytes} bytes, "
            "which are more tokens in any case: reduce it.",
        )


def _check_tokens(tokens: tuple[int, ...], *, vocab_size: int) -> tuple[int, ...]:
    if not all(0 <= token < vocab_size for token in tokens):
        raise ApiError(
            400, "invalid_value", f"Invalid 'prompt': tokens must lie between 0 and {vocab_size - 1}.", param="prompt"
        )
    return tokens
