# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft watch` goes on from day to day, says what kind of change there is, and keeps what it has written."""

import hashlib
import json
import math
import os
import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from hf_robustft.cli import main
from hf_robustft.deployment import watch as module
from hf_robustft.deployment.martingales import block_gaps, distance_to_bank, uniform_numbers
from hf_robustft.deployment.watch_files import load
from hf_robustft.deployment.watching import (
    BLOCK,
    BROKEN,
    FEW,
    NEIGHBOURS,
    QUIET,
    STYLE,
    UNCLEAR,
    UNKNOWN,
    Reference,
    Stream,
    judge,
    moved_together,
)
from hf_robustft.files import locked

FILES = ("watch.json", "watch_images.jsonl", "watch_reference.safetensors", "watch_latest.safetensors")


def images(folder, seeds):
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def desk(tmp_path, checkpoint):
    images(tmp_path / "reference", range(24))
    images(tmp_path / "incoming" / "a", range(100, 110))
    return tmp_path


def run(desk, *more, out="out"):
    words = ["watch", str(desk / "my-clip"), "--reference", desk / "reference", "--stream", desk / "incoming", "--output_dir", desk / out]
    return main([*map(str, words), "--batch_size", "4", "--use_cpu", "--disable_tqdm", *more])


def found(desk, out="out"):
    return json.loads((desk / out / "watch.json").read_text())


# ---- The command ----------------------------------------------------------------------------------------------------


def test_each_call_reads_what_is_new(desk, monkeypatch, capsys):
    read = []
    measured = module.measured
    monkeypatch.setattr(module, "measured", lambda model, pairs, *rest: measured(model, (read.append(pair[0]) or pair for pair in pairs), *rest))
    assert run(desk) == 0 and found(desk)["verdict"] == FEW and len(read) == 34
    read.clear()
    images(desk / "incoming", range(110, 130))
    (desk / "incoming" / "broken.png").write_bytes(b"no image")
    assert run(desk) == 0 and len(read) == 21 and found(desk)["verdict"] == QUIET
    assert found(desk)["images"] == 30 and [item["image"] for item in found(desk)["broken"]] == ["broken.png"]
    read.clear()
    assert run(desk) == 0 and read == []
    images(desk, [7])
    shutil.move(desk / "7.png", desk / "incoming" / "broken.png")
    assert run(desk) == 0 and read == ["broken.png"] and found(desk)["broken"] == [] and found(desk)["images"] == 31
    assert "31 images, 1 of them new" in capsys.readouterr().out
    names = [json.loads(line)["image"] for line in (desk / "out" / "watch_images.jsonl").read_text().splitlines()]
    assert len(set(names)) == 31 and names[:10] != sorted(names[:10]) and {name[:2] for name in names[:10]} == {"a/"}


def test_a_file_that_is_written_to_its_end_while_it_is_read_is_read_again(desk, monkeypatch):
    late, whole = desk / "incoming" / "late.png", images(desk / "outside", [5]) / "5.png"
    late.write_bytes(whole.read_bytes()[:200])
    take = module._take

    def written(*given):
        late.write_bytes(whole.read_bytes())
        return take(*given)

    monkeypatch.setattr(module, "_take", written)
    assert run(desk) == 0 and [item["image"] for item in found(desk)["broken"]] == ["late.png"]
    assert run(desk) == 0 and found(desk)["broken"] == [] and found(desk)["images"] == 11


def test_killed_and_continued_is_uninterrupted_to_the_bit(desk, monkeypatch):
    images(desk / "incoming", range(110, 125))
    assert run(desk, out="whole") == 0
    monkeypatch.setattr(module, "_SECONDS", -1.0)
    monkeypatch.setattr(module, "_SHARE", 0)
    take, count = module._take, iter(range(100))

    def killed(*given):
        take(*given)
        if next(count) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_take", killed)
    assert run(desk, out="parts") == 130
    assert 0 < found(desk, "parts")["images"] < 25
    assert run(desk, out="parts") == 0
    for name in (*FILES, "watch.html"):
        assert (desk / "parts" / name).read_bytes() == (desk / "whole" / name).read_bytes(), name


def test_a_camera_that_repeats_itself_raises_the_alarm(desk):
    # Of few blocks nothing can be so certain.
    images(desk / "reference", range(24, 200))
    for number in range(80):
        shutil.copy(desk / "incoming" / "a" / "100.png", desk / "incoming" / f"again{number}.png")
    assert run(desk) == 3
    assert found(desk)["verdict"] == BROKEN and found(desk)["change"]["repeating"] > 0.5
    # It stands, whatever comes after it.
    images(desk / "incoming", range(200, 210))
    assert run(desk) == 3
    shutil.rmtree(desk / "incoming")
    images(desk / "incoming", range(200, 240))
    assert run(desk, "--overwrite") == 0


