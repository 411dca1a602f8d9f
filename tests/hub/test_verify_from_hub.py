# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft verify` of a model on the Hub, at a commit, by an unmodified client."""

import json

from helpers.cards import report
from helpers.claiming import SETS, made

from hf_robustft.publishing.card_facts import SetFacts
from hf_robustft.publishing.eval_results import write_eval_results


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


def test_what_a_model_on_the_hub_says_to_leaderboards_is_compared(hub, run_with_hub, tmp_path):
    made(tmp_path)
    # Of a set that nothing was measured on, as an earlier model may have left it there.
    write_eval_results(tmp_path / "clip", report(), [SetFacts("photo", "id", 4, path="owner/pictures", split="test")], {"photo": "photos"})
    content = {path.relative_to(tmp_path / "clip").as_posix(): path.read_bytes() for path in (tmp_path / "clip").rglob("*") if path.is_file()}
    hub.seed("model", "alice/boards", content)
    words = ["-m", "hf_robustft.cli", "verify", "alice/boards", "--use_cpu", "--disable_tqdm", "--output", "verification.json"]
    done = run_with_hub(words, hub, check=False)
    claims = json.loads((tmp_path / "verification.json").read_text())["claims"]
    assert done.returncode == 1, (done.stdout, done.stderr)
    found = [(claim["of"], claim["verdict"]) for claim in claims if claim["of"].startswith(".eval_results")]
    assert found == [(".eval_results/owner--pictures.yaml", "fails")]
