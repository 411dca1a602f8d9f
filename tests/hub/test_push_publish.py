# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft publish` and `publish` against a Hub over HTTP."""

import pytest
from helpers.cards import report

from hf_robustft.evaluation.report import save_reports
from hf_robustft.publishing.card_facts import SetFacts
from hf_robustft.publishing.eval_results import write_eval_results
from hub.loopback import LoopbackHub

OWN_CARD = b"---\nlicense: mit\n---\n\n# Written on the Hub\n"

SCRIPT = """
import contextlib, io, json
from pathlib import Path
from helpers import tiny_config
from helpers import tiny_processor
from transformers import CLIPModel
from hf_robustft.cli import main
from hf_robustft.publishing.hub import publish
from hf_robustft.publishing.progress_card import write_progress_card

folder = Path("clip")
CLIPModel(tiny_config()).save_pretrained(folder)
tiny_processor().save_pretrained(folder)
card = lambda step: write_progress_card(folder, title="clip", method="flyp", step=step, total_steps=9)
card(1)
(folder / "training_args.bin").write_bytes(b"pickle")
(folder / "runs").mkdir()
(folder / "runs" / "events").write_text("log")
said = {}

def command(name, *arguments):
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        status = main(["publish", "clip", "--retries", "0", *arguments])
    said[name] = [status, out.getvalue(), error.getvalue()]

command("new", "--repo_id", "clip", "--private", "--message", "First")
card(2)
command("again", "--repo_id", "alice/clip", "--include", "runs/*")
command("same", "--repo_id", "alice/clip")
command("stale", "--repo_id", "alice/stale")
command("edited", "--repo_id", "alice/edited")
command("overwritten", "--repo_id", "alice/edited2", "--overwrite_card")
command("public", "--repo_id", "alice/stale", "--private")
command("branch", "--repo_id", "alice/clip", "--revision", "step-2")
command("not mine", "--repo_id", "bob/clip")
command("organisation", "--repo_id", "acme/clip")
kept = publish(folder, "alice/edited", edited_card="keep")
said["kept"] = [kept.card_kept, "README.md" in kept.files, len(kept.files)]
for token in ("hf_alice_read", "hf_wrong"):
    try:
        publish(folder, "alice/other", token=token, retries=0)
    except OSError as error:
        said[token] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory, run_with_hub_in):
    import json

    folder = tmp_path_factory.mktemp("publish")
    with LoopbackHub() as hub:
        earlier = ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "head.safetensors", "notes.md")
        before = {name: b"of another model" for name in (*earlier, "checkpoint-1/config.json", ".eval_results/mine.yaml")}
        # What leaderboards read, and `hf-robustft verify`.
        (of_a_set,) = write_eval_results(folder, report(), [SetFacts("photo", "id", 4, path="owner/pictures", split="test")], {"photo": "photos"})
        before |= {".eval_results/owner--pictures.yaml": of_a_set.read_bytes(), "evaluation.json": save_reports(folder / "evaluation.json", [report()]).read_bytes()}
        hub.seed("model", "alice/stale", before)
        hub.seed("model", "alice/edited", {"README.md": OWN_CARD})
        hub.seed("model", "alice/edited2", {"README.md": OWN_CARD})
        run = run_with_hub_in(folder, SCRIPT, hub)
        yield hub, json.loads(run.stdout.splitlines()[-1]), folder / "clip"


MODEL = {
    *("README.md", "config.json", "model.safetensors"),
    *("processor_config.json", "tokenizer.json", "tokenizer_config.json"),
}


def test_a_new_private_repository_in_one_commit(done):
    hub, said, folder = done
    repository = hub.repositories["model", "alice/clip"]
    assert repository.private
    second, first, _ = repository.history()
    assert first.title == "First" and set(first.files) == MODEL
    status, out, _ = said["new"]
    assert status == 0 and "Uploaded from clip to alice/clip:" in out and f"(commit {first.sha[:8]})" in out
    assert hub.url in out and "Left out: runs, training_args.bin" in out
    assert set(second.files) == MODEL | {"runs/events"}
    assert hub.files("model", "alice/clip")["README.md"] == (folder / "README.md").read_bytes()


def test_nothing_changed_makes_no_commit(done):
    hub, said, _ = done
    assert (
        said["same"][0] == 0
        and "Nothing has changed" in said["same"][1]
        and "Uploaded" not in said["same"][1]
        and "Nothing has changed" not in said["again"][1]
        and f"(commit {hub.repositories['model', 'alice/clip'].branches['main'][:8]})" in (said["same"][1])
    )


def test_parts_of_an_earlier_model_are_removed_and_the_rest_is_not(done):
    hub, said, _ = done
    files = hub.files("model", "alice/stale")
    assert set(files) == MODEL | {"notes.md", "checkpoint-1/config.json", ".eval_results/mine.yaml"}
    removed = next(line for line in said["stale"][1].splitlines() if line.startswith("Removed"))
    model = "head.safetensors, model-00001-of-00002.safetensors, model.safetensors.index.json"
    assert removed.partition(": ")[2] == f"{model}, .eval_results/owner--pictures.yaml, evaluation.json"
    assert len(hub.repositories["model", "alice/stale"].history()) == 3


def test_a_card_of_a_person_on_the_hub(done):
    """Refused, replaced on demand, or kept while the rest goes."""
    hub, said, folder = done
    status, _, error = said["edited"]
    assert status == 2 and "written or edited by hand" in error and "--overwrite_card" in error
    assert said["overwritten"][0] == 0
    assert hub.files("model", "alice/edited2")["README.md"] == (folder / "README.md").read_bytes()
    assert said["kept"] == [True, False, 5]
    files = hub.files("model", "alice/edited")
    assert files["README.md"] == OWN_CARD and set(files) == MODEL


def test_a_public_repository_that_should_be_private_is_refused(done):
    hub, said, _ = done
    assert said["public"][0] == 2 and "exists as a public repository" in said["public"][2]


def test_branches_organisations_and_rights(done):
    hub, said, folder = done
    repository = hub.repositories["model", "alice/clip"]
    assert set(repository.branches) == {"main", "step-2"} and len(repository.history("step-2")) >= 3
    assert set(hub.files("model", "acme/clip")) == MODEL
    status, _, error = said["not mine"]
    assert (
        status == 2 and "403" in error and "hf auth login" in error and ("model", "bob/clip") not in hub.repositories
    )
    for token in ("hf_alice_read", "hf_wrong"):
        assert "was not uploaded to alice/other" in said[token] and "hf auth login" in said[token]
        assert token not in said[token]
    assert ("model", "alice/other") not in hub.repositories
