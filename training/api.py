"""The volunteers' API under /api/v1/: each view translates, makes one domain call, and translates back."""

from typing import Any

from django.db.models import Count, Q, QuerySet, Sum
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.exceptions import NotFound
from rest_framework.generics import ListAPIView, RetrieveAPIView
from rest_framework.parsers import BaseParser
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from contributors.authentication import HasScope
from contributors.models import Contributor, Scope
from contributors.problems import Problem
from fai_version import VERSION
from ml import protocol
from ml.protocol import Reason
from training import devices, jobs, schemas, uploads
from training.models import Attempt, Checkpoint, Experiment, Round
