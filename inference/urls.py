"""Paths under /v1/."""

from django.urls import path, re_path

from inference import api

urlpatterns = [
    path("models", api.models),
    path("models/<str:name>", api.model),
    path("completions", api.text_completions),
    path("chat/completions", api.chat_completions),
    re_path("^(?P<path>.*)$", api.unknown),
]
