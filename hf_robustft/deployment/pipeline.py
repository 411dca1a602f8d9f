# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Classify folders of images with a fine-tuned checkpoint, with "unknown" as an answer.

>>> from hf_robustft import pipeline
>>> classify = pipeline("outputs/croft")        # a folder, or an id on the Hub
>>> found = classify("photos/")                 # one dictionary per image
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoModel, PreTrainedModel, ProcessorMixin
from transformers.pipelines import PIPELINE_REGISTRY, Pipeline

from ..data.transforms import ImageTransform
from ..evaluation.collect import classify, evaluation_head
from ..evaluation.detector import OpenSetDetector
from ..evaluation.platt_scaling import FUNCTIONS
from ..evaluation.prediction_sets import ConformalClassifier
from ..evaluation.several_labels import pair_bias
from ..evaluation.temperature import TemperatureScaling
from ..files import changing, settle
from ..modeling.adapters import ADAPTERS_FILE, carry_kept
from ..modeling.checkpoint import load_checkpoint
from ..modeling.checkpoint_check import check_checkpoint, check_config
from ..modeling.checkpoint_file import is_packaged, local_folder
from ..modeling.dual_encoder import DualEncoder
from ..modeling.features import encode_images, logit_scale
from ..modeling.fitted_weights import weight_files, weights_sample
from ..modeling.heads import load_head
from ..modeling.metadata import FITTED, METADATA_FILE, ZERO_SHOT_HEAD, dump_robustft_json
from ..modeling.model_files import has_trained_head, reading, weights_in
from ..modeling.zero_shot import ZeroShotHead
from .model_folder import check_has_detector, facts_to_use, hub_folder, source_folder
from .new_images import images_in, name_of, prepared

TASK = "open-set-image-classification"
UNKNOWN = "unknown"
#: What can be iterated over and stands for one thing, be it an image or not; what torch loads is left to Transformers.
_SINGLE = (str, bytes, bytearray, dict, Image.Image, Tensor, np.ndarray, Dataset)
#: The parameter of `preprocess` by which an image that cannot be read does not stop the others.
_SEVERAL = "among_several"


