"""What holds for every test, and for the processes that tests start."""

import os
import signal

# Tests run two at a time on two cores: each computes with one thread. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore Ctrl-C, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
