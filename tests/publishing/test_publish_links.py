# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Nothing from outside of a folder is published because a link or a card points to it."""

from types import SimpleNamespace

import pytest
from helpers import CLASSES, TEMPLATES, tiny_processor

from hf_robustft import publish
from hf_robustft.publishing.metadata import write_robustft_json
from hf_robustft.training.hub_push import HubPusher, linked_copy

SECRET = "-----BEGIN PRIVATE KEY-----"


@pytest.fixture
def folder(tmp_path, tiny_clip):
    """A finished folder with a card that shows a picture, and beside it a private file and a private folder."""
    folder = tmp_path / "home" / "my-clip"
    tiny_clip.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    write_robustft_json(folder, method="flyp", class_names=CLASSES, templates=TEMPLATES, settings={})
    (folder / "README.md").write_text("# My model\n\n![curve](pictures/curve.png)\n")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "curve.png").write_bytes(b"png")
    (tmp_path / "private").mkdir()
    for name in ("key", "curve.png", "x.yaml", "log"):
        (tmp_path / "private" / name).write_text(SECRET)
    return folder


def replaced_folder(folder, name):
    for path in (folder / name).iterdir():
        path.unlink()
    (folder / name).rmdir()
    (folder / name).symlink_to(folder.parents[1] / "private")


def chain(folder):
    (folder / "notes").symlink_to("../../private/key")
    (folder / "LICENSE").symlink_to("notes")


def picture(folder):
    (folder / "pictures" / "curve.png").unlink()
    (folder / "pictures" / "curve.png").symlink_to(folder.parents[1] / "private" / "curve.png")


LEAVING = {
    "file": (lambda folder: (folder / "LICENSE").symlink_to("../../private/key"), "LICENSE"),
    "absolute": (lambda folder: (folder / "LICENSE").symlink_to(folder.parents[1] / "private" / "key"), "LICENSE"),
    "chain": (chain, "LICENSE"),
    "picture": (picture, "pictures/curve.png"),
    "folder of pictures": (lambda folder: replaced_folder(folder, "pictures"), "pictures"),
    "folder of results": (lambda folder: (folder / ".eval_results").symlink_to("../../private"), ".eval_results"),
    "folder that is asked for": (lambda folder: (folder / "runs").symlink_to("../../private"), "runs"),
}


@pytest.mark.parametrize("case", LEAVING)
def test_links_that_leave_the_folder_are_refused_by_name(folder, case):
    spoil, name = LEAVING[case]
    publish(folder, "me/clip", dry_run=True)
    spoil(folder)
    with pytest.raises(ValueError, match=f"^{name} in .*private") as error:
        publish(folder, "me/clip", dry_run=True, include=["runs/*"])
    assert "\n" not in str(error.value)


def test_links_that_stay_inside_and_links_that_are_not_published_are_fine(folder, tmp_path):
    (folder / "notes").write_text("MIT")
    (folder / "LICENSE").symlink_to("notes")
    (folder / "around").symlink_to("..")
    (folder / "circle").symlink_to(".")
    (folder / "elsewhere").symlink_to(tmp_path / "private")
    (folder / "key.pem").symlink_to(tmp_path / "private" / "key")
    (tmp_path / "linked").symlink_to(folder)
    for place in (folder, tmp_path / "linked"):
        files = publish(place, "me/clip", dry_run=True).files
        assert "LICENSE" in files and "pictures/curve.png" in files
        assert not any(name.startswith(("elsewhere", "key", "around", "circle")) for name in files)


@pytest.mark.parametrize("path", ["../../private/curve.png", "pictures/../../../private/curve.png"])
def test_a_card_that_shows_a_picture_from_outside_is_published_without_it(folder, path):
    with open(folder / "README.md", "a") as card:
        card.write(f"\n![other]({path})\n")
    with pytest.warns(UserWarning, match="outside the folder"):
        files = publish(folder, "me/clip", dry_run=True).files
    assert not any("private" in name for name in files)


def test_pushes_of_a_run_take_nothing_from_outside(folder, tmp_path):
    with open(folder / "README.md", "a") as card:
        card.write("\n![other](../../private/curve.png)\n")
    stage = folder / ".push" / "step-1"
    stage.mkdir(parents=True)
    HubPusher(None, SimpleNamespace(output_dir=str(folder)))._describe(stage)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    inside = {"home/my-clip/pictures/curve.png", "home/my-clip/.push/step-1/pictures/curve.png"}
    assert found == {"private/curve.png", *inside}
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text("{}")
    (checkpoint / "LICENSE").symlink_to(tmp_path / "private" / "key")
    (checkpoint / "more").symlink_to(tmp_path / "private")
    linked_copy(checkpoint, tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").rglob("*")] == ["state.json"]


def test_a_pattern_that_fits_nothing_is_refused(folder):
    (folder / "runs").mkdir()
    (folder / "runs" / "events").write_text("log")
    assert "runs/events" in publish(folder, "me/clip", dry_run=True, include=["runs/*"]).files
    with pytest.raises(ValueError, match=r"`--include ruins/\*` fits no file"):
        publish(folder, "me/clip", dry_run=True, include=["runs/*", "ruins/*"])
