"""The one way in which this side gives up: a sentence for a person and an exit code."""

from fai.messages import sentence


class Stop(Exception):  # noqa: N818  it is no error: it names why the program ends
    """Ends the program. `key` names a sentence of fai.messages, `values` fill it."""

    def __init__(self, key: str, *, exit_code: int = 1, **values: object) -> None:
        super().__init__(sentence("en", key, **values))
        self.key = key
        self.exit_code = exit_code
        self.values = values

    def sentence(self, language: str) -> str:
        return sentence(language, self.key, **self.values)
