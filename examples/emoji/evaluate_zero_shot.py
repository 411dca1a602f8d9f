# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Zero-shot accuracy of a CLIP checkpoint on every set of Emoji Shift, with the template ensemble, in float32.

Uses Transformers and Datasets only, so that the numbers of the checkpoint's card do not rest on this project's evaluator.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import datasets
import torch
import torch.nn.functional as F
from common import DOWNSTREAM_STYLES
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

BATCH = 250


@torch.inference_mode()
def class_head(model: CLIPModel, processor: CLIPProcessor, names: list[str], templates: list[str]) -> Tensor:
    """Mean of the unit-length template embeddings of each class, at unit length: (classes, embed_dim)."""
    texts = [template.format(name) for name in names for template in templates]
    inputs = processor.tokenizer(texts, padding=True, return_tensors="pt")
    embeds = F.normalize(model.get_text_features(**inputs).pooler_output, dim=-1)
    return F.normalize(embeds.view(len(names), len(templates), -1).mean(dim=1), dim=-1)


@torch.inference_mode()
def accuracy(model: CLIPModel, processor: CLIPProcessor, data: datasets.Dataset, head: Tensor) -> float:
    """Share of images whose most similar class is their label."""
    right = 0
    for start in range(0, len(data), BATCH):
        rows = data[start : start + BATCH]
        pixels = processor.image_processor(rows["image"], return_tensors="pt")["pixel_values"]
        embeds = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        right += int(((embeds @ head.T).argmax(dim=-1) == torch.tensor(rows["label"])).sum())
    return right / len(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a CLIPModel with its processor")
    parser.add_argument("--benchmark", type=Path, required=True, help="folder of the Emoji Shift parquet files")
    parser.add_argument(
        "--sets", nargs="+", default=["validation", *DOWNSTREAM_STYLES], help="sets (all labelled ones)"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    datasets.disable_progress_bars()
    model = CLIPModel.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    processor = CLIPProcessor.from_pretrained(args.checkpoint)
    card = json.loads((args.benchmark / "classes.json").read_text(encoding="utf-8"))
    head = class_head(model, processor, card["classes"], card["templates"])
    results = {}
    for name in args.sets:
        files = str(args.benchmark / f"{name}.parquet")
        data = datasets.load_dataset("parquet", data_files=files, split="train")
        if data.features["label"].names != card["classes"]:
            raise ValueError(f"the labels of {files} are not the classes of classes.json; build the benchmark anew.")
        results[name] = round(accuracy(model, processor, data, head), 4)
        print(f"{name}: {results[name]:.4f} ({len(data)} images)", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
