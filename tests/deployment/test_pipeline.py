# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Three lines classify a folder of images with "unknown" as an answer, by the evaluation's own numbers."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from datasets import Dataset
from datasets import Image as Image_
from helpers import CLASSES, tiny_processor
from helpers.broken_images import unusual
from helpers.detectors import detector
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from hf_robustft.data.benchmarks import EMOJI_CLIP_DIR, Benchmark, load_benchmark
from hf_robustft.deployment.pipeline import TASK, OpenSetImageClassificationPipeline, pipeline
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.evaluation.detector import OpenSetDetector
from hf_robustft.evaluation.prediction_sets import ConformalClassifier
from hf_robustft.evaluation.report import TRAINED_HEAD
from hf_robustft.modeling import checkpoint_file
from hf_robustft.modeling.metadata import load_robustft_json, update_robustft_json
from hf_robustft.modeling.zero_shot import HEAD_FILE, ZeroShotHead
from hf_robustft.publishing.metadata import write_robustft_json

N = 12
KEYS = ["image", "label", "probability", "score", "is_known", "nearest_class", "error"]


def trained_head() -> ZeroShotHead:
    return ZeroShotHead(torch.randn(4, 16, generator=torch.Generator().manual_seed(1)), CLASSES, torch.arange(4.0))


# ---- What it answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, N])
def test_the_answers_are_those_of_the_evaluation(checkpoint, photos, data, batch_size):
    model = CLIPModel.from_pretrained(checkpoint)
    logits, _ = collect_logits(model, data, tiny_processor(), batch_size=batch_size, progress=False)
    want = OpenSetDetector.from_pretrained(checkpoint).predict(logits)
    found = pipeline(checkpoint, batch_size=batch_size)(str(photos))
    assert len(found) == N and [list(row) for row in found] == [KEYS] * N
    assert [row["nearest_class"] for row in found] == [item.label for item in want]
    assert [row["is_known"] for row in found] == [item.is_known for item in want]
    assert [row["probability"] for row in found] == pytest.approx([item.probability for item in want], rel=1e-5)
    assert [row["score"] for row in found] == pytest.approx([item.score for item in want], rel=1e-5, abs=1e-6)
    assert sum(row["is_known"] for row in found) == N // 2
    for row in found:
        assert row["label"] == (row["nearest_class"] if row["is_known"] else "unknown")
    probabilities = (logits.double() / 1.7).softmax(dim=1).amax(dim=1)
    assert [row["probability"] for row in found] == pytest.approx(probabilities.tolist(), rel=1e-5)


def test_a_folder_is_read_to_its_depths_in_order_without_what_is_no_image(checkpoint, photos):
    for other in ("notes.txt", ".hidden.png", ".cache/x.png"):
        (photos / other).parent.mkdir(exist_ok=True)
        (photos / other).write_text("no image")
    found = pipeline(checkpoint)(photos)
    files = [photos / ("a" if i < 5 else "b/deep") / f"{i:02d}.png" for i in range(N)]
    assert [row["image"] for row in found] == [str(file) for file in files]


