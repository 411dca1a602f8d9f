# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Cached features are those of the images, come back to the bit, and are refused wherever a fact differs."""

import io
import json
from pathlib import Path

import datasets
import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_config, tiny_processor
from helpers.feature_cache import benchmark, unreadable
from helpers.forked import run_ranks
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import CLIPModel

from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.examples import EvaluationImages, TrainingExamples
from hf_robustft.data.images import images_fingerprint
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.modeling import feature_cache
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.feature_cache import CachedFeatures, cache_features, collate_features, image_fingerprint

WORKER = """
import sys
import torch
from accelerate import PartialState
from helpers import tiny_config
from helpers import tiny_processor
from safetensors.torch import save_file
from helpers.feature_cache import benchmark, unreadable
from transformers import CLIPModel
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.feature_cache import cache_features

torch.set_num_threads(1)
torch.manual_seed(0)
state = PartialState(cpu=True)
model = CLIPModel(tiny_config()).eval()
folder = sys.argv[1]
options = {"batch_size": 4, "progress": False}
# Five batches a view, and a single batch, so that the second process once has less and once has nothing.
for name, n, views in (("a", 19, 3), ("b", 3, 0)):
    cache = cache_features(model, benchmark(n), tiny_processor(), views=views, cache_dir=f"{folder}/cache", **options)
    save_file({"features": cache.features}, f"{folder}/{name}-{state.process_index}.safetensors")
# Row 5 lies in the second batch: the second process fails, and the first must not wait for it.
try:
    cache_features(model, unreadable(8, row=5), tiny_processor(), **options)
except (OSError, RuntimeError) as error:
    print(f"<{state.process_index}: {type(error).__name__}: {error}>")
"""


def cached(model, chosen=None, **options):
    options = {"batch_size": 5, "progress": False, **options}
    return cache_features(model, benchmark() if chosen is None else chosen, tiny_processor(), **options)


def raw(model, pixel_values):
    """By transformers alone, one image at a time."""
    with torch.no_grad():
        return model.get_image_features(pixel_values=pixel_values[None].to(model.dtype)).pooler_output[0]


def the_file(folder):
    files = list(Path(folder).iterdir())
    assert len(files) == 1, files
    return files[0]


@pytest.fixture
def no_encoding(monkeypatch):
    """After `no_encoding()` a cache has to come from its file."""

    def forbid():
        def fail(*arguments):
            raise AssertionError("the image tower ran")

        monkeypatch.setattr(DualEncoder, "image_features", fail)

    return forbid


# The features


