# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What the Hub answers wrongly is told in one line, by the name of the data set."""

import json

import pytest
from datasets.inspect import SplitsNotFoundError

from hf_robustft.cli import specs
from hf_robustft.cli.specs import Spec, own_split
from hf_robustft.data.messages import say_once
from hf_robustft.data.own_data import from_hub
from hf_robustft.training import image_check


def refused():
    raise SplitsNotFoundError("The split names could not be parsed from the dataset config.") from PermissionError("403 Forbidden.")


def no_json():
    json.loads("<html>Log in</html>")


@pytest.mark.parametrize(("function", "why"), [(refused, "403 Forbidden"), (no_json, "JSON")])
def test_the_reason_is_told_by_the_name_of_the_data_set(function, why, monkeypatch):
    with pytest.raises(OSError, match=f"'alice/train'.*{why}"):
        from_hub(lambda path: function(), "alice/train")
    # Of the splits alone nothing is said, for the data cannot be opened either.
    for name, value in (("require_hub", str), ("at_one_commit", str), ("get_dataset_split_names", lambda *args, **options: function())):
        monkeypatch.setattr(specs, name, value)
    assert own_split(Spec.parse("alice/train"), "train") is None


def test_what_a_model_has_seen_is_not_passed_over_in_silence_where_the_hub_refuses_it(monkeypatch, caplog):
    say_once.cache_clear()
    for error, said in ((FileNotFoundError("There is no robustft.json"), False), (OSError("429 Too Many Requests"), True)):

        def refuse(*names, error=error, **options):
            raise error

        monkeypatch.setattr(image_check, "checkpoint_folder", refuse)
        assert image_check.image_hashes_of("owner/clip") == []
        assert ("owner/clip: its robustft.json cannot be read" in caplog.text and "429" in caplog.text) == said