def test_a_class_that_is_called_unknown_is_warned_of(checkpoint, recwarn):
    pipeline(checkpoint)
    assert not [item for item in recwarn if "is_known" in str(item.message)]
    content = json.loads((checkpoint / "robustft.json").read_text())
    names = ["unknown", *CLASSES[1:]]
    content["class_names"] = content["detector"]["class_names"] = names
    del content["fitted_prompts"]
    (checkpoint / "robustft.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="'unknown'.*is_known"):
        pipeline(checkpoint)


def test_files_pictures_and_lists_of_them_are_taken(checkpoint, photos):
    classify, path = pipeline(checkpoint), photos / "a" / "00.png"
    one = classify(str(path))
    assert one["image"] == str(path) and classify(path) == one
    picture = Image.open(path).copy()
    assert classify(picture) == {**one, "image": None}
    assert classify(Image.open(path)) == one
    several = classify([path, picture, str(path)], batch_size=2)
    assert [row["image"] for row in several] == [str(path), None, str(path)]
    assert [row["score"] for row in several] == pytest.approx([one["score"]] * 3, rel=1e-5, abs=1e-6)
    assert classify([]) == []


def test_columns_iterators_encoded_images_and_home_are_taken(checkpoint, photos, monkeypatch):
    classify, files = pipeline(checkpoint), sorted(photos.rglob("*.png"))[:3]
    want = [found["score"] for found in classify(list(files))]
    column = Dataset.from_dict({"image": list(map(str, files))}).cast_column("image", Image_())["image"]
    encoded = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    for images in (column, iter(files), map(str, files), dict.fromkeys(files).keys(), encoded):
        assert [found["score"] for found in classify(images)] == pytest.approx(want, rel=1e-5)
    assert [found["image"] for found in classify(encoded)] == [file.name for file in files] and classify({**encoded[0], "path": None})["image"] is None
    monkeypatch.setenv("HOME", str(files[0].parent))
    assert classify(f"~/{files[0].name}")["score"] == pytest.approx(want[0], rel=1e-5)


@pytest.mark.parametrize("text", ["data:image/png;base64,iVBORw0KGgo=", "iVBORw0KGgo" * 1000])
def test_an_image_that_is_written_as_text_is_refused_without_all_of_it(text, checkpoint):
    for images in (text, [text]):
        with pytest.raises(ValueError, match=f"text of {len(text):,} characters.*base64") as found:
            pipeline(checkpoint)(images)
        assert len(str(found.value)) < 200


def test_rows_of_several_columns_are_no_images(checkpoint):
    with pytest.raises(ValueError, match="dict of 'image', 'label'.*one column"):
        list(pipeline(checkpoint)(Dataset.from_dict({"image": ["a.png"], "label": [0]})))


def test_pictures_are_turned_as_the_camera_says_and_transparency_is_white(checkpoint, photos, tmp_path):
    classify, picture = pipeline(checkpoint), Image.open(photos / "a" / "00.png").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    upright = classify(picture.transpose(Image.Transpose.ROTATE_270))
    assert classify(tmp_path / "turned.png")["score"] == upright["score"] != classify(picture)["score"]
    clear, white = Image.new("RGBA", (40, 40), (0, 0, 0, 0)), Image.new("RGB", (40, 40), "white")
    assert classify(clear) == classify(white)


def test_the_pipeline_of_transformers_knows_the_task(checkpoint, photos):
    classify = transformers.pipeline(TASK, model=str(checkpoint), batch_size=4)
    assert isinstance(classify, OpenSetImageClassificationPipeline)
    assert classify([str(photos / "a" / "00.png")])[0] == pipeline(checkpoint)(str(photos / "a" / "00.png"))


def test_a_model_in_training_mode_and_other_facts_may_be_given(tiny_clip, checkpoint, photos, data):
    wide = detector(tiny_clip, data, true_positive_rate=1.0, temperature=None, score="max_logit")
    classify = OpenSetImageClassificationPipeline(
        tiny_clip.train(), tiny_processor(), directory=checkpoint, detector=wide, batch_size=4
    )
    found = classify(photos)
    assert not tiny_clip.training and all(row["is_known"] for row in found)
    assert [row["score"] for row in found] != [row["score"] for row in pipeline(checkpoint)(photos)]


def test_facts_of_another_folder_may_be_given_with_weights_that_have_none(checkpoint, photos, tmp_path):
    plain = shutil.copytree(checkpoint, tmp_path / "plain")
    (plain / "robustft.json").unlink()
    with pytest.raises(FileNotFoundError, match="robustft.json"):
        pipeline(plain)
    assert pipeline(plain, directory=checkpoint)(photos) == pipeline(checkpoint, directory=None)(photos)


def test_what_the_small_files_say_is_refused_before_weights_are_read(checkpoint, monkeypatch):
    monkeypatch.setattr("hf_robustft.deployment.pipeline.load_checkpoint", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match="require_detector=False"):
        pipeline(checkpoint, class_names=["cat", "dog"])
    update_robustft_json(checkpoint, detector=None)
    with pytest.raises(ValueError, match="require_detector=False"):
        pipeline(checkpoint)
    update_robustft_json(checkpoint, temperature=None, prediction_sets=None)
    (checkpoint / "robustft.json").write_text(json.dumps(json.loads((checkpoint / "robustft.json").read_text()) | {"class_names": []}))
    with pytest.raises(ValueError, match="no class names"):
        pipeline(checkpoint, require_detector=False)


def test_without_a_detector_it_refuses_or_calls_nothing_unknown(checkpoint, photos):
    with_detector = pipeline(checkpoint)(photos)
    update_robustft_json(checkpoint, detector=None)
    with pytest.raises(ValueError, match=r"no detector.*hf-robustft calibrate.*require_detector=False"):
        pipeline(checkpoint)
    found = pipeline(checkpoint, require_detector=False)(photos)
    assert {(row["is_known"], row["score"]) for row in found} == {(None, None)}
    for row, other in zip(found, with_detector, strict=True):
        assert row["label"] == row["nearest_class"] == other["nearest_class"]
        assert row["probability"] == pytest.approx(other["probability"], rel=1e-5, abs=1e-6), (
            "the temperature is applied"
        )


# ---- Heads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [TRAINED_HEAD, None])
def test_a_trained_head_classifies_where_the_results_are_its_own(checkpoint, tiny_clip, photos, data, said):
    head = trained_head()
    head.save_pretrained(checkpoint)
    update_robustft_json(checkpoint, head=said, detector=None, temperature=None)
    detector(tiny_clip, data, head=head).save(checkpoint)
    logits, _ = collect_logits(tiny_clip, data, tiny_processor(), head=head, progress=False)
    found = pipeline(checkpoint)(photos)
    assert [row["nearest_class"] for row in found] == [CLASSES[i] for i in logits.argmax(dim=1)]
    assert [row["score"] for row in found] == pytest.approx(logits.double().logsumexp(dim=1).tolist(), rel=1e-5)


def test_a_head_that_lies_there_is_not_used_where_the_results_are_not_its_own(checkpoint, photos):
    before = pipeline(checkpoint)(photos)
    trained_head().save_pretrained(checkpoint)
    assert pipeline(checkpoint)(photos) == before


def test_a_missing_or_foreign_head_is_refused(checkpoint):
    update_robustft_json(checkpoint, head=TRAINED_HEAD)
    with pytest.raises(OSError, match="No head.safetensors"):
        pipeline(checkpoint)
    ZeroShotHead(torch.eye(4, 16), CLASSES[::-1]).save_pretrained(checkpoint)
    with pytest.raises(ValueError, match="not the 4 of robustft.json"):
        pipeline(checkpoint)


# ---- Checkpoints that do not fit -----------------------------------------------------------------------------------


def test_a_detector_of_other_classes_is_refused(checkpoint):
    facts = load_robustft_json(checkpoint)
    facts["class_names"] = [*CLASSES[:3], "ant"]
    (checkpoint / "robustft.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="'class_names'.*detector was fitted with"):
        pipeline(checkpoint)
    # Of a folder that does not say which prompts its detector was fitted with.
    del facts["fitted_prompts"]
    (checkpoint / "robustft.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="detector is for other classes"):
        pipeline(checkpoint)


def test_other_templates_than_those_of_the_fit_are_refused_unless_they_are_given(checkpoint, photos):
    facts = load_robustft_json(checkpoint)
    (checkpoint / "robustft.json").write_text(json.dumps({**facts, "templates": ["a sketch of a {}."]}))
    with pytest.raises(ValueError, match="'templates'.*detector.*--templates"):
        pipeline(checkpoint)
    (checkpoint / "robustft.json").write_text(json.dumps(facts))
    assert {row["is_known"] for row in pipeline(checkpoint, templates=["a sketch of a {}."], require_detector=False)(photos)} == {None}


def test_a_given_detector_of_other_classes_is_refused(checkpoint):
    foreign = OpenSetDetector.fit(torch.randn(9, 2), class_names=("x", "y"), logit_scale=14.0)
    with pytest.raises(ValueError, match="fitted for other classes"):
        pipeline(checkpoint, detector=foreign)


def test_a_logit_scale_that_moved_is_refused(checkpoint, tiny_clip):
    with torch.no_grad():
        tiny_clip.logit_scale.add_(0.1)
    tiny_clip.save_pretrained(checkpoint)
    with pytest.raises(ValueError, match="detector.*fitted with"):
        pipeline(checkpoint)
    # Of a folder that does not say which weights its detector was fitted with.
    facts = load_robustft_json(checkpoint)
    del facts["fitted_weights"]
    (checkpoint / "robustft.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"logit scale is .* [Rr]efit"):
        pipeline(checkpoint)


def test_a_model_of_captions_has_no_classes(checkpoint):
    write_robustft_json(checkpoint, method="flyp", class_names=(), templates=(), settings={})
    with pytest.raises(ValueError, match="no class names"):
        pipeline(checkpoint)


def test_checkpoints_of_others_are_refused(checkpoint, tmp_path, tiny_clip):
    (checkpoint / "robustft.json").unlink()
    with pytest.raises(OSError, match="no robustft.json"):
        pipeline(checkpoint)
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="type 'bert'.*CLIPModel, MetaClip2Model"):
        pipeline(tmp_path / "bert")
    with pytest.raises(ValueError, match="CLIPVisionModel.*CLIPModel, MetaClip2Model"):
        OpenSetImageClassificationPipeline(tiny_clip.vision_model, tiny_processor())
    with pytest.raises(ValueError, match="not loaded from a folder"):
        OpenSetImageClassificationPipeline(tiny_clip, tiny_processor())
    with pytest.raises(FileNotFoundError, match="folder .*nothing"):
        pipeline(tmp_path / "nothing")


# ---- Images that do not fit ----------------------------------------------------------------------------------------


def test_an_unreadable_image_is_named(checkpoint, photos):
    classify, broken = pipeline(checkpoint), photos / "b" / "broken.jpg"
    for content in (b"no image", b"", (photos / "a" / "00.png").read_bytes()[:200]):
        broken.write_bytes(content)
        with pytest.raises(OSError, match=r"image of .*broken\.jpg cannot be read: .*mend or remove it"):
            classify(broken)


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (4, 0), (100, 0), (4, 2)])
@pytest.mark.parametrize("detected", [True, False])
def test_images_that_cannot_be_read_are_named_and_the_others_answered(
    checkpoint, photos, batch_size, num_workers, detected
):
    if not detected:
        update_robustft_json(checkpoint, detector=None)
    classify = pipeline(checkpoint, require_detector=False)
    want = {row["image"]: row for row in classify(photos)}
    assert {row["error"] for row in want.values()} == {None}
    broken = [photos / "a" / "0.jpg", photos / "a" / "99.webp", photos / "z.png"]
    for path, content in zip(broken, (b"no image", b"", (photos / "a" / "00.png").read_bytes()[:200]), strict=True):
        path.write_bytes(content)
    (photos / "gone.png").symlink_to(photos / "nowhere")
    options = {"batch_size": batch_size, "num_workers": num_workers}
    found = classify(photos, **options)
    assert [row["image"] for row in found] == sorted([*want, *map(str, broken), str(photos / "gone.png")])
    for row in found:
        assert list(row) == KEYS
        if row["image"] in want:
            assert (row["label"], row["error"]) == (want[row["image"]]["label"], None)
            assert row["probability"] == pytest.approx(want[row["image"]]["probability"], rel=1e-5)
        else:
            assert row["image"] in row["error"] and "\n" not in row["error"]
            assert {row[key] for key in KEYS[1:-1]} == {None}
    files = [row["image"] for row in found] + [str(photos / "never.png")]
    assert [row["error"] is None for row in classify(files, **options)] == [path in want for path in files]
    if not num_workers:
        assert list(classify((path for path in files), **options)) == classify(files, **options)


def test_what_is_not_read_in_a_folder_is_said_once(checkpoint, photos):
    image = (photos / "a" / "00.png").read_bytes()
    for name in (".ipynb_checkpoints/x.png", "__MACOSX/a/x.png", "a/@eaDir/x.png", "a/b.heic", "c.HEIC", "plain"):
        (photos / name).parent.mkdir(exist_ok=True, parents=True)
        (photos / name).write_bytes(image)
    with pytest.warns(UserWarning, match="2 files ending in .heic, 1 file without an ending") as caught:
        assert len(pipeline(checkpoint)(photos)) == N
    assert len(caught) == 1
    only = photos / "only"
    only.mkdir()
    (only / "b.heic").write_bytes(image)
    with pytest.raises(ValueError, match=r"no image in .*only.* ending in .heic"):
        pipeline(checkpoint)(only)


def test_a_pipe_is_not_waited_for(checkpoint, photos):
    os.mkfifo(photos / "pipe.png")
    classify = pipeline(checkpoint)
    with pytest.warns(UserWarning, match="1 pipe"):
        assert len(classify(photos)) == N
    with pytest.raises(OSError, match="not a file"):
        classify(photos / "pipe.png")


def test_what_is_no_image_is_refused(checkpoint, tmp_path):
    classify = pipeline(checkpoint)
    with pytest.raises(FileNotFoundError, match="no image file .*dog.png"):
        classify(tmp_path / "dog.png")
    with pytest.raises(ValueError, match="example.org.* not fetched"):
        classify("https://example.org/dog.png")
    with pytest.raises(ValueError, match="given as a int"):
        classify([3])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image in .*empty"):
        classify(tmp_path / "empty")
    with pytest.raises(ValueError, match="no option 'threshold'"):
        classify(Image.new("RGB", (9, 9)), threshold=1)


# ---- Saving and the Hub --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [False, True])
def test_a_saved_pipeline_is_the_same_and_asks_to_trust_no_code(
    checkpoint, tiny_clip, photos, data, tmp_path, trained
):
    if trained:
        trained_head().save_pretrained(checkpoint)
        update_robustft_json(checkpoint, head=TRAINED_HEAD)
        detector(tiny_clip, data, head=trained_head()).save(checkpoint)
    classify = pipeline(checkpoint)
    classify.save_pretrained(tmp_path / "copy")
    assert pipeline(tmp_path / "copy")(photos) == classify(photos)
    assert (tmp_path / "copy" / HEAD_FILE).is_file() == trained
    assert not list((tmp_path / "copy").glob("*.py"))
    assert "custom_pipelines" not in (tmp_path / "copy" / "config.json").read_text()


@pytest.mark.parametrize("described", [True, False])
def test_a_pipeline_by_other_prompts_is_the_same_once_saved(checkpoint, photos, tmp_path, described):
    seen = [{"name": "train", "role": "train", "bound": 0, "read": 0, "blake2b_48": ""}]
    if described:
        update_robustft_json(checkpoint, image_hashes=seen)
    else:
        (checkpoint / "robustft.json").unlink()
    classify = pipeline(checkpoint, class_names=["bird", "cat"], templates=["a sketch of a {}."], require_detector=False)
    classify.save_pretrained(tmp_path / "copy")
    assert pipeline(tmp_path / "copy", require_detector=False)(photos) == classify(photos)
    saved = load_robustft_json(tmp_path / "copy")
    assert saved["class_names"] == ["bird", "cat"] and saved["templates"] == ["a sketch of a {}."]
    assert not {"detector", "temperature", "fitted_prompts"} & set(saved), "they are of other prompts"
    assert saved.get("image_hashes") == (seen if described else None), "by which images that the weights have seen are recognised"


ON_THE_HUB = """
import json, sys
from pathlib import Path
from hf_robustft.deployment.pipeline import pipeline

def answer(revision):
    try:
        return pipeline("me/my-clip", revision=revision)(sys.argv[1])
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"

answers = [answer("main"), answer("old")]
missing = Path(sys.argv[2])
missing.parent.mkdir(parents=True)
missing.touch()
print(json.dumps([*answers, answer("old")]))
"""


@pytest.mark.same_bits("the same images in the same batches, in another process")
def test_a_checkpoint_on_the_hub_brings_the_facts_of_its_own_commit(checkpoint, photos, tmp_path, repository):
    want, commit, stale = pipeline(checkpoint)(photos), "a" * 40, "b" * 40
    # As the cache of huggingface_hub lies on disk: a branch with the facts, and one whose weights alone are there.
    repo = tmp_path / "home" / "hub" / "models--me--my-clip"
    for name, branch in ((commit, "main"), (stale, "old")):
        shutil.copytree(checkpoint, repo / "snapshots" / name)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / branch).write_text(name)
    (repo / "snapshots" / stale / "robustft.json").unlink()
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_CACHE"}
    # The paths go along, so that the same computation is done with the same products.
    paths = os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")])
    environment |= {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", ON_THE_HUB, str(photos), str(repo / ".no_exist" / stale / "robustft.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    found, not_cached, known_to_be_missing = json.loads(done.stdout)
    assert found == want
    assert not_cached.startswith(
        "Unreachable: me/my-clip is not a folder here, and the Hub cannot be reached for its robustft.json"
    )
    assert known_to_be_missing.startswith("FileNotFoundError: There is no robustft.json in me/my-clip on the Hub")


def test_a_repository_may_have_no_head_but_must_exist(checkpoint, monkeypatch):
    module = sys.modules[pipeline.__module__]
    asked = []

    def download(source, name, revision, token):
        asked.append((source, name, revision, token))
        if source == "me/none":
            raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)
        if name == HEAD_FILE:
            raise EntryNotFoundError("404")
        return str(checkpoint / name)

    monkeypatch.setattr(checkpoint_file, "hf_hub_download", download)
    monkeypatch.setattr(checkpoint_file.constants, "HF_HUB_OFFLINE", True)
    update_robustft_json(checkpoint, head=None)
    assert module.hub_folder("me/clip", "v1", "secret") == checkpoint
    # The head of the commit that the facts are of.
    commit = checkpoint.name
    revisions = [("robustft.json", "v1"), ("robustft.json", commit), (HEAD_FILE, commit)]
    assert asked == [("me/clip", name, revision, "secret") for name, revision in revisions]
    with pytest.raises(OSError, match="me/none is neither a folder here nor a model on the Hub"):
        pipeline("me/none")


