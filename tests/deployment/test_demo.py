# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A page shows what the pipeline answers, and the nearest images by brute force; the folder of a Space answers the same, and says nothing of this machine."""

import base64
import io
import json
from dataclasses import replace
from html import unescape
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import CLASSES
from helpers.hostile_names import HOSTILE, Reader
from PIL import Image

from hf_robustft import ConformalClassifier, pipeline
from hf_robustft.cli import main
from hf_robustft.data.images import MAX_PIXELS_VARIABLE
from hf_robustft.deployment import demo_page, extras, space_files
from hf_robustft.deployment.demo import NEIGHBOURS, Answered, Demo
from hf_robustft.deployment.nearest_images import NearestImages, Neighbour, spread
from hf_robustft.deployment.space_files import write_space
from hf_robustft.modeling.features import encode_images
from hf_robustft.modeling.tensor_files import write_tensors


@pytest.fixture
def classify(checkpoint, data):
    """A pipeline with a detector that accepts half of the images, and prediction sets."""
    found = pipeline(checkpoint, device="cpu")
    rows = data.load()
    with torch.no_grad():
        logits = torch.cat([found._forward({"pixel_values": found.transform(row["image"])[None]})["logits"] for row in rows])
    labels = torch.tensor(rows["label"])
    scale = found.model.logit_scale.exp().item()
    options = {"class_names": CLASSES, "logit_scale": scale, "coverage": 0.5, "method": "lac", "temperature": found.temperature}
    found.prediction_sets = ConformalClassifier.fit(logits, labels, **options)
    return found


@pytest.fixture
def nearest(classify, data):
    return NearestImages.read(data, classify, progress=False)


def files(folder):
    return sorted(folder.rglob("*.png"))


# ---- What is shown of an image -----------------------------------------------------------------------------------------


def test_the_answer_is_that_of_the_pipeline(classify, photos):
    demo = Demo(classify, "m", top_k=2)
    judged = set()
    for path in files(photos):
        want = {**classify(path, top_k=2), "image": path.name}
        assert demo.answer(path).answer == want and len(want["classes"]) == 2
        text = unescape(demo.html(path))
        assert all(item["label"] in text and f"{100 * item['score']:.1f} %" in text for item in want["classes"])
        assert ("Unknown" in text) == (not want["is_known"]) and (", known" in text) == want["is_known"]
        assert ("50 % of such sets" in text) == want["is_known"]
        judged.add(want["is_known"])
    assert judged == {True, False}


def test_nothing_is_called_known_without_a_detector(classify, photos):
    classify.detector = None
    text = Demo(classify, "m").html(files(photos)[0])
    assert "nothing says whether it is known" in text and "Unknown" not in text


def test_nearest_images_are_those_of_brute_force(classify, nearest, photos, data):
    demo = Demo(classify, "m", nearest)
    with torch.no_grad():
        embeds = [encode_images(classify.model, classify.transform(row["image"])[None])[0] for row in data.load()]
    names = [data.class_names[label] for label in data.load()["label"]]
    assert len(embeds) > NEIGHBOURS
    for path in files(photos):
        with torch.no_grad():
            own = encode_images(classify.model, classify.transform(Image.open(path))[None])[0]
        cosines = [torch.nn.functional.cosine_similarity(own, other, dim=0).item() for other in embeds]
        want = sorted(range(len(embeds)), key=lambda i: -cosines[i])[:NEIGHBOURS]
        found = demo.answer(path).nearest
        assert [item.similarity for item in found] == pytest.approx([cosines[i] for i in want], abs=1e-5)
        assert found[0].similarity == pytest.approx(1, abs=1e-5) and found[0].label == names[want[0]]
        text = demo.html(path)
        assert text.count("<img") == NEIGHBOURS and f"cosine {found[0].similarity:.2f}" in text


def test_of_equally_near_images_the_first_come_first(nearest):
    same = NearestImages("v", torch.ones(4, 1), list("abcd"), [None] * 4, nearest.pictures[:4])
    assert [item.name for item in same.of(torch.ones(1), 3)] == ["a", "b", "c"]


