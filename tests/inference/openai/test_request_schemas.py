"""The published schemas against the parser: what one refuses, the other does."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from inference.openai.errors import ApiError
from inference.openai.fields import CHAT_FIELDS, COMPLETION_FIELDS, UNSUPPORTED_FIELDS
from inference.openai.parameters import read_chat, read_completion
from inference.openai.request_schemas import CHAT_SCHEMA, COMPLETION_SCHEMA
from tests.variables import ROOT

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 25) | st.floats(-3, 3, width=16) | st.text("a5[", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["5", "a", "type"]), inner, max_size=2),
    max_leaves=4,
)
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "stop": st.lists(st.text("ab", max_size=2), max_size=6),
    "stream": st.just(True),
    "stream_options": st.fixed_dictionaries(
        {}, optional={"include_usage": JUNK, "include_obfuscation": JUNK, "x": JUNK}
    ),
    "logit_bias": st.dictionaries(st.integers(0, 9).map(str), st.integers(-101, 101), max_size=3),
    "prompt": st.lists(
        st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=2) | st.text("a", max_size=1), max_size=3
    ),
    "messages": st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "system", "tool"]), "content": st.just("x") | JUNK},
            optional={"name": JUNK, "refusal": st.none()},
        ),
        max_size=2,
    ),
    "logprobs": st.just(True) | st.integers(-1, 6),
    "response_format": st.just({"type": "text"}),
    "modalities": st.just(["text"]),
}
BEYOND_SCHEMAS = ("must be at least", "may be at most", "no token ID", "last message", "differ", "cannot be streamed")
"""Words of the errors that the schemas do not foretell."""


def bodies(fields: frozenset[str], base: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    names = sorted({*fields, *UNSUPPORTED_FIELDS, "nobody_knows"})
    values = {name: PLAUSIBLE.get(name, st.nothing()) | JUNK for name in names}
    chosen = st.lists(st.sampled_from(names), max_size=3, unique=True)
    overrides = chosen.flatmap(lambda picked: st.fixed_dictionaries({name: values[name] for name in picked}))
    return overrides.map(lambda given: {**base, **given})


def json_schema(schema: Any) -> Any:
    """OpenAPI 3.0's `nullable` in JSON Schema's own words."""
    if isinstance(schema, list):
        return [json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: json_schema(value) for name, value in schema.items() if name != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain


def refusal(body: dict[str, Any], read: Callable[[dict[str, Any]], object]) -> str | None:
    try:
        read(body)
    except ApiError as error:
        return str(error)
    return None


def require_agreement(body: dict[str, Any], schema: Any, read: Callable[[dict[str, Any]], object]) -> None:
    found, told = next(Draft202012Validator(schema).iter_errors(body), None), refusal(body, read)
    is_beyond = told is not None and any(words in told for words in BEYOND_SCHEMAS)
    assert (found is None) == (told is None) or is_beyond, (body, found, told)


TEXT_BODIES = bodies(COMPLETION_FIELDS, {"model": "study", "prompt": "x"})
CHAT_BODIES = bodies(CHAT_FIELDS, {"model": "study", "messages": [{"role": "user", "content": "x"}]})


@given(TEXT_BODIES)
def test_completions_are_refused_by_the_schema_and_the_parser_alike(body: dict[str, Any]) -> None:
    require_agreement(body, json_schema(COMPLETION_SCHEMA), read_completion)


@given(CHAT_BODIES)
def test_chats_are_refused_by_the_schema_and_the_parser_alike(body: dict[str, Any]) -> None:
    require_agreement(body, json_schema(CHAT_SCHEMA), read_chat)


@pytest.mark.parametrize("schema", [COMPLETION_SCHEMA, CHAT_SCHEMA])
def test_schemas_are_schemas(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(json_schema(schema))


def test_the_documentation_names_every_field() -> None:
    document = (ROOT / "docs" / "completions.md").read_text(encoding="utf-8")
    assert [name for name in COMPLETION_FIELDS | CHAT_FIELDS if f"`{name}`" not in document] == []
