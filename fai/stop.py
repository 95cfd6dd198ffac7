"""The one way in which this side gives up: a sentence for a person and an exit code."""

import sys

from fai.messages import sentence


class Stop(Exception):
    """Ends the program. `key` names a sentence of fai.messages, `values` fill it."""

    def __init__(self, key: str, *, exit_code: int = 1, **values: object) -> None:
        super().__init__(sentence("en", key, **values))
        self.key = key
        self.exit_code = exit_code
        self.values = values

    def sentence(self, language: str) -> str:
        return sentence(language, self.key, **self.values)


def print_stop(stop: Stop, language: str) -> None:
    """Say on standard error why the program ends."""
    print(stop.sentence(language), file=sys.stderr)  # noqa: T201
