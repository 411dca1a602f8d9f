# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Who takes part in `peers.py`: Trainers and loops over the same files, captions and weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from data_path import jpegs
from PIL import Image
from steps import CLIP, DECAY, LEARNING_RATE, TOTAL_STEPS, our_trainer, reference_loop
from torch.utils.data import Dataset
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, PrinterCallback, Trainer, TrainingArguments
from transformers.utils.logging import disable_progress_bar
from workload import END, PIECES, POSITIONS, START, imagenet_prompts, model_config, random_model

#: Different ones; more files are copies of them.
PICTURES = 64


# ---- What all read -----------------------------------------------------------------------------------------------------


def word_tokenizer(captions: list[str]):
    """A tokenizer that gives these captions as many tokens as `workload.WordTokens`, and can be saved and loaded."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = sorted({piece for caption in captions for piece in re.findall(PIECES, caption)})
    start, end = "<|startoftext|>", "<|endoftext|>"
    # Each id of the model has a token: a vocabulary with holes cannot be saved without a warning.
    tokens = [*pieces, *(f"<|{i}|>" for i in range(len(pieces), START)), start, end]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=end))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True)
    specials = [(start, START), (end, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=specials)
    names = {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **names)


def prepare(folder: Path, model: str, files: int, prompts: Sequence[str] = ()) -> None:
    """
    Write a random checkpoint with its processor, pictures and captions.

    Args:
        folder (`Path`): Where to: `model/`, `pictures/*.jpg`, `captions.json`.
        model (`str`): Size of the model.
        files (`int`): Pictures, each with a caption of its own.
        prompts (`Sequence[str]`, *optional*): More texts that the tokenizer must know.
    """
    disable_progress_bar()
    captions, size = imagenet_prompts(files), model_config(model).vision_config.image_size
    images = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    CLIPProcessor(image_processor=images, tokenizer=word_tokenizer([*captions, *prompts])).save_pretrained(folder / "model")
    random_model(model).save_pretrained(folder / "model")
    (folder / "pictures").mkdir()
    encoded = jpegs(500, 375, min(files, PICTURES))
    for number in range(files):
        (folder / "pictures" / f"{number:06}.jpg").write_bytes(encoded[number % len(encoded)])
    (folder / "captions.json").write_text(json.dumps(captions), encoding="utf-8")


def checkpoint(folder: Path) -> tuple[CLIPModel, CLIPProcessor]:
    """The model and its processor."""
    disable_progress_bar()
    return CLIPModel.from_pretrained(folder / "model"), CLIPProcessor.from_pretrained(folder / "model")


def rows(folder: Path):
    """The files and captions as a `datasets.Dataset` with the columns `image` and `caption`."""
    import datasets

    columns = {"image": datasets.Image(), "caption": datasets.Value("string")}
    paths = [str(path) for path in sorted((folder / "pictures").iterdir())]
    captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    return datasets.Dataset.from_dict({"image": paths, "caption": captions}, features=datasets.Features(columns))


class ProcessedFiles(Dataset):
    """Pictures through the image processor, and captions that are tokenized beforehand, padded to 77, as run_clip.py has them."""

    def __init__(self, folder: Path, processor: CLIPProcessor):
        self.processor, self.paths = processor.image_processor, sorted((folder / "pictures").iterdir())
        captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
        padding = {"padding": "max_length", "max_length": POSITIONS, "truncation": True}
        self.tokens = processor.tokenizer(captions, return_tensors="pt", return_attention_mask=True, **padding)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        with Image.open(self.paths[index]) as image:
            pixels = self.processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return {"pixel_values": pixels, **{name: self.tokens[name][index] for name in ("input_ids", "attention_mask")}}


def stacked(examples: list[dict]) -> dict:
    """A batch of [`ProcessedFiles`]."""
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def with_loss(examples: list[dict]) -> dict:
    """A batch of [`ProcessedFiles`] for a `CLIPModel` that is to compute its loss."""
    return {**stacked(examples), "return_loss": True}


# ---- Who trains --------------------------------------------------------------------------------------------------------


def trainer_settings(output_dir: Path, batch: int, workers: int) -> dict:
    """Of `TrainingArguments`, alike for all Trainers."""
    return {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": batch,
        "dataloader_num_workers": workers,
        # sentence-transformers starts its workers anew with all imports, and asks for this; so all keep theirs.
        "dataloader_persistent_workers": workers > 0,
        "dataloader_pin_memory": False,
        "use_cpu": True,
        "max_steps": TOTAL_STEPS,
        "learning_rate": LEARNING_RATE,
        "weight_decay": DECAY,
        "max_grad_norm": CLIP,
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def flyp(folder: Path, batch: int, workers: int = 0, *, method: str = "flyp", crops: bool = True, **settings):
    """
    Our Trainer, on files through our transform, captions padded to the longest of the batch.

    Args:
        folder (`Path`): As [`prepare`] left it.
        batch, workers (`int`): Pairs in a step, and processes that read.
        method (`str`, *optional*, defaults to `"flyp"`): Name of the method.
        crops (`bool`, *optional*, defaults to `True`): Random crops, as we train; else the processor's pixels.
        settings: Of the arguments, instead of those here.
    """
    from hf_robustft.data.examples import TrainingExamples
    from hf_robustft.data.transforms import ImageTransform

    model, processor = checkpoint(folder)
    transform = ImageTransform.from_processor(processor, train=crops)
    data = TrainingExamples(rows(folder), transform, caption_column="caption", label_column=None)
    settings = {**trainer_settings(folder / method, batch, workers), **settings}
    return our_trainer(method, model, settings, train_dataset=data, processing_class=processor)


def carot(folder: Path, batch: int, workers: int = 0, **settings):
    """As [`flyp`], with CaRot's losses and teacher."""
    return flyp(folder, batch, workers, method="carot", **settings)


