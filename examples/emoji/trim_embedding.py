# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Trims a checkpoint's embedding space to its leading principal directions.

A tower that ends in a LayerNorm gives features with one dimension less than its width. Projected to an embedding as wide as
the tower, their covariance is singular, and its smallest singular value, which CaRot's bound is about, says nothing. CLIP's
own embeddings are narrower than its towers (512 of 768), and so is this one after trimming. Both projections are multiplied
by one matrix with orthonormal rows, the principal directions of the image embeddings of the pretraining drawings, so that
similarities hardly change.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from common import PRETRAINING_STYLES, load_style
from PIL import Image
from pretrain import export, image_processor
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

BATCH = 256


@torch.inference_mode()
def embed_drawings(model: CLIPModel, artwork: Path) -> Tensor:
    """Unit-length image embeddings of all pretraining drawings, (n, embed_dim), in float64."""
    processor, embeds = image_processor(), []
    for style in PRETRAINING_STYLES:
        images = [Image.fromarray(row["image"]) for row in load_style(artwork, style)]
        for start in range(0, len(images), BATCH):
            pixels = processor(images[start : start + BATCH], return_tensors="pt")["pixel_values"]
            embeds.append(model.get_image_features(pixel_values=pixels).pooler_output)
    embeds = torch.cat(embeds).double()
    return embeds / embeds.norm(dim=-1, keepdim=True)


def trim(model: CLIPModel, embeds: Tensor, dimension: int) -> tuple[CLIPModel, float]:
    """The model with embeddings of `dimension`, and the share of the squared norm of `embeds` that is kept.

    Raises ValueError if the dimension is not smaller than the model's, or there are fewer embeddings.
    """
    if not 0 < dimension < model.config.projection_dim:
        raise ValueError(f"--dimension {dimension} must lie between 0 and the model's {model.config.projection_dim}.")
    if len(embeds) < dimension:
        raise ValueError(f"{len(embeds)} drawings do not span --dimension {dimension}; give more drawings.")
    _, values, directions = torch.linalg.svd(embeds, full_matrices=False)
    rows = directions[:dimension]
    # The sign of a singular vector is arbitrary: the largest entry shall be positive, so that machines agree.
    rows = rows * rows.gather(1, rows.abs().argmax(dim=1, keepdim=True)).sign()
    config = copy.deepcopy(model.config)
    for part in (config, config.text_config, config.vision_config):
        part.projection_dim = dimension
    state = model.state_dict()
    for name in ("visual_projection.weight", "text_projection.weight"):
        state[name] = (rows @ state[name].double()).float()
    trimmed = CLIPModel(config).eval()
    trimmed.load_state_dict(state)
    return trimmed, ((values[:dimension] ** 2).sum() / (values**2).sum()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder written by pretrain.py")
    parser.add_argument("--artwork", type=Path, required=True, help="folder written by build_artwork.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the trimmed checkpoint")
    parser.add_argument("--dimension", type=int, default=96, help="dimension of the trimmed embedding (96)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = CLIPModel.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    embeds = embed_drawings(model, args.artwork)
    trimmed, kept = trim(model, embeds, args.dimension)
    export(trimmed, CLIPTokenizer.from_pretrained(args.checkpoint), args.output)
    print(f"{model.config.projection_dim} -> {args.dimension} dimensions, {100 * kept:.4f} % of the squared norm kept")


if __name__ == "__main__":
    main()
