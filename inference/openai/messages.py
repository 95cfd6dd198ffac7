"""The messages of a chat, read strictly."""

from dataclasses import dataclass
from typing import Any

from inference.openai.errors import bad_parameter

INSTRUCTION_ROLES = frozenset({"system", "developer"})
ROLES = frozenset({*INSTRUCTION_ROLES, "user", "assistant"})
MAX_MESSAGES = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn: who, and the text of it."""

    role: str
    text: str


def read_messages(value: Any) -> tuple[Message, ...]:
    """Raises: ApiError."""
    if not isinstance(value, list):
        raise bad_parameter("messages", "invalid_type", "Invalid type for 'messages': expected a list of messages.")
    if not value:
        raise bad_parameter("messages", "empty_array", "Invalid 'messages': expected at least one message.")
    if len(value) > MAX_MESSAGES:
        raise bad_parameter("messages", "array_above_max_length", f"At most {MAX_MESSAGES} messages.")
    messages = tuple(_read_message(message, f"messages[{index}]") for index, message in enumerate(value))
    if messages[-1].role == "assistant":
        raise bad_parameter(
            f"messages[{len(messages) - 1}].role",
            "invalid_value",
            "The last message must be a question, not an answer.",
        )
    return messages


def _read_message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise bad_parameter(where, "invalid_type", f"Invalid type for '{where}': expected an object.")
    for name, given in value.items():
        # What a client got from us as an answer, it may hand back as it is: empty fields included.
        if name not in {"role", "content"} and given not in (None, [], {}):
            raise bad_parameter(f"{where}.{name}", "unsupported_parameter", f"'{where}.{name}' is not supported.")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise bad_parameter(
            f"{where}.role", "invalid_value", f"Invalid '{where}.role': expected one of {', '.join(sorted(ROLES))}."
        )
    return Message(role=role, text=_read_content(value.get("content"), f"{where}.content"))


def _read_content(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return "".join(_read_part(part, f"{where}[{index}]") for index, part in enumerate(value))
    raise bad_parameter(
        where, "invalid_type", f"Invalid type for '{where}': expected a string or a list of text parts."
    )


def _read_part(value: Any, where: str) -> str:
    if not isinstance(value, dict) or value.get("type") != "text" or not isinstance(value.get("text"), str):
        raise bad_parameter(where, "invalid_value", f"Invalid '{where}': only parts of type 'text' are supported.")
    for name in value.keys() - {"type", "text"}:
        raise bad_parameter(f"{where}.{name}", "unsupported_parameter", f"'{where}.{name}' is not supported.")
    return str(value["text"])