def contrastive_example(folder: Path, batch: int, workers: int = 0, **settings) -> Trainer:
    """The plain `Trainer`, and the loss that `CLIPModel` computes: transformers' examples/pytorch/contrastive-image-text."""
    model, processor = checkpoint(folder)
    usual = {**trainer_settings(folder / "example", batch, workers), "train_sampling_strategy": "sequential"}
    args = TrainingArguments(**{**usual, **settings})
    data = ProcessedFiles(folder, processor)
    trainer = Trainer(model, args, train_dataset=data, data_collator=with_loss)
    trainer.remove_callback(PrinterCallback)
    return trainer


def sentence_transformer(folder: Path, batch: int, workers: int = 0, **settings):
    """The Trainer of sentence-transformers, with the contrastive loss of both directions at the scale of the checkpoint."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    disable_progress_bar()
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    scale = model[0].auto_model.logit_scale.exp().item()
    both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    usual = {**trainer_settings(folder / "sentences", batch, workers), "batch_sampler": _in_order}
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**{**usual, **settings}),
        train_dataset=rows(folder),
        loss=MultipleNegativesRankingLoss(model, scale=scale, **both),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _in_order(dataset, batch_size: int, drop_last: bool, **unused):
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from torch.utils.data import SequentialSampler

    return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)


def open_clip_loop(turn, model: CLIPModel, batches: Iterator[dict]) -> None:
    """The loss of open_clip in a loop as its own: AdamW with decay on matrices, the scale held below 100, no clipping."""
    from open_clip import ClipLoss

    kept = [p for n, p in model.named_parameters() if p.ndim < 2 or n == "logit_scale"]
    decayed = [p for n, p in model.named_parameters() if p.ndim >= 2]
    groups = [{"params": kept, "weight_decay": 0.0}, {"params": decayed, "weight_decay": DECAY}]
    optimizer, loss_function = torch.optim.AdamW(groups, lr=LEARNING_RATE), ClipLoss()
    model.train()
    turn.losses = []
    while turn():
        output = model(**next(batches))
        optimizer.zero_grad()
        loss = loss_function(output.image_embeds, output.text_embeds, model.logit_scale.exp())
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        turn.losses.append(loss.item())


@dataclass(frozen=True)
class Peer:
    """
    One that trains.

    Args:
        function: Gives a Trainer for a folder, batch and number of workers; or a loop over batches.
        difference (`str`): What it does more or less than FLYP of ours.
        loop (`bool`, *optional*, defaults to `False`): Whether it is a loop.
        needs (`str`, *optional*): The module without which it is not run.
        lacking (`str`, *optional*): Why not, in the table.
    """

    function: Callable
    difference: str
    loop: bool = False
    needs: str | None = None
    lacking: str = ""

    @property
    def installed(self) -> bool:
        """Whether it can be run."""
        return self.needs is None or find_spec(self.needs) is not None


_PROCESSOR = "centre crops by CLIPImageProcessor"
OURS = ("FLYP", "CaRot")
PEERS = {
    "FLYP": Peer(flyp, "ours: captions padded to the longest of the batch, random crops, clipping"),
    "CaRot": Peer(carot, "ours: as FLYP; a teacher that moves in every step, distillation, two penalties"),
    "Transformers' contrastive example": Peer(
        contrastive_example, f"captions padded to {POSITIONS}, tokenized beforehand; the scale of the logits decays; {_PROCESSOR}"
    ),
    "sentence-transformers": Peer(
        sentence_transformer,
        f"the scale of the logits stays as it is; {_PROCESSOR}",
        needs="sentence_transformers",
        lacking="sentence-transformers is not installed",
    ),
    "open_clip": Peer(
        open_clip_loop,
        f"its loss and loop on the same CLIPModel; captions padded to {POSITIONS}, tokenized beforehand; no clipping; {_PROCESSOR}",
        loop=True,
        needs="open_clip",
        lacking="open_clip is not installed; it needs torchvision, which must be of the same build as torch",
    ),
    "CaRot, reference-style": Peer(
        reference_loop,
        f"the work of CaRot; captions padded to {POSITIONS}, tokenized beforehand; the teacher encodes all of them; AdamW and EMA "
        f"one parameter after the other; no clipping; {_PROCESSOR}",
        loop=True,
    ),
}