def test_a_camera_whose_files_cannot_be_read_raises_the_alarm_until_they_can(desk, capsys):
    for number in range(40):
        (desk / "incoming" / f"half{number}.png").write_bytes(b"half an image")
    assert run(desk) == 3
    assert found(desk)["verdict"] == BROKEN and found(desk)["raised_by"] == ["unreadable"] and found(desk)["images"] == 10
    assert "Could not be read: 40" in capsys.readouterr().out
    # In the order in which they were read: what could be read, and what not, came mixed.
    after = [item["after"] for item in found(desk)["broken"]]
    assert 0 <= min(after) < max(after) <= 10
    images(desk / "incoming", range(110, 145))
    assert run(desk) == 0 and found(desk)["unreadable"] == 40


def test_a_watch_goes_on_wherever_it_is_called_from(desk, monkeypatch, capsys):
    assert run(desk) == 0
    monkeypatch.chdir(desk)
    images(desk / "incoming", range(110, 113))
    words = "watch my-clip --reference ./reference --stream incoming/../incoming --output_dir out --use_cpu --disable_tqdm"
    assert main(words.split()) == 0 and found(desk)["images"] == 13
    images(desk / "elsewhere" / "incoming", [3])
    monkeypatch.chdir(desk / "elsewhere")
    assert main(words.replace("my-clip", "../my-clip").replace("./ref", "../ref").replace("dir out", "dir ../out").split()) == 2
    assert "--stream" in capsys.readouterr().err and found(desk)["images"] == 13


def test_an_empty_folder_is_watched(desk):
    shutil.rmtree(desk / "incoming")
    (desk / "incoming").mkdir()
    assert run(desk) == 0 and found(desk)["verdict"] == FEW and found(desk)["images"] == 0
    images(desk / "incoming", range(100, 104))
    assert run(desk) == 0 and found(desk)["images"] == 4


def test_two_at_once_on_one_watch(desk, capsys):
    held, over = threading.Event(), threading.Event()

    def holder():
        with locked(desk / "out", "hf-robustft watch"):
            held.set()
            over.wait(60)

    thread = threading.Thread(target=holder)
    thread.start()
    held.wait()
    assert run(desk) == 2
    over.set()
    thread.join()
    said = capsys.readouterr().err
    assert str(desk / "out") in said and "`hf-robustft watch` (process" in said and len(said.strip().splitlines()) == 1
    assert run(desk) == 0


def test_a_revision_of_what_is_here_is_refused(desk, capsys):
    assert run(desk, "--revision", "main") == 2 and "`--revision main`" in capsys.readouterr().err


def test_another_version_goes_on_and_says_so(desk, monkeypatch):
    assert run(desk) == 0
    monkeypatch.setattr(module, "__version__", "99")
    with pytest.warns(UserWarning, match="another version"):
        assert run(desk) == 0
    assert found(desk)["record"]["hf_robustft"] == "99"


def test_a_watch_of_something_else_is_refused(desk, capsys):
    assert run(desk) == 0
    before = (desk / "out" / "watch.json").read_bytes()
    for option in ("--level", "--seed"):
        assert run(desk, option, "0.5" if option == "--level" else "3") == 2
        assert option in capsys.readouterr().err
    images(desk / "reference", [90])
    assert run(desk) == 2 and "the reference" in capsys.readouterr().err
    (desk / "reference" / "90.png").unlink()
    facts = json.loads((desk / "my-clip" / "robustft.json").read_text())
    (desk / "my-clip" / "robustft.json").write_text(json.dumps({**facts, "settings": {"seed": 5}}))
    assert run(desk) == 2 and "the model" in capsys.readouterr().err
    assert (desk / "out" / "watch.json").read_bytes() == before
    assert run(desk, "--overwrite") == 0


def test_a_reference_with_a_link_to_nowhere_is_refused(desk, capsys):
    (desk / "reference" / "gone.png").symlink_to(desk / "nowhere.png")
    assert run(desk) == 2
    assert "`--reference`: 1 image cannot be read: " in (said := capsys.readouterr().err) and "gone.png" in said


def test_too_small_a_reference_is_refused(desk, capsys):
    for number in range(5, 24):
        (desk / "reference" / f"{number}.png").unlink()
    assert run(desk) == 2 and "`--reference` has 5 images" in capsys.readouterr().err
    assert not (desk / "out").exists()


def test_no_name_of_a_file_is_markup(desk):
    (desk / "incoming" / "a" / "100.png").rename(desk / "incoming" / "<b>&amp;'.png")
    (desk / "incoming" / "<i>\u202e.png").write_bytes(b"<script>")
    shutil.copy(desk / "incoming" / "a" / "101.png", os.fsencode(desk / "incoming") + b"/\xff.png")
    assert run(desk) == 0
    page = (desk / "out" / "watch.html").read_text()
    assert "&lt;b&gt;&amp;amp;&#x27;.png" in page and "&lt;i&gt;\\u202e.png" in page and "\\udcff.png" in page and "<b>" not in page and "<i>" not in page
    assert page.count("data:image/webp;base64,") == 11 and "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("name", FILES)
