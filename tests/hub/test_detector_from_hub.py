# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The detector of a checkpoint on the Hub loads by the checkpoint's id."""

import torch
from helpers import CLASSES, TEMPLATES

from hf_robustft.evaluation.detector import OpenSetDetector
from hf_robustft.publishing.metadata import write_robustft_json

LOAD = """
from hf_robustft import OpenSetDetector

for id, token in (("alice/clip", False), ("alice/empty", None)):
    try:
        OpenSetDetector.from_pretrained(id, token=token)
    except OSError as error:
        print(error)
detector = OpenSetDetector.from_pretrained("alice/clip")
print(detector.score, repr(detector.threshold), detector.fitted_on)
"""


def test_a_detector_loads_from_a_private_repository_with_a_token_alone(hub, run_with_hub, tmp_path):
    folder = tmp_path / "clip"
    write_robustft_json(folder, method="croft", class_names=CLASSES, templates=TEMPLATES, settings={})
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    detector = OpenSetDetector.fit(logits, class_names=CLASSES, logit_scale=10.0, fitted_on="validation")
    detector.save(folder)
    hub.seed("model", "alice/clip", {"robustft.json": (folder / "robustft.json").read_bytes()}, private=True)
    hub.seed("model", "alice/empty", {"config.json": b"{}"})
    printed = run_with_hub(LOAD, hub).stdout
    assert "neither a folder here nor a model on the Hub that you may read" in printed
    assert "There is no robustft.json in alice/empty on the Hub" in printed
    assert printed.splitlines()[-1].split() == ["energy", repr(detector.threshold), "validation"]
