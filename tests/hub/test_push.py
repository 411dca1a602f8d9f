# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Runs that push to a Hub over HTTP, and unmodified clients that read them back."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load

from hub.loopback import LoopbackHub

TOKEN = "hf_" + "Q7wE9r" * 6
WRONG = "hf_" + "Zz8" * 9
OWN_CARD = "---\nlicense: mit\n---\n\n# Mine\n"
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1}
RUNS = {
    "alice/carot": {**EVALUATED, "hub_private_repo": True},
    "alice/croft": {
        "method": "croft",
        "hub_strategy": "all_checkpoints",
        "save_total_limit": 1,
        "end": "finished",
    },
    "alice/end": {"hub_strategy": "end"},
    "alice/last": {"hub_strategy": "checkpoint", "end": "nothing"},
    "alice/mine": {"card": OWN_CARD},
    "alice/edited": {**EVALUATED},
    "alice/wrong": {"hub_token": WRONG},
    "alice/public": {"hub_private_repo": True},
}


class Runs:
    """All runs in one process, and what is left of them."""

    def __init__(self, hub: LoopbackHub, folder: Path, output):
        self.hub, self.folder, self.output = hub, folder, output

    def history(self, name: str) -> list:
        return list(reversed(self.hub.repositories["model", name].history()))

    def files(self, name: str) -> dict:
        return self.hub.files("model", name)

    def error(self, name: str) -> str:
        return next(line for line in self.output.stdout.splitlines() if line.startswith(f"{name}: "))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, run_with_hub_in):
    """The token is only in the Trainer's arguments, as with `--hub_token`."""
    folder = tmp_path_factory.mktemp("runs")
    with LoopbackHub({TOKEN: {"name": "alice", "orgs": ["acme"]}, "hf_bob": "bob"}) as hub:
        hub.seed("model", "alice/edited", {"README.md": OWN_CARD.encode()})
        hub.seed("model", "alice/public", {})
        settings = [
            {"hub_token": TOKEN, "hub_model_id": name, "output_dir": str(folder / name.split("/")[1]), **own}
            for name, own in RUNS.items()
        ]
        command = ["-m", "hub.push_worker", json.dumps(settings)]
        yield Runs(hub, folder, run_with_hub_in(folder, command, hub, None, check=False))


def test_all_but_the_refused_runs_end_well(runs):
    assert runs.output.returncode == 2, runs.output.stdout + runs.output.stderr
    assert "hf auth login" in runs.error("alice/wrong") and "hf-robustft publish" in runs.error("alice/wrong")
    assert "ValueError: alice/public should be private" in runs.error("alice/public")


def test_every_save_has_its_card_and_the_end_its_results(runs):
    initial, first, second, end = runs.history("alice/carot")
    assert [commit.title for commit in (first, second, end)] == [
        "Training in progress, step 1",
        "Training in progress, step 2",
        "End of training",
    ]
    assert runs.hub.repositories["model", "alice/carot"].private
    for commit in (first, second, end):
        assert {"README.md", "robustft.json", "reliability.png", "model.safetensors"} <= set(commit.files)
        assert not [name for name in commit.files if "training_args" in name or "optimizer" in name]
    unfinished = first.files["README.md"].content.decode()
    assert "after step 1 of 2" in unfinished and "| test (ID) | 12 |" in unfinished and "model-index" not in unfinished
    scales = [load(commit.files["model.safetensors"].content)["logit_scale"].item() for commit in (first, end)]
    assert scales[0] != scales[1]
    out = runs.folder / "carot"
    assert {name: stored.content for name, stored in end.files.items()} == {
        name: (out / name).read_bytes() for name in end.files
    }
    assert not (out / ".push").exists()
    assert f"commit {end.sha}" in runs.output.stdout
    assert json.loads((out / "robustft.json").read_text())["class_names"] == ["cat", "dog", "owl", "bee"]


def test_pushed_weights_have_the_adapters_in_them_and_checkpoints_are_whole(runs):
    """A checkpoint of CRoFT holds model and adapters apart; what is pushed for use has them merged."""
    end = runs.files("alice/croft")
    assert {"adapters.safetensors", "checkpoint-1/optimizer.pt", "checkpoint-2/robustft_state.safetensors"} <= set(end)
    assert not [name for name in end if name.endswith("training_args.bin")]
    # Nothing has changed since, so the end made no commit of its own.
    last = runs.history("alice/croft")[-1]
    assert last.title == "Training in progress, step 2, checkpoint"
    step_2 = last.files
    merged, raw = (load(step_2[n].content) for n in ("model.safetensors", "checkpoint-2/model.safetensors"))
    final = load(end["model.safetensors"])
    assert final["visual_projection.weight"].equal(merged["visual_projection.weight"])
    assert not final["visual_projection.weight"].equal(raw["visual_projection.weight"])
    # No evaluation was made, and the card does not pretend so.
    assert b"not measured" in end["README.md"] and b"model-index" not in end["README.md"]
    # Rotated away here, while its upload was going on.
    assert not (runs.folder / "croft" / "checkpoint-1").exists()


