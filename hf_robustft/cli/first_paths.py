# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What can be said of the paths, ids and names on a command line before anything is imported to read them."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any

from ..data.messages import beside, closest, did_you_mean, nearby, quoted
from ..data.packaged import CHECKPOINTS, check_not_packaged
from ..deployment.output_names import check_output, working_folder
from ..files import READY
from .parser import UsageError
from .verify_rules import check_verified_output, named_places

ROLES = ("id", "validation", "shift", "open_set")
#: What roles are called elsewhere. "ood" is not among them: some mean shifted images by it, others those of other classes.
_OTHER_ROLES = {
    **dict.fromkeys(("val", "valid", "dev", "holdout", "held_out"), "validation"),
    **dict.fromkeys(("test", "eval", "in_distribution"), "id"),
    **dict.fromkeys(("unknown", "unseen", "novel", "openset", "open"), "open_set"),
    **dict.fromkeys(("shifted", "domain_shift"), "shift"),
}


def nearest_role(word: str) -> str | None:
    """The role that is meant by a word which is not one; `None` where that is not clear."""
    word = word.lower().replace("-", "_")
    near = [_OTHER_ROLES[word]] if word in _OTHER_ROLES else closest(word, ROLES, 1)
    return near[0] if near else None


def check_predicted(values: dict[str, Any], registered: list[str]) -> None:
    """Refuse, of the `values` of `predict`, images that are neither here nor `registered`, and a file of answers that is here. Raises UsageError."""
    check_output(values["output"], values.get("overwrite", False) or working_folder(values["output"]).is_dir())
    check_writable(str(Path(values["output"]).expanduser().parent), "--output")
    words, names = values.get("images", ()), values.get("image_list")
    if bool(words) == (names is not None):
        raise UsageError(
            f"`--image_list {names}` is given beside IMAGES; leave one of them out" if words else "Give IMAGES, or a list of them by `--image_list`"
        )
    if names not in (None, "-") and not Path(names).expanduser().is_file():
        there = Path(names).expanduser()
        what = "is a folder; give it as IMAGES" if there.is_dir() else f": there is no such file{beside(names)}"
        raise UsageError(f"`--image_list {names}`{' ' if there.is_dir() else ''}{what}")
    for word in words:
        check_images(word, "IMAGES", registered)


def check_watched(values: dict[str, Any], registered: list[str]) -> None:
    """Refuse, of the `values` of `watch`, a reference that is neither here nor `registered`, and a folder that is not here. Raises UsageError."""
    check_images(values["reference"], "--reference", registered)
    if not Path(values["stream"]).expanduser().is_dir():
        a_file = Path(values["stream"]).expanduser().is_file()
        what = " is a file; name the folder" if a_file else f": there is no such folder{beside(values['stream'])}"
        raise UsageError(f"`--stream {values['stream']}`{what}")
    stream, reference = (Path(values[name]).expanduser().resolve() for name in ("stream", "reference"))
    if reference.is_dir() and (reference.is_relative_to(stream) or stream.is_relative_to(reference)):
        raise UsageError(f"`--reference {values['reference']}` and `--stream {values['stream']}` share images; give folders apart from each other")


def check_outside(values: dict[str, Any], reads: dict[str, str], usual: str) -> None:
    """
    Refuse an output folder in a folder that a command reads.

    Args:
        values (`dict[str, Any]`): The settings, by name.
        reads (`dict[str, str]`): By what the user calls it the name of a setting that may be a folder, or a list of them.
        usual (`str`): The output folder where none is given.

    Raises:
        UsageError: If it lies in one of them.
    """
    output = values.get("output_dir", usual)
    written = Path(output).expanduser().resolve()
    for called, name in reads.items():
        given = values.get(name, [])
        for text in given if isinstance(given, list) else [given]:
            place, _, role = str(text).rpartition(":")
            place = Path(place if place and role in ROLES else text).expanduser()
            if place.is_dir() and text not in CHECKPOINTS and written.is_relative_to(place.resolve()):
                reader = called if called.isupper() and given is text else f"{called} {text}"
                raise UsageError(f"`--output_dir {output}` lies in the folder that `{reader}` reads, which the command would change; give another folder")


