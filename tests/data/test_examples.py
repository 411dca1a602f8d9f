# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
import io
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image, ImageOps
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.clip import CLIPImageProcessorPil

from hf_robustft.data.benchmarks import EMOJI_CLIP_DIR, Benchmark, load_benchmark
from hf_robustft.data.examples import ClipCollator, EvaluationImages, TrainingExamples, collate_images
from hf_robustft.data.randomness import example_rng
from hf_robustft.data.transforms import ImageTransform

CLASSES = ("cat", "dog", "red panda")
TEMPLATES = ("a photo of a {}.", "art of a {}.", "the {}.", "one {}.")
TRAIN = ImageTransform(16, (0.5,) * 3, (0.5,) * 3, train=True)
EVAL = ImageTransform(16, (0.5,) * 3, (0.5,) * 3, train=False)


def encoded(seed, size=(24, 20)):
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def rows(n=12, **columns):
    data = {"image": [{"bytes": encoded(i), "path": None} for i in range(n)], "label": [i % 3 for i in range(n)]}
    features = {"image": datasets.Image(), "label": ClassLabel(names=list(CLASSES))}
    for name, (values, feature) in columns.items():
        data[name], features[name] = values, feature
    return Dataset.from_dict(data, features=Features(features))


def examples(dataset=None, **options):
    options = {"class_names": CLASSES, "templates": TEMPLATES, **options}
    return TrainingExamples(rows() if dataset is None else dataset, TRAIN, **options)


def same(a, b):
    return torch.equal(a["pixel_values"], b["pixel_values"]) and a["caption"] == b["caption"]


@pytest.fixture(scope="module")
def word_tokenizer():
    """CLIP-like: begin and end of text around words, padded with the end token, 16 positions, ids below 64."""
    words = sorted(
        {word for text in TEMPLATES for word in text.replace("{}", " ").replace(".", " .").split()}
        | set("cat dog red panda".split())
    )
    vocabulary = {**{word: i for i, word in enumerate(words)}, "<unk>": 61, "<start>": 62, "<end>": 63}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 62), ("<end>", 63)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<end>",
        unk_token="<unk>",
        model_max_length=16,
    )


# Training examples


def test_an_example_is_a_pure_function_of_its_key():
    first, second = examples(seed=3), examples(seed=3)
    for key in [(0, 5), (1, 5), (7, 0), (0, 5)]:
        assert same(first[key], second[key])
    assert same(first[5], first[(0, 5)])
    assert same(first[(np.int64(1), torch.tensor(5))], first[(1, 5)])
    assert not torch.equal(first[(0, 5)]["pixel_values"], first[(1, 5)]["pixel_values"])
    assert not torch.equal(first[(0, 5)]["pixel_values"], examples(seed=4)[(0, 5)]["pixel_values"])
    assert TrainingExamples.keyed is True


def test_the_crop_is_drawn_from_its_own_generator():
    wanted = TRAIN(rows()[5]["image"], example_rng(3, 2, 5, "crop"))
    assert torch.equal(examples(seed=3)[(2, 5)]["pixel_values"], wanted)


@pytest.mark.parametrize("workers, context", [(1, "fork"), (2, "fork"), (1, "spawn")])
def test_workers_do_not_change_the_examples(workers, context):
    data = examples(seed=1)
    keys = [(epoch, index) for epoch in (0, 4) for index in (7, 2, 11, 0, 5)]
    expected = [data[key] for key in keys]
    loader = DataLoader(data, sampler=keys, batch_size=None, num_workers=workers, multiprocessing_context=context)
    for result, wanted in zip(loader, expected, strict=True):
        assert same(result, wanted) and int(result["label"]) == wanted["label"]


def test_captions_use_every_template_for_the_right_class():
    data = examples()
    seen = Counter()
    for epoch in range(40):
        example = data[(epoch, 2)]
        assert example["label"] == 2 and "red panda" in example["caption"]
        seen[example["caption"]] += 1
    assert set(seen) == {template.replace("{}", "red panda") for template in TEMPLATES}
    assert max(seen.values()) < 25


def test_crop_and_template_are_drawn_apart():
    """More templates must not move the crops."""
    few, many = examples(templates=TEMPLATES[:1]), examples()
    assert torch.equal(few[(2, 3)]["pixel_values"], many[(2, 3)]["pixel_values"])


