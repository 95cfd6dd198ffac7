"""Numbers, times and names as pages show them."""

from datetime import datetime

from django import template
from django.urls import translate_url
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.timesince import timesince
from django.utils.translation import get_language
from django.utils.translation import gettext as _

from training import labels

register = template.Library()

NAMES = {
    "experiment": labels.EXPERIMENTS,
    "round": labels.ROUNDS,
    "attempt": labels.ATTEMPTS,
    "device": labels.DEVICES,
}
MYRIADS = ((10**12, "조"), (10**8, "억"), (10**4, "만"))
THOUSANDS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))


@register.filter
def called(state: str, what: str) -> str:
    """Name of a state of an experiment, round, attempt or device."""
    return str(NAMES[what].get(state, state))


@register.filter
def explained(reason: str) -> str:
    return labels.describe(reason)


@register.filter
def grouped(number: int | None) -> str:
    """All digits: 1,234,567."""
    return number_format(number or 0, use_l10n=True, force_grouping=True)


@register.filter
def compact(number: float | None) -> str:
    """Three digits and a unit: 1.23M; Korean counts in myriads: 123만."""
    value = number or 0
    for unit, name in MYRIADS if get_language() == "ko" else THOUSANDS:
        if value >= unit:
            share = value / unit
            digits = 0 if share >= 100 else 1 if share >= 10 else 2
            text = f"{share:.{digits}f}"
            return f"{text.rstrip('0').rstrip('.') if '.' in text else text}{name}"
    return f"{value:.0f}"


@register.filter
def loss(value: float | None) -> str:
    """Three decimals; a dash where nothing was measured."""
    return f"{value:.3f}" if isinstance(value, float) else "–"


@register.filter
def ago(then: datetime | None, now: datetime) -> str:
    """How long ago, in one unit."""
    if then is None:
        return _("never")
    if (now - then).total_seconds() < 60:
        return _("just now")
    return _("%(time)s ago") % {"time": timesince(then, now, depth=1)}


@register.filter
def percent_of(part: float | None, whole: float | None) -> int:
    """Whole percent, at most 100."""
    return min(100, int(100 * (part or 0) / whole)) if whole else 0


@register.filter
def minute(moment: datetime | None) -> str:
    """2026-05-01 12:00, in the server's time zone."""
    return timezone.localtime(moment).strftime("%Y-%m-%d %H:%M") if moment else "–"


@register.filter
def size(num_bytes: int | None) -> str:
    """Bytes in binary units: 1.2 MiB."""
    value = float(num_bytes or 0)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


@register.simple_tag(takes_context=True)
def page_in(context: template.Context, language: str) -> str:
    """Address of this page in another language."""
    return translate_url(context["request"].get_full_path(), language)
