"""Every address of the coordinator. Pages and admin are English at their address and Korean below /ko/."""

from django.conf.urls.i18n import i18n_patterns
from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView

import contributors.urls
import training.urls
from fai_project.health import health
from inference.monitoring.dashboard import show_engines
from inference.monitoring.page import show_metrics
from inference.playground.pages import show_playground
from training import pages

handler404 = "fai_project.failures.not_found"
handler500 = "fai_project.failures.server_error"

urlpatterns = [
    path("health", health, name="health"),
    path("metrics", show_metrics, name="metrics"),
    path("api/v1/", include((contributors.urls.urlpatterns + training.urls.urlpatterns, "api"))),
    path("v1/", include("inference.urls")),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("i18n/", include("django.conf.urls.i18n")),
    *i18n_patterns(
        path("", pages.experiments, name="experiments"),
        path("experiments/<slug:slug>/", pages.experiment, name="experiment"),
        path("contributors/", pages.contributors, name="contributors"),
        path("playground/", show_playground, name="playground"),
        path("join/", pages.join, name="join"),
        path("admin/engines/", admin.site.admin_view(show_engines), name="engines"),
        path("admin/", admin.site.urls),
        prefix_default_language=False,
    ),
]
