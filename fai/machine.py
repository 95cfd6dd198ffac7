"""Taking from the volunteer's machine only what it can spare."""

import os
import subprocess
import sys
from pathlib import Path

from ml import hardware
from ml.threads import num_cores

NICENESS = 10


def be_modest(num_threads: int | None) -> None:
    """Lower this process's priority and leave a physical core free, or compute on `num_threads`."""
    if hasattr(os, "nice"):
        os.nice(max(0, NICENESS - os.nice(0)))
    hardware.limit_threads(num_threads or max(1, num_physical_cores() - 1))


def num_physical_cores() -> int:
    """Cores that this process may use, two threads of one core counted once, where the system tells."""
    if sys.platform == "linux":
        siblings = {_siblings(cpu) for cpu in os.sched_getaffinity(0)}
        return len(siblings)
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "hw.physicalcpu"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return num_cores()


def _siblings(cpu: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        # Containers may hide the topology; then each is taken for a core of its own.
        return str(cpu)
