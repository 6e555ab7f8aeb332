"""Freed blocks of the size of an upload leave nothing behind."""

import subprocess
import sys

import pytest

PROGRAM = """
import re
from pathlib import Path
from dataset.search.allocator import map_large_blocks

def resident():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

def upload():
    body, small = bytearray(), []
    for _ in range(28 << 4):
        body += bytes(1 << 16)
        small.append(bytes(1 << 10))
    return small  # blocks that stay, and lie behind the body in the heap

if {called}:
    map_large_blocks()
before = resident()
kept = [upload() for _ in range(4)]
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("called", [False, True])
def test_bodies_that_were_freed_take_no_memory(called: bool) -> None:
    program = PROGRAM.replace("{called}", str(called))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    mebibytes = int(done.stdout)
    assert (mebibytes < 10) == called, mebibytes
