# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What the folder of a checkpoint must hold, found out from its small files and the headers of its weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from ..data.messages import one_line
from .families import FAMILIES, SUPPORTED
from .spread_weights import placed_like
from .tensor_files import FLOATS, check_is_content, read_json_object, shapes_and_kinds

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
#: Files that hold a vocabulary on their own: of WordPiece, and of SentencePiece.
VOCABULARY_FILES = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
_ADAPTER_CONFIG = "adapter_config.json"
#: Prefixes by which wrappers lengthen the names of a model's weights, and the wrapper's name.
_WRAPPERS = {
    "module.": "DistributedDataParallel",
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "base_model.model.": "PEFT",
}
#: Positions 0, 1, 2, ..., which old versions saved and new ones make.
_IGNORED = ".position_ids"


def check_checkpoint(folder: str | Path, what: str | None = None) -> PreTrainedConfig:
    """
    Refuse a folder whose files cannot be a whole model with its processor, before anything of it is loaded.

    Args:
        folder (`str` or `Path`): The folder.
        what (`str`, *optional*): What to call it in messages; its path by default.

    Returns:
        [`~transformers.PreTrainedConfig`]: Its configuration.

    Raises:
        OSError: If a file is missing, empty, a git-lfs pointer, or cannot be read.
        ValueError: If it is a checkpoint of something else, its weights are not those of its configuration, or a file
            is damaged.
    """
    folder = Path(folder)
    what = str(folder) if what is None else what
    config = check_config(folder, what)
    check_weights(folder, config, what)
    check_processor_files(folder, what)
    return config


def check_config(folder: Path, what: str) -> PreTrainedConfig:
    """
    The configuration of a `folder`, which messages call `what`, if it is one of a whole model.

    Raises:
        OSError, ValueError: As `check_checkpoint`.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{what} has no {CONFIG_FILE}, so it is not a checkpoint: {_instead(folder)}.")
    content = read_json_object(folder / CONFIG_FILE)
    kind, classes = content.get("model_type"), content.get("architectures") or []
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ValueError(
            f"{what} is a model of type {kind!r}, which is not supported; give a checkpoint of one of {SUPPORTED}."
        )
    whole = family.class_name
    if isinstance(classes, list) and classes and whole not in classes:
        raise ValueError(
            f"{what} is a {classes[0]}, not a whole {whole} with both towers and their projections; give the checkpoint of "
            f"a {whole}."
        )
    if "quantization_config" in content:
        raise ValueError(
            f"{what} is quantized; give the checkpoint in float32, float16 or bfloat16 that it was made of."
        )
    if (folder / _ADAPTER_CONFIG).is_file():
        raise ValueError(f"{what} holds adapters ({_ADAPTER_CONFIG}): {_ADAPTER_ADVICE}.")
    with _named_as_configuration(folder):
        config = family.model_class.config_class.from_dict(content)
    for part in family.towers(config):
        if any(isinstance(getattr(part, name, 1), (list, tuple)) for name in ("num_attention_heads", "num_heads")):
            raise ValueError(
                f"{what} has a tower of the type {part.model_type!r}, whose layers are of several sizes, which is not supported; give "
                "one with layers of one size, such as ViT or DINOv2."
            )
    with _named_as_configuration(folder):
        for part in family.towers(config):
            _check_sizes(part)
        family.caption_rules(config).check()
    if head := family.missing_head(config):
        raise ValueError(
            f"{what} has an image tower without a pooling head (`{head}` is false in its {CONFIG_FILE}), which "
            "gives a feature of each patch and none of the whole image; give the checkpoint with that head."
        )
    return config


def _check_sizes(config: PreTrainedConfig) -> None:
    """Refuse layers that no memory has room for, which are made before they are compared with the weights, and rates that are none."""
    for name, most in _MOST.items():
        value = getattr(config, name, 1)
        if not isinstance(value, (int, float)) or not 0 <= value <= most:
            raise ValueError(f"{name} is {value!r}, not a number from 0 to {most:,}")


@contextmanager
def _named_as_configuration(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Whatever a configuration with wrong values brings about, it is the file that is wrong.
        raise ValueError(
            f"{folder / CONFIG_FILE} is not a configuration of such a model ({one_line(error)}); restore it."
        ) from error


#: The largest sizes that a configuration may have; models that there are lie far below.
_MOST = {"num_hidden_layers": 1_000, "num_attention_heads": 10_000, "hidden_size": 10**6, "intermediate_size": 10**7, "attention_dropout": 1}
_ADAPTER_ADVICE = "load them with `PeftModel.from_pretrained`, merge them with `merge_and_unload()`, and save the model and its processor"


def _instead(folder: Path) -> str:
    names = {entry.name for entry in folder.iterdir()}
    if _ADAPTER_CONFIG in names:
        return f"it holds adapters alone ({_ADAPTER_CONFIG}); {_ADAPTER_ADVICE}"
    if "open_clip_config.json" in names:
        return "it holds an OpenCLIP model; convert it to Transformers first"
    steps = sorted(
        (name for name in names if (folder / name / CONFIG_FILE).is_file()), key=lambda name: (len(name), name)
    )
    if steps:
        return f"its folder {steps[-1]} is one, if you mean that"
    return "give a folder that save_pretrained wrote, with model and processor"


def index_of(folder: Path) -> dict[str, str]:
    """
    The file of each weight, as the index of a `folder` says.

    Raises:
        ValueError: If it does not say so, or names files elsewhere.
    """
    parts = read_json_object(folder / INDEX_FILE).get("weight_map")
    if not isinstance(parts, dict) or not parts or not all(isinstance(name, str) and name for name in parts.values()):
        raise ValueError(f"{folder / INDEX_FILE} does not name files of weights; save the model again.")
    if not all(re.fullmatch(r"\w[\w. -]{0,200}", name) for name in parts.values()):
        raise ValueError(f"{folder / INDEX_FILE} names files outside its folder; save the model again.")
    return parts


def _weight_files(folder: Path, what: str) -> list[Path]:
    """The files of a folder's weights, if all are there and in safetensors; raises as `check_checkpoint`."""
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if (folder / INDEX_FILE).is_file():
        names = sorted(set(index_of(folder).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{what} lacks {_listed(missing)} of the {len(names)} files that {INDEX_FILE} names; copy the folder again."
            )
        return [folder / name for name in names]
    others = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (*_PICKLED, ".safetensors"))
    safe = [name for name in others if name.endswith(".safetensors") and name.startswith("model")]
    if safe:
        raise FileNotFoundError(f"{what} has no {WEIGHTS_FILE}, but {_listed(safe)}; rename the file that is meant.")
    pickled = [name for name in others if name.endswith(_PICKLED) and not name.startswith(_OF_THE_TRAINER)]
    if pickled:
        raise FileNotFoundError(
            f"{what} has its weights in {pickled[0]} alone, and pickled files are never loaded; if you trust where it "
            "is from, convert it by AutoModel.from_pretrained(folder, use_safetensors=False).save_pretrained(folder)."
        )
    raise FileNotFoundError(f"{what} has no {WEIGHTS_FILE}; copy the weights there, or save the model again.")


