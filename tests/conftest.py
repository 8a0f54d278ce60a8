"""Tests run two at a time on two cores: each computes with one thread, and none waits for another."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