@pytest.mark.parametrize("total, most, rows", [(0, 5, []), (3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (100, 1, [0])])
def test_rows_are_spread_over_the_data(total, most, rows):
    assert spread(total, most) == rows


def test_no_more_images_are_kept_than_asked_for(classify, data, nearest):
    few = NearestImages.read(data, classify, 5, progress=False)
    torch.testing.assert_close(few.embeds, nearest.embeds[spread(len(nearest.names), 5)])
    assert few.pictures == [nearest.pictures[row] for row in spread(len(nearest.names), 5)]
    for picture in few.pictures:
        assert max(Image.open(io.BytesIO(picture)).size) <= 112


# ---- Images that cannot be read, and names that would be markup ----------------------------------------------------------


def test_an_image_that_cannot_be_read_is_one_line(classify, tmp_path, monkeypatch):
    demo, folder = Demo(classify, "m"), tmp_path / "where-it-lies"
    folder.mkdir()
    (folder / "<b>bad.png").write_bytes(b"nonsense")
    Image.new("RGB", (40, 30)).save(folder / "large.png")
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "1100")
    for name, why in (("<b>bad.png", "not an image"), ("large.png", "40 x 30 pixels"), ("gone.png", "No such file")):
        text = demo.html(folder / name)
        assert why in text and "<b>" not in text and 'role="alert"' in text and "where-it-lies" not in text
        assert text.count("<p ") == 1 and "\n" not in text.split("</style>")[1]
    assert "The answer will be here" in demo.html(None)


def test_a_large_image_is_refused_before_it_is_decoded(classify, tmp_path, monkeypatch):
    Image.new("RGB", (40, 30)).save(tmp_path / "large.png")
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "1100")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda image: pytest.fail("decoded"))
    assert Demo(classify, "m").answer(tmp_path / "large.png").answer["error"]


def test_no_name_is_markup(classify):
    tags = set("style div h2 h3 p ul li span b i img br".split())
    attributes = {("div", "class"), ("p", "class"), ("p", "role"), ("ul", "class"), ("li", "title"), ("i", "style"), ("img", "src"), ("img", "alt")}
    for name in HOSTILE.values():
        answer = {"nearest_class": name, "probability": 0.5, "error": None, "prediction_set": [name]}
        answer |= {"classes": [{"label": name, "score": 0.5}], "labels": [{"label": name, "score": 0.5}]}
        demo = Demo(classify, name, SimpleNamespace(source=name, embeds=torch.zeros(1, classify.head.weight.shape[1])))
        for known in (True, False, None):
            found = Answered({**answer, "is_known": known}, [Neighbour(0.5, name, name, '"><b id=x>')])
            for text in (demo.as_html(found), demo.as_html(Answered({"error": name}, [])), demo.heading()):
                page = Reader(text)
                assert page.tags <= tags and page.attributes <= attributes and not page.comments
                assert "\u202e" not in text


# ---- The file of nearest images ------------------------------------------------------------------------------------------


def test_nearest_images_are_read_as_they_were_written(nearest, tmp_path):
    found = NearestImages.load(nearest.save(tmp_path / "a.safetensors"))
    assert torch.equal(found.embeds, nearest.embeds) and found.source == nearest.source
    assert (found.names, found.labels, found.pictures) == (list(nearest.names), list(nearest.labels), list(nearest.pictures))
    again = found.save(tmp_path / "b.safetensors")
    assert again.read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    first = nearest.of(nearest.embeds[0], 1)[0]
    assert base64.b64decode(first.picture.partition(",")[2]) == nearest.pictures[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, facts: facts.pop("names"),
        lambda tensors, facts: facts.update(format="another"),
        lambda tensors, facts: facts.update(labels="[1, 2]"),
        lambda tensors, facts: facts.update(names='["a"]'),
        lambda tensors, facts: tensors.pop("ends"),
        lambda tensors, facts: tensors.update(ends=tensors["ends"].flip(0)),
        lambda tensors, facts: tensors.update(pictures=tensors["pictures"][:-1]),
        lambda tensors, facts: tensors.update(embeds=tensors["embeds"].double()),
        lambda tensors, facts: tensors.update(embeds=tensors["embeds"][1:]),
        lambda tensors, facts: tensors["embeds"].fill_(float("nan")),
    ],
)
def test_a_damaged_file_is_refused(change, tmp_path):
    facts = {"format": "hf_robustft nearest images 1", "source": "v", "names": '["a", "b"]', "labels": "[null, null]"}
    tensors = {"embeds": torch.ones(2, 3), "ends": torch.tensor([2, 4]), "pictures": torch.zeros(4, dtype=torch.uint8)}
    assert len(NearestImages.load(write_tensors(tmp_path / "right.safetensors", tensors, facts)).names) == 2
    change(tensors, facts)
    with pytest.raises(ValueError, match="wrong.safetensors"):
        NearestImages.load(write_tensors(tmp_path / "wrong.safetensors", tensors, facts))


