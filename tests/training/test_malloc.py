import subprocess
import sys

import pytest

CODE = """
import ctypes, sys
from autotune.training.malloc import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
import torch
def faults():
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for n in (20, 10):  # in the first round, the heap can still grow
    before = faults()
    for _ in range(n):
        torch.ones(40_000_000)  # 160 MB
print(faults() - before)
"""


@pytest.mark.in_make_faults
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_reused() -> None:
    """Counts the pages that the kernel allocates and clears."""

    def pages(how: str) -> int:
        found = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
        return int(found.stdout)

    assert pages("kept") < pages("returned") / 3
