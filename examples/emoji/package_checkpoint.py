# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Makes the packaged checkpoint `emoji_clip_carot` of a finished run on Emoji Shift, the quick start's.

The weights are rounded to float16, but for the logit scale: in half precision it could not hold a temperature. With the
rounded weights everything else is made again, temperature, detector, results, pictures and card, so that each number of
the card is one of the weights beside it. The same run gives the same bytes on one machine. With `--run` the packaged folder
itself, the weights keep their bytes and everything else is made again.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hf_robustft import EvaluationReport, Evaluator, finish_checkpoint, load_benchmark, load_dual_encoder
from hf_robustft.data.packaged import ASSETS
from hf_robustft.evaluation.report import load_reports
from hf_robustft.modeling.metadata import load_robustft_json
from hf_robustft.publishing.card_facts import CardFacts
from hf_robustft.publishing.card_file import GENERATED_PAGE, PAGE_FILE
from hf_robustft.publishing.folder import chosen_files

OUTPUT = ASSETS / "emoji_clip_carot"
#: Of the run, and true of the rounded weights too.
KEPT = ("base_model", "base_model_note", "hardware", "wall_seconds", "seed", "licence", "command", "notes", "tags")
ROUNDED = "rounded to float16 after training, all but the logit scale; the results are those of the rounded weights"


def halve(weights: Path) -> None:
    """Round the tensors of a safetensors file to float16, but for scalars such as the logit scale."""
    tensors = load_file(weights)
    rounded = {name: value.half() if value.dim() else value for name, value in tensors.items()}
    too_large = [name for name, value in rounded.items() if not torch.isfinite(value).all()]
    if too_large:
        raise ValueError(f"{too_large[0]} of {weights} has values that float16 cannot hold.")
    save_file(rounded, weights, metadata={"format": "pt"})


def package(run: Path, output: Path, progress: bool = True) -> EvaluationReport:
    """Make the folder `output` of the finished folder `run`; returns the results of the rounded weights."""
    facts, card = load_robustft_json(run), CardFacts.load(run)
    *baseline, _ = load_reports(run / "evaluation.json")
    suite = load_benchmark("emoji_shift")
    measured = [benchmark for benchmark in suite.values() if benchmark.role not in ("train", "validation")]
    with tempfile.TemporaryDirectory() as work:
        # The title of the card.
        folder = Path(work) / output.name
        folder.mkdir()
        for name, path in chosen_files(run).items():
            shutil.copyfile(path, folder / name)
        halve(folder / "model.safetensors")
        _, processor = load_dual_encoder(folder, dtype=None)
        report = finish_checkpoint(
            folder,
            evaluator=Evaluator(measured, processor, progress=progress),
            validation=suite["validation"],
            detector=facts["detector"]["score"],
            true_positive_rate=facts["detector"]["true_positive_rate"],
            baseline=baseline[-1] if baseline else None,
            train=suite["train"],
            log_history=card.log,
            run={**card.run, "Weights": ROUNDED},
            **{name: getattr(card, name) for name in KEPT},
        )
        # Half a megabyte of pictures, which `hf-robustft evaluate emoji_clip_carot` makes again.
        for name in (PAGE_FILE, GENERATED_PAGE):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(folder, output, copy_function=shutil.copyfile)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("outputs/carot"), help="finished folder (outputs/carot)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to make (that of the package)")
    args = parser.parse_args()
    print(package(args.run, args.output).table())
    size = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    print(f"Saved to {args.output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
