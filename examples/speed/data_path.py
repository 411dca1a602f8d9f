# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Measures the way from JPEG files to a batch of pixels: images per second and core, against transformers' CLIPImageProcessor.

    python examples/speed/data_path.py --output outputs/data_path.json      # 3 minutes on one core

Each side reads the same JPEGs from memory, in turns, in one process with one thread, and gives a batch of 32. Time is that of
the processor core (`time.process_time`), so that other work on the machine matters little. The pictures are noise whose
spectrum falls with the frequency as that of photographs does; at quality 90 they take up as many bytes as those of ImageNet.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image, features
from rich.console import Console
from rich.table import Table
from transformers import CLIPImageProcessor

from hf_robustft.data.examples import collate_images
from hf_robustft.data.images import decode_image
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.modeling.features import normalised

BATCH = 32
SIZES = ((500, 375), (2000, 1500))
LIMIT = 2.0


def natural_image(width: int, height: int, seed: int) -> Image.Image:
    """Noise whose amplitude falls with the frequency, the channels alike to nine tenths, as in photographs."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf

    def field() -> np.ndarray:
        phases = np.exp(2j * np.pi * generator.random((height, width // 2 + 1)))
        values = np.fft.irfft2(phases / frequency, (height, width))
        return values / values.std()

    light = field()
    channels = [120 + 45 * (0.9 * light + 0.35 * field()) for _ in range(3)]
    return Image.fromarray(np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8))


def jpegs(width: int, height: int, count: int, quality: int = 90) -> list[bytes]:
    """Encoded `natural_image`s with the seeds 0, 1, ..."""
    encoded = []
    for seed in range(count):
        buffer = io.BytesIO()
        natural_image(width, height, seed).save(buffer, "JPEG", quality=quality)
        encoded.append(buffer.getvalue())
    return encoded


def contenders(processor) -> dict[str, Callable[[list[bytes]], torch.Tensor]]:
    """By name: from encoded images to the tensor that is handed to the device."""

    def reference(files: list[bytes]) -> torch.Tensor:
        images = [Image.open(io.BytesIO(content)) for content in files]
        return processor(images=images, return_tensors="pt")["pixel_values"]

    def ours(on_cpu: bool = False, **options) -> Callable[[list[bytes]], torch.Tensor]:
        transform = ImageTransform.from_processor(processor, output="uint8", **options)

        def run(files: list[bytes]) -> torch.Tensor:
            examples = [{"pixel_values": transform.decode(file, random.Random(i))} for i, file in enumerate(files)]  # noqa: S311
            pixels = collate_images(examples)["pixel_values"]
            return normalised(pixels, transform) if on_cpu else pixels

        return run

    def decoded(files: list[bytes]) -> torch.Tensor:
        return torch.tensor([decode_image(content).width for content in files])

    return {
        f"{type(processor).__name__}": reference,
        "training, uint8": ours(train=True),
        "training, normalised on the CPU": ours(train=True, on_cpu=True),
        "evaluation, uint8 (exactly the processor's pixels)": ours(train=False),
        "evaluation, fast, uint8": ours(train=False, fast=True),
        "decoding at full size, nothing else": decoded,
    }


def measure(files: list[bytes], sides: dict[str, Callable], rounds: int) -> dict[str, dict[str, float]]:
    """Images per second and core of each side, and how many times the first side's, medians over the rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in list(sides) if number % 2 else list(sides)[::-1]:
            started = time.process_time()
            sides[name](files)
            if number:
                seconds[name].append(time.process_time() - started)
    first = next(iter(seconds.values()))
    return {
        name: {
            "images_per_second_and_core": len(files) / statistics.median(times),
            "ratio": statistics.median(a / b for a, b in zip(first, times, strict=True)),
        }
        for name, times in seconds.items()
    }


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print the tables, write the JSON, and return what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file of the results")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each side that count (default 15)")
    parser.add_argument("--images", type=int, default=BATCH, help=f"images of a turn (default {BATCH})")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.images < 1:
        parser.error("--rounds and --images must be at least 1")
    torch.set_num_threads(1)
    processor = CLIPImageProcessor()
    sides, console = contenders(processor), Console(width=110)
    results: dict = {
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "pillow", "numpy")},
            "libjpeg_turbo": features.version("libjpeg_turbo"),
        },
        "images": options.images,
        "rounds": options.rounds,
        "sizes": {},
    }
    for width, height in SIZES:
        # The large ones take ten times as long; a few of them tell as much.
        files = jpegs(width, height, options.images if width < 1000 else max(1, options.images // 8))
        measured = measure(files, sides, options.rounds)
        kilobytes = sum(map(len, files)) / len(files) / 1000
        results["sizes"][f"{width}x{height}"] = {"kilobytes": kilobytes, "sides": measured}
        table = Table(title=f"JPEGs of {width} x {height} pixels, {kilobytes:.0f} kB, to {processor.crop_size.height}")
        table.add_column("")
        table.add_column("images a second and core", justify="right")
        table.add_column("times the first", justify="right")
        for name, row in measured.items():
            table.add_row(name, f"{row['images_per_second_and_core']:.0f}", f"{row['ratio']:.2f}")
        console.print(table)
    ratio = results["sizes"]["500x375"]["sides"]["training, uint8"]["ratio"]
    results |= {"limit": LIMIT, "within_limit": ratio >= LIMIT}
    console.print(
        f"Training at 500 x 375: {ratio:.2f} times, {'not ' if ratio < LIMIT else ''}at least {LIMIT:g} times."
    )
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        console.print(f"Written: {options.output}")
    return results


if __name__ == "__main__":
    main()