def test_caption_columns():
    texts = [f"text {i}" for i in range(12)]
    one = examples(rows(text=(texts, Value("string"))), caption_column="text", class_names=())
    assert one[(0, 4)]["caption"] == "text 4" and "label" not in one[(0, 4)]
    labelled = examples(rows(text=(texts, Value("string"))), caption_column="text")
    assert labelled[(0, 4)]["caption"] == "text 4" and labelled[(0, 4)]["label"] == 1
    lists = [[f"a {i}", f"b {i}", f"c {i}"] for i in range(12)]
    several = examples(rows(text=(lists, List(Value("string")))), caption_column="text", class_names=())
    assert {several[(epoch, 4)]["caption"] for epoch in range(30)} == {"a 4", "b 4", "c 4"}
    assert several[(3, 4)]["caption"] == several[(3, 4)]["caption"]


def test_string_labels():
    dataset = rows(name=([CLASSES[i % 3] for i in range(12)], Value("string")))
    assert examples(dataset, label_column="name")[(0, 5)]["label"] == 2


def test_from_benchmark_follows_every_field():
    processor = CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20})
    dataset = rows(text=(["x"] * 12, Value("string"))).rename_columns({"image": "img", "label": "kind"})
    renamed = {"class_names": ("kitten", "puppy", "panda"), "label_names": CLASSES}
    benchmark = Benchmark.from_dataset(
        dataset, name="own", role="train", image_column="img", label_column="kind", templates=("the {}",), **renamed
    )
    data = TrainingExamples.from_benchmark(benchmark, processor, seed=9, scale=(0.5, 0.6))
    assert data[(0, 1)]["caption"] == "the puppy" and data[(0, 1)]["pixel_values"].shape == (3, 20, 20)
    assert data.seed == 9 and data.transform.scale == (0.5, 0.6) and len(data) == 12
    captioned = Benchmark.from_dataset(dataset, name="own", role="train", image_column="img", caption_column="text")
    assert TrainingExamples.from_benchmark(captioned, processor)[(0, 1)]["caption"] == "x"


def test_string_labels_with_names_of_their_own():
    dataset = rows(name=([f"n0{i % 3}" for i in range(12)], Value("string")))
    benchmark = Benchmark.from_dataset(
        dataset,
        name="own",
        role="train",
        label_column="name",
        class_names=CLASSES[::-1],
        label_names=("n02", "n01", "n00"),
        templates=("{}",),
    )
    data = TrainingExamples.from_benchmark(benchmark, CLIPImageProcessorPil())
    assert [data[i]["caption"] for i in range(3)] == ["cat", "dog", "red panda"]
    assert [data[i]["label"] for i in range(3)] == [2, 1, 0]


def test_training_examples_refuse_what_cannot_train():
    with pytest.raises(ValueError, match="neither captions nor class names"):
        TrainingExamples(rows(), TRAIN)
    with pytest.raises(ValueError, match="list of templates is empty"):
        examples(templates=())
    with pytest.raises(ValueError, match=r"template 0 .* holds 0 times"):
        examples(templates=("a photo",))
    with pytest.raises(ValueError, match="no column 'picture'.*--image_column"):
        examples(image_column="picture")
    with pytest.raises(ValueError, match="is empty"):
        examples(rows().select([]))
    for index in (12, -1):
        with pytest.raises(IndexError, match=f"index {index} is outside the 12 rows"):
            examples()[(0, index)]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"no image", "cannot be read"),
        (encoded(0)[:400], "cannot be read"),
        (None, "has no image"),
    ],
)
def test_an_unreadable_image_is_named(content, message):
    images = [{"bytes": encoded(0), "path": None}, {"bytes": content, "path": None} if content else None]
    features = Features({"image": datasets.Image(decode=False), "label": ClassLabel(names=list(CLASSES))})
    data = examples(Dataset.from_dict({"image": images, "label": [0, 1]}, features=features))
    assert data[(0, 0)]["label"] == 0
    with pytest.raises(OSError, match=rf"row 1.*{message}") as error:
        data[(0, 1)]
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    dataset = Dataset.from_dict({"image": [str(tmp_path / "gone.png")], "label": [0]})
    with pytest.raises(OSError, match="row 0 .*gone.png.* cannot be read"):
        examples(dataset)[0]


