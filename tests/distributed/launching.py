# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Starts scripts in one process or several, on this machine and without network."""

from helpers.forked import run_ranks


def run_in(processes: int, script, *arguments, **environment) -> None:
    """Run a script in `processes` processes; it must succeed."""
    run = run_ranks(processes, script, *arguments, **environment)
    assert run.returncode == 0, run.stderr[-8000:]
