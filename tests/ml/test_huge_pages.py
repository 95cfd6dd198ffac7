import ctypes
import mmap
import sys

import pytest
import torch

from ml import huge_pages
from ml.huge_pages import PAGE_BYTES

KINDS = (mmap.MAP_PRIVATE, mmap.MAP_SHARED)


def test_what_lies_in_memory_stays_as_it_is() -> None:
    numbers = torch.arange(4 * PAGE_BYTES // 8)
    huge_pages.collapse()
    assert torch.equal(numbers, torch.arange(len(numbers)))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no memory is found")
def test_only_whole_pages_of_private_memory_are_asked_for() -> None:
    private, shared = (mmap.mmap(-1, 8 * PAGE_BYTES, flags=flag | mmap.MAP_ANONYMOUS) for flag in KINDS)
    ranges = list(huge_pages._large_ranges())
    assert all(start % PAGE_BYTES == stop % PAGE_BYTES == 0 for start, stop in ranges)
    for memory, expected in ((private, True), (shared, False)):
        middle = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + 4 * PAGE_BYTES
        found = any(start <= middle < stop for start, stop in ranges)
        assert found is expected, f"{middle:x} in {huge_pages._MAPS.read_text(encoding='utf-8')}"
