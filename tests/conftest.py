"""Tests run two at a time on two cores: each computes with one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
