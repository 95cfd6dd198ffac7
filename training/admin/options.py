"""What the codecs and the outer optimizer's members are and do, in the operator's language."""

from django.utils.functional import Promise, lazy
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ml.config import CODECS, MEANS, OUTER_SCHEDULES, RULES, STEP_CODECS

PLAIN_CODECS: dict[str, Promise] = {
    "dense": _("dense: two bytes a weight"),
    "int8": _("int8: one byte a weight"),
    "int4": _("int4: half a byte a weight"),
}
BLOCK_VALUES = 4_096
SPARSE_CODECS: dict[str, tuple[Promise, int, int]] = {
    "topk": (_("{codec}: the {kept} largest of each 4,096 values, {bits} bits a weight"), 14, 0),
    "ternary": (_("{codec}: the signs of the {kept} largest of each 4,096 values, {bits} bits a weight"), 4, 1_056),
}
"""By the name's first part: the text, and the bits that a block takes for each kept value, and besides them."""
OUTER_MEMBERS: dict[str, Promise] = {
    "learning_rate, momentum, nesterov": _(
        "how far the model moves along the merged delta. 0.7, 0.9, true is DiLoCo; 1, 0, false is federated averaging"
    ),
    "delay": _("merges to one update of the momentum; above 1 where rounds merge one or two deltas as they arrive"),
    "schedule, min_learning_rate_ratio": _("of learning_rate over the rounds, and the share of it at the end"),
    "rule": _("how deltas become one: all but clipped_mean withstand more devices that send bad deltas, at some cost"),
    "mean": _(
        "whether a weight of topk and ternary deltas is divided by all, or by its senders, which goes with momentum 0"
    ),
    "trim_share": _("share of the deltas that trimmed_mean leaves out of each weight"),
    "step_codec": _("how devices that have the last model get the next; none sends whole checkpoints to all"),
}
CHOICES = {
    "rule": RULES,
    "mean": MEANS,
    "schedule, min_learning_rate_ratio": OUTER_SCHEDULES,
    "step_codec": STEP_CODECS,
}


def codec_choices() -> list[tuple[str, str]]:
    """Codecs by name, each with what it costs on the wire."""
    return [(codec, describe_codec(codec)) for codec in CODECS]


def describe_codec(codec: str) -> str:
    if codec in PLAIN_CODECS:
        return str(PLAIN_CODECS[codec])
    kind, _separator, number = codec.partition("-")
    text, kept_bits, other_bits = SPARSE_CODECS[kind]
    bits = f"{(kept_bits * int(number) + other_bits) / BLOCK_VALUES:.2f}"
    return str(text).format(codec=codec, kept=number, bits=bits)


def _describe_outer() -> SafeString:
    rows = [(name, text, _choices(name)) for name, text in OUTER_MEMBERS.items()]
    return format_html(
        '{}<ul class="members">{}</ul>',
        gettext("The coordinator's step from the merged deltas, as JSON. Left out members have defaults."),
        format_html_join("", "<li><code>{}</code>: {}{}</li>", rows),
    )


def _choices(name: str) -> str:
    return f" ({', '.join(CHOICES[name])})" if name in CHOICES else ""


OUTER_HELP = lazy(_describe_outer, SafeString)()
