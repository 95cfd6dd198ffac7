"""Schemathesis's hooks: requests name the model that is there, and ask for little of it."""

from typing import Any

import schemathesis

from tests.e2e.completion_service import MODEL

FEW_TOKENS = 4
MANY_TOKENS = 10_000_000
"""More are refused."""


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Any, kwargs: dict[str, Any]) -> None:
    """Change what is valid into what is valid and cheap; what is not stays as it is."""
    body = case.body
    if not isinstance(body, dict) or not isinstance(body.get("model"), str) or not body["model"]:
        return
    body["model"] = MODEL
    for name in ("max_tokens", "max_completion_tokens"):
        if type(body.get(name)) is int and FEW_TOKENS < body[name] <= MANY_TOKENS:
            body[name] = FEW_TOKENS
