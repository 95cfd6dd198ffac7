"""The API and the admin alone, as this area's tests need them."""

from django.contrib import admin
from django.http import HttpResponse
from django.urls import include, path

urlpatterns = [
    path("api/v1/", include("contributors.urls")),
    path("admin/", admin.site.urls),
    path("", lambda request: HttpResponse(), name="experiments"),
]
