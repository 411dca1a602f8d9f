# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A Hub that gives all files of a checkpoint but one."""

import pytest
from helpers import tiny_processor

CODE = """
import time
# Of a Hub that is busy a client asks again after seconds, which the test need not wait for.
time.sleep = lambda seconds: None
from hf_robustft import load_dual_encoder
try:
    _, processor = load_dual_encoder("alice/base")
    print("loaded", processor.tokenizer.model_max_length)
except OSError as error:
    print("refused", error)
"""


@pytest.mark.parametrize("status", [429, pytest.param(403, marks=pytest.mark.slow)])
def test_a_checkpoint_is_not_loaded_without_a_small_file_that_the_hub_has(hub, run_with_hub, tmp_path, tiny_clip, status):
    """The settings of the tokenizer: without them it would be made all the same, and might be another."""
    tiny_clip.save_pretrained(tmp_path / "base")
    tiny_processor().save_pretrained(tmp_path / "base")
    hub.seed("model", "alice/base", {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()})
    hub.fail("/tokenizer_config.json", status, times=1000)
    said = run_with_hub(CODE, hub).stdout
    assert said.startswith("refused") and "tokenizer_config.json" in said and str(status) in said
    hub.faults.clear()
    loaded = run_with_hub(CODE, hub).stdout
    assert loaded == "loaded 16\n"
    # Without a Hub, what it has said of a commit counts.
    hub.fail("alice/base", 500, times=1000)
    assert run_with_hub(CODE, hub).stdout == loaded
