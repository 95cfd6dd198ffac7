"""What is told of a token's log-probability; without torch, so that the web process can read it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """How likely the model found a token where it stands, and the likeliest ones there, first the likeliest.

    Of the model's own distribution: before temperature, penalties, biases and limits. Units: nats.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
