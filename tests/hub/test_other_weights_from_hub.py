# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Weights on the Hub that are not those of the detector beside them are refused at their first use, before they are in a cache too."""

import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor
from helpers.detectors import detector

from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.publishing.metadata import write_robustft_json

LOAD = """
from PIL import Image
from hf_robustft import pipeline

print(pipeline("alice/own")(Image.new("RGB", (40, 40)))["is_known"])
for _ in range(2):
    try:
        pipeline("alice/exchanged")
    except ValueError as error:
        print(error)
"""


def test_they_are_refused_whether_they_were_fetched_before_or_not(hub, run_with_hub, tiny_clip, tmp_path):
    data = Benchmark.from_dataset(image_dataset(12), name="val", role="validation", templates=TEMPLATES)
    tiny_clip.save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    write_robustft_json(tmp_path, method="carot", class_names=CLASSES, templates=TEMPLATES, settings={})
    detector(tiny_clip, data).save(tmp_path)
    hub.seed("model", "alice/own", {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()})
    with torch.no_grad():
        tiny_clip.visual_projection.weight.mul_(1.01)
    tiny_clip.save_pretrained(tmp_path)
    hub.seed("model", "alice/exchanged", {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()})
    known, *refused = run_with_hub(LOAD, hub).stdout.strip().splitlines()[-3:]
    assert known in ("True", "False")
    assert len(refused) == 2 and all("detector" in line and "fitted with" in line for line in refused)
