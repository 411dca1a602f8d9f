# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
from collections import Counter
from pathlib import Path

import pytest
from helpers import tiny_processor
from PIL import Image

from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.data.examples import TrainingExamples
from hf_robustft.data.prompts import (
    DEFAULT_TEMPLATES,
    check_class_names,
    check_templates,
    class_prompts,
    clean_class_name,
    fill_template,
    load_class_names,
    load_templates,
    read_names_and_templates,
)


@pytest.mark.parametrize(
    "raw, clean",
    [("golden_retriever", "golden retriever"), ("  red   panda\t", "red panda"), ("Turkey", "Turkey"), ("__a__", "a")],
)
def test_clean_class_name(raw, clean):
    assert clean_class_name(raw) == clean


def test_prompts_are_class_major():
    prompts = class_prompts(["dog", "red_panda"], ["a photo of a {}.", "{} art"])
    assert prompts == ["a photo of a dog.", "dog art", "a photo of a red panda.", "red panda art"]
    assert class_prompts(["dog"]) == ["a photo of a dog."]
    assert DEFAULT_TEMPLATES == ("a photo of a {}.",)


def test_braces_of_names_and_templates_survive():
    assert fill_template("a {} in {0}", "dog {}") == "a dog {} in {0}"


@pytest.mark.parametrize(
    "names, message",
    [
        ([], "empty"),
        (["dog", " _ "], r"class name 1 \(counted from 0\) is blank"),
        (["missile", "dog", "missile"], r"'missile' appears twice, at positions 0 and 2"),
        (["red_panda", "red  panda"], r"'red panda' appears twice, at positions 0 and 1"),
        (["dog", "turkey", "Turkey"], r"'Turkey' appears twice, at positions 1 and 2"),
        ("dog", "single string 'dog'"),
        ({"cat", "dog"}, "a set, which has no order"),
        (frozenset(("cat", "dog")), "a set, which has no order"),
    ],
)
def test_class_names_that_cannot_be_told_apart(names, message):
    with pytest.raises(ValueError, match=message) as error:
        check_class_names(names)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "templates, message",
    [
        ([], "empty"),
        (["a photo of a {}.", "a photo"], r"template 1 .*'a photo', holds 0 times"),
        (["{} and {}"], "holds 2 times"),
        (["a {0}"], "holds 0 times"),
        ("a {}", "single string"),
    ],
)
def test_templates_without_exactly_one_gap(templates, message):
    with pytest.raises(ValueError, match=message):
        check_templates(templates)
    if not isinstance(templates, str):
        with pytest.raises(ValueError, match=message):
            class_prompts(["dog"], templates)


def test_load_templates(tmp_path):
    file = tmp_path / "templates.txt"
    file.write_text("a photo of a {}.\r\n\n  art of the {}.  \n", encoding="utf-8")
    assert load_templates(file) == ("a photo of a {}.", "art of the {}.")
    file.write_text("a photo of a {}.\nno gap\n")
    with pytest.raises(ValueError, match=r"templates\.txt: template 1 .*'no gap'"):
        load_templates(file)
    file.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        load_templates(file)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_templates(tmp_path / "none.txt")