def test_images_of_another_model_are_refused(classify, nearest):
    with pytest.raises(ValueError, match="embeddings"):
        Demo(classify, "m", NearestImages("v", nearest.embeds[:, :-1], nearest.names, nearest.labels, nearest.pictures))


# ---- The folder of a Space -----------------------------------------------------------------------------------------------


@pytest.fixture
def without_code(monkeypatch, tmp_path):
    """Spaces with one file of code in place of hundreds."""
    code = tmp_path / "code"
    (code / "sub" / "__pycache__").mkdir(parents=True)
    (code / "sub" / "a.py").write_text("x = 1\n")
    (code / "sub" / "__pycache__" / "a.pyc").write_text("x")
    monkeypatch.setattr(space_files, "_PACKAGE", code)


def head(folder):
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def test_a_space_answers_as_the_model_it_was_written_from(classify, nearest, photos, tmp_path, without_code, monkeypatch):
    folder = tmp_path / "space"
    nearest = replace(nearest, names=["a-patient.png"] * len(nearest.names))
    written = write_space(folder, classify, "my-clip", top_k=2, nearest=nearest)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == written
    assert {"README.md", "app.py", "requirements.txt", "space.json", "nearest.safetensors", "hf_robustft/sub/a.py", "model/model.safetensors"} < set(written)
    assert not [name for name in written if name.endswith(".pyc")]
    facts = head(folder)
    assert facts["sdk"] == "gradio" and facts["sdk_version"] == space_files.GRADIO and facts["app_file"] == "app.py" and facts["title"] == "my-clip"
    assert facts["python_version"] == "3.11"
    needed = (folder / "requirements.txt").read_text().splitlines()
    assert f"gradio=={space_files.GRADIO}" in needed and {"torch>=2.13", "safetensors>=0.8"} < set(needed)
    assert not any("extra ==" in line or line.startswith(("pytest", "onnx", "peft")) for line in needed)
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert str(tmp_path).encode() not in content and b"a-patient" not in content, path
    moved = folder.rename(tmp_path / "elsewhere")
    monkeypatch.setattr(demo_page, "demo_page", lambda demo: demo)
    # Without the names of files here.
    here = Demo(classify, "my-clip", replace(nearest, names=[None] * len(nearest.names)), 2)
    there = demo_page.open_space(moved)
    for path in files(photos):
        assert there.html(path) == here.html(path)
    compile((moved / "app.py").read_text(), "app.py", "exec")


def test_a_model_of_the_hub_is_named_and_not_copied(classify, tmp_path, without_code, monkeypatch):
    folder = tmp_path / "space"
    names = {"class_names": CLASSES, "templates": ["a {}."]}
    write_space(folder, classify, "owner/name", top_k=3, hub_id="owner/name", revision="c" * 40, **names)
    assert not (folder / "model").exists() and head(folder)["models"] == ["owner/name"]
    asked = {}
    monkeypatch.setattr(demo_page, "pipeline", lambda source, **options: asked.update(source=source, **options) or classify)
    monkeypatch.setattr(demo_page, "demo_page", lambda demo: demo)
    assert demo_page.open_space(folder).top_k == 3
    assert asked["source"] == "owner/name" and asked["revision"] == "c" * 40 and asked["class_names"] == list(CLASSES) and asked["templates"] == ["a {}."]


