"""Seeds of jobs: what each trains on follows from its place, so that whoever knows the place can train it again."""

import hashlib


def job_seed(slug: str, *, round_number: int, index: int) -> int:
    """Seed of the job `index` in a round of the experiment `slug`: 56 bits, so that it fits a signed integer of 64."""
    digest = hashlib.sha256(f"{slug}:{round_number}:{index}".encode()).digest()
    return int.from_bytes(digest[:7])
