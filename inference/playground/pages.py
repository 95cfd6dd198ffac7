"""The playground: a page on which a contributor talks to the models, by scripts of our own alone."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from inference.playground import offers, sampling, texts
from training import pages

CONTENT_SECURITY_POLICY = (
    f"{pages.CONTENT_SECURITY_POLICY}; script-src 'self'; connect-src 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""As of the other pages, and our own scripts, which may ask our own server. No text ever becomes HTML."""


@require_safe
def show_playground(request: HttpRequest) -> HttpResponse:
    """Chat, continue texts and compare checkpoints; everything that costs goes through /v1 with the reader's key."""
    context = {
        "models": offers.offered_models(),
        "texts": texts.script_texts(),
        "groups": sampling.GROUPS,
        "presets": sampling.PRESETS,
    }
    response = render(request, "inference/playground.html", context)
    response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response
