# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
How many forked processes hang beside threads of C that enter Python, by Python's own context and by that of our readers.

    python tests/data/fork_storm.py --seconds 60
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import threading
import time

from hf_robustft.data import readers

#: Processes that have not ended after so many seconds hang.
HANGS = 5.0


def enter_python(ended: threading.Event) -> None:
    """Begin and end threads of C that call Python, one at a time."""
    library, thread = ctypes.CDLL(None), ctypes.c_ulong()
    nothing = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda _: None)
    while not ended.is_set():
        if library.pthread_create(ctypes.byref(thread), None, nothing, None) == 0:
            library.pthread_join(thread, None)


def storm(context, seconds: float, threads: int = 4) -> tuple[int, int]:
    """How many processes were forked, and how many of them hung."""
    ended, forks, hung = threading.Event(), 0, 0
    beside = [threading.Thread(target=enter_python, args=(ended,)) for _ in range(threads)]
    for thread in beside:
        thread.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        process = context.Process(target=int)
        process.start()
        process.join(HANGS)
        forks += 1
        if process.is_alive():
            hung += 1
            process.kill()
            process.join()
    ended.set()
    for thread in beside:
        thread.join()
    return forks, hung


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    readers.FORK_CAN_HANG, readers.SECONDS = True, HANGS
    for name, context in (("fork", multiprocessing.get_context("fork")), ("readers", readers.reading_context(1))):
        forks, hung = storm(context, seconds)
        print(f"{name}: {forks:,} processes, {hung} hung")