@pytest.mark.skipif(not (EMOJI_CLIP_DIR / "model.safetensors").is_file(), reason="the package ships no checkpoint")
def test_the_packaged_model_knows_noto_better_than_its_unseen_classes(tmp_path):
    folder = tmp_path / "emoji"
    shutil.copytree(EMOJI_CLIP_DIR, folder)
    model, processor = CLIPModel.from_pretrained(folder, dtype=torch.float32), CLIPProcessor.from_pretrained(folder)
    sets = load_benchmark("emoji_shift")
    validation = sets["validation"]
    write_robustft_json(
        folder, method="zero_shot", class_names=validation.class_names, templates=validation.templates, settings={}
    )
    rows = validation.load().shuffle(seed=0).select(range(200))
    part = Benchmark.from_dataset(
        rows, name="validation", role="validation", class_names=validation.class_names, templates=validation.templates
    )
    logits, _ = collect_logits(model, part, processor, progress=False)
    scale = model.logit_scale.exp().item()
    OpenSetDetector.fit(logits, class_names=part.class_names, logit_scale=scale).save(folder)
    known, unknown = (
        pipeline(folder, batch_size=100)(
            [row["image"] for row in sets[name].load().shuffle(seed=1).select(range(200))]
        )
        for name in ("noto", "open_set")
    )
    accepted = [sum(row["is_known"] for row in rows) / 200 for rows in (known, unknown)]
    assert 0.88 < accepted[0] <= 1 and accepted[1] < accepted[0] - 0.05, accepted


