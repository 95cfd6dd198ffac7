"""Paths under /api/v1/ that concern training."""

from django.urls import path, re_path

from training import api, blob_api

urlpatterns = [
    path("", api.ServiceView.as_view()),
    path("devices/<int:device_id>/heartbeat", api.HeartbeatView.as_view()),
    path("attempts/<int:attempt_id>", api.AttemptView.as_view()),
    path("attempts/<int:attempt_id>/claim", api.ClaimView.as_view()),
    path("attempts/<int:attempt_id>/delta", api.DeltaView.as_view()),
    path("attempts/<int:attempt_id>/submit", api.SubmitView.as_view()),
    path("attempts/<int:attempt_id>/release", api.ReleaseView.as_view()),
    path("experiments", api.ExperimentListView.as_view()),
    path("experiments/<slug:slug>", api.ExperimentView.as_view()),
    path("experiments/<slug:slug>/rounds", api.RoundListView.as_view()),
    path("experiments/<slug:slug>/checkpoints/latest", api.LatestCheckpointView.as_view()),
    re_path(r"^blobs/(?P<sha256>[0-9a-f]{64})$", blob_api.blob, name="blob"),
]