@pytest.mark.parametrize("dtype, relative", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_views_are_the_epochs_of_training(tiny_clip, dtype, relative):
    model, chosen = tiny_clip.to(dtype), benchmark()
    cache = cached(model, chosen, views=3, seed=4, scale=(0.3, 0.8), flip=0.5)
    assert cache.features.shape == (3, 13, 16) and cache.features.dtype == dtype and cache.views == 3
    examples = TrainingExamples.from_benchmark(chosen, tiny_processor(), seed=4, scale=(0.3, 0.8), flip=0.5)
    for epoch in range(3):
        for index in range(13):
            want = raw(model, examples[(epoch, index)]["pixel_values"])
            got = cache[(epoch, index)]
            assert (got["image_features"] - want).abs().max() <= relative * want.abs().max()
            assert got["label"] == examples[(epoch, index)]["label"]
    assert not torch.allclose(cache.features[0], cache.features[1], rtol=1e-2)
    assert not torch.allclose(cache.features[0], cached(model, chosen, views=1, seed=5).features[0], rtol=1e-2)
    assert (cache.features.norm(dim=-1) - 1).abs().min() > 1e-3  # raw, not normalised


def test_without_views_it_is_the_evaluation_transform(tiny_clip):
    chosen = benchmark()
    cache = cached(tiny_clip.double(), chosen)
    images = EvaluationImages(chosen.load(), ImageTransform.from_processor(tiny_processor(), train=False))
    want = torch.stack([raw(tiny_clip, images[index]["pixel_values"]) for index in range(13)])
    assert cache.features.shape == (1, 13, 16) and (cache.features[0] - want).abs().max() <= 1e-10 * want.abs().max()
    assert torch.equal(cache[(7, 2)]["image_features"], cache[2]["image_features"])


@pytest.mark.parametrize("views", [0, 2])
def test_a_border_is_cut_off(tiny_clip, tmp_path, views):
    plain = image_dataset(6)
    framed = plain.to_list()
    for row, image in zip(framed, plain["image"], strict=True):
        file = io.BytesIO()
        ImageOps.expand(image, 3, "red").save(file, "PNG")
        row["image"] = {"bytes": file.getvalue(), "path": None}
    framed = datasets.Dataset.from_list(framed, features=plain.features)
    want = cached(tiny_clip, benchmark(rows=plain), views=views).features
    for cut in (0, 3, 3):
        found = cached(tiny_clip, benchmark(rows=framed, border=cut), views=views, cache_dir=tmp_path).features
        assert torch.equal(found, want) == bool(cut)
    assert len(list(tmp_path.iterdir())) == 2, "a file for each border"


def test_half_precision_features_are_kept_in_float32(tiny_clip):
    cache = cached(tiny_clip.bfloat16())
    assert cache.features.dtype == torch.float32 and cache.features.equal(cache.features.bfloat16().float())


def test_items_and_batches(tiny_clip):
    cache = cached(tiny_clip, views=2)
    assert CachedFeatures.keyed is True and len(cache) == 13
    assert (cache.class_names, cache.templates) == (CLASSES, TEMPLATES)
    assert cache.labels.tolist() == benchmark().load()["label"][:] and cache.labels.dtype == torch.int64
    assert torch.equal(cache[(3, 4)]["image_features"], cache.features[1, 4])
    assert torch.equal(cache[4]["image_features"], cache.features[0, 4])
    assert torch.equal(cache[(torch.tensor(2), torch.tensor(4))]["image_features"], cache.features[0, 4])
    for index in (13, -1):
        with pytest.raises(IndexError, match=f"index {index} is outside the 13 rows"):
            cache[(0, index)]
    keys = [(1, 12), (0, 3), (1, 3)]
    (batch,) = DataLoader(cache, sampler=keys, batch_size=3, collate_fn=collate_features)
    assert torch.equal(
        batch["image_features"], torch.stack([cache.features[e, i] for e, i in [(1, 12), (0, 3), (1, 3)]])
    )
    assert batch["labels"].tolist() == [0, 3, 3] and batch["labels"].dtype == torch.int64
    batch["image_features"].requires_grad_().square().sum().backward()  # they may enter a graph


def test_data_without_classes(tiny_clip):
    rows = image_dataset(5).remove_columns("label").add_column("text", ["cat"] * 5)
    cache = cached(tiny_clip, benchmark(rows=rows, caption_column="text"), views=1)
    assert cache.labels is None and cache.class_names == () and set(cache[0]) == {"image_features"}
    assert set(collate_features([cache[0], cache[1]])) == {"image_features"}
    pictures = benchmark(rows=rows, label_column=None)
    assert cached(tiny_clip, pictures).features.shape == (1, 5, 16)


@pytest.mark.same_bits("the same batches a second time")
def test_caching_leaves_no_trace(tiny_clip):
    tiny_clip.train()
    tiny_clip.vision_model.eval()
    before = [(name, module.training) for name, module in tiny_clip.named_modules()]
    torch.manual_seed(3)
    want = torch.rand(4)
    torch.manual_seed(3)
    cache = cached(tiny_clip, views=2, num_workers=1)
    assert torch.equal(torch.rand(4), want)
    assert [(name, module.training) for name, module in tiny_clip.named_modules()] == before
    assert not cache.features.requires_grad and all(parameter.grad is None for parameter in tiny_clip.parameters())
    assert torch.equal(cache.features, cached(tiny_clip, views=2).features)


@pytest.mark.same_bits("the same batches a second time")
def test_a_training_mode_with_dropout_does_not_show():
    config = tiny_config()
    config.vision_config.attention_dropout = 0.5
    model = CLIPModel(config)
    assert torch.equal(cached(model.train()).features, cached(model.eval()).features)


# The file


@pytest.mark.same_bits("read from the file, nothing is computed")
@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_file_gives_the_same_bits(tiny_clip, tmp_path, no_encoding, views, dtype):
    first = cached(tiny_clip.to(dtype), views=views, cache_dir=tmp_path / "new" / "cache")
    path = the_file(tmp_path / "new" / "cache")
    stat = path.stat()
    no_encoding()
    again = cached(tiny_clip, views=views, cache_dir=str(path.parent))
    assert torch.equal(first.features, again.features) and again.features.dtype == dtype
    assert torch.equal(first.labels, again.labels) and again.model_fingerprint == first.model_fingerprint
    by_name = cached(tiny_clip, views=views, cache_file=path)
    assert torch.equal(first.features, by_name.features)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (stat.st_mtime_ns, stat.st_ino)
    assert path.name.startswith("features-") and the_file(path.parent) == path


def test_what_does_not_matter_does_not_miss(tiny_clip, tmp_path, no_encoding):
    """Labels, prompts, the text tower, the logit scale, batch size, and where the data lie."""
    first = cached(tiny_clip, cache_dir=tmp_path, seed=1)
    with torch.no_grad():
        tiny_clip.logit_scale.fill_(1.0)
        tiny_clip.text_projection.weight.mul_(2.0)
    (tmp_path / "moved").mkdir()
    image_dataset(13).to_parquet(tmp_path / "moved" / "rows.parquet")
    turned = Benchmark(
        "other",
        "id",
        CLASSES[::-1],
        label_names=CLASSES,
        templates=("{}!",),
        path="parquet",
        data_files=str(tmp_path / "moved" / "rows.parquet"),
    )
    no_encoding()
    again = cached(tiny_clip, turned, cache_dir=tmp_path, seed=2, batch_size=3)
    assert torch.equal(first.features, again.features) and again.class_names == CLASSES[::-1]
    assert again.templates == ("{}!",)
    relabelled = image_dataset(13).map(lambda row: {"label": 3 - row["label"]})
    assert cached(tiny_clip, benchmark(rows=relabelled), cache_dir=tmp_path).labels.tolist() == [
        3 - label for label in first.labels.tolist()
    ]


def other_weights(model):
    with torch.no_grad():
        model.vision_model.encoder.layers[1].mlp.fc2.bias[3] += 1e-6
    return model


def other_projection(model):
    with torch.no_grad():
        model.visual_projection.weight[0, 0] += 1e-6
    return model


def other_activation(model):
    config = tiny_config()
    config.vision_config.hidden_act = "gelu"
    changed = CLIPModel(config).eval()
    changed.load_state_dict(model.state_dict())
    return changed


def painted(row, n=13):
    """The data with one other pixel in one image."""
    images = image_dataset(n)["image"][:]
    images[row].putpixel((0, 0), (1, 2, 3))
    data = {"image": images, "label": image_dataset(n)["label"][:]}
    return benchmark(rows=datasets.Dataset.from_dict(data, features=image_dataset(1).features))


BASE = {"views": 2, "seed": 1}
DIFFERENCES = {
    "weights": (other_weights, {}, r"made by another model: the weights .* \(there [0-9a-f]{12}, here [0-9a-f]{12}\)"),
    "projection": (other_projection, {}, "made by another model: the weights"),
    "activation": (
        other_activation,
        {},
        r"another model: the configuration .* \(there hidden_act quick_gelu, here hidden_act gelu\)",
    ),
    "float64": (lambda model: model.double(), {}, "made by another model"),
    "pixel": (None, {"chosen": painted(7)}, "of other data: the images or their order differ"),
    "order": (
        None,
        {"chosen": benchmark(rows=image_dataset(13).select(range(12, -1, -1)))},
        "of other data: the images or their order differ",
    ),
    "fewer": (
        None,
        {"chosen": benchmark(rows=image_dataset(13).select(range(12)))},
        r"of other data: the number of images differs \(there 13, here 12\)",
    ),
    "views": (None, {"views": 3}, r"it holds other views \(there 2, here 3\)"),
    "evaluation": (None, {"views": 0}, r"it holds other views \(there 2, here 0\)"),
    "seed": (None, {"seed": 2}, r"drawn with another seed \(there 1, here 2\)"),
    "scale": (
        None,
        {"scale": (0.5, 1.0)},
        r"with another image transform \(there scale \[0.9, 1.0\], here scale \[0.5, 1.0\]\)",
    ),
}


@pytest.mark.parametrize("change", DIFFERENCES)
def test_a_file_of_other_facts_is_refused_and_left_alone(tiny_clip, tmp_path, change):
    change_model, changes, message = DIFFERENCES[change]
    path = tmp_path / "features.safetensors"
    cached(tiny_clip, cache_file=path, **BASE)
    cached(tiny_clip, cache_dir=tmp_path / "cache", **BASE)
    content = path.read_bytes()
    model = change_model(tiny_clip) if change_model else tiny_clip
    settings = {**BASE, **changes}
    with pytest.raises(ValueError, match=message + ".* remove it, or give another cache_file") as error:
        cached(model, cache_file=path, **settings)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert path.read_bytes() == content and len(list(tmp_path.iterdir())) == 2
    # In a folder each has a file of its own, and a file under a false name is refused as well.
    cached(model, cache_dir=tmp_path / "cache", **settings)
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2
    first, second = (file.read_bytes() for file in files)
    files[0].write_bytes(second)
    files[1].write_bytes(first)
    with pytest.raises(ValueError, match=message):
        cached(model, cache_dir=tmp_path / "cache", **settings)


def test_a_file_of_another_processor_format_or_precision_is_refused(tiny_clip, tmp_path, monkeypatch):
    path = tmp_path / "features.safetensors"
    cached(tiny_clip, cache_file=path)
    processor = tiny_processor()
    processor.image_processor.image_mean = [0.4, 0.5, 0.5]
    with pytest.raises(ValueError, match=r"another image transform \(there mean \[0.5, .*here mean \[0.4, 0.5, 0.5\]"):
        cache_features(tiny_clip, benchmark(), processor, cache_file=path, progress=False)
    monkeypatch.setattr(feature_cache, "_dtype", lambda model: torch.float64)
    with pytest.raises(ValueError, match=r"another precision \(there float32, here float64\)"):
        cached(tiny_clip, cache_file=path)
    monkeypatch.undo()
    monkeypatch.setattr(feature_cache, "FORMAT", 2)
    with pytest.raises(ValueError, match=r"another version of hf_robustft \(there 1, here 2\)"):
        cached(tiny_clip, cache_file=path)


def rewritten(path, **changes):
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **changes}
    save_file(load_file(path), path, metadata={name: value for name, value in metadata.items() if value is not None})


