"""Memory that the C library keeps for the next step instead of giving it back to the system.

A training step frees and asks for the same large pieces over and over. glibc gives large pieces, and the end of its
heap, back at once, and the system hands them out again zeroed page by page: a fifth of a step on the CPU.
"""

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1
_DEFAULTS = {_M_MMAP_MAX: 65_536, _M_TRIM_THRESHOLD: 128 * 1024}
"""Source: mallopt(3)."""


def keep_freed_memory() -> None:
    """Keep what is freed for this process, from here on; nothing where the C library is not glibc."""
    if libc := _glibc():
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)


def return_freed_memory() -> None:
    """Give the system back what is kept and not used, and from here on what is freed; as between two jobs."""
    if libc := _glibc():
        for option, value in _DEFAULTS.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