class OpenSetImageClassificationPipeline(Pipeline):
    """
    Labels images with one of the checkpoint's classes, or with "unknown" where its [`OpenSetDetector`] says so.

    Images are prepared, encoded and classified as by [`Evaluator`]: with the evaluation transform of the checkpoint's
    processor, all templates, the learned logit scale, and the trained head if the results belong to one.
    `transformers.pipeline("open-set-image-classification", model=...)` builds it too, once this module is imported.

    Args:
        model (`PreTrainedModel`): The model; it is put into evaluation mode.
        processor (`ProcessorMixin`): Its processor.
        directory (`str` or `Path`, *optional*): Folder with `robustft.json` and, where one was trained,
            `head.safetensors`. By default the folder that the model was loaded from; for a model from the Hub, use the
            function `pipeline`.
        head ([`ZeroShotHead`], *optional*): The head to use instead of the folder's.
        detector ([`OpenSetDetector`], *optional*): The detector to use instead of the folder's.
        require_detector (`bool`, *optional*, defaults to `True`): Whether to refuse a checkpoint without a detector. If
            not, or if the checkpoint has thresholds of several labels, nothing is called unknown: `is_known` and `score` are
            `None`.
        class_names (`Sequence[str]`, *optional*), templates (`Sequence[str]`, *optional*): Classify by other classes or prompts than the
            checkpoint's, for which it needs no `robustft.json`. What belongs to its own is then not used: a trained head, detector,
            temperature and thresholds.
        task (`str`, *optional*, defaults to `"open-set-image-classification"`): What Transformers calls the task.
        kwargs (`Any`, *optional*): Arguments of `transformers.Pipeline`: `device`, `batch_size`, `num_workers`; and those of a
            call, for all calls.

    Raises:
        ValueError: If there is no detector, it was fitted for other classes or at another logit scale, the model was
            trained on captions and has no class names, the model's family is not supported, or it has no sigmoid.
        OSError: If there is no `robustft.json`, or `head.safetensors` is missing.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False
    _load_tokenizer = False

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        directory: str | Path | None = None,
        head: ZeroShotHead | None = None,
        detector: OpenSetDetector | None = None,
        require_detector: bool = True,
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        task: str = TASK,
        **kwargs,
    ):
        # Before anything is built: a checkpoint that cannot be used says so at once.
        DualEncoder.of(model)
        self.transform = ImageTransform.from_processor(processor, train=False)
        super().__init__(model=model.eval(), processor=processor, task=task, **kwargs)
        if directory is None:
            directory = source_folder(model)
            if settle(directory):
                raise OSError(
                    f"{directory} held a change of its files that had been interrupted when the model was loaded from it, and now "
                    "is finished; load the model again."
                )
            # `transformers.pipeline` loads what does not fill a model with random weights.
            check_checkpoint(directory)
        self.directory = directory = Path(directory)
        carry_kept(model, directory)
        self.facts, self.detector_left_out, head_left_out = facts_to_use(directory, class_names, templates)
        if head_left_out:
            warnings.warn(f"The trained head of {directory} is of its own classes and left out; prompts of the given ones classify.", stacklevel=2)
        self.trained_head = head is not None or has_trained_head(directory, self.facts)
        self.head = self._head(directory) if head is None else self._checked_head(head)
        self.detector = self._detector(directory, require_detector) if detector is None else detector
        if self.detector is not None:
            self.detector.check(self.head.class_names, logit_scale(model).item())
            if UNKNOWN in self.head.class_names:
                warnings.warn(
                    f"One of the classes is called {UNKNOWN!r}, as images of none of them are: by is_known, and not by the label, the two are told apart.",
                    stacklevel=2,
                )
        # For probabilities without a detector; a detector has its own.
        self.temperature = TemperatureScaling.from_dict(self.facts.get("temperature", {"temperature": 1.0}))
        self.prediction_sets = ConformalClassifier.from_pretrained(directory) if "prediction_sets" in self.facts else None
        if self.prediction_sets is not None:
            self.prediction_sets.check(self.head.class_names, logit_scale(model).item())
        self.thresholds = self._thresholds()
        self.calibrated = self._calibrated()
        self._said_uncalibrated = False
        self._check_answers(**self._postprocess_params)

    # Whether a path is that of an image or of a folder of them, no type can tell.
    @overload
    def __call__(self, images: str | Path, **kwargs: Any) -> Any: ...
    @overload
    def __call__(self, images: Image.Image, **kwargs: Any) -> dict[str, Any]: ...
    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...], **kwargs: Any) -> list[dict[str, Any]]: ...
    @overload
    def __call__(self, images: Iterable[Any], **kwargs: Any) -> Iterable[dict[str, Any]]: ...
    def __call__(self, images: Any, **kwargs: Any) -> Any:
        """
        Classify images.

        Args:
            images (`str`, `Path`, `PIL.Image.Image` or a list of them): A folder, which is searched for images at any depth,
                in the order of their paths, except for hidden and helper folders; a file; a PIL image; or a list, generator
                or data set of files and PIL images. Web addresses are not fetched.
            kwargs (`Any`, *optional*): `batch_size` (`int`), images encoded at once, `num_workers` (`int`), processes that
                read, and:

                - **function_to_apply** (`str`, *optional*) -- By default `"sigmoid"` if the checkpoint has thresholds of several
                  labels, else `"softmax"`. `"softmax"`: probabilities of the classes against
                  each other, which add up to 1, as the evaluation measures them. `"sigmoid"`: of each class by itself,
                  `sigmoid(logit scale * cosine + logit bias)`, only for models that were trained so (SigLIP without a trained
                  head), or `sigmoid(logit)` of a head that was trained on lists of labels. Those of a SigLIP are what Transformers'
                  `zero-shot-image-classification` pipeline shows of it for one template; a temperature that is not in the
                  weights does not change them. Of the two, one can be calibrated, as the card says; the first answer by the other
                  one comes with a warning.
                - **top_k** (`int`, *optional*) -- Answers also have `classes`: this many of the most probable, `None` for all,
                  each a `dict` of `score` (its probability) and `label`, as Transformers' pipelines give them.

        Returns:
            `dict` for one image, a list of them for a folder or a list: `image` (the file; `None` for a PIL image that was
            not read from one), `label` (a class name, or "unknown"), `probability` (of `nearest_class` among the known
            classes, after temperature scaling if a temperature was fitted), `score` (of the detector; higher is more like
            the training data), `is_known`, `nearest_class`, with `top_k` also `classes`, with sigmoids of a checkpoint that has
            thresholds (of training on lists of labels, or of `hf-robustft calibrate --probabilities sigmoid`) also `labels`: all classes above
            theirs, as in `classes`, or none; of a checkpoint with prediction sets also `prediction_set`: class names, the most probable
            first, that hold the image's own with the coverage of [`ConformalClassifier`], if it is like the validation images (of an
            unknown image no class is right, and its set means nothing); and `error`: `None`, or one line that says why one of several
            images cannot be read; everything except `image` is then `None`.

        Raises:
            OSError: If one image is given and does not exist or cannot be read; the message names it.
            ValueError: If a folder has no images, a list holds something else, or an option is unknown or means nothing for
                the model.
        """
        # Unlike pathlib, which fails on texts that are not paths.
        if isinstance(images, (str, Path)) and os.path.isdir(folder := os.path.expanduser(images)):
            images = images_in(Path(folder))
        elif isinstance(images, (list, tuple)):
            images = list(images)
            if not images:
                return []
        elif isinstance(images, Iterable) and not isinstance(images, _SINGLE):
            # Transformers takes a generator for several images, and a column of a data set, a set or an iterator for one.
            images = (image for image in images)
        alone = isinstance(images, (str, Path, Image.Image))
        return super().__call__(images, **kwargs, **({} if alone else {_SEVERAL: True}))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """
        Save weights, processor and all facts, so that `pipeline(save_directory)` gives this pipeline again.

        Unlike the base class, it does not write code into the folder, so that loading never asks to trust any.

        Args:
            save_directory (`str` or `Path`): The folder.
            kwargs (`Any`, *optional*): Arguments of `PreTrainedModel.save_pretrained`.
        """
        if kwargs.get("push_to_hub"):
            # As it would be called after the folder.
            kwargs.setdefault("repo_id", Path(save_directory).name)
        with changing(save_directory, lambda _: weights_in(save_directory)) as stage:
            if DualEncoder.of(self.model).image_adapter is not None:
                shutil.copy2(self.directory / ADAPTERS_FILE, stage)
            self.model.save_pretrained(stage, **kwargs)
            self.processor.save_pretrained(stage)
            # A detector comes with its own temperature.
            left_out = ("prediction_sets", "fitted_weights", *(() if self.detector is None else ("detector", "temperature")))
            facts = {name: value for name, value in self.facts.items() if name not in left_out}
            if self.trained_head:
                self.head.save_pretrained(stage)
            # They may be saved in another precision.
            facts |= {"fitted_weights": weights_sample(weight_files(stage).values())} if set(facts) & set(FITTED) else {}
            dump_robustft_json(stage, {**facts, "head": self.head.label if self.trained_head else ZERO_SHOT_HEAD})
            if self.detector is not None:
                self.detector.save(stage)
            if self.prediction_sets is not None:
                self.prediction_sets.save(stage)

    def _head(self, directory: Path) -> ZeroShotHead:
        if self.trained_head:
            return self._checked_head(load_head(directory))
        names, templates = self.facts["class_names"], self.facts["templates"]
        return ZeroShotHead.from_model(self.model, self.processor, names, templates)

    def _checked_head(self, head: ZeroShotHead) -> ZeroShotHead:
        if list(head.class_names) != self.facts["class_names"]:
            raise ValueError(
                f"The head has {len(head.class_names)} classes ({head.class_names[0]!r}, ...), which are not the "
                f"{len(self.facts['class_names'])} of {METADATA_FILE}; give the head that was trained with this model."
            )
        return evaluation_head(head, self.model)

    def _detector(self, directory: Path, required: bool) -> OpenSetDetector | None:
        if "detector" in self.facts:
            return OpenSetDetector.from_pretrained(directory)
        if required:
            check_has_detector(self.facts, self.detector_left_out)
        return None

    def _sanitize_parameters(self, **kwargs):
        several = {_SEVERAL: kwargs.pop(_SEVERAL)} if _SEVERAL in kwargs else {}
        answers = {name: kwargs.pop(name) for name in ("function_to_apply", "top_k") if name in kwargs}
        if kwargs:
            raise ValueError(f"The pipeline has no option {sorted(kwargs)[0]!r}; see its documentation.")
        # While the pipeline is built its head is not known yet.
        if hasattr(self, "trained_head"):
            self._check_answers(**answers)
        return several, {}, answers

    def _thresholds(self) -> Tensor | None:
        """Return the threshold of each class, `None` if the checkpoint has none, or the logits of a head are not for sigmoids."""
        if "thresholds" not in self.facts or self._pair_bias() is None:
            return None
        found = self.facts["thresholds"].get("classes") or {}
        values = [found.get(name) for name in self.head.class_names]
        if not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in values):
            raise ValueError(
                f"'thresholds' of {METADATA_FILE} do not give each class a number from 0 to 1; fit them again with hf-robustft calibrate "
                "--probabilities sigmoid."
            )
        return torch.tensor(values, dtype=torch.float64)

    def _calibrated(self) -> str | None:
        """Return which of two kinds of probabilities was calibrated; `None` if none was, or there is one kind alone."""
        if DualEncoder.of(self.model).similarity != "sigmoid" or self.trained_head:
            return None
        scaling = self.temperature if "temperature" in self.facts else None
        if self.detector is not None and self.detector.temperature is not None:
            scaling = self.detector.temperature
        return None if scaling is None else scaling.record.get("probabilities", "softmax")

    def _say_if_uncalibrated(self, function: str) -> None:
        if self.calibrated in (None, function) or self._said_uncalibrated:
            return
        self._said_uncalibrated = True
        warnings.warn(
            f"These probabilities are of function_to_apply={function!r}, and calibrated on validation images were those of "
            f"{self.calibrated!r}: ask for function_to_apply={self.calibrated!r}, or calibrate the others by hf-robustft calibrate "
            f"--probabilities {function}.",
            stacklevel=2,
        )

    def _pair_bias(self) -> Tensor | None:
        """Return what is added to logits before a sigmoid; `None` if that gives no probabilities."""
        return pair_bias(self.model, self.head if self.trained_head else None)

    def _check_answers(self, function_to_apply: str | None = None, top_k: int | None = None) -> None:
        if function_to_apply not in (None, *FUNCTIONS):
            raise ValueError(f"function_to_apply={function_to_apply!r} is unknown; choose one of {', '.join(FUNCTIONS)}.")
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"top_k={top_k!r} must be a number of classes, at least 1, or None for all of them.")
        if function_to_apply == "sigmoid" and self._pair_bias() is None:
            what = "trained head" if self.trained_head else DualEncoder.of(self.model).name
            raise ValueError(
                f"function_to_apply='sigmoid': the {what} was trained to tell classes from each other, and a sigmoid of its "
                "logits is not a probability; leave function_to_apply out."
            )

    def preprocess(self, input_, among_several: bool = False) -> dict[str, Any]:
        """Prepare the image `input_`; one that cannot be read is an error, or if it is `among_several`, a blank one."""
        found = prepared(self.transform, input_, name_of(input_), among_several)
        return {**found, "pixel_values": found["pixel_values"][None]}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        embeds = encode_images(self.model, model_inputs["pixel_values"].to(self.model.dtype))
        # Without the pixels, which would come back from the device with every batch.
        return {**{name: value for name, value in model_inputs.items() if name != "pixel_values"}, "logits": classify(self.head, embeds)}

    def postprocess(self, model_outputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Turn the logits in `model_outputs` into the answer for one image; `options` and answer as of `__call__`."""
        answer, error = self._answer(model_outputs["logits"], **options), model_outputs["error"]
        return {"image": model_outputs["image"], **(answer if error is None else dict.fromkeys(answer)), "error": error}

    def _answer(self, logits: Tensor, function_to_apply: str | None = None, **top: Any) -> dict[str, Any]:
        detector, names = self.detector, self.head.class_names
        function = function_to_apply or ("softmax" if self.thresholds is None else "sigmoid")
        self._say_if_uncalibrated(function)
        if function == "sigmoid":
            probabilities = (logits.detach().cpu().double() + self._pair_bias().detach().cpu().double())[0].sigmoid()
        else:
            temperature = self.temperature if detector is None else detector.temperature or TemperatureScaling()
            probabilities = temperature.probabilities(logits)[0]
        # By the logits: sure sigmoids are all 1, and have no order.
        order = logits[0].argsort(descending=True, stable=True).tolist()
        judged: dict[str, Any]
        if detector is None:
            best = order[0]
            label, judged = names[best], {"score": None, "is_known": None, "nearest_class": names[best]}
        else:
            guess = detector.predict(logits)[0]
            best, label = guess.index, guess.label if guess.is_known else UNKNOWN
            judged = {"score": guess.score, "is_known": guess.is_known, "nearest_class": guess.label}
        answer: dict[str, Any] = {"label": label, "probability": float(probabilities[best]), **judged}
        values = probabilities.tolist()

        def ranked(chosen: Iterable[int]) -> list[dict[str, Any]]:
            return [{"score": values[index], "label": names[index]} for index in chosen]

        if function == "sigmoid" and self.thresholds is not None:
            above = (probabilities > self.thresholds).tolist()
            answer["labels"] = ranked(index for index in order if above[index])
        if self.prediction_sets is not None:
            answer["prediction_set"] = list(self.prediction_sets.predict_sets(logits)[0])
        if top:
            answer["classes"] = ranked(order[: top["top_k"]])
        return answer


