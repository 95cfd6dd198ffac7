"""Paths under /v1/."""

from django.urls import path, re_path

from inference import api

urlpatterns = [
    path("models", api.ModelsView.as_view()),
    path("models/<str:name>", api.ModelView.as_view()),
    path("key", api.KeyView.as_view()),
    path("credits", api.CreditsView.as_view()),
    path("completions", api.TextCompletionsView.as_view()),
    path("chat/completions", api.ChatCompletionsView.as_view()),
    re_path("^(?P<path>.*)$", api.UnknownView.as_view()),
]
