"""Numbers and booleans of a JSON body, and what OpenAI says of a wrong one."""

from dataclasses import dataclass
from typing import Any

from inference.openai.errors import bad_parameter


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Which numbers a parameter may be, both ends included."""

    least: float
    most: float
    is_integer: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """Of the published document; null is as good as leaving it out."""
        kind = "integer" if self.is_integer else "number"
        return {"type": kind, "minimum": self.least, "maximum": self.most, "nullable": True}


def read_number(value: Any, name: str, bounds: Bounds) -> float | int | None:
    """The number, or None for null; JSON knows no difference between 1 and 1.0.

    Raises: ApiError.
    """
    if value is None:
        return None
    kind = "integer" if bounds.is_integer else "decimal"
    if bounds.is_integer and type(value) is float and value.is_integer():
        value = int(value)
    allowed: tuple[type, ...] = (int,) if bounds.is_integer else (int, float)
    if type(value) not in allowed:
        expected = "an integer" if bounds.is_integer else "a number"
        raise bad_parameter(name, "invalid_type", f"Invalid type for '{name}': expected {expected}.")
    if not value >= bounds.least:
        raise bad_parameter(
            name,
            f"{kind}_below_min_value",
            f"Invalid '{name}': {kind} below minimum value. Expected a value >= {bounds.least}, but got {value}.",
        )
    if not value <= bounds.most:
        raise bad_parameter(
            name,
            f"{kind}_above_max_value",
            f"Invalid '{name}': {kind} above maximum value. Expected a value <= {bounds.most}, but got {value}.",
        )
    return value  # type: ignore[no-any-return]


def read_bool(value: Any, name: str) -> bool:
    """The boolean; null is false.

    Raises: ApiError.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    raise bad_parameter(name, "invalid_type", f"Invalid type for '{name}': expected a boolean.")
