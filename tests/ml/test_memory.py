import os
import sys

import pytest
import torch

from ml.memory import count_saved_bytes, free_bytes


def test_what_is_saved_twice_is_counted_once_and_weights_are_not() -> None:
    weight = torch.nn.Parameter(torch.ones(100))
    with count_saved_bytes() as saved:
        x = torch.ones(100) * weight  # Saves a constant, 400 bytes, and the weight.
        y = x * x  # Saves x twice.
    assert y.requires_grad
    assert saved.num_bytes == 800


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked")
def test_the_free_memory_is_less_than_the_machines() -> None:
    assert 0 < free_bytes() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