def test_load_class_names(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("dog\nred_panda\n")
    assert load_class_names(file) == (("dog", "red panda"), None)
    file.write_text("n02\ttench\nn01\tgolden_fish\n")
    assert load_class_names(file) == (("tench", "golden fish"), ("n02", "n01"))
    file.write_text("n02\ttench\ngoldfish\n")
    with pytest.raises(ValueError, match="every line"):
        load_class_names(file)
    file.write_text("dog\ncat\ndog\n")
    with pytest.raises(ValueError, match=r"classes\.txt: class name 'dog' appears twice"):
        load_class_names(file)


def test_names_and_templates_from_text_or_files(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("n02\ttench\nn01\tgoldfish\n")
    assert read_names_and_templates(None, None) == {}
    assert read_names_and_templates(["a"], "the {}", ["n"]) == {
        "class_names": ("a",),
        "templates": ("the {}",),
        "label_names": ("n",),
    }
    assert read_names_and_templates(file, ["{}"])["label_names"] == ("n02", "n01")
    with pytest.raises(ValueError, match="holds them too"):
        read_names_and_templates(str(file), None, ["n02", "n01"])
    with pytest.raises(
        FileNotFoundError, match="file of templates 'a photo' does not exist.*or a name such as imagenet-80"
    ):
        read_names_and_templates(None, "a photo")


@pytest.mark.parametrize(
    "name, count", [("imagenet-80", 80), ("imagenet-croft-7", 7), ("croft-dtd", 1), ("own.txt", 3)]
)
def test_one_template_by_name_or_file_is_drawn_for_each_image_and_epoch(name, count, tmp_path):
    for animal in ("cat", "dog"):
        (tmp_path / "pets" / animal).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "pets" / animal / "1.png")
    if name == "own.txt":
        name = str(tmp_path / name)
        Path(name).write_text("a {}.\nthe {}.\none {}\n")
    benchmark = load_benchmark(str(tmp_path / "pets"), name="pets", role="train", templates=name)
    assert len(benchmark.templates) == count
    examples = TrainingExamples.from_benchmark(benchmark, tiny_processor())
    captions = Counter(examples[(epoch, 1)]["caption"] for epoch in range(12 * count))
    # Each of 80 is missed in 960 draws with a probability of 6e-6.
    assert set(captions) == {fill_template(template, "dog") for template in benchmark.templates}
    assert max(captions.values()) < 40


@pytest.mark.parametrize(
    "content, message",
    [
        (
            "cat\nK\u00e4fer\n".encode("latin-1"),
            r"line 2 of the file '.*classes\.txt' is not UTF-8.*iconv -f ENCODING.*WINDOWS-1252.*GB18030",
        ),
        (
            "cat\nK\u00e4fer\n".encode("utf-16"),
            r"classes\.txt' is not UTF-8 but UTF-16, from line 1 on.*iconv -f UTF-16",
        ),
        ("cat\ndog\n".encode("utf-16-le"), r"classes\.txt' is not UTF-8 but UTF-16"),
        (b"1\tcat\n\n2\tdog\tpuppy\n", r"line 3 of .*does not fit"),
        (b"1\tcat\n\tdog\n", r"line 2 of .*does not fit"),
        (b"1\tcat\n2\t\n", r"line 2 of .*does not fit"),
        (b"1\tcat\n1\tdog\n", r"classes\.txt: label '1' appears twice, at positions 0 and 1"),
        (b"1\tcat\n2\tCat\n", r"classes\.txt: class name 'Cat' appears twice"),
        (b"0 cat\n1 dog\n", r"begin with numbers, '0 cat'.*write 0<TAB>cat"),
        (b"1: cat\n2: dog\n", r"begin with numbers, '1: cat'.*write 1<TAB>cat"),
        (b"7,cat\n3,dog\n", r"begin with numbers, '7,cat'.*write 7<TAB>cat"),
        (b"label\tname\n0\tcat\n1\tdog\n", r"line 1 of .*looks like a header"),
        (b"class_name\ncat\ndog\n", r"line 1 of .*'class_name', looks like a header"),
        (b"wnid\tname\nn01\tcat\nn02\tdog\n", r"line 1 of .*looks like a header"),
        (b",name\n0,cat\n1,dog\n", r"begin with numbers, '0,cat'.*write 0<TAB>cat"),
        (b"cat\t0\ndog\t1\nowl\t2\n", r"names in .* are numbers.*write 0<TAB>cat"),
        # Whose numbers are meant: the names of digits.
        (b"Sample001\t0\nSample002\t1\nSample003\t2\n", r"if the classes are these numbers.*such as 'digit 0'"),
        (b"'cat',\n'dog',\n", r"in quotation marks, \"'cat',\""),
        (b"# classes\ncat\n", r"line 1 of .*looks like a comment"),
        (b"cat,0\ndog,1\n", r"end with numbers, 'cat,0'.*write 0<TAB>cat"),
        (b'{"0": "cat", "1": "dog"}', r"looks like JSON"),
        (b'["cat",\n"dog"]', r"looks like JSON"),
        ("caf\u00e9\ncafe\u0301\n".encode(), r"class name 'caf\u00e9' appears twice"),
    ],
)
def test_files_of_class_names_that_cannot_be(tmp_path, content, message):
    file = tmp_path / "classes.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_class_names(file)
    assert "\n" not in str(error.value)


def test_names_may_begin_with_numbers(tmp_path):
    file = tmp_path / "classes.txt"
    several = (("2 euros", "1 euro"), ("5 o'clock", "6 o'clock"), ("7-Eleven", "24-hour shop"), ("10", "11"))
    for names in (*several, ("coin", "1 euro", "2 euros"), ("grade: 0", "grade: 1"), ("cat", "name", "label"), ("9:00", "12:00"), ("square", "4:3", "16:9")):
        file.write_text("\n".join(names))
        assert load_class_names(file) == (names, None)
    file.write_text("a1\tcat\n7\tdog\nx\tbee\n")
    assert load_class_names(file) == (("cat", "dog", "bee"), ("a1", "7", "x"))


def test_lines_end_at_line_feeds_alone_and_a_byte_order_mark_is_no_letter(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeffsnow\u2028leopard\r\nred\u0085panda\rowl\n".encode())
    assert load_class_names(file) == (("snow leopard", "red panda", "owl"), None)
    assert read_names_and_templates({7: "cat", -1: "dog"}, None) == {
        "class_names": ("cat", "dog"),
        "label_names": ("7", "-1"),
    }
    with pytest.raises(ValueError, match="the dict of class_names holds them too"):
        read_names_and_templates({7: "cat"}, None, ["7"])
    with pytest.raises(ValueError, match="is a folder"):
        load_class_names(tmp_path)


def test_templates_as_they_stand_in_a_script_are_refused(tmp_path):
    file = tmp_path / "prompts.txt"
    for content in ("    'a bad photo of a {}.',\n    'a photo of many {}.',\n", "# of CLIP\na photo of a {}.\n"):
        file.write_text(content)
        with pytest.raises(ValueError, match="quotation marks|looks like a comment"):
            load_templates(file)
    file.write_text("'tis a {}.\n\"a {}\" in a book\n#1 {}\n")
    assert load_templates(file) == ("'tis a {}.", '"a {}" in a book', "#1 {}")
