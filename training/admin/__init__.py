"""The operator's side of training. Django finds this module; importing its parts registers them."""

from django.contrib import admin

from training.admin import experiments, records

__all__ = ["experiments", "records"]

admin.site.index_template = "training/admin/dashboard.html"
