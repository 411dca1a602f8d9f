# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""ONNX files: written from modules without a trace of this machine, quantized, and run by ONNX Runtime on the CPU."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .exported_classifier import IMAGE_EMBEDS, PIXELS

if TYPE_CHECKING:
    import onnx
    import onnxruntime

#: Bytes of weights beyond which they lie in a file of their own: one of protobuf holds 2 GB.
LARGEST = 1_500_000_000
#: Operations whose weights become int8.
_QUANTIZED = ["MatMul", "Gemm"]


def write_onnx(
    module: nn.Module,
    example: Tensor,
    stage: Path,
    *,
    axes: Mapping[int, str],
    input_name: str,
    output_names: Iterable[str],
    metadata: Mapping[str, str],
    opset: int | None = None,
) -> None:
    """
    Export a module with torch's exporter.

    Args:
        module (`torch.nn.Module`): Takes one tensor and returns a `dict`, as [`ExportedClassifier`] does.
        example (`torch.Tensor`): An input, of at least two rows.
        stage (`Path`): The file.
        axes (`Mapping[int, str]`): The axes of the input that have any length, with their names.
        input_name (`str`), output_names (`Iterable[str]`): What input and outputs are called.
        metadata (`Mapping[str, str]`): For the `metadata_props` of the file.
        opset (`int`, *optional*): Version of the operators; by default torch's.

    Raises:
        ValueError: If the module cannot be exported.
    """
    names = {"input_names": [input_name], "output_names": list(output_names)}
    # Names of axes, not `Dim`s: an exporter that cannot leave one open says so by the shape, which is looked at below.
    shapes = ({axis: torch.export.Dim.DYNAMIC for axis in axes},)
    try:
        with _quiet():
            program = torch.onnx.export(
                module, (example,), **names, dynamic_shapes=shapes, opset_version=opset, dynamo=True, verbose=False
            )
    except Exception as error:
        # Its errors are of any kind, over many lines.
        cause = " ".join(str(error.__cause__ or error).split())[:300]
        raise ValueError(f"This model cannot be exported to ONNX ({type(error).__name__}: {cause}).") from error
    graph = program.model.graph
    # Where each operation comes from: paths of this machine.
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    for node in graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    _name_axes(graph, axes)
    graph.metadata_props.clear()
    program.model.metadata_props.clear()
    program.model.metadata_props.update(metadata)
    large = sum(value.const_value.nbytes for value in graph.initializers.values()) > LARGEST
    program.save(str(stage), external_data=large)


def _name_axes(graph: Any, axes: Mapping[int, str]) -> None:
    """Give the open axes of the graph their names, in place of numbers that the exporter counts."""
    import onnx_ir

    (taken,) = graph.inputs
    names = {str(taken.shape[axis]): name for axis, name in axes.items() if not isinstance(taken.shape[axis], int)}
    if len(names) != len(axes):
        raise ValueError(f"The exporter fixed an axis of {taken.name}, {taken.shape}, that must be open.")
    values = [taken, *graph.outputs, *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = onnx_ir.Shape([names.get(str(size), size) if not isinstance(size, int) else size for size in value.shape])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of packages that nothing here needs, and of its own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime with the file `path`, on the CPU with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def quantize(source: Path, stage: Path, calibration: Iterable[np.ndarray] | None = None) -> None:
    """
    Make an int8 graph of a float32 one: the maps of the image tower, and nothing behind it.

    Weights have a scale for each channel. Without images those of activations are found while the graph runs, one for a whole
    batch; with them they are fixed.

    Args:
        source (`Path`): The float32 file.
        stage (`Path`): The file to write.
        calibration (`Iterable[numpy.ndarray]`, *optional*): Batches of its input, by which the ranges of activations are fixed.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folded = stage.with_suffix(".folded")
    metadata = {item.key: item.value for item in onnx.load(str(source), load_external_data=False).metadata_props}
    options: dict[str, Any] = {"per_channel": True, "weight_type": QuantType.QInt8, "op_types_to_quantize": _QUANTIZED}
    large = source.stat().st_size > LARGEST or Path(f"{source}.data").exists()
    try:
        with _quiet_quantizer():
            # The exporter leaves weights transposed, which a quantizer does not take for weights.
            quant_pre_process(str(source), str(folded), skip_symbolic_shape=True, save_as_external_data=large)
            options["nodes_to_exclude"] = _behind(onnx.load(str(folded), load_external_data=False).graph, IMAGE_EMBEDS)
            options["use_external_data_format"] = large
            if calibration is None:
                quantize_dynamic(str(folded), str(stage), **options)
            else:
                batches = iter(calibration)

                class Reader(CalibrationDataReader):
                    def get_next(self):
                        batch = next(batches, None)
                        return None if batch is None else {PIXELS: batch}

                ranges = {"calibrate_method": CalibrationMethod.MinMax, "activation_type": QuantType.QUInt8}
                quantize_static(str(folded), str(stage), Reader(), quant_format=QuantFormat.QDQ, **ranges, **options)
    finally:
        for path in (folded, Path(f"{folded}.data")):
            path.unlink(missing_ok=True)
    written = onnx.load(str(stage), load_external_data=False)
    del written.metadata_props[:]
    onnx.helper.set_model_props(written, metadata)
    stage.write_bytes(written.SerializeToString(deterministic=True))


def _behind(graph: onnx.GraphProto, name: str) -> list[str]:
    """The names of the nodes that depend on a value, and those that a quantizer gives them."""
    reached, found = {name}, []
    for node in graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
            # The quantizer makes two nodes of a `Gemm` first, and calls the first of them so.
            found += [node.name, f"{node.name}_MatMul"]
    return found


@contextmanager
def _quiet_quantizer() -> Iterator[None]:
    # It speaks through the root logger.
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
