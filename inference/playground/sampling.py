"""The sampling settings of the playground: names as the API has them, ranges that make sense, and what each does."""

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One number; `default` of None means that the field is left out."""

    name: str
    label: str | Promise
    explanation: str | Promise
    least: float
    most: float
    step: float
    default: float | None
    has_slider: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingGroup:
    title: str | Promise
    settings: tuple[Setting, ...]
    is_open: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A mood: a temperature and a top_p under a name."""

    name: str | Promise
    temperature: float
    top_p: float


MAX_SEED = 2**31 - 1
PRESETS = (
    Preset(name=_("Precise"), temperature=0.0, top_p=1.0),
    Preset(name=_("Balanced"), temperature=0.7, top_p=0.95),
    Preset(name=_("Playful"), temperature=1.2, top_p=1.0),
)
GROUPS = (
    SettingGroup(
        title=_("How daring"),
        is_open=True,
        settings=(
            Setting(
                name="temperature",
                label=_("Temperature"),
                explanation=_("0 always takes the likeliest token. Higher values give unlikely ones more of a chance."),
                least=0,
                most=2,
                step=0.05,
                default=0.7,
            ),
            Setting(
                name="top_p",
                label="Top-p",
                explanation=_("Draws only from the likeliest tokens that together have this share of the probability."),
                least=0,
                most=1,
                step=0.01,
                default=0.95,
            ),
        ),
    ),
    SettingGroup(
        title=_("Length and end"),
        is_open=True,
        settings=(
            Setting(
                name="max_tokens",
                label=_("Most tokens"),
                explanation=_("The answer is cut here. Credits for all of them are held until it ends."),
                least=1,
                most=1024,
                step=1,
                default=160,
            ),
            Setting(
                name="seed",
                label=_("Seed"),
                explanation=_("The same seed, prompt and checkpoint give the same text. Empty: another one each time."),
                least=0,
                most=MAX_SEED,
                step=1,
                default=None,
                has_slider=False,
            ),
        ),
    ),
    SettingGroup(
        title=_("Which tokens may be drawn"),
        settings=(
            Setting(
                name="top_k",
                label="Top-k",
                explanation=_("Draws only from so many of the likeliest tokens; 0 from all."),
                least=0,
                most=200,
                step=1,
                default=0,
            ),
            Setting(
                name="min_p",
                label="Min-p",
                explanation=_("Leaves out tokens that are less likely than this share of the likeliest one."),
                least=0,
                most=1,
                step=0.01,
                default=0,
            ),
        ),
    ),
    SettingGroup(
        title=_("Against repetition"),
        settings=(
            Setting(
                name="repetition_penalty",
                label=_("Repetition penalty"),
                explanation=_("Above 1, tokens that stand in the text already, prompt included, become less likely."),
                least=0.5,
                most=2,
                step=0.05,
                default=1,
            ),
            Setting(
                name="frequency_penalty",
                label=_("Frequency penalty"),
                explanation=_("Lowers a token each time that the answer has used it."),
                least=-2,
                most=2,
                step=0.1,
                default=0,
            ),
            Setting(
                name="presence_penalty",
                label=_("Presence penalty"),
                explanation=_("Lowers a token once if the answer has used it at all."),
                least=-2,
                most=2,
                step=0.1,
                default=0,
            ),
        ),
    ),
)
