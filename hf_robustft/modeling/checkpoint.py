# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Loading a checkpoint: the whole of it, or one line that says why not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import logging as transformers_logging

from ..data.messages import one_line
from ..data.transforms import ImageTransform, PatchTransform
from .adapter_file import ADAPTERS_FILE
from .adapters import carry_kept
from .caption_rules import CaptionRules
from .captions import pad_captions
from .checkpoint_check import (
    CONFIG_FILE,
    IMAGE_PROCESSOR_FILES,
    INDEX_FILE,
    TOKENIZER_FILES,
    VOCABULARY_FILES,
    WEIGHTS_FILE,
    check_config,
    check_processor_files,
    check_weights,
    index_of,
    refuse_misfits,
    without_weights,
)
from .checkpoint_file import Unreachable, checkpoint_folder, file_from_hub, is_packaged, local_folder
from .dual_encoder import IMAGE_ADAPTER, DualEncoder
from .families import FAMILIES, SUPPORTED
from .metadata import METADATA_FILE
from .tensor_files import HALVES, not_finite, read_json_object
from .zero_shot import HEAD_FILE

_SMALL_FILES = (
    *IMAGE_PROCESSOR_FILES,
    *TOKENIZER_FILES,
    *VOCABULARY_FILES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
#: Words of which any tokenizer knows at least some letters.
_ORDINARY = "a photo of the cat and a dog"


def load_dual_encoder(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: torch.dtype | None = torch.float32,
    option: str | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    Load a model with an image tower and a text tower, and its processor, if the checkpoint holds all of both.

    Every weight comes from the checkpoint, and none is made up: what is missing, unexpected or of another shape is refused,
    as are weights that are not finite, a tokenizer without its vocabulary, and an image processor for another size. No
    pickled file is read and no code of the checkpoint is run. An image adapter that is kept beside the weights
    (`adapters.safetensors`) comes with the model, which plain Transformers would load without it.

    Args:
        source (`str` or `Path`): A folder, an id on the Hub, or a checkpoint of the package: `"emoji_clip"`,
            `"emoji_clip_carot"`.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        token (`str` or `bool`, *optional*): Access token for a private repository.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Precision of the weights. Half-precision ones become
            float32 with a warning: they are too coarse to be trained. `None` leaves them as they are.
        option (`str`, *optional*): The option of a command line that named `source`, for messages.

    Returns:
        `tuple`: The model, of a class of Transformers ([`~hf_robustft.modeling.dual_encoder.FAMILIES`] has them), in
        evaluation mode, and its processor.

    Raises:
        OSError: If there is no such checkpoint, or a file of it is missing or cannot be read.
        ValueError: If it is a model of another family, or its parts do not fit together.

    Example:

    ```python
    from hf_robustft import load_dual_encoder

    model, processor = load_dual_encoder("outputs/carot")
    ```
    """
    what = str(source) if option is None else f"`{option} {source}`"
    here, folder = _found(source, revision, token, option)
    # The safetensors of some repositories exist only as a conversion by the Hub.
    converted = here is None and revision in (None, "main") and not _holds(folder, WEIGHTS_FILE, INDEX_FILE)
    config = check_config(folder, what)
    kinds = set() if converted else check_weights(folder, config, what)
    processor = _processor(folder, config, what)
    options: dict[str, Any] = {"pretrained_model_name_or_path": folder}
    if converted:
        # Transformers looks for the safetensors that the Hub's converter has made of this repository.
        options = {"pretrained_model_name_or_path": str(source), "revision": "main", "token": token}
    model = _model(what, config, dtype="auto" if dtype is None else dtype, **options)
    carry_kept(model, folder)
    _fit(model, processor, what)
    if here is None:
        model.name_or_path = model.config._name_or_path = str(source)
        model.config._commit_hash = folder.name
    if not is_packaged(source) and dtype == torch.float32 and kinds & set(HALVES):
        half = "float16" if "F16" in kinds else "bfloat16"
        warnings.warn(f"The weights of {what} are in {half}; they are used in float32.", stacklevel=2)
    return model, processor


def commit_of(model: torch.nn.Module) -> str | None:
    """Return the commit of the Hub that a `model` was loaded from, if it was."""
    return getattr(getattr(model, "config", None), "_commit_hash", None)


#: The name that it had before there were other models than CLIP.
load_checkpoint = load_dual_encoder


def load_processor(
    source: str | Path, *, revision: str | None = None, token: str | bool | None = None, option: str | None = None
) -> ProcessorMixin:
    """
    Load the processor of a checkpoint and leave its weights alone, so that data can be checked before these are read.

    What the small files and the headers of weights that are here can tell of a checkpoint is checked as
    [`load_dual_encoder`] does; from the Hub no weights are downloaded.

    Args:
        source (`str` or `Path`), revision (`str`, *optional*), token (`str` or `bool`, *optional*), option (`str`,
            *optional*): As for [`load_dual_encoder`].

    Returns:
        [`~transformers.ProcessorMixin`]: The processor.

    Raises:
        OSError, ValueError: As [`load_dual_encoder`].
    """
    what = str(source) if option is None else f"`{option} {source}`"
    here, folder = _found(source, revision, token, option, weights=False)
    config = check_config(folder, what)
    if here is not None:
        check_weights(folder, config, what)
    return _processor(folder, config, what)


def outline(source: str | Path, *, revision: str | None = None, option: str | None = None) -> DualEncoder:
    """
    The model of a checkpoint without its weights, by its configuration alone: what it consists of is known before these are
    read.

    Args:
        source (`str` or `Path`), revision (`str`, *optional*), option (`str`, *optional*): As for [`load_dual_encoder`].

    Returns:
        [`DualEncoder`]: Of a model on the meta device.

    Raises:
        OSError, ValueError: As [`load_dual_encoder`].
    """
    here, what = local_folder(source), str(source) if option is None else f"`{option} {source}`"
    config = file_from_hub(str(source), CONFIG_FILE, revision) if here is None else here / CONFIG_FILE
    if config is None:
        raise FileNotFoundError(f"{what} has no {CONFIG_FILE}; give a checkpoint of one of {SUPPORTED}.")
    return DualEncoder.of(without_weights(config.parent, check_config(config.parent, what)))


def _found(
    source: str | Path, revision: str | None, token: str | bool | None, option: str | None, weights: bool = True
) -> tuple[Path | None, Path]:
    """The local folder of a checkpoint, if it has one, and the folder in which its files are."""
    try:
        here = local_folder(source)
        return here, _hub_folder(str(source), revision, token, weights) if here is None else here
    except OSError as error:
        raise type(error)(str(error) if option is None else f"`{option} {source}`: {error}") from error


def own_files(source: str, revision: str | None = None) -> Path | None:
    """
    The folder with what hf_robustft wrote beside the weights of a checkpoint.

    Args:
        source (`str`), revision (`str`, *optional*): As for [`load_dual_encoder`].

    Returns:
        `Path`, *optional*: `None` for a model on the Hub that it did not train.
    """
    try:
        return checkpoint_folder(source, METADATA_FILE, HEAD_FILE, revision=revision)
    except FileNotFoundError:
        return None


def _hub_folder(source: str, revision: str | None, token: str | bool | None, weights: bool) -> Path:
    """The cached commit of a repository, with its files."""
    config = file_from_hub(source, CONFIG_FILE, revision, token)
    if config is None:
        raise FileNotFoundError(f"{source} on the Hub has no {CONFIG_FILE}; give a checkpoint of one of {SUPPORTED}.")
    folder = config.parent
    # Before the weights are downloaded.
    known = check_config(folder, source)
    missing: Unreachable | None = None
    answers = False
    for name in (*_SMALL_FILES, *((WEIGHTS_FILE, INDEX_FILE) if weights else ())):
        if name == INDEX_FILE and (folder / WEIGHTS_FILE).is_file():
            continue
        cached = try_to_load_from_cache(source, name, revision=folder.name)
        try:
            file_from_hub(source, name, folder.name, token)
            answers = answers or cached is None
        except Unreachable as error:
            # Most repositories have some of them only.
            missing = error
    needed = [
        IMAGE_PROCESSOR_FILES,
        (*TOKENIZER_FILES, *VOCABULARY_FILES),
        *([(WEIGHTS_FILE, INDEX_FILE)] if weights else []),
    ]
    if missing is not None and (answers or not all(_holds(folder, *names) for names in needed)):
        # Of a Hub that answers for others it is not known that there is none: tokens and colours could be others without it.
        raise missing
    if weights and (folder / INDEX_FILE).is_file() and not (folder / WEIGHTS_FILE).is_file():
        checkpoint_folder(source, *sorted(set(index_of(folder).values())), revision=folder.name, token=token)
    if weights and getattr(known, IMAGE_ADAPTER, None) is not None:
        file_from_hub(source, ADAPTERS_FILE, folder.name, token)
    return folder


def _holds(folder: Path, *names: str) -> bool:
    return any((folder / name).is_file() for name in names)


def _processor(folder: Path, config: PreTrainedConfig, what: str) -> ProcessorMixin:
    """The processor of a folder, which messages call `what`, if it makes what a model of this configuration takes."""
    check_processor_files(folder, what)
    family = FAMILIES[config.model_type]
    for name in (*reversed(IMAGE_PROCESSOR_FILES), "tokenizer_config.json"):
        given = read_json_object(folder / name).get("processor_class") if (folder / name).is_file() else None
        if given != family.processor_name and given in {other.processor_name for other in FAMILIES.values()}:
            raise ValueError(
                f"The processor of {what} is of the class {given} ({name}), and {family.class_name} takes {family.processor_name}; give "
                "that of the checkpoint it was fine-tuned from."
            )
    try:
        processor = family.processor_class.from_pretrained(folder, trust_remote_code=False)
    except ImportError as error:
        raise ValueError(
            f"The tokenizer of {what} needs a package that is not installed ({one_line(error).split('. ')[0]}); install "
            '"hf_robustft[sentencepiece]", or save it with a tokenizer.json.'
        ) from error
    except Exception as error:
        # Transformers and tokenizers raise errors of any kind for broken files.
        raise ValueError(
            f"The processor of {what} cannot be loaded ({type(error).__name__}: {one_line(error)}); save it again with "
            "processor.save_pretrained."
        ) from error
    try:
        transform = ImageTransform.from_processor(processor, train=False)
    except (ValueError, TypeError) as error:
        raise ValueError(f"The image processor of {what} does not fit: {error}") from None
    patches = isinstance(transform, PatchTransform)
    if patches != family.patches:
        raise ValueError(
            f"The image processor of {what} is a {type(processor.image_processor).__name__}, which gives "
            f"{'patches' if patches else 'images of one size'}, and a {family.class_name} takes "
            f"{'patches' if family.patches else 'images of one size'}; give that of the checkpoint it was fine-tuned from."
        )
    if family.image_size(config) not in (None, transform.size):
        raise ValueError(
            f"The image processor of {what} gives {'patches' if patches else 'images'} of {transform.size} pixels, and the model "
            f"takes {family.image_size(config)}; set {'patch_size' if patches else 'crop_size and size'} to that in "
            f"{IMAGE_PROCESSOR_FILES[0]}."
        )
    _check_tokenizer(processor.tokenizer, family.caption_rules(config), what)
    return processor


def _fit(model: PreTrainedModel, processor: ProcessorMixin, what: str) -> None:
    """Make a model know its padding, and refuse towers of any kind that a dual encoder cannot be made of."""
    encoder = DualEncoder.of(model)
    rules, padding = encoder.caption_rules, processor.tokenizer.pad_token_id
    if rules.reads == "fixed" and rules.padding != padding:
        # Padding is part of what the model reads, and published configurations have the default of their class.
        encoder.pad_with(padding)
    if not encoder.family.any_towers:
        return
    size = ImageTransform.from_processor(processor, train=False).size
    short = torch.tensor([encoder.caption_rules.blank])
    try:
        with torch.no_grad():
            image = encoder.image_features(torch.zeros(1, 3, size, size, dtype=model.dtype))
            text, padded = (encoder.text_features(pad_captions([short], rules.padding, least)) for least in (1, 3))
        if not len(image) == len(text) == 1 or image.shape != text.shape or image.ndim != 2:
            raise ValueError(f"features of shapes {tuple(image.shape)} and {tuple(text.shape)}")
        if not torch.allclose(text, padded, rtol=1e-3, atol=1e-4 * text.abs().max().item()):
            raise ValueError("features of texts that depend on padding")
    except Exception as error:
        # Towers are of any kind, and so are their errors.
        raise ValueError(
            f"The towers of {what} do not give one feature for an image of {size} pixels and for a text "
            f"({one_line(error).rstrip('.')}); give a model whose towers have a pooled output, with the processor of its image tower and "
            "the size of images that this takes."
        ) from error


def _check_tokenizer(tokenizer, rules: CaptionRules, what: str) -> None:
    if tokenizer.model_max_length > rules.max_length:
        # Not said in the files, or another model's: what is longer would have no position.
        tokenizer.model_max_length = rules.max_length
    advice = "give the tokenizer of the checkpoint that it was fine-tuned from"
    if rules.reads == "fixed":
        # Trained without a mask: Transformers' own pipeline passes one if the tokenizer makes it.
        tokenizer.model_input_names = ["input_ids"]
    if tokenizer.padding_side != "right" or tokenizer.pad_token_id is None:
        raise ValueError(
            f"The tokenizer of {what} has the padding_side {tokenizer.padding_side!r} and the pad_token {tokenizer.pad_token!r}; "
            "texts are padded on the right by a token: set both in tokenizer_config.json as the model was trained."
        )
    if rules.reads == "mask" and tokenizer.pad_token_id != rules.padding:
        raise ValueError(
            f"The tokenizer of {what} pads with the token {tokenizer.pad_token_id}, and the model knows {rules.padding} as "
            f"padding (pad_token_id of its text_config); {advice}."
        )
    if rules.vocab_size is not None and len(tokenizer) > rules.vocab_size:
        raise ValueError(
            f"The tokenizer of {what} has {len(tokenizer)} tokens, and the model knows {rules.vocab_size}; {advice}."
        )
    ids = tokenizer(_ORDINARY, truncation=True)["input_ids"]
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    if not set(ids) - special:
        raise ValueError(
            f"The tokenizer of {what} has {len(tokenizer)} tokens and knows none of the words {_ORDINARY!r}, as without its "
            f"vocabulary; {advice}."
        )
    if rules.reads != "end":
        return
    # A text that is cut must be ended too: without its end a model reads the first token.
    for tokens in (ids, tokenizer(_ORDINARY, truncation=True, max_length=4)["input_ids"]):
        if int(rules.end_positions(torch.tensor([tokens]))) != len(tokens) - 1:
            raise ValueError(
                f"The tokenizer of {what} ends texts with the token {tokens[-1]}, and the model reads them at "
                f"{rules.end_of_text} (eos_token_id of its configuration); {advice}."
            )


def _model(what: str, config: PreTrainedConfig, **options) -> PreTrainedModel:
    try:
        with _quiet():
            model, report = FAMILIES[config.model_type].model_class.from_pretrained(
                **options,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise OSError(f"The weights of {what} cannot be loaded ({one_line(error)}).") from error
    mismatched = [str(item if isinstance(item, str) else item[0]) for item in report["mismatched_keys"]]
    refuse_misfits(what, report["missing_keys"], report["unexpected_keys"], mismatched)
    if broken := not_finite(dict(model.named_parameters())):
        raise ValueError(
            f"{len(broken)} weights of {what} are not finite (such as {broken[0]}); such a model answers nothing: give "
            "another checkpoint."
        )
    try:
        DualEncoder.of(model).check_logit_scale()
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    return model.eval()


def train_in_float32(model: torch.nn.Module) -> None:
    """
    Turn parameters and buffers of a `model` in half precision into float32, in place and with a warning; others stay.

    A step is mostly smaller than half of the distance between two neighbouring numbers of half precision, and would be lost.
    """
    halves = [value for value in (*model.parameters(), *model.buffers()) if value.dtype in _HALF_TYPES]
    if not halves:
        return
    kind = str(halves[0].dtype).removeprefix("torch.")
    warnings.warn(
        f"The model is in {kind}, in which small steps are lost: its weights are converted to float32. For speed train with "
        "--bf16 or --fp16, which keep float32 weights.",
        stacklevel=3,
    )
    for value in halves:
        value.data = value.data.float()


_HALF_TYPES = (torch.float16, torch.bfloat16)


@contextmanager
def _quiet() -> Iterator[None]:
    # Its table of keys comes before our one line.
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
