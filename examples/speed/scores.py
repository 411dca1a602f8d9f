# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Item g: the metrics of an evaluation of 50,000 images and 1000 classes."""

from __future__ import annotations

import statistics
import time

from memory import in_a_process
from table import Row


def all_metrics(images: int, classes: int, draws: int, rounds: int, threads: int) -> dict:
    """
    Accuracy, ECE, NLL, Brier score and the bootstrap of the accuracy, from float32 logits.

    Args:
        images, classes (`int`): Shape of the logits.
        draws (`int`): Bootstrap samples.
        rounds (`int`): Times that all is computed, after once that does not count.
        threads (`int`): Threads of torch.

    Returns:
        `dict`: `seconds` of each round, `parts` (median seconds of each part), `peak` and `before` (bytes of the
        process with, and before, all of it), and the `metrics`.
    """
    import torch
    from turns import peak_memory

    from hf_robustft.evaluation import calibration
    from hf_robustft.evaluation.resampling import bootstrap_standard_error

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, classes, generator=generator).mul_(3)
    labels = torch.randint(0, classes, (images,), generator=generator)
    logits[torch.arange(images), labels] += 8
    before, seconds, parts, metrics = peak_memory(), [], {}, {}

    def timed(name, function, *arguments, **settings):
        start = time.perf_counter()
        result = function(*arguments, **settings)
        parts.setdefault(name, []).append(time.perf_counter() - start)
        return result

    for _ in range(rounds + 1):
        start = time.perf_counter()
        probabilities = timed("softmax", logits.softmax, dim=1)
        confidence, predicted = timed("top label", probabilities.max, dim=1)
        correct = predicted == labels
        metrics["accuracy"] = correct.double().mean().item()
        metrics["ece"] = timed("ECE", calibration.expected_calibration_error, probabilities, labels)
        metrics["nll"] = timed("NLL", calibration.negative_log_likelihood, logits, labels, from_logits=True)
        metrics["brier"] = timed("Brier", calibration.brier_score, probabilities, labels)
        errors = timed("bootstrap", bootstrap_standard_error, confidence.clamp(max=1.0), correct, draws=draws)
        metrics["accuracy_standard_error"] = errors["accuracy"]
        seconds.append(time.perf_counter() - start)
        del probabilities
    medians = {name: statistics.median(values[1:]) for name, values in parts.items()}
    return {"seconds": seconds[1:], "parts": medians, "peak": peak_memory(), "before": before, "metrics": metrics}


def measure(options, progress) -> list[Row]:
    """A row of the seconds and one of the memory, each with its own limit."""
    images, classes = options.logits
    progress(f"metrics of {images:,} x {classes:,} logits")
    found = in_a_process(all_metrics, images, classes, 1000, max(2, options.rounds // 2), options.threads)
    what = f"metrics of {images:,} x {classes:,} logits"
    note = "accuracy, ECE, NLL, Brier; 1,000 bootstrap draws of the accuracy"
    whole = f"the whole process; {found['before'] / 1e9:.2f} GB before, with torch and the logits"
    return [
        Row("g time", what, statistics.median(found["seconds"]), None, "s", limit=5.0, note=note, details=found),
        Row("g memory", "peak memory of the same", found["peak"] / 1e9, None, "GB", limit=1.5, note=whole),
    ]
