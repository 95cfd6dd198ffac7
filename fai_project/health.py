"""Liveness: this process answers. It asks neither database nor Redis, whose failures a restart would not mend."""

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe


@require_safe
def health(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})