def test_cameras_that_turn_images_are_followed():
    image = Image.open(io.BytesIO(encoded(1, (30, 20))))
    turned = image.copy()
    exif = turned.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    dataset = Dataset.from_dict({"image": [buffer.getvalue()], "label": [0]})
    result = EvaluationImages(dataset, EVAL)[0]["pixel_values"]
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue())))
    assert upright.size == (20, 30)
    assert torch.equal(result, EVAL(upright)) and not torch.equal(result, EVAL(image))


# Batches


def test_batch_shapes_padding_and_end(word_tokenizer):
    data = examples(templates=("the {}.",))
    batch = ClipCollator(word_tokenizer)([data[(0, i)] for i in range(3)])
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask", "labels"}
    assert batch["pixel_values"].shape == (3, 3, 16, 16) and batch["pixel_values"].dtype == torch.float32
    assert batch["labels"].tolist() == [0, 1, 2] and batch["labels"].dtype == torch.int64
    # start the cat . end | start the dog . end | start the red panda . end
    assert batch["attention_mask"].tolist() == [[1] * 5 + [0], [1] * 5 + [0], [1] * 6]
    assert (batch["input_ids"][:, 0] == 62).all() and batch["input_ids"][:2, 4:].eq(63).all()
    captioned = examples(rows(text=(["the cat"] * 12, Value("string"))), caption_column="text", class_names=())
    assert "labels" not in ClipCollator(word_tokenizer)([captioned[0]])


@pytest.mark.parametrize("name", ["label", "labels"])
def test_labels_of_a_data_set_of_ones_own(word_tokenizer, name):
    own = [{"pixel_values": torch.zeros(3, 16, 16), "caption": "a cat", name: label} for label in (2, 0)]
    assert torch.equal(ClipCollator(word_tokenizer)(own)["labels"], torch.tensor([2, 0]))


def test_padding_to_the_longest_is_exact(word_tokenizer, tiny_clip):
    """Text embeddings are the same as with every caption padded to all 16 positions."""
    data = examples()
    batch = ClipCollator(word_tokenizer)([data[(3, i)] for i in range(8)])
    captions = [data[(3, i)]["caption"] for i in range(8)]
    full = word_tokenizer(captions, padding="max_length", max_length=16, return_tensors="pt")
    assert batch["input_ids"].shape[1] < 16

    def embed(tokens):
        with torch.no_grad():
            return tiny_clip.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output

    assert (embed(batch) - embed(full)).abs().max() < 1e-6


def test_long_captions_are_cut_and_keep_their_end(word_tokenizer):
    long = " ".join(["red"] * 40)
    example = {"pixel_values": torch.zeros(3, 16, 16), "caption": long}
    ids = ClipCollator(word_tokenizer)([example])["input_ids"]
    assert ids.shape == (1, 16) and ids[0, -1] == 63 and ids[0].eq(63).sum() == 1
    assert ClipCollator(word_tokenizer, max_length=8)([example])["input_ids"].shape == (1, 8)
    shipped = AutoTokenizer.from_pretrained(EMOJI_CLIP_DIR)
    ids = ClipCollator(shipped)([example])["input_ids"]
    assert ids.shape[1] == shipped.model_max_length and ids[0, -1] == shipped.eos_token_id


@pytest.mark.parametrize(
    "words, multiple, length", [(1, 8, 8), (6, 8, 8), (7, 8, 13), (11, 8, 13), (3, 4, 8), (3, 1, 5)]
)
def test_lengths_in_steps_never_exceed_the_longest_allowed(word_tokenizer, tiny_clip, words, multiple, length):
    """13 positions stand for CLIP's 77: no multiple of 8."""
    batch = [{"pixel_values": torch.zeros(3, 16, 16), "caption": " ".join(["red"] * n)} for n in (words, 1)]
    plain = ClipCollator(word_tokenizer, max_length=13)(batch)
    padded = ClipCollator(word_tokenizer, max_length=13, pad_to_multiple_of=multiple)(batch)
    assert plain["input_ids"].shape == (2, words + 2) and padded["input_ids"].shape == (2, length)
    assert padded["attention_mask"].shape == (2, length) and padded["input_ids"].dtype == torch.int64
    assert torch.equal(padded["input_ids"][:, : words + 2], plain["input_ids"])
    assert padded["input_ids"][:, words + 2 :].eq(63).all()
    assert padded["attention_mask"].sum(1).tolist() == plain["attention_mask"].sum(1).tolist() == [words + 2, 3]
    with torch.no_grad():
        short, long = (tiny_clip.double().get_text_features(each["input_ids"]).pooler_output for each in (plain, padded))
    assert (short - long).abs().max() < 1e-12


