# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft verify` of a model on the Hub, at a commit, by an unmodified client."""

import json

from helpers.claiming import SETS, made


def test_a_model_on_the_hub_is_verified_at_its_commit(hub, run_with_hub, tmp_path):
    made(tmp_path)
    content = {path.relative_to(tmp_path / "clip").as_posix(): path.read_bytes() for path in (tmp_path / "clip").rglob("*") if path.is_file()}
    hub.seed("model", "alice/clip", content)
    places = [f"{name}={name}.parquet" for name in SETS]
    words = ["-m", "hf_robustft.cli", "verify", "alice/clip", "--revision", "main", "--data", *places, "--use_cpu", "--disable_tqdm"]
    done = run_with_hub([*words, "--output", "verification.json"], hub, check=False)
    found = json.loads((tmp_path / "verification.json").read_text())
    assert done.returncode == 0 and found["counts"]["holds"] == len(found["claims"]), (done.stdout, done.stderr)
    assert len(found["commit"]) == 40
