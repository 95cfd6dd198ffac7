import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from ml import allocator
if sys.argv[1] == "keep":
    allocator.keep_freed_memory()
def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
x = torch.ones(30_000_000)
del x
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
x = torch.ones(25_000_000)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
del x
kept = resident_mb()
allocator.return_freed_memory()
returned = kept - resident_mb()
x = torch.ones(25_000_000)
del x
print(faults, returned, resident_mb() - kept + returned)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_kept_memory_is_used_again_without_page_faults_until_it_is_returned_for_good() -> None:
    def run(choice: str) -> list[float]:
        command = [sys.executable, "-c", PROGRAM, choice]
        return [float(word) for word in subprocess.run(command, capture_output=True, check=True).stdout.split()]

    usual_faults, *_ = run("leave")
    kept_faults, returned_mb, kept_again_mb = run("keep")
    assert usual_faults > 20_000
    assert kept_faults < 1_000
    assert returned_mb > 90
    assert kept_again_mb < 10
