# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
From a checkpoint to files that run without this package: ONNX, or a program of `torch.export`.

>>> from hf_robustft import export_checkpoint, pipeline
>>> facts = export_checkpoint(pipeline("emoji_clip_carot"), "outputs/export")
"""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from .. import __version__
from ..data.bad_images import BadImages
from ..data.benchmarks import Benchmark, load_benchmark
from ..data.packaged import ASSETS
from ..data.prompts import class_prompts
from ..data.transforms import ImageTransform
from ..evaluation.open_set import open_set_score
from ..files import changing, locked, write_whole
from ..modeling.checkpoint import commit_of
from ..modeling.checkpoint_file import is_packaged
from ..modeling.dual_encoder import LOGIT_BIAS, LOGIT_SCALE, DualEncoder
from ..modeling.features import encode_texts, logit_bias, logit_scale
from ..modeling.metadata import METADATA_FILE
from ..modeling.output_folders import check_output_dir
from . import onnx_graph
from .export_check import (
    RANDOM,
    Answers,
    CheckImages,
    compared,
    graph_answers,
    graph_inputs,
    pipeline_answers,
    random_pictures,
    read_images,
)
from .export_page import OUTPUTS, page, preprocess_facts
from .exported_classifier import INPUTS, PIXELS, TEXT_EMBEDS, TOKENS, ExportedClassifier, ExportedTextEncoder
from .extras import MIN_AGREEMENT, PRECISIONS, check_export_options
from .pipeline import OpenSetImageClassificationPipeline

_ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2"}
EXPORT_FILE, PREPROCESS_FILE, PAGE, TOKENIZER = "export.json", "preprocess.json", "README.md", "tokenizer"
_TEXT = "text_encoder"
#: What an export writes.
_OURS = (
    *(f"{name}{ending}" for name in (*PRECISIONS.values(), _TEXT) for ending in (".onnx", ".onnx.data", ".pt2")),
    *(EXPORT_FILE, PREPROCESS_FILE, PAGE, f"{TOKENIZER}/*"),
)
#: How far, at most, embeddings of texts may be off.
TEXT_TOLERANCE = 1e-5
#: The share of images by which a static graph is calibrated, and how many at most: on the others it is compared.
_CALIBRATION_SHARE, _CALIBRATION_IMAGES = 4, 256
#: Where nobody gave images, a model of the package is compared on its own.
PACKAGED_IMAGES = ("emoji_shift", "validation")


def export_checkpoint(
    classify: OpenSetImageClassificationPipeline,
    output_dir: str | Path,
    *,
    format: str = "onnx",
    precisions: Sequence[str] = ("fp32",),
    input: str = "float",
    text: bool = False,
    dataset: Benchmark | None = None,
    check_images: int = 512,
    min_agreement: float | None = None,
    opset: int | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    bad_images: BadImages | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """
    Write the image tower with class head, temperature, open-set score and threshold as a graph of its own.

    Each graph is compared with the pipeline on images before anything is written: the same label, and the same known or
    unknown. Those of `dataset`, else of Emoji Shift for a model of the package, else random pictures, which say nothing of
    accuracy.

    Args:
        classify ([`OpenSetImageClassificationPipeline`]): What `hf_robustft.pipeline` returned, in float32.
        output_dir (`str` or `Path`): The folder; an earlier export there is replaced.
        format (`str`, *optional*, defaults to `"onnx"`): `"onnx"`, or `"torch_export"` for a file of `torch.export`.
        precisions (`Sequence[str]`, *optional*, defaults to `("fp32",)`): One file each: `"fp32"`; `"fp16"`, the image tower in half
            precision; `"int8"`, its weights in int8, with ranges of activations found at run time; `"int8-static"`, with ranges from
            a quarter of the images of `dataset`, 256 at most, which are left out of all comparisons. A `torch_export` has `"fp32"` alone.
        input (`str`, *optional*, defaults to `"float"`): `"float"`: normalised images `(batch, 3, size, size)`. `"uint8"`: levels
            `(batch, size, size, 3)`, normalised inside. Resizing and cropping stay outside, as `preprocess.json` says.
        text (`bool`, *optional*, defaults to `False`): Whether to write the text tower, with its tokenizer, as well.
        dataset ([`Benchmark`], *optional*): Images to compare on, with the classes of the model.
        check_images (`int`, *optional*, defaults to 512): How many images to compare on, at most.
        min_agreement (`float`, *optional*): The share of images on which a graph that is not in float32 must decide as the pipeline;
            0.999 by default, which float32 always needs.
        opset (`int`, *optional*): Version of ONNX's operators; by default torch's.
        batch_size (`int`, *optional*, defaults to 32), num_workers (`int`, *optional*, defaults to 0), bad_images ([`BadImages`],
            *optional*), progress (`bool`, *optional*, defaults to `True`): As for [`Evaluator`].

    Returns:
        `dict[str, Any]`: What `export.json` says: of each file how it compares, on which images, and versions.

    Raises:
        ValueError: If a graph decides otherwise on too many images, the model is of a family that cannot be exported, an option is
            out of range or would do nothing, `classify` is a name or path, or a package is missing.
        FolderInUse: If another process is changing the folder.
        OSError: If the folder cannot be written.
    """
    if isinstance(classify, (str, Path)):
        raise ValueError(f"`classify={str(classify)!r}` is a name or path, not a loaded checkpoint; give pipeline({str(classify)!r}).")
    check_export_options(format, precisions, min_agreement, check_images, batch_size, opset, has_images=dataset is not None)
    if input not in INPUTS:
        raise ValueError(f"`--input {input}` is unknown; choose one of {', '.join(INPUTS)}.")
    output, encoder = Path(output_dir), DualEncoder.of(classify.model)
    if encoder.family.patches:
        raise ValueError(
            f"A {encoder.name} takes patches of images of any shape with a mask, and a graph has a single input; export a model that takes images "
            "of one size."
        )
    if any(value.dtype != torch.float32 for value in classify.model.parameters()):
        raise ValueError("An export starts from float32 weights; load the model in float32, and ask for precisions=['fp16'].")
    reading = {"batch_size": batch_size, "num_workers": num_workers, "bad_images": bad_images, "progress": progress}
    check_folder(output)
    with locked(output, "hf-robustft export"):
        # Who held it meanwhile may have put a model there.
        check_folder(output)
        images = _images(classify, dataset, check_images, **reading)
        images, calibration = _parted(images) if "int8-static" in precisions else (images, None)
        return _Export(classify, format, input, images, calibration, batch_size, opset, min_agreement).write(output, precisions, text)


def _parted(images: CheckImages) -> tuple[CheckImages, CheckImages]:
    """The images to compare on, and those to calibrate on."""
    chosen = torch.arange(0, len(images), _CALIBRATION_SHARE)[:_CALIBRATION_IMAGES]
    rest = torch.ones(len(images), dtype=torch.bool).index_fill(0, chosen, False).nonzero()[:, 0]
    if not len(rest):
        raise ValueError(f"`--precision int8-static` needs images to calibrate on and others to compare on, and there is {len(images)}.")
    return images.part(rest), images.part(chosen)


class _Export:
    """An export that is being made."""

    def __init__(self, classify, format, input, images: CheckImages, calibration, batch_size, opset, min_agreement):
        self.classify, self.format, self.input, self.images, self.calibration = classify, format, input, images, calibration
        self.batch_size, self.opset, self.min_agreement = batch_size, opset, min_agreement
        self.transform = ImageTransform.from_processor(classify.processor, train=False)
        # On whatever device the model is.
        self.reference: Answers = pipeline_answers(classify, images, batch_size)
        classify.model.cpu(), classify.head.cpu()
        self.module = ExportedClassifier(classify, input)

    def write(self, output: Path, precisions: Sequence[str], text: bool) -> dict[str, Any]:
        """Write and compare all files, or none."""
        module, rows = self.module, {}
        with changing(output, lambda comes: _earlier(output), "hf-robustft export") as stage:
            source = stage / f"{PRECISIONS['fp32']}{_ENDINGS[self.format]}"
            for precision in sorted({"fp32", *precisions}, key=list(PRECISIONS).index):
                file = source.with_stem(PRECISIONS[precision])
                self._write(module, precision, source, file)
                row = self._compared(file, module)
                rows[file.name] = {"precision": precision, **row}
                self._check(precision, row["agreement"])
            if "fp32" not in precisions:
                for path in (source, Path(f"{source}.data")):
                    path.unlink(missing_ok=True)
                del rows[source.name]
            facts = self._facts(rows, module)
            if text:
                facts["text"] = self._write_text(stage)
            write_whole(stage / PREPROCESS_FILE, _json(preprocess_facts(self.transform, self.input, self.classify.head.class_names)))
            write_whole(stage / EXPORT_FILE, _json(facts))
            write_whole(stage / PAGE, page(facts, self._outputs(module)))
        return facts

    def _write(self, module: ExportedClassifier, precision: str, source: Path, stage: Path) -> None:
        if precision.startswith("int8"):
            static = self.calibration if precision == "int8-static" else None
            batches = None if static is None else graph_inputs(static, self.transform, self.input, self.batch_size)
            onnx_graph.quantize(source, stage, batches)
            return
        if precision == "fp16":
            module = ExportedClassifier(self.classify, self.input, half=True)
        self._exported(module, self._example(), stage, {0: "batch"}, PIXELS)

    def _example(self) -> Tensor:
        size = self.transform.size
        return torch.zeros(2, size, size, 3, dtype=torch.uint8) if self.input == "uint8" else torch.zeros(2, 3, size, size)

    def _exported(self, module, example: Tensor, stage: Path, axes: dict[int, str], name: str) -> None:
        if self.format == "onnx":
            names = {"input_name": name, "output_names": module.outputs}
            onnx_graph.write_onnx(module, example, stage, axes=axes, metadata=self._metadata(), opset=self.opset, **names)
            return
        with torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes=({axis: torch.export.Dim.DYNAMIC for axis in axes},))
        for graph in (item for item in program.graph_module.modules() if isinstance(item, torch.fx.GraphModule)):
            for node in graph.graph.nodes:
                # Paths of this machine.
                node.meta.pop("stack_trace", None)
        torch.export.save(program, stage)

    def _compared(self, file: Path, module: ExportedClassifier) -> dict[str, Any]:
        answers = graph_answers(self._runner(file, PIXELS), self.images, self.transform, self.input, self.batch_size)
        return compared(answers, self.reference, self.images, _size(file), module.temperature if module.function == "softmax" else None)

    def _runner(self, file: Path, name: str):
        if self.format == "onnx":
            session = onnx_graph.open_session(file)
            outputs = [item.name for item in session.get_outputs()]
            return lambda batch: dict(zip(outputs, session.run(None, {name: batch}), strict=True))
        program = torch.export.load(file).module()

        def run(batch):
            with torch.no_grad():
                return {name: value.numpy() for name, value in program(torch.from_numpy(batch)).items()}

        return run

    def _check(self, precision: str, agreement: float) -> None:
        least = MIN_AGREEMENT if precision == "fp32" or self.min_agreement is None else self.min_agreement
        if agreement >= least:
            return
        below = math.floor(1000 * agreement) / 1000
        advice = "report this model" if precision == "fp32" else f"leave it out, or accept it by --min_agreement {below:g}"
        raise ValueError(
            f"`--precision {precision}` decides as the pipeline does on {100 * agreement:.2f} % of {len(self.images)} images "
            f"({self.images.name}), and {100 * least:g} % are needed, so nothing was written; {advice}."
        )

    def _write_text(self, stage: Path) -> dict[str, Any]:
        module, tokenizer = ExportedTextEncoder(self.classify.model), self.classify.processor.tokenizer
        rules = DualEncoder.of(self.classify.model).caption_rules
        prompts = class_prompts(self.classify.head.class_names, self.classify.facts.get("templates") or ["{}"])[:256]
        # Of one length alone a graph would not be known to take others.
        length = {"padding": "max_length", "max_length": rules.max_length} if rules.reads == "fixed" else {"padding": True}
        tokens = tokenizer(prompts, truncation=True, return_tensors="pt", **length)["input_ids"]
        file = stage / f"{_TEXT}{_ENDINGS[self.format]}"
        axes = {0: "texts"} if rules.reads == "fixed" else {0: "texts", 1: "length"}
        example = tokens[:2] if len(tokens) > 1 else tokens.expand(2, -1)
        self._exported(module, example, file, axes, TOKENS)
        with torch.no_grad():
            want = encode_texts(self.classify.model, tokens)
        found = torch.from_numpy(self._runner(file, TOKENS)(tokens.numpy())[TEXT_EMBEDS])
        difference = (found - want).abs().max().item()
        if not difference <= TEXT_TOLERANCE:
            raise ValueError(f"`--text`: embeddings of {len(tokens)} prompts are off by {difference:.1e}, and {TEXT_TOLERANCE:g} is allowed; leave it out.")
        tokenizer.save_pretrained(stage / TOKENIZER)
        padded = {"max_length": rules.max_length} if rules.reads == "fixed" else {}
        bias = logit_bias(self.classify.model)
        scale = {LOGIT_SCALE: logit_scale(self.classify.model).item(), **({} if bias is None else {LOGIT_BIAS: bias.item()})}
        return {"file": file.name, "texts": len(tokens), "max_difference": difference, "bytes": _size(file), **padded, **scale}

    def _metadata(self) -> dict[str, str]:
        """For the file itself: texts by name, JSON where it is not one."""
        classify = self.classify
        facts = {
            **{"class_names": list(classify.head.class_names), "family": classify.model.config.model_type, "versions": _versions(self.format)},
            "preprocess": preprocess_facts(self.transform, self.input, ()),
            **({"temperature": self.module.temperature} if self.module.function == "softmax" else {}),
            **self._detector(),
            **({} if classify.thresholds is None else {"thresholds": classify.thresholds.tolist()}),
            **self._source(),
        }
        return {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True) for name, value in facts.items()}

    def _detector(self) -> dict[str, Any]:
        detector = self.classify.detector
        if detector is None:
            return {}
        own = {"thresholds": detector.thresholds} if detector.thresholds else {}
        return {"detector": {"score": detector.score, "threshold": detector.threshold, **own}}

    def _source(self) -> dict[str, str]:
        source, card = str(self.classify.model.config.name_or_path), self.classify.facts.get("card", {})
        # Where a folder lies on this machine is private.
        named = Path(source).name if Path(source).exists() else source
        revision, licence = commit_of(self.classify.model), card.get("licence")
        found = {"source": named, "revision": revision, "licence": licence, "method": self.classify.facts.get("method")}
        return {name: value for name, value in found.items() if value}

    def _facts(self, rows: dict[str, Any], module: ExportedClassifier) -> dict[str, Any]:
        temperature = module.temperature if module.function == "softmax" else None
        weights = sum(value.nbytes for value in {id(item): item for item in module.parameters()}.values())
        torch_row = compared(self.reference, self.reference, self.images, weights, temperature)
        check = {"images": self.images.name, "n": len(self.images), "batch_size": self.batch_size, "threads": torch.get_num_threads()}
        if self.calibration is not None:
            check |= {"calibration_images": len(self.calibration)}
        if self.min_agreement is not None:
            check |= {"min_agreement": self.min_agreement}
        return {
            **{"format": self.format, "input": self.input, "name": self._source().get("source", "model"), **self._source(), **self._detector()},
            **{"files": rows, "check": {**check, "torch": torch_row}, "notes": self._notes(rows), "versions": _versions(self.format)},
        }

    def _notes(self, rows: dict[str, Any]) -> list[str]:
        notes = []
        if self.images.name == RANDOM:
            notes.append("Compared on random pictures, which say nothing of accuracy and little of photographs; give --dataset.")
        if self.min_agreement is not None:
            notes.append(f"At least {100 * self.min_agreement:g} % of the same decisions were asked for, not {100 * MIN_AGREEMENT:g} %.")
        if any(row["precision"] == "int8" for row in rows.values()):
            notes.append("In `int8` one range is found for a whole batch, so an answer depends a little on the other images of its batch.")
        if self.classify.prediction_sets is not None:
            notes.append("The prediction sets of the checkpoint are not in a graph; `hf-robustft predict` and the pipeline give them.")
        return notes

    def _outputs(self, module: ExportedClassifier) -> dict[str, str]:
        detector, head = self.classify.detector, self.classify.head
        what = "sigmoids, of each class by itself" if module.function == "sigmoid" else f"softmax at the temperature {module.temperature:.6g}"
        known = {} if detector is None else {"score": open_set_score(detector.score).words, "threshold": f"{detector.threshold:.6g}"}
        if detector is not None and detector.thresholds:
            known["threshold"] += f", or the threshold of `label` where it is one of {len(detector.thresholds)} classes with their own ({EXPORT_FILE})"
        facts = {"classes": len(head.class_names), "dim": head.weight.shape[1], "what": what, "score": "", "threshold": "", **known}
        return {name: OUTPUTS[name].format(**facts) for name in module.outputs}


def check_folder(output_dir: str | Path) -> None:
    """
    Refuse a folder that cannot be written, holds a model, or has files of others under the names of an export.

    Args:
        output_dir (`str` or `Path`): The folder; it need not exist.

    Raises:
        OSError: If it cannot be written.
        ValueError: If it holds what would be overwritten.
    """
    folder = Path(output_dir)
    if any((folder / name).is_file() for name in (METADATA_FILE, "config.json")):
        raise ValueError(f"`--output_dir {output_dir}` holds a model with a card of its own, which would be overwritten; give another folder.")
    if not (folder / EXPORT_FILE).is_file() and (found := _earlier(folder)):
        raise ValueError(f"`--output_dir {output_dir}` holds a {found[0]} that no export has written; give another folder.")
    check_output_dir(output_dir)


def _earlier(folder: Path) -> list[str]:
    """The files in a folder that have the names of those of an export."""
    files = (path.relative_to(folder).as_posix() for place in (folder, folder / TOKENIZER) if place.is_dir() for path in place.iterdir() if path.is_file())
    return sorted(name for name in files if any(fnmatch.fnmatchcase(name, pattern) for pattern in _OURS))


def _images(classify: OpenSetImageClassificationPipeline, dataset: Benchmark | None, most: int, **reading: Any) -> CheckImages:
    source = str(classify.model.config.name_or_path)
    if dataset is None and _is_of_the_package(source):
        dataset = load_benchmark(*PACKAGED_IMAGES)
        if dataset.class_names != classify.head.class_names:
            dataset = None
    if dataset is None:
        return random_pictures(ImageTransform.from_processor(classify.processor, train=False).size, most)
    return read_images(dataset, classify, most, **reading)


def _is_of_the_package(source: str) -> bool:
    return is_packaged(source) or Path(source).exists() and Path(source).resolve().is_relative_to(ASSETS)


def _size(file: Path) -> int:
    return sum(path.stat().st_size for path in (file, Path(f"{file}.data")) if path.is_file())


def _versions(format: str) -> dict[str, str]:
    packages = ("torch", "onnx", "onnxruntime", "onnxscript") if format == "onnx" else ("torch",)
    return {"hf_robustft": __version__, "transformers": transformers.__version__, **{name: version(name) for name in packages}}


def _json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
