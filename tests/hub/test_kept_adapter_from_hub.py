# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""An image adapter beside the weights comes from the Hub with them, or the model is refused."""

import torch
from helpers.families import family_model, family_processor

from hf_robustft import FeatureAdapters
from hf_robustft.modeling.adapter_file import ADAPTERS_FILE
from hf_robustft.modeling.kept_adapter import carrying

LOAD = """
from hf_robustft import load_dual_encoder
from hf_robustft.modeling.dual_encoder import DualEncoder

print(DualEncoder.of(load_dual_encoder("alice/kept")[0]).image_adapter.sum().item())
try:
    load_dual_encoder("alice/torn")
except OSError as error:
    print(error)
"""


def test_it_is_fetched_with_the_weights(hub, run_with_hub, tmp_path):
    model, adapters = family_model("siglip"), FeatureAdapters(32, text_ratio=0.0)
    with torch.no_grad():
        adapters.image_adapter += 0.3
    with carrying(model, adapters.kept_image_matrix(model)):
        model.save_pretrained(tmp_path)
    family_processor("siglip").save_pretrained(tmp_path)
    adapters.save_pretrained(tmp_path, model)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    hub.seed("model", "alice/kept", files)
    hub.seed("model", "alice/torn", {name: content for name, content in files.items() if name != ADAPTERS_FILE})
    total, refused = run_with_hub(LOAD, hub).stdout.strip().splitlines()[-2:]
    assert float(total) == adapters.kept_image_matrix(model).sum().item()
    assert refused.startswith(f"There is no {ADAPTERS_FILE} in") and "its config.json says" in refused
