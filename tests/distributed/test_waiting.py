# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a process does whose peer has failed, or lives and does not come."""

import pytest
from helpers.forked import run_ranks

TIME_LIMIT = """
import sys, torch
from hf_robustft import RobustTrainingArguments
RobustTrainingArguments(sys.argv[1], use_cpu=True, ddp_timeout=5)
if torch.distributed.get_rank():
    # It lives, and does not come.
    __import__("time").sleep(60)
torch.distributed.barrier()
"""


@pytest.mark.timeout(1000)
def test_on_a_cpu_a_process_waits_for_another_as_long_as_ddp_timeout_says(tmp_path):
    run = run_ranks(2, "-c", TIME_LIMIT, tmp_path)
    assert run.returncode != 0 and "Timed out waiting 5000ms" in run.stderr


@pytest.mark.timeout(1000)
def test_the_process_that_did_not_fail_says_in_one_line_which_did(tmp_path):
    code = """
import os, sys
from accelerate import PartialState
from hf_robustft.cli.endings import run
from hf_robustft.modeling.processes import failing_together

def fails():
    with failing_together("Evaluation on 'test'", PartialState(cpu=True)):
        if os.environ["RANK"] == "1":
            raise OSError("no image")

sys.exit(run(fails))
"""
    done = run_ranks(2, "-c", code)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: Evaluation on 'test' failed in process 1" in done.stderr
