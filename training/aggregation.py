"""Merges a round's deltas into its next checkpoint, and measures that checkpoint."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

import torch

from ml import checkpoint, data, evaluation, hardware
from ml.manifest import Manifest, MergedDelta, write_manifest
from ml.merging import WeightedDelta, merge
from training import blobs
from training.models import Attempt, Blob, Round, Shard


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """Files that a merge left in storage."""

    model: Blob
    outer_state: Blob
    manifest: Blob
