"""An experiment as an operator writes, starts, pauses and finishes it."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import get_object_or_404, redirect
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import display

from training import labels, statistics
from training.admin import commands
from training.admin.columns import COLOURS, moment
from training.admin.forms import ExperimentForm, NewExperimentForm
from training.models import Experiment
from training.templatetags.figures import loss

State = Experiment.State


@admin.register(Experiment)
class ExperimentAdmin(ModelAdmin):
    """Drafts are edited freely; of a started experiment only what later rounds may follow."""

    list_display = ("title", "called", "progress", "newest_loss", "num_live", "created")
    actions = None
    created = moment("created_at", _("Created"))
    list_filter = ("state",)
    search_fields = ("title", "slug")
    ordering = ("-created_at",)
    change_form_outer_before_template = "training/admin/experiment_controls.html"
    fieldsets = (
        (None, {"fields": ("title", "slug", "description")}),
        (_("Text and model"), {"fields": ("corpus_dir", "model", "codec", "shard_tokens")}),
        (_("Optimizers"), {"fields": ("inner", "outer")}),
        (
            _("Rounds"),
            {
                "fields": (
                    ("num_rounds", "job_seconds"),
                    ("round_tokens", "round_min_tokens"),
                    ("round_seconds", "grace_seconds"),
                    ("max_staleness", "staleness_percent"),
                )
            },
        ),
        (_("Credits"), {"fields": (("credits_per_teraflop", "credits_per_completion_token"), "escrow_seconds")}),
    )
    fixed_once_started = (
        "slug",
        "corpus_dir",
        "model",
        "inner",
        "outer",
        "codec",
        "shard_tokens",
        "credits_per_teraflop",
    )
    open_when_finished = ("title", "description", "credits_per_completion_token")

    def get_form(
        self, request: HttpRequest, obj: Experiment | None = None, change: bool = False, **options: Any
    ) -> type[ExperimentForm]:
        base = ExperimentForm if obj else NewExperimentForm
        # Declared fields stay in a form even where the admin excludes them; None takes them out.
        fixed = dict.fromkeys(name for name in self.get_readonly_fields(request, obj) if name in base.declared_fields)
        options["form"] = type(base.__name__, (base,), fixed)
        form: type[ExperimentForm] = super().get_form(request, obj, change, **options)
        return form

    def get_fieldsets(self, request: HttpRequest, obj: Experiment | None = None) -> Any:
        if obj is not None:
            return self.fieldsets
        fields = {"fields": ("corpus_dir", "preset", "model", "codec", "shard_tokens")}
        return [(name, fields if name == _("Text and model") else options) for name, options in self.fieldsets]

    def get_readonly_fields(self, request: HttpRequest, obj: Experiment | None = None) -> Sequence[str]:
        if obj is None or obj.state == State.DRAFT:
            return ()
        if obj.state == State.FINISHED:
            return [name for name in ExperimentForm.Meta.labels if name not in self.open_when_finished]
        return self.fixed_once_started

    def get_prepopulated_fields(self, request: HttpRequest, obj: Experiment | None = None) -> dict[str, Sequence[str]]:
        return {} if obj else {"slug": ("title",)}

    def has_delete_permission(self, request: HttpRequest, obj: Experiment | None = None) -> bool:
        """A draft alone may go: others' rounds are what contributors were paid for."""
        allowed: bool = super().has_delete_permission(request, obj)
        return allowed and (obj is None or (obj.state == State.DRAFT and not obj.rounds.exists()))

    def save_model(self, request: HttpRequest, obj: Experiment, form: Any, change: bool) -> None:
        """Write the changed columns alone: the control plane may have moved the experiment's state meanwhile."""
        if change:
            if form.changed_data:
                obj.save(update_fields=form.changed_data)
        else:
            obj.created_at = timezone.now()
            obj.save()

    def get_urls(self) -> list[URLPattern]:
        command = path(
            "<int:pk>/<str:name>/command/",
            self.admin_site.admin_view(self.command_view),
            name="training_experiment_command",
        )
        return [command, *super().get_urls()]

    def command_view(self, request: HttpRequest, pk: int, name: str) -> HttpResponse:
        """Start, pause, resume or finish, then back to the experiment with what came of it."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        experiment = get_object_or_404(Experiment, pk=pk)
        if not self.has_change_permission(request, experiment):
            raise PermissionDenied
        if name not in commands.COMMANDS:
            raise Http404
        try:
            command = commands.run(name=name, experiment=experiment, now=timezone.now())
        except commands.CommandRefused as error:
            self.message_user(request, str(error), messages.ERROR)
        except commands.QueueUnreachable as error:
            self.message_user(request, str(error), messages.WARNING)
        else:
            self.log_change(request, experiment, name)
            self.message_user(request, str(command.done), messages.SUCCESS)
        return redirect("admin:training_experiment_change", pk)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        experiment = Experiment.objects.filter(pk=object_id).first() if object_id.isdecimal() else None
        controls = {
            "commands": commands.available(experiment) if experiment else {},
            "chart": statistics.loss_chart(experiment) if experiment else None,
            **(extra_context or {}),
        }
        response: HttpResponse = super().change_view(request, object_id, form_url, controls)
        return response

    def get_queryset(self, request: HttpRequest) -> QuerySet[Experiment]:
        rows: QuerySet[Experiment] = super().get_queryset(request)
        return statistics.annotate_progress(rows, now=timezone.now())

    @display(description=_("State"), ordering="state", label=COLOURS)
    def called(self, row: Experiment) -> tuple[str, str]:
        return row.state, str(labels.EXPERIMENTS[row.state])

    @admin.display(description=_("Round"))
    def progress(self, row: Any) -> str:
        return f"{row.round_number} / {row.num_rounds}"

    @admin.display(description=_("Validation loss"))
    def newest_loss(self, row: Any) -> str:
        return loss(row.newest_loss)

    @admin.display(description=_("Live devices"))
    def num_live(self, row: Any) -> int:
        return int(row.num_live)