@pytest.mark.same_bits("one image at a time, without products of matrices")
def test_unusual_files_look_as_in_the_evaluation(checkpoint, tmp_path):
    classify = pipeline(checkpoint)
    for name, content in unusual().items():
        path = tmp_path / name
        path.write_bytes(content)
        expected = classify.transform.decode({"bytes": content, "path": None})
        assert torch.equal(classify.preprocess(str(path))["pixel_values"][0], expected), name


# ---- Prediction sets -------------------------------------------------------------------------------------------------


def test_the_answers_have_the_prediction_sets_of_the_checkpoint(checkpoint, photos, data, tmp_path):
    model = CLIPModel.from_pretrained(checkpoint)
    logits, labels = collect_logits(model, data, tiny_processor(), progress=False)
    options = {"class_names": CLASSES, "logit_scale": model.logit_scale.exp(), "temperature": 1.7}
    sets = ConformalClassifier.fit(logits, labels, **options, coverage=0.6)
    sets.save(checkpoint)
    (photos / "broken.png").write_bytes(b"no image")
    classify = pipeline(checkpoint, batch_size=5)
    found = classify(str(photos), top_k=None)
    *good, broken = found
    assert [row["prediction_set"] for row in good] == [list(names) for names in sets.predict_sets(logits)]
    assert {len(row["prediction_set"]) for row in good} != {4}
    assert broken["prediction_set"] is None and broken["error"]
    for row in good:
        ranked = [item["label"] for item in row["classes"]]
        assert row["prediction_set"] == ranked[: len(row["prediction_set"])]
    classify.save_pretrained(tmp_path / "again")
    assert pipeline(tmp_path / "again", batch_size=5)(str(photos), top_k=None) == found
    update_robustft_json(checkpoint, prediction_sets=None)
    assert "prediction_set" not in pipeline(checkpoint)(str(photos))[0]


def test_prediction_sets_of_another_temperature_or_scale_are_refused(checkpoint, data):
    model = CLIPModel.from_pretrained(checkpoint)
    logits, labels = collect_logits(model, data, tiny_processor(), progress=False)
    ConformalClassifier.fit(logits, labels, class_names=CLASSES, logit_scale=model.logit_scale.exp(), temperature=1.7).save(checkpoint)
    assert pipeline(checkpoint)
    update_robustft_json(checkpoint, temperature={"temperature": 1.0})
    with pytest.raises(ValueError, match="prediction sets were fitted at"):
        pipeline(checkpoint)
