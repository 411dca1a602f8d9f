# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`transformers.pipeline("open-set-image-classification", model=...)` opens a model of each family as what it is."""

import pytest
import transformers
from helpers import CLASSES, image_dataset
from helpers.families import FAMILY_NAMES, family_model, save_family

from hf_robustft import load_dual_encoder
from hf_robustft.deployment.pipeline import TASK, pipeline

#: In the default suite; the others: `python -m pytest -m slow tests/deployment/test_transformers_call.py`, a quarter of a minute.
QUICK = ("metaclip_2", "siglip", "vision-text-dual-encoder")


@pytest.mark.parametrize("family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILY_NAMES])
def test_the_call_of_transformers_answers_as_ours_for_every_family(tmp_path, caplog, family):
    save_family(family, tmp_path / "base")
    for part in load_dual_encoder(tmp_path / "base"):
        part.save_pretrained(tmp_path / "tuned")
    options = {"class_names": CLASSES, "require_detector": False}
    images = [row["image"] for row in image_dataset(3, seed=1)]
    theirs, ours = transformers.pipeline(TASK, model=str(tmp_path / "tuned"), **options), pipeline(tmp_path / "tuned", **options)
    # A MetaCLIP 2 has all weights of a CLIP, and reads its captions elsewhere.
    assert type(theirs.model) is type(ours.model) is type(family_model(family))
    for one, other in zip(theirs(images, top_k=None), ours(images, top_k=None), strict=True):
        given, wanted = ({item["label"]: item["score"] for item in answer["classes"]} for answer in (one, other))
        # By default Transformers takes the images one by one.
        assert given == pytest.approx(wanted, rel=1e-4)
    assert not [record for record in caplog.records if "to instantiate a model of type" in record.getMessage()]
