"""Paths below /api/v1/."""

from django.urls import path

from contributors import api

urlpatterns = [
    path("contributors", api.ContributorsView.as_view(), name="contributors"),
    path("devices", api.DevicesView.as_view(), name="devices"),
    path("me", api.MeView.as_view(), name="me"),
    path("me/ledger", api.LedgerView.as_view(), name="my-ledger"),
    path("me/devices", api.MyDevicesView.as_view(), name="my-devices"),
    path("me/keys", api.KeysView.as_view(), name="my-keys"),
    path("me/keys/<str:prefix>", api.KeyView.as_view(), name="my-key"),
    path("me/keys/<str:prefix>/rotate", api.RotationView.as_view(), name="rotate-my-key"),
]
