# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Class names and prompt templates: cleaning, checking, and the sentences made from them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

DEFAULT_TEMPLATES = ("a photo of a {}.",)
#: What a table calls its column of names, and that of what the data call the classes.
_NAMES_COLUMN = frozenset(("class", "classes", "classname", "classnames", "label", "labels", "labelname", "labelnames", "name", "names"))
_LABELS_COLUMN = _NAMES_COLUMN | {"classid", "code", "folder", "folders", "id", "idx", "index", "labelid", "number", "synset", "wnid"}


def clean_class_name(name: str) -> str:
    """`name` as it should read in a sentence: underscores become spaces, blanks collapse, ends are stripped.

    Letters with accents are composed (Unicode's form NFC), so that a name is the same from a Mac's folder and from a file.
    """
    return " ".join(unicodedata.normalize("NFC", str(name)).replace("_", " ").split())


def class_key(name: str) -> str:
    """What decides whether two names are the same class: the cleaned name without case.

    CLIP's tokenizer lower-cases its input, so names that differ in case alone have one and the same text embedding.
    """
    return unicodedata.normalize("NFC", clean_class_name(name).casefold())


def label_key(name: str) -> str:
    """Return what identifies the class `name` in copies of a data set: letters and digits only ("AnnualCrop" is "annual crop")."""
    return "".join(letter for letter in class_key(name) if letter.isalnum())


def check_class_names(names: Iterable[str], what: str = "class name") -> tuple[str, ...]:
    """Clean the names of the classes and refuse a list that cannot be told apart.

    Args:
        names (`Iterable[str]`): One name per class, in label order.
        what (`str`, *optional*, defaults to `"class name"`): What the names are, used in messages; "label" for what
            data call the classes.

    Returns:
        The cleaned names.

    Raises:
        ValueError: no names, a blank name, or one name (after cleaning, ignoring case) for two classes.
    """
    if isinstance(names, (str, Path)):
        raise ValueError(f"class_names is the single string {str(names)!r}; give a tuple with one name per class.")
    if isinstance(names, (set, frozenset)):
        raise ValueError("class_names is a set, which has no order, and labels are positions; give a tuple in label order.")
    if isinstance(names, Mapping):
        raise ValueError("class_names is a dict, of which the order of the classes is not known here; give its values.")
    cleaned = tuple(clean_class_name(name) for name in names)
    if not cleaned:
        raise ValueError("The list of class names is empty; give one name per class.")
    first: dict[str, int] = {}
    for position, name in enumerate(cleaned):
        if not name:
            raise ValueError(f"{what} {position} (counted from 0) is blank; give every class a name.")
        earlier = first.setdefault(class_key(name), position)
        if earlier != position:
            raise ValueError(
                f"{what} {name!r} appears twice, at positions {earlier} and {position} (counted from 0); "
                + ("rename one, zero-shot prompts" if what == "class name" else "correct one, data")
                + " cannot tell two classes of one name apart."
            )
    return cleaned


def check_templates(templates: Iterable[str]) -> tuple[str, ...]:
    """Refuse templates that are not sentences with exactly one gap.

    Args:
        templates (`Iterable[str]`): Sentences with one "{}" each, where the class name goes.

    Returns:
        The templates as a tuple.

    Raises:
        ValueError: no template, or one that is not a text or whose number of "{}" is not 1.
    """
    if isinstance(templates, (str, Path)):
        raise ValueError(f"templates is the single string {str(templates)!r}; give a tuple of templates.")
    templates = tuple(templates)
    if not templates:
        raise ValueError('The list of templates is empty; give at least one, such as "a photo of a {}.".')
    for position, template in enumerate(templates):
        if not isinstance(template, str):
            raise ValueError(f"template {position} (counted from 0) is {template!r}, not a text; write a sentence with one \"{{}}\".")
        gaps = template.count("{}")
        if gaps != 1:
            raise ValueError(
                f'template {position} (counted from 0), {template!r}, holds {gaps} times "{{}}"; '
                "write it exactly once, where the class name goes."
            )
    return templates


def fill_template(template: str, class_name: str) -> str:
    """Put a `class_name` into a checked `template`; other braces, in name or template, stay as they are."""
    return template.replace("{}", clean_class_name(class_name))


def class_prompts(class_names: Iterable[str], templates: Iterable[str] = DEFAULT_TEMPLATES) -> list[str]:
    """Every template filled with every class name.

    Args:
        class_names (`Iterable[str]`): The classes, in label order.
        templates (`Iterable[str]`, *optional*, defaults to `DEFAULT_TEMPLATES`): Sentences with one "{}" each
            (default: "a photo of a {}.").

    Returns:
        classes x templates sentences, class by class: all templates of class 0, then all of class 1, ...

    Raises:
        ValueError: as `check_class_names` and `check_templates`.
    """
    names, templates = check_class_names(class_names), check_templates(templates)
    return [fill_template(template, name) for name in names for template in templates]


