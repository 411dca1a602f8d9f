# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A Hub that fails: the upload is whole in the end, or the error is clear and nothing here is lost."""

import itertools
import json

import pytest

PLACES = ("create", "look", "list", "read the card", "validate", "preupload", "batch", "put", "verify", "commit")
FAULTS = ("500", "503 twice", "429", "reset", "cut")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, run_with_hub_in):
    folder = tmp_path_factory.mktemp("faults")
    done = run_with_hub_in(folder, ["-m", "hub.fault_worker", folder / "work"], hub=None)
    return {**json.loads(done.stdout.splitlines()[-1]), "log": done.stderr}


@pytest.mark.parametrize(("place", "fault"), list(itertools.product(PLACES, FAULTS)))
def test_one_commit_in_spite_of(outcomes, place, fault):
    found = next(one for one in outcomes["uploads"] if (one["place"], one["fault"]) == (place, fault))
    assert found["outcome"] == "whole" and found["local"]
    assert found["struck"] >= 1
    # Also where only the answer to the commit was lost: it is not made twice.
    assert found["commits"] == 1
    if fault == "429":
        assert max(found["slept"]) >= 3, "the Hub asked for three seconds"


def test_a_lasting_fault_is_a_clear_error_and_the_way_out_works(outcomes):
    lasting = outcomes["lasting"]
    assert lasting["status"] == 2 and lasting["local"]
    line = lasting["error"].strip().splitlines()[-1]
    assert line.startswith("error: ") and "500" in line and "All files are still in the folder" in line
    assert line.endswith("lasting --repo_id alice/lasting") and "hf-robustft publish" in line
    assert lasting["again"] == 0 and lasting["whole"]


def test_a_cut_download_is_whole(outcomes):
    assert outcomes["downloads"]["whole"]


def test_a_run_through_every_fault_ends_whole(outcomes):
    run = outcomes["shaky run"]
    assert run["outcome"] == "ended" and run["whole"]


def test_a_run_whose_pushes_all_fail_is_complete_here(outcomes):
    run = outcomes["lost run"]
    assert run["outcome"].startswith("OSError: ") and "hf-robustft publish" in run["outcome"] and not run["whole"]
    kept = {"README.md", "model.safetensors", "robustft.json", "reliability.png", "tokenizer.json"}
    resumable = {f"checkpoint-{step}/{name}" for step in (1, 2) for name in ("optimizer.pt", "robustft_state.json")}
    assert kept | resumable <= set(run["local"])
    assert not [name for name in run["local"] if name.startswith(".push")]
    assert "Training in progress, step 1 was not pushed, and the run goes on" in outcomes["log"]
    assert "The last push of the run failed" in outcomes["log"]
