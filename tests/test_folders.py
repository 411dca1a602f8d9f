# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which files and folders are data: images by ending, never those of helpers; what is not read is counted."""

import os

import pytest
from streams import picture

from hf_robustft.data.folders import image_files


def put(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number, number % 4))
    return root


def listed(root):
    return [str(file.relative_to(root)) for file in image_files(root).images]


HELPERS = (".ipynb_checkpoints", "__MACOSX", ".thumbnails", "@eaDir", "thumbs", "Thumbs", ".git", "thumbnails")


@pytest.mark.parametrize("helper", HELPERS)
def test_helpers_are_never_read_at_any_depth(tmp_path, helper):
    put(tmp_path, "a.png", f"{helper}/b.png", f"x/{helper}/c.png", f"x/y/{helper}/z/d.png", "x/e.JPG")
    assert listed(tmp_path) == ["a.png", "x/e.JPG"]
    assert listed(tmp_path / helper) == ["b.png"], "a folder that the user names is read whatever its name"


def test_files_that_are_not_images_are_counted_by_ending(tmp_path):
    put(
        tmp_path,
        "a.png",
        "__b.png",
        "b.heic",
        "x/c.HEIC",
        "d.svg",
        "e",
        "x/Thumbs.db",
        ".DS_Store",
        "._a.png",
        "desktop.ini",
    )
    files = image_files(tmp_path)
    assert [file.name for file in files.images] == ["__b.png", "a.png"]
    assert files.others == {".heic": 2, ".svg": 1, "": 1}
    assert files.left_out() == "2 files ending in .heic, 1 file without an ending, 1 file ending in .svg"
    put(tmp_path, "x/@eaDir/a.png")
    assert "1 helper folder ('@eaDir')" in image_files(tmp_path).left_out()


def test_links_loops_and_pipes(tmp_path):
    put(tmp_path, "data/cat/a.png", "data/dog/b.png", "elsewhere/c.png")
    (tmp_path / "data/cat/loop").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data/cat/more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "data/cat/pipe.png")
    # The loop would make cats of the dogs.
    assert listed(tmp_path / "data/cat") == ["a.png", "gone.png", "more/c.png"]
    assert image_files(tmp_path / "data/cat").left_out() == "1 pipe or device"
