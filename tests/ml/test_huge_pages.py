import sys

import pytest
import torch

from ml import huge_pages
from ml.huge_pages import PAGE_BYTES


def test_what_lies_in_memory_stays_as_it_is() -> None:
    numbers = torch.arange(4 * PAGE_BYTES // 8)
    huge_pages.collapse()
    assert torch.equal(numbers, torch.arange(len(numbers)))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no memory is found")
def test_only_whole_pages_of_private_memory_are_asked_for() -> None:
    numbers = torch.arange(8 * PAGE_BYTES // 8)
    ranges = list(huge_pages._large_ranges())
    assert all(start % PAGE_BYTES == stop % PAGE_BYTES == 0 for start, stop in ranges)
    middle = numbers.data_ptr() + 4 * PAGE_BYTES
    assert any(start <= middle < stop for start, stop in ranges)
