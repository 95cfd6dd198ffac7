"""The operator's forms for an experiment: presets, defaults, and what the fields mean together."""

import copy
import json
from typing import Any

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.forms.models import construct_instance
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from ml.config import PRESETS, InnerConfig, OuterConfig
from training import experiments
from training.admin.options import OUTER_HELP, codec_choices
from training.models import Experiment
from training.templatetags.figures import compact

NO_PRESET = ""


class IndentedEncoder(json.JSONEncoder):
    """Writes one member a line, as a person edits it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "indent": 2})


def _json_field(**options: Any) -> forms.JSONField:
    widget = UnfoldAdminTextareaWidget(attrs={"rows": 10, "spellcheck": "false", "class": "font-mono"})
    return forms.JSONField(encoder=IndentedEncoder, widget=widget, **options)


def _codec_field() -> forms.ChoiceField:
    return forms.ChoiceField(
        label=_("Codec"),
        choices=codec_choices,
        widget=UnfoldAdminSelectWidget,
        initial="int8",
        help_text=_(
            "How a delta is compressed on its way to the coordinator. A device keeps what topk or ternary leaves out, "
            "and sends it with a later delta."
        ),
    )


class ExperimentForm(forms.ModelForm):  # type: ignore[type-arg]
    """Changes an experiment; says field by field what cannot be trained."""

    description = forms.CharField(
        label=_("Description"), required=False, widget=UnfoldAdminTextareaWidget(attrs={"rows": 3})
    )
    model = _json_field(label=_("Model"), help_text=_("The model's shape, as JSON."))
    inner = _json_field(
        label=_("Inner optimizer"),
        required=False,
        help_text=_("The devices' AdamW or Muon. Left out members have defaults."),
    )
    outer = _json_field(
        label=_("Outer optimizer"),
        required=False,
        help_text=OUTER_HELP,
    )
    codec = _codec_field()

    class Meta:
        model = Experiment
        fields = "__all__"  # noqa: DJ007  the admin's fieldsets choose
        labels = {
            "title": _("Title"),
            "slug": _("Slug"),
            "description": _("Description"),
            "corpus_dir": _("Corpus folder"),
            "model": _("Model"),
            "inner": _("Inner optimizer"),
            "outer": _("Outer optimizer"),
            "codec": _("Codec"),
            "shard_tokens": _("Tokens per shard"),
            "num_rounds": _("Rounds"),
            "round_tokens": _("Tokens per round"),
            "round_min_tokens": _("Least tokens per round"),
            "round_seconds": _("Deadline of a round (seconds)"),
            "grace_seconds": _("Grace after the least tokens (seconds)"),
            "job_seconds": _("Length of a job (seconds)"),
            "max_staleness": _("Most rounds late"),
            "staleness_percent": _("Weight of a late delta (percent)"),
            "credits_per_teraflop": _("Credits per teraFLOP"),
            "credits_per_completion_token": _("Price of a completion token (credits)"),
            "escrow_seconds": _("Escrow of newcomers (seconds)"),
        }
        help_texts = {
            "model": _("The model's shape, as JSON."),
            "inner": _("The devices' AdamW or Muon. Left out members have defaults."),
            "outer": OUTER_HELP,
            "slug": _("Name in addresses and commands: small letters, digits and hyphens. It cannot be changed later."),
            "corpus_dir": _("Folder with .md, .dart and .txt files on the machine where the control plane runs."),
            "shard_tokens": _("The training text is cut into pieces of so many tokens; a job trains on one of them."),
            "num_rounds": _("The experiment is finished after so many rounds."),
            "round_tokens": _("A round is merged as soon as so many tokens are accepted."),
            "round_min_tokens": _("Past its deadline or its grace, a round is merged with so many tokens or more."),
            "round_seconds": _("How long a round waits for its tokens."),
            "grace_seconds": _(
                "Once the least tokens are accepted, devices at work have so long before the round is merged. Empty: "
                "until its deadline. 0 with least tokens of 1: each delta is merged as it arrives."
            ),
            "job_seconds": _(
                "Each job is sized so that its device works on it for so long; after one and a half times that the "
                "device hands in what it has."
            ),
            "max_staleness": _(
                "A delta that comes more rounds late than this is neither merged nor paid. Where each delta is merged "
                "as it arrives, make it twice the number of devices."
            ),
            "staleness_percent": _("What is left of a delta's weight, beside others', for each round that it is late."),
            "credits_per_teraflop": _("What volunteers earn for training."),
            "credits_per_completion_token": _("What API users pay for each token, read or written."),
            "escrow_seconds": _("A new contributor's earnings rest for so long after they joined. 0 pays at once."),
        }

    def clean(self) -> dict[str, Any] | None:
        """Check the experiment that the fields would make."""
        values = super().clean()
        self._refuse_what_is_no_object()
        if not self.errors:
            candidate = construct_instance(self, copy.copy(self.instance))
            try:
                experiments.validate(candidate)
            except ValidationError as error:
                self._show(error)
        return values

    def _refuse_what_is_no_object(self) -> None:
        for name in ("model", "inner", "outer"):
            if name in self.cleaned_data:
                self.cleaned_data[name] = self.cleaned_data[name] or {}
                if not isinstance(self.cleaned_data[name], dict):
                    self.add_error(name, _("Write a JSON object: members in braces."))

    def _show(self, error: ValidationError) -> None:
        for name, sentences in error.message_dict.items():
            self.add_error(name if name in self.fields and name != NON_FIELD_ERRORS else None, sentences)


class NewExperimentForm(ExperimentForm):
    """Adds an experiment from a preset, with defaults that run as they are."""

    field_order = ("preset",)  # clean_model needs it cleaned

    preset = forms.ChoiceField(
        label=_("Preset"),
        required=False,
        initial="m4",
        choices=lambda: [
            *((name, _describe_preset(name)) for name in PRESETS),
            (NO_PRESET, pgettext_lazy("preset", "none: the JSON below says everything")),
        ],
        widget=UnfoldAdminSelectWidget,
        help_text=_("tiny is for trials; m4 trains on laptops; small and default want graphics cards."),
    )
    model = _json_field(
        label=_("Model"),
        required=False,
        initial=dict,
        help_text=_('Members that differ from the preset, as JSON, such as {"block_size": 512}.'),
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        defaults = {
            "inner": InnerConfig().to_dict(),
            "outer": OuterConfig().to_dict(),
            "num_rounds": 20,
            "round_tokens": 2_000_000,
            "round_min_tokens": 500_000,
        }
        options["initial"] = {**defaults, **(options.get("initial") or {})}
        super().__init__(*args, **options)

    def clean_model(self) -> Any:
        """The preset with what the operator changed in it."""
        changes = self.cleaned_data["model"] or {}
        preset = self.cleaned_data.get("preset")
        if preset and isinstance(changes, dict):
            return {**PRESETS[preset].to_dict(), **changes}
        if not changes:
            raise ValidationError(_("Choose a preset, or write the model's shape."))
        return changes


def _describe_preset(name: str) -> str:
    config = PRESETS[name]
    return gettext("{name}: {parameters} parameters, context of {block_size} tokens").format(
        name=name, parameters=compact(config.num_parameters), block_size=config.block_size
    )