DAMAGES = {
    "no safetensors": lambda path: path.write_bytes(b"not a cache of anything, but long enough to look like one"),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "one byte": lambda path: path.write_bytes(path.read_bytes()[:-5] + b"\x11" + path.read_bytes()[-4:]),
    "no facts": lambda path: rewritten(path, facts=None),
    "no content": lambda path: rewritten(path, content=None),
    "facts no json": lambda path: rewritten(path, facts="{"),
    "facts no object": lambda path: rewritten(path, facts="[1]"),
    "another tensor": lambda path: save_file({"weight": torch.ones(2)}, path, metadata={"format": "pt"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_and_left_alone(tiny_clip, tmp_path, damage):
    cached(tiny_clip, cache_dir=tmp_path)
    path = the_file(tmp_path)
    DAMAGES[damage](path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"is not an undamaged file of cached features \(.*\); remove it") as error:
        cached(tiny_clip, cache_dir=tmp_path)
    assert "\n" not in str(error.value) and path.read_bytes() == content
    path.unlink()
    cached(tiny_clip, cache_dir=tmp_path)
    assert the_file(tmp_path) == path


def test_facts_that_do_not_fit_the_features_are_refused(tiny_clip, tmp_path):
    """A file whose facts were edited to look right."""
    path = tmp_path / "features.safetensors"
    cached(tiny_clip, views=2, cache_file=path)
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
    rewritten(path, facts=json.dumps({**facts, "views": 3}))
    with pytest.raises(ValueError, match="its features are not those that were written"):
        cached(tiny_clip, views=3, cache_file=path)


def test_a_folder_in_place_of_the_file(tiny_clip, tmp_path):
    with pytest.raises(OSError):
        cached(tiny_clip, cache_file=tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError):
        cached(tiny_clip, cache_dir=tmp_path / "file")


def test_a_failed_write_leaves_nothing(tiny_clip, tmp_path, monkeypatch):
    def fail(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(feature_cache, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        cached(tiny_clip, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


# What cannot be cached


@pytest.mark.parametrize(
    "options, message",
    [
        ({"views": -1}, "views -1, .* at least 0, 1 and 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"num_workers": -1}, "num_workers -1"),
        ({"cache_dir": "a", "cache_file": "b"}, "Both cache_dir and cache_file"),
        ({"scale": (0.5, 1.0)}, r"evaluation transform \(views=0\) takes no option 'scale'"),
        ({"views": 1, "scale": (0.0, 1.0)}, "scale is"),
    ],
)
def test_settings_that_cannot_be(tiny_clip, options, message):
    with pytest.raises(ValueError, match=message):
        cached(tiny_clip, **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_never_kept(tiny_clip, tmp_path, value):
    with torch.no_grad():
        tiny_clip.visual_projection.weight[3, 3] = value
    with pytest.raises(ValueError, match="'own', images 0 to 4, view 0: a feature is NaN or infinite"):
        cached(tiny_clip, views=2, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unreadable_image_is_named(tiny_clip, tmp_path):
    for views in (0, 1):
        with pytest.raises(OSError, match="image of row 5 .* cannot be read"):
            cached(tiny_clip, unreadable(8, row=5), views=views, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_shapes_that_disagree():
    with pytest.raises(ValueError, match=r"must be \(views, images, embed_dim\).*got \(3, 4\)"):
        CachedFeatures(torch.ones(3, 4), None, (), (), "")
    with pytest.raises(ValueError, match="none of them 0"):
        CachedFeatures(torch.ones(0, 3, 4), None, (), (), "")
    with pytest.raises(ValueError, match=r"\(2,\) labels for 3 images"):
        CachedFeatures(torch.ones(1, 3, 4), torch.zeros(2), (), (), "")


# Fingerprints


def test_the_fingerprint_of_the_image_side(tiny_clip):
    first = image_fingerprint(tiny_clip)
    wrapped = torch.nn.Module()
    wrapped.module = tiny_clip
    assert image_fingerprint(wrapped) == first == image_fingerprint(tiny_clip.train())
    with torch.no_grad():
        tiny_clip.logit_scale.fill_(1.0)
        tiny_clip.text_model.embeddings.token_embedding.weight.zero_()
    assert image_fingerprint(tiny_clip) == first
    assert image_fingerprint(other_projection(tiny_clip)) != first
    assert image_fingerprint(tiny_clip.bfloat16()) != first


def test_images_behind_paths_are_read(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for value, path in enumerate(paths):
        Image.new("RGB", (4, 4), (value, 0, 0)).save(path)
    by_path = datasets.Dataset.from_dict({"image": [str(path) for path in paths]}).cast_column(
        "image", datasets.Image()
    )
    inside = datasets.Dataset.from_dict({"image": [{"bytes": path.read_bytes(), "path": None} for path in paths]})
    first = images_fingerprint(by_path)
    assert first == images_fingerprint(inside.cast_column("image", datasets.Image()))
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(buffer, "PNG")
    paths[1].write_bytes(buffer.getvalue())
    assert images_fingerprint(by_path) != first
    paths[1].unlink()
    with pytest.raises(OSError, match=r"image of row 1 \(.*b.png\) cannot be read"):
        images_fingerprint(by_path)


def test_where_one_image_ends_matters():
    def fingerprint(*contents):
        rows = datasets.Dataset.from_dict({"image": [{"bytes": content, "path": None} for content in contents]})
        return images_fingerprint(rows.cast_column("image", datasets.Image(decode=False)))

    assert fingerprint(b"ab", b"c") != fingerprint(b"a", b"bc")
    empty = datasets.Dataset.from_dict({"image": [b"a", None]}).cast_column("image", datasets.Image())
    with pytest.raises(OSError, match="row 1 has no image"):
        images_fingerprint(empty)


# Several processes


@pytest.fixture
def one_thread():
    """As many as each of the processes has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.same_bits("whole batches of 4 are dealt out, each is the one that one process makes")
def test_two_processes_give_what_one_gives(tiny_clip, tmp_path, one_thread):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    run = run_ranks(2, script, tmp_path, ACCELERATE_USE_CPU="true")
    assert run.returncode == 0, run.stderr[-3000:]
    assert "<1: UnreadableImage: The image of row 5" in run.stdout
    assert "<0: RuntimeError: Caching features failed in process 1" in run.stdout
    assert len(list((tmp_path / "cache").iterdir())) == 2
    for name, n, views in (("a", 19, 3), ("b", 3, 0)):
        one = cached(tiny_clip, benchmark(n), views=views, batch_size=4, cache_dir=tmp_path / "one").features
        for rank in range(2):
            assert torch.equal(load_file(tmp_path / f"{name}-{rank}.safetensors")["features"], one)
    # The files of two processes have the names of those of one, and are good for one.
    names = [sorted(file.name for file in (tmp_path / folder).iterdir()) for folder in ("cache", "one")]
    assert names[0] == names[1]
    again = cached(tiny_clip, benchmark(19), views=3, cache_dir=tmp_path / "cache")
    assert torch.equal(again.features, load_file(tmp_path / "a-0.safetensors")["features"])
