"""Settings for all tests, made before OpenFHE is loaded."""

from __future__ import annotations

import os

# Small rings gain nothing from threads. Tests at 128-bit run in processes of their own, with all cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
