# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`cache_images`: a run with kept images is the run without, and leaves nothing behind."""

import copy

import pytest
import torch
from helpers import arguments, image_dataset, tiny_processor
from helpers.streams import benchmark
from transformers import TrainerCallback

from hf_robustft import CaRotTrainer
from hf_robustft.data.decoded_images import FOLDER
from hf_robustft.training import kept_images


class Looks(TrainerCallback):
    """Which files are kept at the end of each epoch."""

    def __init__(self, folder):
        self.folder, self.found = folder, []

    def on_epoch_end(self, args, state, control, **kwargs):
        self.found.append(sorted(path.name for path in (self.folder / FOLDER).iterdir()) if (self.folder / FOLDER).is_dir() else None)


def run(model, folder, data=None, **settings):
    settings = {"num_train_epochs": 2, "save_strategy": "no", **settings}
    looks = Looks(folder)
    trainer = CaRotTrainer(
        copy.deepcopy(model), arguments(folder, **settings), train_dataset=image_dataset(24) if data is None else data,
        processing_class=tiny_processor(), callbacks=[looks],
    )  # fmt: skip
    return trainer, looks


@pytest.mark.same_bits("the same examples in the same order, one thread")
@pytest.mark.parametrize("workers", [0, 1])
def test_the_run_is_the_same_and_leaves_nothing(tiny_clip, tmp_path, workers):
    plain, without = run(tiny_clip, tmp_path / "plain", dataloader_num_workers=workers)
    plain.train()
    left = tmp_path / "kept" / FOLDER
    left.mkdir(parents=True)
    # Of a run that was killed, and of other images.
    (left / "index").write_bytes(b"\x01" * 1000)
    kept, looks = run(tiny_clip, tmp_path / "kept", dataloader_num_workers=workers, cache_images="uint8")
    kept.train()
    assert without.found == [None, None] and all("index" in found and len(found) > 1 for found in looks.found)
    # What was decoded in the first epoch is not decoded again.
    assert looks.found[0] == looks.found[1]
    assert not left.exists()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(kept.model.state_dict()[name], value), name
    assert [entry.get("loss") for entry in kept.state.log_history] == [entry.get("loss") for entry in plain.state.log_history]


def test_nothing_is_left_by_a_run_that_fails_nor_by_a_former_one(tiny_clip, tmp_path):
    class Fails(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            raise RuntimeError("on purpose")

    trainer, _ = run(tiny_clip, tmp_path, cache_images="uint8")
    trainer.add_callback(Fails())
    with pytest.raises(RuntimeError, match="on purpose"):
        trainer.train()
    assert not (tmp_path / FOLDER).exists()
    (tmp_path / FOLDER).mkdir()
    run(tiny_clip, tmp_path)[0].train()
    assert not (tmp_path / FOLDER).exists()


def test_a_link_in_its_place_is_not_followed(tiny_clip, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FOLDER).symlink_to(tmp_path / "mine", target_is_directory=True)
    run(tiny_clip, tmp_path / "out", cache_images="uint8", num_train_epochs=1)[0].train()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["index"]
    assert (tmp_path / "mine" / "index").read_text() == "precious"


def test_a_run_goes_on_only_with_the_same_images(tiny_clip, tmp_path):
    run(tiny_clip, tmp_path, cache_images="uint8", save_strategy="epoch")[0].train()
    with pytest.raises(ValueError, match="cache_images"):
        run(tiny_clip, tmp_path, save_strategy="epoch")[0].train(resume_from_checkpoint=True)


def test_what_cannot_be_kept_is_refused(tiny_clip, tmp_path, monkeypatch):
    tensors = [{"pixel_values": torch.zeros(3, 16, 16), "caption": "a cat"}] * 4
    with pytest.raises(ValueError, match="cache_images=uint8.*Benchmark"):
        run(tiny_clip, tmp_path / "out", tensors, cache_images="uint8")
    stream = benchmark("parquet", tmp_path / "data", [12, 12])
    with pytest.raises(ValueError, match="cache_images=uint8.*stream"):
        run(tiny_clip, tmp_path / "out", stream, cache_images="uint8", max_steps=2)
    monkeypatch.setattr(kept_images, "room_in", lambda folder: 1000)
    with pytest.raises(ValueError, match=r"cache_images=uint8.*free") as caught:
        run(tiny_clip, tmp_path / "out", cache_images="uint8")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / FOLDER).exists()
