"""Memory in pages of 2 MiB, so that reading a model's weights does not wait for the translation of addresses.

Linux gives them to whoever asks, by default; torch's and FBGEMM's allocators do not ask.
"""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

PAGE_BYTES = 2**21
MADV_COLLAPSE = 25
"""Source: madvise(2), from Linux 6.1 on; an older kernel refuses it, and nothing is changed."""
_MAPS = Path("/proc/self/maps")


def collapse() -> None:
    """Put what this process has written so far of its large private memory into huge pages, where the system can."""
    if sys.platform != "linux" or not _MAPS.exists():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for start, stop in _large_ranges():
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), MADV_COLLAPSE)


def _large_ranges() -> Iterator[tuple[int, int]]:
    """Anonymous writable memory, whole huge pages of it; the heap too."""
    for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, access, _, _, inode, *name = line.split()
        if access != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        start, stop = (int(address, 16) for address in addresses.split("-"))
        start, stop = -(-start // PAGE_BYTES) * PAGE_BYTES, stop // PAGE_BYTES * PAGE_BYTES
        if start < stop:
            yield start, stop
