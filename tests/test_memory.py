"""What a worker's malloc keeps: counted in pages that the system has to make again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back at once")

PASSES = """
import resource, sys
import numpy
from knnex.encoders import keep_memory

def passes(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        layers = [numpy.ones(2_000_000, numpy.float32) for _ in range(6)]
        del layers
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    keep_memory()
passes(2)
print(passes(20))
"""


def faults(how: str, **environment: str) -> int:
    done = subprocess.run([sys.executable, "-c", PASSES, how], capture_output=True, text=True, env=environment)
    assert not done.returncode, done.stderr
    return int(done.stdout)


def test_a_batch_has_the_memory_of_the_one_before() -> None:
    anew, kept = faults("left alone"), faults("kept")
    assert kept * 20 < anew, (kept, anew)


def test_what_the_environment_says_of_malloc_stays() -> None:
    set_by_user = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    # How many there are depends on how large the system makes its pages; here nearly none would be left.
    assert faults("kept", **set_by_user) * 4 > faults("left alone", **set_by_user)
