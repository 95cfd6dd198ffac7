"""Who calls: `Authorization: Bearer fai_sk_...` becomes request.user (a Contributor) and request.auth (an ApiKey)."""

from typing import TYPE_CHECKING, Any

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from contributors import api_keys
from contributors.models import ApiKey, Contributor, Scope

if TYPE_CHECKING:
    # At run time rest_framework.views imports this module, which its settings name.
    from rest_framework.views import APIView


class ApiKeyAuthentication(BaseAuthentication):
    """Bearer authentication by API key; costs one query, and once a minute a second one."""

    def authenticate(self, request: Request) -> tuple[Contributor, ApiKey] | None:
        scheme, _, secret = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            key = api_keys.find(secret.strip(), now=timezone.now())
        except api_keys.KeyInvalid as error:
            raise AuthenticationFailed(str(error), code=error.code) from error
        return key.contributor, key

    def authenticate_header(self, request: Request) -> str:
        """Makes REST framework answer 401 rather than 403."""
        return 'Bearer realm="FAI"'


class HasScope(BasePermission):
    """The API key has the scope that the view names as `required_scope`."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        required: Scope = view.required_scope  # type: ignore[attr-defined]
        self.message = f"This API key lacks the scope {required.value!r}: use one that has it."
        self.code = "missing_scope"
        return isinstance(request.auth, ApiKey) and required in request.auth.scopes


class IsNotShared(BasePermission):
    """The API key is its owner's, not one that was lent: such a key sees nothing of its owner."""

    message = "This API key is shared: it may complete, and nothing else."
    code = "shared_key"

    def has_permission(self, request: Request, view: "APIView") -> bool:
        return isinstance(request.auth, ApiKey) and not request.auth.is_shared


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the OpenAPI document describes ApiKeyAuthentication."""

    target_class = ApiKeyAuthentication
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "fai_sk_..."}