def test_strategies_end_and_checkpoint(runs):
    assert [commit.title for commit in runs.history("alice/end")] == ["initial commit", "End of training"]
    files = runs.files("alice/last")
    assert {"README.md", "model.safetensors", "last-checkpoint/optimizer.pt"} <= set(files)
    assert json.loads(files["last-checkpoint/trainer_state.json"])["global_step"] == 2


def test_a_card_of_a_person_is_kept_here_and_there(runs):
    assert (runs.folder / "mine" / "README.md").read_text() == OWN_CARD
    assert all(commit.files["README.md"].content == OWN_CARD.encode() for commit in runs.history("alice/mine")[1:])
    assert runs.files("alice/edited")["README.md"] == OWN_CARD.encode()
    assert "model.safetensors" in runs.files("alice/edited")
    assert "The card of alice/edited was edited on the Hub and is kept" in runs.output.stderr


READ = """
import sys
from pathlib import Path
import numpy as np
import torch
from huggingface_hub import ModelCard, snapshot_download
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel, pipeline
from hub.push_worker import train
from hf_robustft import OpenSetDetector, load_adapters
from hf_robustft.publishing.hub import publish

card = ModelCard.load("alice/carot")
card.validate()
assert card.data.library_name == "transformers" and card.data.model_name == "carot"
results = {result.metric_type: result.metric_value for result in card.data.eval_results}
assert set(results) == {"accuracy", "expected_calibration_error", "nll", "brier_score"}

model = CLIPModel.from_pretrained("alice/carot")
wanted = load_file("carot/model.safetensors")
assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
classifier = pipeline("zero-shot-image-classification", model="alice/carot")
image = Image.fromarray(np.zeros((40, 40, 3), np.uint8))
guesses = classifier(image, candidate_labels=["cat", "owl"], hypothesis_template="a {}.")
assert {guess["label"] for guess in guesses} == {"cat", "owl"}

logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
names = ("cat", "dog", "owl", "bee")
detector = OpenSetDetector.fit(logits, class_names=names, logit_scale=14.0, fitted_on="validation")
detector.save("croft")
publish("croft", "alice/croft")
assert OpenSetDetector.from_pretrained("alice/croft") == detector
there = snapshot_download("alice/croft")
load_adapters(CLIPModel.from_pretrained(there), there)
last = Path(snapshot_download("alice/last")) / "last-checkpoint"
train(dict(output_dir="resumed", push_to_hub=False, end="nothing", max_steps=3, resume=str(last)))
assert Path("resumed/checkpoint-3").is_dir() and not Path("resumed/checkpoint-2").exists()

for token in (False, "hf_bob"):
    try:
        CLIPModel.from_pretrained("alice/carot", token=token, cache_dir="empty")
    except OSError as error:
        print("refused", token, "is not a" in str(error))
"""


def test_unmodified_clients_read_it_back(runs, run_with_hub_in):
    read = run_with_hub_in(runs.folder, READ, runs.hub, TOKEN)
    assert read.stdout.splitlines()[-2:] == ["refused False True", "refused hf_bob True"]
    # Large files lie elsewhere, where no token may go.
    elsewhere = [request for request in runs.hub.log if request.path.startswith("/objects/")]
    assert elsewhere and not any(request.token for request in elsewhere)


def test_no_token_in_any_byte(runs):
    """Not in what was sent, nor in output, log, card or pickled arguments."""
    sent = runs.hub.everything()
    assert sum(len(content) for content in sent) > 1_000_000
    local = [path.read_bytes() for path in runs.folder.rglob("*") if path.is_file()]
    assert len(list(runs.folder.rglob("training_args.bin"))) >= 8
    spoken = [text.encode() for text in (runs.output.stdout, runs.output.stderr)]
    paths = [request.path.encode() for request in runs.hub.log]
    assert any(b"alice/carot" in content for content in local) and any(b"alice/carot" in path for path in paths)
    for secret in (TOKEN, WRONG):
        assert not [content for content in (*sent, *local, *spoken, *paths) if secret.encode() in content]
