# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Measures exported graphs in ONNX Runtime beside the same model in torch, on the CPU, in the shapes of CLIP and SigLIP.

    python examples/speed/exported.py --output_dir outputs/exported            # ViT-B/32 and SigLIP base, random weights
    python examples/speed/exported.py --output_dir outputs/exported --quick    # tiny models: tries the script, not the speed

All sides get the same images and the same number of threads, and take turns; each is a process of its own. What is told beside
the times is how far the logits are from those of torch in float32. Accuracy is what `hf-robustft export --dataset` measures: weights here
are random.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from run import machine
from transformers import CLIPImageProcessorPil, SiglipConfig, SiglipModel
from turns import Contender, interleave, median_ratio
from workload import random_model

from hf_robustft import ZeroShotHead
from hf_robustft.deployment import onnx_graph
from hf_robustft.deployment.exported_classifier import PIXELS, ExportedClassifier
from hf_robustft.evaluation.temperature import TemperatureScaling

RESULTS = "exported.json"
CLASSES = 1000
SHAPES = ("clip-vit-b-32", "siglip-base-16")
QUICK = ("clip-tiny", "siglip-tiny")
PRECISIONS = ("fp32", "fp16", "int8")


def classifier(shape: str, half: bool = False) -> ExportedClassifier:
    """A model of a shape with random weights and a head of 1000 classes, the same each time."""
    torch.manual_seed(0)
    if shape.startswith("clip-"):
        model = random_model(shape.removeprefix("clip-"))
    else:
        tiny = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes = {"vision_config": {**tiny, "image_size": 32, "patch_size": 8}, "text_config": tiny} if shape == "siglip-tiny" else {}
        model = SiglipModel(SiglipConfig(**sizes))
    model = model.eval()
    size = model.config.vision_config.image_size
    width = model.config.vision_config.hidden_size if shape.startswith("siglip") else model.config.projection_dim
    generator = torch.Generator().manual_seed(1)
    weight = 100 * torch.nn.functional.normalize(torch.randn(CLASSES, width, generator=generator), dim=-1)
    head = ZeroShotHead(weight, [f"class {number}" for number in range(CLASSES)])
    images = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    parts = {"model": model, "head": head, "processor": images, "trained_head": True}
    return ExportedClassifier(SimpleNamespace(**parts, detector=None, thresholds=None, temperature=TemperatureScaling()), half=half)


def pixels(module: ExportedClassifier, batch: int) -> torch.Tensor:
    """The images of all sides."""
    size = module.model.config.vision_config.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(2))


def write(shape: str, folder: Path) -> dict[str, Path]:
    """The graphs of a shape by precision."""
    files = {name: folder / f"{shape}-{name}.onnx" for name in PRECISIONS}
    for name in ("fp32", "fp16"):
        module = classifier(shape, half=name == "fp16")
        names = {"input_name": PIXELS, "output_names": module.outputs}
        onnx_graph.write_onnx(module, pixels(module, 2), files[name], axes={0: "batch"}, metadata={}, **names)
    onnx_graph.quantize(files["fp32"], files["int8"])
    return files


def in_torch(turn, shape: str, batch: int) -> None:
    """Forward passes in torch."""
    module = classifier(shape)
    images = pixels(module, batch)
    with torch.no_grad():
        while turn():
            module(images)


def in_onnxruntime(turn, shape: str, batch: int, path: str) -> dict:
    """The same in ONNX Runtime; returns how far the logits are off, at most, and on how many images the label is another."""
    module = classifier(shape)
    images = pixels(module, batch)
    with torch.no_grad():
        want = module(images)
    session = onnx_graph.open_session(Path(path))
    inputs, outputs = {PIXELS: images.numpy()}, [item.name for item in session.get_outputs()]
    while turn():
        found = session.run(None, inputs)
    logits = torch.from_numpy(dict(zip(outputs, found, strict=True))["logits"])
    return {"difference": (logits - want["logits"]).abs().max().item(), "other_labels": int((logits.argmax(1) != want["label"]).sum())}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write `exported.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/exported"))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="Tiny models and few rounds.")
    options = parser.parse_args(arguments)
    rounds = 2 if options.quick else options.rounds
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for shape in QUICK if options.quick else SHAPES:
            files = write(shape, Path(place))
            for batch in options.batches:
                settings = {"shape": shape, "batch": batch}
                sides = [Contender("torch", in_torch, settings, options.threads)]
                sides += [Contender(name, in_onnxruntime, {**settings, "path": str(path)}, options.threads) for name, path in files.items()]
                interleave(sides, rounds, 2, lambda text, shape=shape: print(f"{shape}: {text}", flush=True))
                for side in sides:
                    row = {"shape": shape, "batch": batch, "side": side.name, "seconds": side.seconds, "ratio": median_ratio(side, sides[0])}
                    rows.append(row | {name: value for name, value in side.results[0].items() if name != "peak_bytes"})
    options.output_dir.mkdir(parents=True, exist_ok=True)
    told = {"machine": machine(options.threads), "threads": options.threads, "rounds": rounds, "rows": rows}
    (options.output_dir / RESULTS).write_text(json.dumps(told, indent=1) + "\n")
    print("| shape | batch | side | ms per image | over torch | logits off by |\n|---|---:|---|---:|---:|---:|")
    for row in rows:
        time, off = 1e3 * statistics.median(row["seconds"]) / row["batch"], row.get("difference", 0.0)
        print(f"| {row['shape']} | {row['batch']} | {row['side']} | {time:.1f} | {row['ratio']:.2f} | {off:.1e} |")


if __name__ == "__main__":
    main()