def check_outside_runs(values: dict[str, Any]) -> None:
    """Refuse, of the `values` of `compare`, an output folder in that of a finished run that it reads. Raises UsageError."""
    # Read when it is asked for: most command lines name no such folder.
    from ..modeling.metadata import METADATA_FILE

    # What else a folder holds is said where it is read: several runs, or images.
    runs = [folder for folder in values.get("folders", ()) if (Path(folder) / METADATA_FILE).is_file()]
    check_outside({**values, "folders": runs}, {"DIR": "folders"}, "outputs/compare")


def check_images(word: str, option: str, registered: list[str]) -> None:
    """Refuse a `word` behind an `option` that can be neither images nor a data set, `registered` or not. Raises UsageError."""
    if re.match(r"\w{2,}://", word):
        raise UsageError(f"`{option} {word}` is a web address, which is not fetched; download the images and give their path")
    first, *rest = word.split("/")
    elsewhere = first in registered or len(rest) in (1, 2) and not looks_local(f"{first}/") and not Path(first).exists()
    if not os.path.lexists(word) and not set("*?[=") & set(word) and (not elsewhere or re.search(r"\.[A-Za-z]{2,5}$", word)):
        near = did_you_mean(word, registered) if "/" not in word else ""
        raise UsageError(f"`{option} {word}`: there is no such file or folder{near or beside(word)}")


def check_verified(values: dict[str, Any], registered: list[str]) -> None:
    """Refuse, of the `values` of `verify`, places that are neither here nor `registered`, and files that are here. Raises UsageError."""
    for name in ("output", "markdown"):
        if name in values:
            check_verified_output(name, values[name], values.get("overwrite", False))
            check_writable(str(Path(values[name]).expanduser().parent), f"--{name}")
    for name, place in named_places(values.get("data", ())).items():
        check_data(place, f"--data {name}=", registered)


def check_model(text: str, option: str, hub: bool) -> None:
    """
    Refuse a model that is neither a checkpoint folder nor, with `hub`, a possible id of the Hub.

    Args:
        text (`str`): What was given.
        option (`str`): The flag or argument, for the message.
        hub (`bool`): Whether it may be an id of the Hub.

    Raises:
        UsageError: If it is neither.
    """
    path = Path(text).expanduser()
    if hub and text in CHECKPOINTS:
        return
    if not hub:
        check_not_packaged(text, option)
    if (path / "config.json").is_file() or os.path.lexists(path / READY):
        # Where a change was interrupted, whoever reads the folder finishes that first.
        return
    if path.is_dir():
        nested = sorted(item.parent.name for item in path.glob("*/config.json"))
        more = f"; did you mean {path / nested[-1]}?" if nested else "; give a folder that save_pretrained wrote"
        if any(path.iterdir()) and (option == "DIR" or not nested):
            # `publish`, `calibrate` and `load_checkpoint` know what such a folder holds instead.
            return
        raise UsageError(f"`{option} {text}`: the folder has no config.json{more}")
    if path.is_file():
        raise UsageError(f"`{option} {text}` is a file; give the folder of the checkpoint")
    if not hub or looks_local(text):
        more = f", a Hub id, or one of the package: {quoted(tuple(CHECKPOINTS))}" if hub else ""
        what = f"give a folder that save_pretrained wrote{more}"
        raise UsageError(f"`{option} {text}`: there is no checkpoint folder at that path{beside(text) or '; ' + what}")
    if "/" not in text and (near := closest(text, CHECKPOINTS)):
        raise UsageError(f"`{option} {text}` is unknown; did you mean {near[0]}?")
    if path.parent.is_dir() and "/" in text and not _in_cache("models", text):
        raise UsageError(
            f"`{option} {text}`: there is no checkpoint folder at that path{beside(text) or '; correct it'}"
            f"{' If' if beside(text) else ', or if'} {text} is meant on the Hub, download it first by `hf download {text}`"
        )


