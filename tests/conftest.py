"""What every test process, and every worker that it starts, needs before anything is imported."""

import os
import signal
import sys
from pathlib import Path

from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# Ray workers are processes of their own: pytest's pythonpath does not reach them.
for folder in (ROOT, ROOT / "src"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT), *(part for part in inherited if part)])
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_worker_niceness", "0")  # as searches start Ray: tests run beside each other
# Models of a few microseconds are measured on whatever machine runs the tests.
os.environ.setdefault("SPARSEFRONT_NOISE_LIMIT", "100")
# A shell that starts tests in the background tells them to ignore Ctrl-C; what it does is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
# How long an example takes says how busy the machine is.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
