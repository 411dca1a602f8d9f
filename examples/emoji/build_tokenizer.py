# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Trains the byte-level BPE of the small CLIPModel on the pretraining captions and saves it as a `CLIPTokenizer`.

The vocabulary is laid out as CLIP's: the bytes, the bytes at a word's end, the merges, then start and end of text.
Every text is therefore encoded without an unknown token.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from common import TEMPLATES, caption, keywords, load_concepts
from tokenizers import models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

END_OF_WORD = "</w>"
SPECIALS = ("<|startoftext|>", "<|endoftext|>")


def corpus(artwork: Path, seed: int, captions_each: int = 20) -> list[str]:
    """Captions, keywords and templated names of every concept, lower case."""
    rng = random.Random(seed)  # noqa: S311 (to be repeated)
    texts: list[str] = []
    for concept in load_concepts(artwork).values():
        texts += [caption(concept, rng) for _ in range(captions_each)]
        texts += keywords(concept)
        texts += [template.format(concept["name"].replace("’", "'")) for template in TEMPLATES]
    return [text.lower() for text in texts]


def train(texts: list[str], vocab_size: int, context: int) -> CLIPTokenizer:
    """Trains the merges and wraps them.

    Args:
        texts: training texts.
        vocab_size: tokens in all, the two special ones included; at least 514 plus one merge.
        context: longest sequence in tokens (`model_max_length`).

    Returns:
        A tokenizer with `vocab_size` tokens; start of text is `vocab_size - 2`, end of text `vocab_size - 1`.

    Raises:
        ValueError: the vocabulary is too small, or the texts do not yield that many merges.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    base = [*alphabet, *(letter + END_OF_WORD for letter in alphabet)]
    n_merges = vocab_size - len(base) - len(SPECIALS)
    if n_merges < 1:
        raise ValueError(f"a vocabulary of {vocab_size} leaves no room for merges; ask for more than {len(base) + 2}.")
    tokenizer = CLIPTokenizer(vocab={SPECIALS[0]: 0, SPECIALS[1]: 1}, merges=[]).backend_tokenizer
    tokenizer.model = models.BPE(end_of_word_suffix=END_OF_WORD)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size + len(base),
        end_of_word_suffix=END_OF_WORD,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]][:n_merges]
    if len(merges) < n_merges:
        raise ValueError(
            f"the texts give only {len(merges)} merges, {n_merges} are needed; ask for a smaller vocabulary."
        )
    tokens = list(dict.fromkeys([*base, *("".join(merge) for merge in merges)]))
    if len(tokens) != len(base) + n_merges:
        raise ValueError("two merges give the same token; the vocabulary would have gaps. Change the seed.")
    vocab = {token: i for i, token in enumerate([*tokens, *SPECIALS])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=context)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artwork", type=Path, required=True, help="folder written by build_artwork.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for tokenizer.json")
    parser.add_argument("--vocab-size", type=int, default=2048, help="tokens in all (2048)")
    parser.add_argument("--context", type=int, default=32, help="longest sequence in tokens (32)")
    parser.add_argument("--seed", type=int, default=2026, help="seed of the captions (2026)")
    args = parser.parse_args()
    texts = corpus(args.artwork, args.seed)
    tokenizer = train(texts, args.vocab_size, args.context)
    tokenizer.save_pretrained(args.output)
    lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    print(
        f"{len(texts)} texts, {len(tokenizer)} tokens, mean {sum(lengths) / len(lengths):.1f}, longest {max(lengths)}"
    )


if __name__ == "__main__":
    main()