def test_a_space_is_replaced_and_what_others_put_there_stays(classify, nearest, tmp_path, without_code):
    folder = tmp_path / "space"
    write_space(folder, classify, "m", top_k=2, nearest=nearest)
    (folder / "NOTES.md").write_text("mine")
    write_space(folder, classify, "owner/name", top_k=2, hub_id="owner/name")
    assert (folder / "NOTES.md").read_text() == "mine" and not (folder / "nearest.safetensors").exists() and not list(folder.glob("model/*"))


@pytest.mark.parametrize("content", [None, "{}", "[]", '{"format": "another"}', "nonsense"])
def test_a_folder_of_other_things_is_refused(content, classify, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "app.py").write_text("mine")
    if content is not None:
        (tmp_path / "mine" / "space.json").write_text(content)
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    with pytest.raises(ValueError, match="--space"):
        write_space(tmp_path / "mine", classify, "m", top_k=2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


def test_what_is_refused_leaves_the_folder_as_it_was(classify, tmp_path, without_code):
    def refuse(files):
        assert {"space.json", "README.md", "model/robustft.json"} < set(files) and all(path.is_file() for path in files.values())
        raise ValueError("a token")

    with pytest.raises(ValueError, match="a token"):
        write_space(tmp_path / "space", classify, "m", top_k=2, check=refuse)
    assert not (tmp_path / "space" / "space.json").exists()


@pytest.mark.parametrize("change", [{"top_k": 0}, {"top_k": True}, {"format": 1}, {"class_names": [1]}, {"class_names": []}, {"model": 3}, {"nearest": "yes"}, {"name": None}])
def test_a_damaged_space_is_refused(change, tmp_path):
    facts = {"format": extras.SPACE_FORMAT, "name": "m", "model": None, "revision": None, "class_names": None, "templates": None, "top_k": 5, "nearest": False}
    assert space_files.space_facts(facts, tmp_path) == facts
    (tmp_path / "space.json").write_text(json.dumps({**facts, **change}))
    with pytest.raises(ValueError, match="space.json"):
        demo_page.open_space(tmp_path)


# ---- The command ---------------------------------------------------------------------------------------------------------


def test_a_missing_gradio_is_said_before_anything_is_read(monkeypatch, capsys):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    monkeypatch.setattr("hf_robustft.cli.import_module", lambda name: pytest.fail("imported"))
    assert main(["demo", "emoji_clip_carot"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "gradio" in line and 'pip install "hf_robustft[demo]"' in line


def test_a_space_needs_no_gradio(checkpoint, photos, tmp_path, monkeypatch, capsys, without_code):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    monkeypatch.setenv("HF_TOKEN", "secret-of-mine-1234")
    words = ["demo", str(checkpoint), "--space", str(tmp_path / "space"), "--use_cpu", "--disable_tqdm"]
    assert main(words) == 0, capsys.readouterr().err
    assert head(tmp_path / "space")["title"] == "my-clip" and not (tmp_path / "space" / "nearest.safetensors").exists()
    assert not [path for path in (tmp_path / "space").rglob("*") if path.is_file() and b"secret-of-mine" in path.read_bytes()]
    # A token that the model's folder holds is not copied.
    facts = json.loads((checkpoint / "robustft.json").read_text())
    (checkpoint / "robustft.json").write_text(json.dumps({**facts, "settings": {"a": "secret-of-mine-1234"}}))
    before = (tmp_path / "space" / "space.json").read_bytes()
    assert main(words) == 2
    assert "robustft.json" in (said := capsys.readouterr().err.splitlines()[-1]) and "token" in said
    assert (tmp_path / "space" / "space.json").read_bytes() == before


def test_a_space_is_not_written_into_its_model(checkpoint, capsys):
    before = {path.name for path in checkpoint.iterdir()}
    assert main(["demo", str(checkpoint), "--space", str(checkpoint / "space")]) == 2
    assert "--space" in capsys.readouterr().err and {path.name for path in checkpoint.iterdir()} == before
