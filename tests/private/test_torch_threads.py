"""What ``graphshard.private.torch_threads`` relies on."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.versions

FAKES_IN_THREADS = """
import sys, threading
from graphshard.private.torch_threads import ready_for_threads
from torch._subclasses import FakeTensorMode

ready_for_threads()
assert "torch._dynamo" in sys.modules  # or several threads would import it at once

def make_fakes():
    with FakeTensorMode():
        pass

for _ in range(3):
    thread = threading.Thread(target=make_fakes)
    thread.start()
    thread.join()
make_fakes()
"""


def test_fake_tensors_may_be_made_in_threads_that_end() -> None:
    """In a process of its own: torch 2.11 ends it with a segmentation fault."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FAKES_IN_THREADS],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
