"""How the processes of a job end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FORKED = """
import os, signal
from hippo_nnunet.processes import end_with_workers
end_with_workers()
assert callable(signal.getsignal(signal.SIGTERM))
pid = os.fork()
if pid == 0:
    os._exit(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_worker_does_not_inherit_the_jobs_handler() -> None:
    """nnU-Net's forked pools send SIGTERM to idle workers and wait: a handler of Python's own can come too late."""
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=60)
