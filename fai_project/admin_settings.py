"""What django-unfold shows around the admin: names, colours, sidebar."""

from typing import Any

from django.templatetags.static import static
from django.urls import reverse, reverse_lazy
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


def _item(title: Promise, icon: str, model: str, query: str = "") -> dict[str, Any]:
    """A sidebar entry for the list of `app_model`, shown to who may see it."""
    app, name = model.split("_", 1)
    return {
        "title": title,
        "icon": icon,
        "link": lambda request: reverse(f"admin:{model}_changelist") + query,
        "permission": lambda request: request.user.has_perm(f"{app}.view_{name}"),
    }


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "FAI",
    "SITE_HEADER": _("FAI coordinator"),
    "SITE_SYMBOL": "hub",
    "SITE_URL": reverse_lazy("experiments"),
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("training/icon.svg")},
    ],
    "SHOW_LANGUAGES": True,
    "SHOW_BACK_BUTTON": True,
    "DASHBOARD_CALLBACK": "training.admin.dashboard.add_figures",
    "COLORS": {
        "primary": {
            "50": "oklch(98.4% .014 180.7)",
            "100": "oklch(95.3% .051 180.8)",
            "200": "oklch(91% .096 180.4)",
            "300": "oklch(85.5% .138 181.1)",
            "400": "oklch(77.7% .152 181.9)",
            "500": "oklch(70.4% .14 182.5)",
            "600": "oklch(51.1% .096 186.4)",
            "700": "oklch(43.7% .078 188.2)",
            "800": "oklch(38.6% .063 188.4)",
            "900": "oklch(32% .05 188.6)",
            "950": "oklch(27.7% .046 192.5)",
        },
    },
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": [
            {"items": [{"title": _("Overview"), "icon": "dashboard", "link": reverse_lazy("admin:index")}]},
            {
                "title": _("Training"),
                "items": [
                    _item(_("Experiments"), "science", "training_experiment"),
                    _item(_("Rounds"), "sync", "training_round"),
                    _item(_("Live devices"), "devices", "training_enrollment", "?live=yes"),
                    _item(_("Attempts"), "assignment", "training_attempt"),
                    _item(_("Jobs"), "work", "training_job"),
                    _item(_("Checkpoints"), "save", "training_checkpoint"),
                    _item(_("Files"), "folder", "training_blob"),
                ],
            },
            {
                "title": _("Serving"),
                "items": [
                    {
                        "title": _("Engines"),
                        "icon": "memory",
                        "link": reverse_lazy("engines"),
                        "permission": lambda request: request.user.has_perm("inference.view_completion"),
                    },
                    _item(_("Completions"), "chat", "inference_completion"),
                ],
            },
            {
                "title": _("People"),
                "items": [
                    _item(_("Contributors"), "group", "contributors_contributor"),
                    _item(_("Devices"), "computer", "contributors_device"),
                    _item(_("API keys"), "key", "contributors_apikey"),
                ],
            },
            {
                "title": _("Ledger"),
                "items": [
                    _item(_("Transactions"), "receipt_long", "contributors_txn"),
                    _item(_("Accounts"), "account_balance", "contributors_account"),
                    _item(_("Holds"), "lock", "contributors_hold"),
                    _item(_("Escrow"), "hourglass", "contributors_escrowline"),
                ],
            },
            {
                "title": _("Operators"),
                "items": [
                    _item(_("Users"), "person", "auth_user"),
                    _item(_("Groups"), "groups", "auth_group"),
                ],
            },
        ],
    },
}
