import platform
import subprocess
import sys

import pytest

ALLOCATE_TWICE = """
import resource
import numpy as np
from ferjax.memory import keep_freed_memory

assert keep_freed_memory()

def faults():
    np.ones(2**23)  # 64 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

faults()
before = faults()
assert faults() - before < 100, "the pages of freed memory faulted again"
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again_without_page_faults():
    subprocess.run([sys.executable, "-c", ALLOCATE_TWICE], check=True)