def read_text(path: str | Path) -> str:
    """
    Read the UTF-8 file at `path`, with or without a byte order mark, and end its lines by "\\n".

    Raises:
        OSError: It cannot be read.
        ValueError: It is in another encoding; says which line, and how to convert it.
    """
    content = Path(path).read_bytes()
    convert = f"save it as UTF-8, or convert it with `iconv -f {{}} -t UTF-8 {Path(path).name} > new.txt`"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise ValueError(f"The file {str(path)!r} is not UTF-8 but UTF-16, from line 1 on; {convert.format('UTF-16')}.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} of the file {str(path)!r} is not UTF-8; {convert.format('ENCODING')} (WINDOWS-1252 in most of "
            "Europe, GB18030 or BIG5 in Chinese, SHIFT_JIS in Japanese, KOI8-R or WINDOWS-1251 in Russian)."
        ) from None
    # Not `splitlines`, which also cuts at signs within a name, such as U+2028.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(path: str | Path, what: str, else_: str = "") -> list[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers from 1 on."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"The file of {what} {str(path)!r} is a folder; give the path of a text file{else_}.")
    if not path.exists():
        raise FileNotFoundError(
            f"The file of {what} {str(path)!r} does not exist; give the path of a text file{else_}."
        )
    if not path.is_file():
        raise ValueError(f"The file of {what} {str(path)!r} is a pipe or device; give the path of a text file{else_}.")
    lines = [(number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"The file of {what} {str(path)!r} is empty; write one per line.")
    if all(re.fullmatch(r"""\s*(["']).*\1\s*,?\s*""", line) for _, line in lines):
        raise ValueError(
            f"All lines of the file of {what} {str(path)!r} are in quotation marks, {lines[0][1].strip()[:60]!r}, which would be read as a part of "
            "them; write them without, and without commas at their ends."
        )
    if len(lines) > 1 and re.match(r"\s*(#\s|//)", lines[0][1]):
        raise ValueError(
            f"line {lines[0][0]} of the file of {what} {str(path)!r}, {lines[0][1].strip()[:60]!r}, looks like a comment, and would be read as one of "
            "them; remove it."
        )
    return lines


def load_templates(path: str | Path) -> tuple[str, ...]:
    """Read prompt templates from the UTF-8 text file at `path`, one per line; blank lines are skipped.

    Raises:
        OSError: the file does not exist.
        ValueError: the file is empty or a line does not hold exactly one "{}".
    """
    lines = _lines(path, "templates", ", a template with one {}, or a name such as imagenet-80")
    try:
        return check_templates(line.strip() for _, line in lines)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def load_class_names(path: str | Path) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Read class names from the UTF-8 text file at `path`, one per line in label order; blank lines are skipped.

    A line may also be `label<TAB>name`, in all lines or none: `label` is what the data set calls the class (a folder
    such as `n01440764`, a string label, a ClassLabel name, a number such as 7 or -1), `name` is what the prompts should
    say. Without labels, numbers in the data are 0 to N - 1 in the order of the lines.

    Returns:
        The cleaned class names, and the data set's own labels (None if the file holds names only).

    Raises:
        OSError: the file does not exist.
        ValueError: the file is empty or not UTF-8, mixes the two kinds of line, or its names or labels are blank or twice
            the same.
    """
    rows = [(number, [part.strip() for part in line.split("\t")]) for number, line in _lines(path, "class names")]
    _refuse_other_formats([row for _, row in rows], path)
    width = len(rows[0][1])
    for number, row in rows:
        if len(row) != width or width > 2 or not all(row):
            raise ValueError(
                f"line {number} of {str(path)!r}, {chr(9).join(row)!r}, does not fit: every line must be a class name, or "
                "every line a label, one tab and a class name."
            )
    try:
        names = check_class_names(row[-1] for _, row in rows)
        labels = tuple(row[0] for _, row in rows) if width == 2 else None
        if labels is not None:
            check_class_names(labels, "label")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return names, labels


def _refuse_other_formats(rows: list[list[str]], path: str | Path) -> None:
    """Lines that would be taken for names, or for labels, and are not: numbered in another way, a header, JSON."""
    first = rows[0][0]
    if first[0] in "{[":
        raise ValueError(f"{str(path)!r} looks like JSON, {first[:40]!r}; write one name a line, or `label<TAB>name`.")
    single = [row[0] for row in rows if len(row) == 1]
    numbered = [re.fullmatch(r"(-?\d+)\s*([,;:=|]|\s)\s*\S.*", text) for text in single]
    if len(numbered) == len(rows) > 2 and numbered[0] is None and all(match and not match[2].isspace() for match in numbered[1:]):
        # Below the names of the columns.
        single, numbered = single[1:], numbered[1:]
    elif len(numbered) < len(rows):
        numbered = []
    # "9:00" and "16:9" are names.
    if len(numbered) > 1 and all(numbered) and not all(text[match.end(2) :].strip().isdecimal() for text, match in zip(single, numbered, strict=True)):
        numbers = [int(match[1]) for match in numbered]
        # "2 euros" may be a name; that all names are counted through from 0 or 1 is not an accident.
        counted = numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
        if counted or len({*numbers}) == len(numbers) and not any(match[2].isspace() for match in numbered):
            raise ValueError(
                f"The lines of {str(path)!r} begin with numbers, {single[0]!r}, but only a tab parts a label from a name: write "
                f"{numbered[0][1]}<TAB>{single[0][numbered[0].end(2) :].strip()} and so on, or the names alone."
            )
    counts = [re.fullmatch(r"(.*\S)\s*[,;:=|]\s*(\d+)", text) for text in single]
    # "grade: 1" and "grade: 2" are names.
    if len(counts) == len(rows) > 1 and all(counts) and len({class_key(match[1]) for match in counts}) == len(counts):
        if [int(match[2]) for match in counts] in (list(range(len(rows))), list(range(1, len(rows) + 1))):
            raise ValueError(
                f"The lines of {str(path)!r} end with numbers, {first!r}, which would be read as a part of the names: write "
                f"{counts[0][2]}<TAB>{counts[0][1]} and so on, or the names alone."
            )
    if len(rows) > 2 and label_key(rows[0][-1]) in _NAMES_COLUMN and (len(rows[0]) == 1 or label_key(first) in _LABELS_COLUMN):
        raise ValueError(
            f"line 1 of {str(path)!r}, {chr(9).join(rows[0])!r}, looks like a header; remove it, or, if it is a class, write lines "
            "`label<TAB>name` with another one first."
        )
    if len(rows) > 2 and all(len(row) == 2 for row in rows):
        labels = [row[0].removeprefix("-").isdecimal() for row in rows]
        names = [row[1] for row in rows]
        if not any(labels) and names in ([*map(str, range(len(rows)))], [*map(str, range(1, len(rows) + 1))]):
            raise ValueError(
                f"The names in {str(path)!r} are numbers, {chr(9).join(rows[0])!r}, and would stand in the prompts; what the data call a class comes "
                f"before the tab: write {names[0]}<TAB>{first} and so on, or the names alone; if the classes are these numbers, call them so, such as 'digit {names[0]}'."
            )
        if not labels[0] and all(labels[1:]):
            raise ValueError(
                f"line 1 of {str(path)!r}, {chr(9).join(rows[0])!r}, looks like a header: the labels of all other lines are "
                "numbers; remove it."
            )


def read_names_and_templates(
    class_names: Iterable[str] | Mapping[str, str] | Mapping[int, str] | str | Path | None,
    templates: Iterable[str] | str | Path | None,
    label_names: Iterable[str] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Turn what a user may give, tuples or paths of text files, into tuples.

    Args:
        class_names (`Iterable[str]`, `Mapping[str | int, str]`, `str` or `Path`, *optional*): Names in label order, a
            dict {label: name}, or the path of a file for `load_class_names`; None if not given.
        templates (`Iterable[str]`, `str` or `Path`, *optional*): Templates, one template, or the path of a file for
            `load_templates`; None if not given.
        label_names (`Iterable[str]`, *optional*): What the data set calls the classes, if given apart from the file.

    Returns:
        `class_names`, `templates` and `label_names`, those that were given or read.

    Raises:
        OSError, ValueError: as the two readers, or label names both given and in the file.
    """
    settings: dict[str, tuple[str, ...]] = {}
    if label_names is not None:
        settings["label_names"] = tuple(map(str, label_names))
    own = None
    if isinstance(class_names, (str, Path)):
        settings["class_names"], own = load_class_names(class_names)
    elif isinstance(class_names, Mapping):
        settings["class_names"], own = tuple(class_names.values()), tuple(map(str, class_names))
    elif isinstance(class_names, (set, frozenset)):
        check_class_names(class_names)
    elif class_names is not None:
        settings["class_names"] = tuple(class_names)
    if own is not None and label_names is not None:
        given = "the dict of class_names" if isinstance(class_names, Mapping) else repr(str(class_names))
        raise ValueError(f"label_names are given, but {given} holds them too; leave one out.")
    if own is not None:
        settings["label_names"] = own
    if isinstance(templates, str) and "{}" in templates:
        settings["templates"] = (templates,)
    elif templates is not None:
        settings["templates"] = load_templates(templates) if isinstance(templates, (str, Path)) else tuple(templates)
    return settings