def test_what_is_damaged_is_refused_by_name(desk, name, capsys):
    assert run(desk) == 0
    path = desk / "out" / name
    content = path.read_bytes()
    for damage in (content[:-9], content[:20] + b"\x00" + content[21:], b""):
        path.write_bytes(damage)
        assert run(desk) == 2
        said = capsys.readouterr().err
        assert name in said and "--overwrite" in said and len(said.strip().splitlines()) == 1
    path.unlink()
    # Without the first there is no watch.
    assert run(desk) == (0 if name == "watch.json" else 2)


#: What a line of an image may not be, even where the hashes fit.
LINES = (
    {"probability": 1.5}, {"probability": "0.5"}, {"score": math.nan}, {"score": None}, {"distance": True}, {"image": 3}, {"label": None},
    {"is_known": 1}, {"is_known": None}, {"gap": 0.0}, {"image": "a/100.png"}, {"image": "../100.png"}, {"image": "/100.png"}, {"score": 10**400},
)  # fmt: skip


def test_a_hostile_state_is_refused_field_by_field(desk):
    assert run(desk) == 0
    folder = desk / "out"
    good, content = (folder / "watch_images.jsonl").read_text(), found(desk)
    first = json.loads(good.splitlines()[0])
    for change in LINES:
        if change.get("image") == first["image"]:
            change = {"image": json.loads(good.splitlines()[1])["image"]}
        lines = [json.dumps({**first, **change}), *good.splitlines()[1:]]
        (folder / "watch_images.jsonl").write_text("\n".join(lines) + "\n")
        hashes = {**content["files"], "watch_images.jsonl": hashlib.sha256((folder / "watch_images.jsonl").read_bytes()).hexdigest()}
        (folder / "watch.json").write_text(json.dumps({**content, "files": hashes}))
        with pytest.raises(ValueError, match="watch_images.jsonl is missing or damaged"):
            load(folder)
    (folder / "watch_images.jsonl").write_text(good)
    for change in ({"format": 9}, {"record": []}, {"files": None}, {"broken": {}}, {"broken": [{"image": 1}]}, {"broken": ["a"]}):
        (folder / "watch.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match="watch.json is missing or damaged"):
            load(folder)
    (folder / "watch.json").write_text(json.dumps(content))
    assert load(folder).stream.names[0] == first["image"]


# ---- The judgement ---------------------------------------------------------------------------------------------------

DIM, KNOWN = 256, 100
#: As many known classes and others, at right angles; no image of a reference has anything in the last direction.
CLASSES = torch.linalg.qr(torch.randn(DIM, 2 * KNOWN, generator=torch.Generator().manual_seed(7)) * (torch.arange(DIM) < DIM - 1)[:, None])[0].T


def score_of(embeds: torch.Tensor) -> torch.Tensor:
    return 10 * (embeds.double() @ CLASSES[:KNOWN].double().T).amax(1)


def labels_of(embeds: torch.Tensor) -> list[str]:
    return [f"class {number}" for number in (embeds.double() @ CLASSES[:KNOWN].double().T).argmax(1).tolist()]


def unit(seed: int, count: int, move: float = 0.0, unseen: float = 0.0) -> torch.Tensor:
    """Images around their classes, a share of them `unseen`, which a style moves into a direction of its own."""
    draw = torch.Generator().manual_seed(seed)
    number = torch.randint(KNOWN, (count,), generator=draw) + KNOWN * (torch.rand(count, generator=draw) < unseen)
    rows = CLASSES[number] + 0.1 * torch.randn(count, DIM, generator=draw) * (torch.arange(DIM) < DIM - 1)
    rows[:, -1] += move
    return torch.nn.functional.normalize(rows, dim=1)


def stream(reference, embeds) -> Stream:
    made, score = Stream(embeds.new_zeros(0, DIM)), score_of(embeds)
    made.add(reference, [f"{i}" for i in range(len(embeds))], labels_of(embeds), [True] * len(embeds), embeds, score, (score - 5).sigmoid())
    return made


@pytest.fixture
def reference():
    embeds = unit(0, 400)
    score = score_of(embeds)
    return Reference.of([str(i) for i in range(400)], labels_of(embeds), embeds, score, (score - 5).sigmoid(), [True] * 400, seed=0)


@pytest.mark.parametrize(
    ("move", "unseen", "count", "verdict"),
    [(0, 0, 300, QUIET), (0, 0, 12, FEW), (0.6, 0, 300, STYLE), (1.5, 0, 300, STYLE), (0, 1, 300, UNKNOWN), (0, 0.4, 300, UNKNOWN)],
)
def test_the_verdict_tells_the_kind_of_a_change(reference, move, unseen, count, verdict):
    report = judge(reference, stream(reference, unit(5, count, move, unseen)), 0.01, seed=0).report
    assert report["verdict"] == verdict and report["alarm"] is (verdict in (STYLE, UNKNOWN))
    if verdict == QUIET:
        assert report["statistics"]["score"]["more_foreign_than_reference"] == pytest.approx(0.5, abs=0.06)


def test_images_of_different_classes_that_move_together(reference):
    embeds = unit(5, 60, move=0.5)
    labels, base = labels_of(embeds), unit(0, 400)
    known = labels_of(base)
    centres = {name: base[[one == name for one in known]].double().mean(0) for name in known if known.count(name) > 1}
    assert 0 < len(set(known) - centres.keys()) and set(labels) - centres.keys()

    def away(embeds, labels):
        return [(row - centres[label], label) for row, label in zip(embeds.double(), labels, strict=True) if label in centres]

    products = [(one @ two).item() for one, a in away(embeds, labels) for two, b in away(embeds, labels) if a != b]
    spread = np.mean([row.square().sum().item() for row, _ in away(base, known)])
    assert moved_together(reference, embeds, labels) == pytest.approx(math.sqrt(np.mean(products) / spread))
    # A class that the reference has not seen twice has no centre, and one class has no other.
    assert moved_together(reference, embeds, ["fox"] * 60) is moved_together(reference, embeds, ["class 1"] * 60) is None
    made = stream(reference, unit(5, 300, move=1.0))
    made.labels = ["fox"] * 300
    assert judge(reference, made, 0.01, seed=0).report["verdict"] == UNCLEAR


def test_files_that_cannot_be_read_are_a_broken_camera(reference):
    made = stream(reference, unit(5, 100))
    for after, alarm in (([100] * 29, False), ([100] * 30, True), ([70] * 30, True), ([69] + [100] * 29, False), ([5] * 90, False)):
        report = judge(reference, made, 0.01, seed=0, unreadable=after).report
        assert report["alarm"] is alarm and report["verdict"] == (BROKEN if alarm else QUIET) and report["unreadable"] == len(after), after


def test_estimated_accuracy_is_the_mean_confidence(reference):
    made = stream(reference, unit(5, 40, 0.3))
    made.known = [value > 0.4 for value in made.probability]
    guess = judge(reference, made, 0.01, seed=0).report["estimated_accuracy"]
    accepted = [value for value in made.probability if value > 0.4]
    assert 0 < len(accepted) < 40
    assert guess["all"]["accuracy"] == pytest.approx(np.mean(made.probability))
    assert guess["all"]["standard_error"] == pytest.approx(np.std(made.probability, ddof=1) / math.sqrt(40))
    assert guess["accepted"]["accuracy"] == pytest.approx(np.mean(accepted)) and guess["accepted"]["images"] == len(accepted)


def test_images_in_parts_are_images_at_once(reference):
    embeds = unit(6, 300)
    whole, parts = stream(reference, embeds), Stream(embeds.new_zeros(0, DIM))
    for start, end in ((0, 3), (3, 4), (4, 9), (9, 290), (290, 300)):
        part = slice(start, end)
        numbers = (torch.tensor(values[part], dtype=torch.float64) for values in (whole.score, whole.probability))
        parts.add(reference, whole.names[part], whole.labels[part], whole.known[part], embeds[part], *numbers)
    assert parts.gaps == whole.gaps == block_gaps(embeds, BLOCK).clamp(max=reference.clip).tolist()
    assert torch.equal(parts.recent, whole.recent) and torch.equal(parts.recent, embeds[-256:])
    assert parts.distance == pytest.approx(distance_to_bank(embeds, reference.bank, NEIGHBOURS).tolist())


def test_no_image_of_the_bank_is_compared_with_it(reference):
    assert len(reference.bank) == len(reference.distance) == 200 and reference.distance.min() > 1e-4
    # Nor with what it has decided on.
    assert len(reference.gaps) == 50 and reference.gaps.max() == reference.clip
    order = uniform_numbers([str(i) for i in range(400)], "0/reference").argsort(stable=True)
    embeds = unit(0, 400)
    assert torch.equal(reference.bank, embeds[order[:200]])
    # Two that are alike in the second block of the other half.
    embeds[order[204]] = embeds[order[206]]
    score = score_of(embeds)
    again = Reference.of([str(i) for i in range(400)], labels_of(embeds), embeds, score, score.sigmoid(), [True] * 400, seed=0)
    assert again.gaps[1] == 0 and torch.equal(again.gaps[2:], reference.gaps[2:]) and again.clip == reference.clip