_OF_THE_TRAINER = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state")


def check_weights(folder: Path, config: PreTrainedConfig, what: str) -> set[str]:
    """
    Refuse weights in a `folder`, which messages call `what`, that do not fill a model of a `config` or do not fit into it.

    Returns:
        `set[str]`: The kinds of number that they are in, such as `"F32"`.

    Raises:
        OSError, ValueError: As `check_checkpoint`.
    """
    return check_weights_of(folder, without_weights(folder, config), what)


def without_weights(folder: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a `config` read from a `folder`, on the meta device. Raises ValueError if there can be no such model."""
    with _named_as_configuration(folder), torch.device("meta"):
        return FAMILIES[config.model_type].model_class(config)


def check_weights_of(folder: str | Path, model: nn.Module, what: str | None = None) -> set[str]:
    """
    As `check_weights`, for weights in a `folder`, which messages call `what`, and a `model` that is there, on any device.

    Raises:
        OSError, ValueError: As `check_checkpoint`.
    """
    folder = Path(folder)
    what = str(folder) if what is None else what
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for path in _weight_files(folder, what):
        here = shapes_and_kinds(path)
        if (twice := found.keys() & here.keys()) or path.name != WEIGHTS_FILE and here.keys() != _of_file(folder, path.name):
            raise ValueError(
                f"{path} does not hold the weights that {INDEX_FILE} names for it{f' alone ({_listed(sorted(twice))})' if twice else ''}, "
                "as where files of two checkpoints are mixed; copy the folder again."
            )
        found |= here
    found = {name: value for name, value in found.items() if not name.endswith(_IGNORED)}
    # Transformers writes it before the names of a model that holds this one's parts, and takes it off again.
    own_prefix = f"{getattr(model, 'base_model_prefix', '')}."
    if all(name.startswith(own_prefix) for name in found):
        found = {name.removeprefix(own_prefix): value for name, value in found.items()}
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items() if not name.endswith(_IGNORED)}
    if found.keys() != wanted.keys():
        found = _as_the_model_names_them(found, model)
    mismatched = [
        f"{name} {list(found[name][0])} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name][0] != shape
    ]
    refuse_misfits(what, wanted.keys() - found.keys(), found.keys() - wanted.keys(), mismatched)
    strange = sorted(f"{name} {kind}" for name, (_, kind) in found.items() if kind not in FLOATS)
    if strange:
        raise ValueError(
            f"{what} has {len(strange)} weights that are not floating-point numbers ({_listed(strange)}), as quantized "
            "models have; give the checkpoint in float32, float16 or bfloat16."
        )
    return {kind for _, kind in found.values()}


def _as_the_model_names_them(found: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Weights by the names that Transformers gives them when it loads a model whose parts were once named otherwise."""
    transforms = get_model_conversion_mapping(model) if isinstance(model, PreTrainedModel) else []
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    return {rename_source_key(name, renamings, converters)[0]: value for name, value in found.items()}


def load_converted(folder: str | Path, model: nn.Module) -> bool:
    """
    Load the weights of a `folder` into a `model` if they have other names there than in it, as Transformers saves those of some.

    Transformers' Trainer takes names as they are, and would leave such weights out.

    Returns:
        `bool`: Whether they have other names. If not, nothing is loaded.
    """
    files, own = _weight_files(Path(folder), str(folder)), model.state_dict()
    if all(name in own or name.endswith(_IGNORED) for file in files for name in shapes_and_kinds(file)):
        return False
    saved = _as_the_model_names_them({name: value for file in files for name, value in load_file(file).items()}, model)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(placed_like(saved[name], value))
    return True


def _of_file(folder: Path, file: str) -> set[str]:
    return {name for name, of in index_of(folder).items() if of == file}


def refuse_misfits(what: str, missing: Iterable[str], unexpected: Iterable[str], mismatched: Collection[str]) -> None:
    """
    Refuse the weights of `what` if any is `missing`, `unexpected`, or of another shape (`mismatched`).

    Raises:
        ValueError: With number and first names.
    """
    missing, unexpected = sorted(missing), sorted(unexpected)
    faults = [
        f"{len(names)} {kind} ({_listed(names)})"
        for names, kind in ((missing, "missing"), (unexpected, "unexpected"), (mismatched, "of another shape"))
        if names
    ]
    if not faults:
        return
    prefix = _common_prefix(missing, unexpected)
    if any(".base_layer." in name for name in unexpected):
        advice = "it holds LoRA adapters that are not merged, as checkpoints of a run do: give the folder of the finished run"
    elif prefix:
        whose = f", which {_WRAPPERS[prefix]} puts there" if prefix in _WRAPPERS else ""
        advice = f"the names begin with {prefix!r}{whose}: save the model itself with save_pretrained, not its wrapper"
    else:
        advice = "nothing is filled in at random: give the whole checkpoint, with the config.json it was saved with"
    raise ValueError(f"{what} does not hold the weights of its model: {', '.join(faults)}; {advice}.")


def _common_prefix(missing: Collection[str], unexpected: Collection[str]) -> str:
    """What stands before every unexpected name, if the missing names follow it."""
    for name in missing:
        longer = [other for other in unexpected if other.endswith(f".{name}")]
        for other in sorted(longer, key=len):
            prefix = other.removesuffix(name)
            if all(item.startswith(prefix) for item in unexpected):
                return prefix
    return ""


def check_processor_files(folder: Path, what: str) -> None:
    """
    Refuse a `folder`, which messages call `what`, without tokenizer or image processor; Transformers would make up the former.

    Raises:
        OSError, ValueError: As `check_checkpoint`.
    """
    advice = (
        "save the processor there: that of the checkpoint it was fine-tuned from, by "
        f"AutoProcessor.from_pretrained(...).save_pretrained({str(folder)!r})"
    )
    tokenizer, vocabulary, merges = (folder / name for name in TOKENIZER_FILES)
    pieces = [folder / name for name in VOCABULARY_FILES if (folder / name).is_file()]
    if not tokenizer.is_file() and not (vocabulary.is_file() and merges.is_file()) and not pieces:
        raise FileNotFoundError(
            f"{what} has no tokenizer ({TOKENIZER_FILES[0]}, or vocab.json and merges.txt); {advice}."
        )
    for path in (vocabulary, tokenizer, folder / "tokenizer_config.json"):
        if path.is_file():
            read_json_object(path)
    for path in (merges, *pieces):
        if path.is_file():
            check_is_content(path)
    found = {name: read_json_object(folder / name) for name in IMAGE_PROCESSOR_FILES if (folder / name).is_file()}
    # Either a file of its own, or a part of the processor's.
    if IMAGE_PROCESSOR_FILES[0] not in found and "image_processor" not in found.get(IMAGE_PROCESSOR_FILES[1], {}):
        raise FileNotFoundError(f"{what} has no image processor ({IMAGE_PROCESSOR_FILES[0]}); {advice}.")


def _listed(names: Collection[str], shown: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
