# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Where features cannot be kept, that is said before any image is encoded."""

import os

import pytest
from helpers import tiny_processor
from helpers.feature_cache import benchmark

from hf_robustft.cli import main
from hf_robustft.modeling import feature_cache
from hf_robustft.modeling.feature_cache import cache_features


@pytest.fixture
def encodes_nothing(monkeypatch):
    def encode(*arguments):
        raise AssertionError("an image was encoded")

    monkeypatch.setattr(feature_cache, "_encode", encode)


@pytest.mark.usefixtures("encodes_nothing")
@pytest.mark.parametrize("place", ["file", "file/below"])
@pytest.mark.parametrize("option", ["cache_dir", "cache_file"])
def test_where_nothing_can_be_kept_nothing_is_encoded(tiny_clip, tmp_path, place, option):
    (tmp_path / "file").touch()
    where = tmp_path / place / ("features" if option == "cache_file" else "")
    with pytest.raises(OSError, match=f"`{option} .*cannot be written"):
        cache_features(tiny_clip, benchmark(), tiny_processor(), progress=False, **{option: where})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("encodes_nothing")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [os.mkdir, pytest.param(getattr(os, "mkfifo", None), marks=pytest.mark.skipif(os.name == "nt", reason="no pipes"))])
def test_what_is_no_file_is_not_read_as_features(tiny_clip, tmp_path, make):
    make(tmp_path / "features")
    with pytest.raises(OSError, match="features is not an undamaged file of cached features"):
        cache_features(tiny_clip, benchmark(), tiny_processor(), progress=False, cache_file=tmp_path / "features")


def test_a_file_as_feature_cache_is_refused_at_first_sight(tmp_path, capsys):
    (tmp_path / "file").touch()
    words = ["--method", "croft", "--feature_views", "1", "--feature_cache", str(tmp_path / "file"), "--output_dir", str(tmp_path / "out")]
    assert main(["train", *words]) == 2
    assert "`--feature_cache " in capsys.readouterr().err and not (tmp_path / "out").exists()
