# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Pretrains a small CLIPModel, or with `--family siglip` a SiglipModel, from scratch on the six pretraining styles.

A batch holds two drawings of each of `--concepts` concepts, of two artists where two have drawn it, and one caption a
concept, with `--extra-captions` captions of other concepts as negatives. Loss: image to caption, caption to image with
both drawings as targets, and image to image across the artists. SigLIP asks of each pair of an image and a caption by itself
whether it belongs together, in place of the first two. The exported weights are the moving average.

The styles of Emoji Shift are never trained on; its validation split is only looked at, to print progress.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from augment import random_views
from common import PRETRAINING_STYLES, caption, load_concepts, load_style
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)

SIZE = 48
PATCHES = 36
CAPTIONS_EACH = 48
CAPTION_LENGTH = 16


def build_model(tokenizer: CLIPTokenizer, family: str = "clip") -> CLIPModel | SiglipModel:
    """A model of 1.5 M parameters, of SigLIP's kind 1.7 M: vision 128 x 4 layers, text 128 x 2 layers, embeddings of 128."""
    shared = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "hidden_act": "quick_gelu"}
    text = {
        **shared,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "projection_dim": 128,
    }
    vision = {**shared, "num_hidden_layers": 4, "image_size": SIZE, "patch_size": 8, "projection_dim": 128}
    if family == "siglip":
        # A row of captions is read whole: its length is a part of the model.
        text |= {"max_position_embeddings": CAPTION_LENGTH, "projection_size": 128}
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        with torch.no_grad():
            # As SigLIP begins (Zhai et al., ICCV 2023, section 3.2): most pairs do not belong together.
            model.logit_scale.fill_(math.log(10.0))
            model.logit_bias.fill_(-10.0)
        return model
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


class QuickGELUBySiLU(torch.nn.Module):
    """x * sigmoid(1.702 x), in one fused kernel; holds no weights, so that checkpoints do not change."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(1.702 * x) / 1.702


class Drawings:
    """All drawings and captions in memory, and the sampling of batches."""

    def __init__(self, artwork: Path, tokenizer: CLIPTokenizer, seed: int, whole_rows: bool = False) -> None:
        self.whole_rows = whole_rows
        concepts = load_concepts(artwork)
        rows = [row for style in PRETRAINING_STYLES for row in load_style(artwork, style)]
        codes = sorted({row["code_point"] for row in rows})
        members: dict[str, list[int]] = {code: [] for code in codes}
        for i, row in enumerate(rows):
            members[row["code_point"]].append(i)
        self.images = torch.stack([torch.from_numpy(row["image"].copy()).permute(2, 0, 1) for row in rows])
        self.counts = torch.tensor([len(members[code]) for code in codes])
        self.members = torch.zeros(len(codes), int(self.counts.max()), dtype=torch.long)
        for i, code in enumerate(codes):
            self.members[i, : len(members[code])] = torch.tensor(members[code])
        # Persons make a quarter of all concepts and hardly differ at 48 pixels: they are drawn less often.
        person = torch.tensor([concepts[code]["group"] == "people-body" for code in codes])
        self.weights = self.counts.float().sqrt() * torch.where(person, 0.3, 1.0)
        rng = random.Random(seed)  # noqa: S311 (to be repeated)
        texts = [caption(concepts[code], rng, name_only=0.6) for code in codes for _ in range(CAPTIONS_EACH)]
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=CAPTION_LENGTH, return_tensors="pt")
        ids = ids["input_ids"]
        self.captions = ids.view(len(codes), CAPTIONS_EACH, -1)
        self.lengths = (self.captions != tokenizer.eos_token_id).sum(-1) + 1

    def batch(self, n_concepts: int, n_extra: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Views (2 * n_concepts, 3, SIZE, SIZE), first and second drawing of each concept in two blocks, and captions
        (n_concepts + n_extra, length), unless `whole_rows` cut at the longest: exact where the text tower looks only backwards."""
        picked = torch.multinomial(self.weights, n_concepts + n_extra, generator=generator)
        concepts = picked[:n_concepts]
        keys = torch.rand(n_concepts, self.members.shape[1], generator=generator)
        keys[torch.arange(self.members.shape[1]) >= self.counts[concepts, None]] = -1.0
        order = keys.topk(2, dim=1)
        slots = torch.where(order.values >= 0.0, order.indices, order.indices[:, :1])
        index = self.members[concepts].gather(1, slots).T.reshape(-1)
        which = torch.randint(CAPTIONS_EACH, (len(picked),), generator=generator)
        ids = self.captions[picked, which]
        if not self.whole_rows:
            ids = ids[:, : int(self.lengths[picked, which].max())]
        return random_views(self.images[index], SIZE, generator), ids