def test_captions_of_the_full_length_stay_so(word_tokenizer):
    long = [{"pixel_values": torch.zeros(3, 16, 16), "caption": " ".join(["red"] * 40)}]
    assert ClipCollator(word_tokenizer, 13, pad_to_multiple_of=8)(long)["input_ids"].shape == (1, 13)
    assert ClipCollator(word_tokenizer, pad_to_multiple_of=8)(long)["input_ids"].shape == (1, 16)


def test_tokenizers_that_cannot_be_used(word_tokenizer):
    def changed(**settings):
        return PreTrainedTokenizerFast(
            **{
                "tokenizer_object": word_tokenizer.backend_tokenizer,
                "pad_token": "<end>",
                "model_max_length": 16,
                **settings,
            }
        )

    with pytest.raises(ValueError, match="pads on the left"):
        ClipCollator(changed(padding_side="left"))
    with pytest.raises(ValueError, match="no padding token"):
        ClipCollator(changed(pad_token=None))
    with pytest.raises(ValueError, match="knows no model_max_length"):
        ClipCollator(changed(model_max_length=None))
    for number in (0, -8):
        with pytest.raises(ValueError, match=f"pad_to_multiple_of={number}"):
            ClipCollator(word_tokenizer, pad_to_multiple_of=number)


# Evaluation


@pytest.mark.same_bits("one image at a time, without products of matrices")
def test_evaluation_images_in_order():
    data = EvaluationImages(rows(), EVAL)
    batches = list(DataLoader(data, batch_size=5, collate_fn=collate_images))
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == [i % 3 for i in range(12)]
    pixels = torch.cat([batch["pixel_values"] for batch in batches])
    assert torch.equal(pixels, torch.stack([EVAL(row["image"]) for row in rows()]))
    unlabelled = EvaluationImages(rows(), EVAL, label_column=None)
    assert set(collate_images([unlabelled[0], unlabelled[1]])) == {"pixel_values"}


def test_reading_an_image_costs_the_same_whatever_the_number_of_classes(monkeypatch):
    """`Dataset.features` copies the names of all classes; a thousand of them take longer than an image does."""
    stored, trained = EvaluationImages(rows(), EVAL), examples()
    first = stored[0], trained[(0, 0)]
    monkeypatch.setattr(Features, "copy", lambda self: pytest.fail("the features are copied"))
    assert torch.equal(stored[0]["pixel_values"], first[0]["pixel_values"]) and same(trained[(0, 0)], first[1])
    assert [stored[index]["label"] for index in range(1, 12)] == [index % 3 for index in range(1, 12)]


def test_evaluation_refuses_random_crops_and_other_labels():
    with pytest.raises(ValueError, match="train=False"):
        EvaluationImages(rows(), TRAIN)
    with pytest.raises(ValueError, match="no column 'kind'.*--label_column"):
        EvaluationImages(rows(), EVAL, label_column="kind")
    with pytest.raises(ValueError, match="not integer labels"):
        EvaluationImages(rows(name=(["cat"] * 12, Value("string"))), EVAL, label_column="name")


def test_the_shipped_sets_feed_the_shipped_checkpoint():
    processor = CLIPImageProcessorPil.from_pretrained(EMOJI_CLIP_DIR)
    shift = load_benchmark("emoji_shift", "twemoji")
    data = EvaluationImages(shift.load(), ImageTransform.from_processor(processor, train=False))
    expected = processor([row["image"] for row in shift.load().select(range(8))], return_tensors="pt")["pixel_values"]
    assert torch.equal(collate_images([data[i] for i in range(8)])["pixel_values"], expected)
    train = load_benchmark("emoji_shift", "train")
    batch = ClipCollator(AutoTokenizer.from_pretrained(EMOJI_CLIP_DIR))(
        [TrainingExamples.from_benchmark(train, processor, seed=0)[(0, i)] for i in range(4)]
    )
    assert batch["pixel_values"].shape == (4, 3, 48, 48) and batch["labels"].tolist() == train.load()["label"][:4]
