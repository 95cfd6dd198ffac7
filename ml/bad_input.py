"""Input that a person can mend."""

from typing import ClassVar


class BadInput(ValueError):
    """Something given cannot be used; the message is one sentence that names it and says what to do."""

    page: ClassVar[str] = "commands"
    """The page of docs/faq that says more."""


class CorpusInvalid(BadInput):
    """A corpus that cannot be trained on."""

    page = "data"