def embed_images(model: CLIPModel, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
    """Unit-length image embeddings of pixels in [0, 1]; `kept` (batch, n) holds the patches to look at."""
    tower = model.vision_model
    tokens = tower.embeddings(pixels * 2.0 - 1.0)
    if isinstance(model, SiglipModel):
        if kept is not None:
            tokens = tokens.gather(1, kept.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        hidden = tower.post_layernorm(tower.encoder(inputs_embeds=tokens).last_hidden_state)
        return F.normalize(tower.head(hidden).float(), dim=-1)
    if kept is not None:
        index = F.pad(kept + 1, (1, 0)).unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        tokens = tokens.gather(1, index)
    hidden = tower.encoder(inputs_embeds=tower.pre_layrnorm(tokens)).last_hidden_state
    pooled = tower.post_layernorm(hidden[:, 0])
    return F.normalize(model.visual_projection(pooled).float(), dim=-1)


def embed_texts(model: CLIPModel, ids: Tensor) -> Tensor:
    """Unit-length text embeddings of token ids."""
    if isinstance(model, SiglipModel):
        return F.normalize(model.text_model(input_ids=ids).pooler_output.float(), dim=-1)
    return F.normalize(model.text_projection(model.text_model(input_ids=ids).pooler_output).float(), dim=-1)


def losses(
    images: Tensor, texts: Tensor, scale: Tensor, n_concepts: int, image_scale: float, bias: Tensor | None = None
) -> dict[str, Tensor]:
    """The three loss terms of the embeddings of a batch as `Drawings.batch` lays it out; two with a `bias`, SigLIP's."""
    logits = scale * images @ texts.T
    concept = torch.arange(n_concepts).repeat(2)
    if bias is not None:
        belongs = torch.arange(len(texts)) == concept[:, None]
        pairs = -F.logsigmoid((logits + bias) * torch.where(belongs, 1.0, -1.0)).sum() / len(images)
        across = (image_scale * images @ images.T).masked_fill(torch.eye(2 * n_concepts, dtype=torch.bool), -1e4)
        partner = torch.arange(2 * n_concepts).roll(n_concepts)
        return {"pairs": pairs, "image_image": F.cross_entropy(across, partner)}
    to_text = F.cross_entropy(logits, concept)
    log_images = logits[:, :n_concepts].T.log_softmax(dim=-1)
    to_image = -log_images.gather(1, torch.stack([concept[:n_concepts], concept[:n_concepts] + n_concepts], 1)).mean()
    across = (image_scale * images @ images.T).masked_fill(torch.eye(2 * n_concepts, dtype=torch.bool), -1e4)
    partner = torch.arange(2 * n_concepts).roll(n_concepts)
    return {"image_text": to_text, "text_image": to_image, "image_image": F.cross_entropy(across, partner)}


class Validation:
    """Zero-shot accuracy on the validation split of Emoji Shift, with the template ensemble."""

    def __init__(self, folder: Path, tokenizer: CLIPTokenizer, whole_rows: bool = False) -> None:
        card = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        rows = pq.read_table(folder / "validation.parquet").to_pylist()
        processor = image_processor()
        pictures = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows]
        self.pixels = processor(pictures, return_tensors="pt")["pixel_values"] * 0.5 + 0.5
        self.labels = torch.tensor([row["label"] for row in rows])
        texts = [template.format(name) for name in card["classes"] for template in card["templates"]]
        rows = {"padding": "max_length", "max_length": CAPTION_LENGTH, "truncation": True} if whole_rows else {"padding": True}
        self.ids = tokenizer(texts, return_tensors="pt", **rows)["input_ids"]
        self.shape = (len(card["classes"]), len(card["templates"]), -1)

    @torch.inference_mode()
    def accuracy(self, model: CLIPModel) -> float:
        """Share of validation views whose nearest class embedding is their own."""
        head = F.normalize(embed_texts(model, self.ids).view(self.shape).mean(dim=1), dim=-1)
        return ((embed_images(model, self.pixels) @ head.T).argmax(dim=-1) == self.labels).float().mean().item()


def image_processor() -> CLIPImageProcessorPil:
    """Shortest edge to 48 (bicubic), centre crop, mean and standard deviation 0.5."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def export(model: CLIPModel, tokenizer: CLIPTokenizer, output: Path) -> None:
    """Writes model, tokenizer and image processor; weights in float16, with float32 as the type they load in."""
    state = {name: tensor.detach().half() for name, tensor in model.state_dict().items()}
    model.save_pretrained(output, state_dict=state)
    model.config.save_pretrained(output)
    tokenizer.save_pretrained(output)
    # Where the tokenizer was read from says nothing to those who load the copy.
    settings = json.loads((output / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings = {key: value for key, value in settings.items() if key not in ("is_local", "local_files_only")}
    (output / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if isinstance(model, SiglipModel):
        tokenizer.model_max_length = CAPTION_LENGTH
        SiglipProcessor(image_processor(), tokenizer).save_pretrained(output)
    else:
        image_processor().save_pretrained(output)


def save_progress(folder: Path, model, average, optimizer, generator: torch.Generator, facts: dict) -> None:
    """Saves everything a resumed run needs: two safetensors files and a JSON file, the last one written last."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{k}": v for k, v in model.state_dict().items()}
    weights |= {f"average.{k}": v for k, v in average.state_dict().items()}
    save_file({k: v.contiguous().clone() for k, v in weights.items()}, folder / "weights.safetensors")
    state = {f"{i}.{k}": v for i, s in optimizer.state_dict()["state"].items() for k, v in s.items()}
    save_file({**state, "generator": generator.get_state()}, folder / "optimizer.safetensors")
    (folder / "progress.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_progress(folder: Path, model, average, optimizer, generator: torch.Generator) -> dict:
    """Restores what `save_progress` wrote and returns its facts; OSError where there is nothing to resume."""
    if not (folder / "progress.json").is_file():
        raise OSError(f"{folder} holds no progress.json; there is no run to resume, leave --resume out.")
    weights = load_file(folder / "weights.safetensors")
    for prefix, target in (("model.", model), ("average.", average)):
        target.load_state_dict({k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)})
    stored = load_file(folder / "optimizer.safetensors")
    generator.set_state(stored.pop("generator"))
    state = optimizer.state_dict()
    for key, value in stored.items():
        index, name = key.split(".")
        state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)
    return json.loads((folder / "progress.json").read_text(encoding="utf-8"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artwork", type=Path, required=True, help="folder written by build_artwork.py")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder written by build_tokenizer.py")
    parser.add_argument("--benchmark", type=Path, required=True, help="folder written by build_views.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the exported checkpoint")
    parser.add_argument("--progress", type=Path, required=True, help="folder of the resumable state and log.jsonl")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="length of the run; the schedule follows the clock")
    length.add_argument("--steps", type=int, help="length of the run in steps; same seed, same result")
    parser.add_argument("--family", choices=["clip", "siglip"], default="clip", help="what kind of model (clip)")
    parser.add_argument("--resume", action="store_true", help="go on from the folder --progress")
    parser.add_argument("--seed", type=int, default=2026, help="seed of weights, batches and captions (2026)")
    parser.add_argument("--concepts", type=int, default=128, help="concepts a batch, two images each (128)")
    parser.add_argument("--extra-captions", type=int, default=256, help="captions of other concepts a batch (256)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak learning rate (1e-3)")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="AdamW weight decay of matrices (0.1)")
    parser.add_argument("--warmup", type=float, default=0.03, help="share of the run with rising rate (0.03)")
    parser.add_argument("--average", type=float, default=0.999, help="decay of the weight average (0.999)")
    parser.add_argument("--image-weight", type=float, default=0.5, help="weight of the image-image term (0.5)")
    parser.add_argument("--image-scale", type=float, default=10.0, help="inverse temperature of that term (10)")
    parser.add_argument("--bfloat16", action="store_true", help="autocast the towers to bfloat16")
    parser.add_argument("--keep-patches", type=int, default=PATCHES, help="random patches an image looks at (36, all)")
    parser.add_argument(
        "--full-share", type=float, default=0.25, help="last share of the run that sees all patches (0.25)"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (1)")
    parser.add_argument("--report-every", type=float, default=3.0, help="minutes between evaluations and saves (3)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    siglip = args.family == "siglip"
    data = Drawings(args.artwork, tokenizer, args.seed, siglip)
    validation = Validation(args.benchmark, tokenizer, siglip)
    model = build_model(tokenizer, args.family)
    average = build_model(tokenizer, args.family).eval()
    average.load_state_dict(model.state_dict())
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98), foreach=True)
    step, spent, curve = 0, 0.0, []
    if args.resume:
        facts = load_progress(args.progress, model, average, optimizer, generator)
        step, spent, curve = facts["step"], facts["seconds"], facts["curve"]
    print(
        f"{len(data.images)} drawings of {len(data.counts)} concepts, "
        f"{sum(p.numel() for p in model.parameters())} parameters",
        flush=True,
    )

    # Attention over so few tokens is faster unfused on a CPU, in bfloat16 above all; so is quick_gelu written as SiLU.
    model.set_attn_implementation("eager")
    for layer in [*model.vision_model.encoder.layers, *model.text_model.encoder.layers]:
        layer.mlp.activation_fn = QuickGELUBySiLU()
    mine, averaged = list(model.parameters()), list(average.parameters())
    sums: dict[str, float] = {}
    since, begun, reported = 0, time.monotonic() - spent, spent
    while True:
        spent = time.monotonic() - begun
        done = step / args.steps if args.steps else spent / (60.0 * args.minutes)
        if since and (done >= 1.0 or spent - reported >= 60.0 * args.report_every):
            line = {"step": step, "seconds": round(spent, 1), **{k: round(v / since, 4) for k, v in sums.items()}}
            line |= {"logit_scale": round(model.logit_scale.exp().item(), 2)}
            line |= {"validation_accuracy": round(validation.accuracy(average), 4)}
            curve.append(line)
            print(json.dumps(line), flush=True)
            save_progress(
                args.progress, model, average, optimizer, generator, {"step": step, "seconds": spent, "curve": curve}
            )
            export(average, tokenizer, args.output)
            sums, since, reported = {}, 0, spent
        if done >= 1.0:
            break
        rate = min(done / args.warmup, 1.0) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
        for group in optimizer.param_groups:
            group["lr"] = max(rate, 1e-3) * args.learning_rate
        pixels, ids = data.batch(args.concepts, args.extra_captions, generator)
        kept = None
        if done < 1.0 - args.full_share:
            kept = torch.rand(len(pixels), PATCHES, generator=generator).topk(args.keep_patches, dim=1).indices
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            images, texts = embed_images(model, pixels, kept), embed_texts(model, ids)
        scale, bias = model.logit_scale.exp(), model.logit_bias if siglip else None
        terms = losses(images, texts, scale, args.concepts, args.image_scale, bias)
        matched = terms["pairs"] if siglip else 0.5 * (terms["image_text"] + terms["text_image"])
        loss = matched + args.image_weight * terms["image_image"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(mine, 1.0)
        optimizer.step()
        step += 1
        since += 1
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100.0))
            torch._foreach_lerp_(averaged, mine, 1.0 - min(args.average, (1.0 + step) / (10.0 + step)))
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + term.item()


if __name__ == "__main__":
    main()
