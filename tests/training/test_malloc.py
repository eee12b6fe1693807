import subprocess
import sys

import pytest

ASK = """
import ctypes, sys
from autotune.training.malloc import keep_freed_memory
if sys.argv[1] == "held":
    keep_freed_memory()
import torch
def faults():
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for n in (20, 10):  # the first time, the heap may still grow
    before = faults()
    for _ in range(n):
        torch.ones(40_000_000)  # 160 MB
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again() -> None:
    """Counted in pages that the kernel had to hand out and clear anew."""

    def pages(how: str) -> int:
        found = subprocess.run([sys.executable, "-c", ASK, how], capture_output=True, text=True, check=True)
        return int(found.stdout)

    assert pages("held") < pages("not held") / 3