def _in_cache(kind: str, text: str) -> bool:
    """Whether something of a repository is in the cache of the Hub, whose place the environment says."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or Path(home) / "hub"
    found = [Path(hub).expanduser() / f"{kind}--{text.replace('/', '--')}"]
    if kind == "datasets":
        built = os.environ.get("HF_DATASETS_CACHE") or Path(home) / "datasets"
        found.append(Path(built).expanduser() / text.replace("/", "___").lower())
    return any(place.is_dir() for place in found)


def looks_local(text: str) -> bool:
    """Whether a text cannot be an id of the Hub, `owner/name`."""
    return text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text or " " in text


def check_data(text: str, option: str, registered: list[str]) -> None:
    """Refuse a `text` behind an `option` that can be no data set, neither `registered` nor here nor on the Hub. Raises UsageError."""
    given = f"{option}{text}" if option.endswith("=") else f"{option} {text}"
    place, colon, role = text.rpartition(":")
    if colon and place and role not in ROLES and (near := nearest_role(role)) and not Path(text).exists():
        raise UsageError(f"`{given}`: {role!r} is not a role; did you mean {place}:{near}?")
    if colon and place in registered and role not in ROLES and not Path(text).exists():
        roles = ", ".join(ROLES)
        raise UsageError(f"`{given}`: {role!r} is not a role ({roles}); a set of {place} is named after a slash: {place}/{role}")
    place = place if colon and role in ROLES else text
    name, _, copy = place.partition("=")
    if name.split("/")[0] in registered:
        if copy and looks_local(copy) and not Path(copy).expanduser().exists():
            raise UsageError(f"`{given}`: {copy} does not exist{beside(copy)}")
        return
    path = Path(place).expanduser()
    if path.is_dir() and not any(files or any(os.path.islink(os.path.join(inner, name)) for name in names) for inner, names, files in os.walk(path)):
        what = "give one folder of images for each class, or parquet files"
        raise UsageError(f"`{given}`: there is no file in the folder {place}; {what}")
    if path.exists() or "," not in place and _may_hold(path.parent, path.name):
        return
    if "," in place and Path(place.split(",")[0].rpartition(":")[0] or place.split(",")[0]).expanduser().exists():
        raise UsageError(f"`{given}`: {place} does not exist; separate several data sets by blanks, not by commas")
    if place.count("/") > 2 or place.startswith((".", "/", "~")):
        raise UsageError(f"`{given}`: {place} does not exist{beside(place)}")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    near = nearby(place) if place.count("/") == 1 and not _in_cache("datasets", place) else None
    if near is not None and (path.parent.is_dir() or offline and near.name == path.name):
        raise UsageError(f"`{given}`: there is no folder {place} here, and nothing of that name from the Hub; did you mean {near}?")
    if offline and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", place) and not _in_cache("datasets", place):
        raise UsageError(
            f"`{given}`: there is no folder {place} here, and HF_HUB_OFFLINE is set, so that the Hub is not asked for a data set of that name; "
            "correct the path, or unset it"
        )
    if "/" not in place and not re.fullmatch(r"imagenet-seen-unseen-seed\d+", place):
        more = did_you_mean(place, [*registered, *(item.name for item in Path(".").iterdir() if item.is_dir())])
        raise UsageError(
            f"`{given}`: there is no data set {place!r}, neither registered nor as a path{more or '; a Hub id is owner/name'}"
        )


def _may_hold(folder: Path, split: str) -> bool:
    """
    Whether the last part of a path may be a `split` of the data in `folder` rather than a folder itself. To ask `datasets` means to
    search all of `folder`, which may be somebody's home: it names splits after files or usual words, or as a README says.
    """
    if folder in (Path("."), Path("/")) or not folder.is_dir():
        return False
    items = [item for pattern in ("*", "*/*") for item in folder.glob(pattern)]
    if not any(item.suffix in (".parquet", ".tar", ".arrow", ".csv", ".jsonl", ".zip") for item in items):
        return False
    described = any((folder / name).is_file() for name in ("README.md", "dataset_dict.json"))
    return described or re.search("train|test|val|dev", split.lower()) is not None or any(split in item.name for item in items)


def check_writable(text: str | None, option: str = "--output_dir") -> None:
    """Refuse a `text` behind an `option` where no folder can be made or written to. Raises UsageError."""
    if text is None:
        return
    path = Path(text).expanduser()
    for existing in (path, *path.absolute().parents):
        try:
            # Asked once: another process may take an empty folder away between two questions.
            a_folder = stat.S_ISDIR(existing.stat().st_mode)
            break
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
    else:
        return
    if not a_folder:
        raise UsageError(f"`{option} {text}`: {existing} is a file; name a folder")
    if not os.access(existing, os.W_OK | os.X_OK) and existing.is_dir():
        raise UsageError(f"`{option} {text}`: {existing} cannot be written to; name another folder")