def pipeline(
    model: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 32,
    class_names: Sequence[str] | None = None,
    **kwargs,
) -> OpenSetImageClassificationPipeline:
    """
    Load a fine-tuned checkpoint, ready to classify images with "unknown" as an answer.

    Args:
        model (`str` or `Path`): The checkpoint's folder, its id on the Hub, or `"emoji_clip_carot"`, which comes with the
            package.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        token (`str` or `bool`, *optional*): Access token for a private repository.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Precision of the model. Evaluations and detectors use
            float32; in half precision a score near the threshold may fall on its other side.
        batch_size (`int`, *optional*, defaults to 32): Images encoded at once.
        class_names (`Sequence[str]`, *optional*): Classes to tell apart instead of the checkpoint's; with `require_detector=False` any
            CLIP-like model will do.
        kwargs (`Any`, *optional*): Further arguments of [`OpenSetImageClassificationPipeline`]: `templates`, `detector`,
            `require_detector`, `device`, `function_to_apply`, `top_k`, ...

    Returns:
        [`OpenSetImageClassificationPipeline`]: The pipeline.

    Raises:
        ValueError, OSError: As for the class, or if the checkpoint cannot be loaded or its family is not supported.

    Example:

    ```python
    from hf_robustft import pipeline

    classify = pipeline("outputs/croft")
    for found in classify("photos/"):
        print(found["image"], found["label"], found["probability"])
    ```
    """
    source = str(model)
    directory = local_folder(model)
    here = nullcontext() if directory is None or is_packaged(model) else reading(directory)
    if directory is None:
        directory = hub_folder(source, revision, token, needed=class_names is None)
        # The same commit as the facts: names and threshold of another one may belong to other weights.
        revision = directory.name
    with here:
        # Before the weights are read, which takes longer; a folder of something else is told so first.
        if local_folder(model) is not None:
            check_config(directory, source)
        given = {"directory": directory, "batch_size": batch_size, "class_names": class_names, **kwargs}
        facts, detector_left_out, _ = facts_to_use(Path(given["directory"] or directory), class_names, kwargs.get("templates"))
        if kwargs.get("require_detector", True) and kwargs.get("detector") is None:
            check_has_detector(facts, detector_left_out)
        clip, processor = load_checkpoint(model, revision=revision, token=token, dtype=dtype)
        return OpenSetImageClassificationPipeline(clip, processor, **given)


# Of several classes Transformers would take the first that loads without an error, with random weights for those that it lacks:
# `AutoModel` goes by the configuration.
PIPELINE_REGISTRY.register_pipeline(TASK, OpenSetImageClassificationPipeline, pt_model=(AutoModel,), type="image")
