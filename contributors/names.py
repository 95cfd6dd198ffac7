"""What a person may call themselves and their machines: one visible line, the same for everyone who reads it."""

import unicodedata

# Control, format (bidirectional overrides, zero-width signs), surrogate and private characters.
REFUSED_CATEGORIES = {"Cc", "Cf", "Cs", "Co"}
ZERO_WIDTH_JOINER = "\u200d"


class NameInvalid(ValueError):
    """The name is empty, too long, or holds a character that cannot be seen; the message says which."""


def clean(text: str, *, max_chars: int) -> str:
    """The name stripped, its inner white space single, in Unicode's NFC.

    Raises: NameInvalid.
    """
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    if not 1 <= len(name) <= max_chars:
        raise NameInvalid(f"A name has 1 to {max_chars} characters, this one has {len(name)}.")
    for index, character in enumerate(name):
        if unicodedata.category(character) in REFUSED_CATEGORIES and not _joins_emoji(name, index):
            raise NameInvalid(f"A name cannot hold the invisible character U+{ord(character):04X}: leave it out.")
    if all(unicodedata.category(character)[0] in "ZM" or character == ZERO_WIDTH_JOINER for character in name):
        raise NameInvalid("A name needs a character that can be seen.")
    return name


def _joins_emoji(name: str, index: int) -> bool:
    """Whether the character is the joiner inside an emoji such as a family, where it is part of what is seen."""
    around = name[index - 1 : index] + name[index + 1 : index + 2]
    return name[index] == ZERO_WIDTH_JOINER and len(around) == 2 and all(map(_is_emoji_part, around))


def _is_emoji_part(character: str) -> bool:
    return unicodedata.category(character) == "So" or character == "\ufe0f" or "\U0001f3fb" <= character <= "\U0001f3ff"
