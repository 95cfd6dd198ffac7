"""What a request body under /v1 may hold: the one table that bodies are read by and schemas are published from."""

from typing import Any

from inference.openai.bounds import Bounds

MAX_STOPS = 4
MAX_CHOICES = 128
"""Prompts times n, or times best_of, of one request."""
MAX_PROMPTS = 128
MAX_PROMPT_TOKENS = 262_144
"""Of all prompts that are lists of tokens: more fit a body, and no model's context."""
MAX_BIASES = 300
MAX_LOGPROBS = 65_536
"""Log-probabilities in one answer, of a hundred bytes each."""
DEFAULT_COMPLETION_TOKENS = 16
MOST_TOKENS = 10_000_000

BIAS = Bounds(least=-100, most=100)
_NUMBERS = {
    "temperature": Bounds(least=0, most=2),
    "top_p": Bounds(least=0, most=1),
    "min_p": Bounds(least=0, most=1),
    "repetition_penalty": Bounds(least=0.01, most=10),
    "frequency_penalty": Bounds(least=-2, most=2),
    "presence_penalty": Bounds(least=-2, most=2),
    "n": Bounds(least=1, most=MAX_CHOICES, is_integer=True),
    "seed": Bounds(least=-(2**63), most=2**63 - 1, is_integer=True),
    "top_k": Bounds(least=-1, most=MOST_TOKENS, is_integer=True),
}
COMPLETION_NUMBERS = {
    **_NUMBERS,
    "max_tokens": Bounds(least=0, most=MOST_TOKENS, is_integer=True),
    "logprobs": Bounds(least=0, most=5, is_integer=True),
    "best_of": Bounds(least=0, most=20, is_integer=True),
}
CHAT_NUMBERS = {
    **_NUMBERS,
    "max_tokens": Bounds(least=1, most=MOST_TOKENS, is_integer=True),
    "max_completion_tokens": Bounds(least=1, most=MOST_TOKENS, is_integer=True),
    "top_logprobs": Bounds(least=0, most=20, is_integer=True),
}
_OTHERS = {"model", "stop", "stream", "stream_options", "logit_bias", "user"}
COMPLETION_FIELDS = frozenset({*COMPLETION_NUMBERS, *_OTHERS, "prompt", "echo"})
CHAT_FIELDS = frozenset({*CHAT_NUMBERS, *_OTHERS, "messages", "logprobs"})

UNSUPPORTED_FIELDS: dict[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "best_of": (0, 1),
    "echo": (False,),
    "top_logprobs": (),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "audio": (),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "safety_identifier": (),
    "verbosity": (),
    "web_search_options": (),
}
"""OpenAI's fields that an endpoint may not support, each with the values that ask for nothing; null always does."""
