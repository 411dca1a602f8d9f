# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which captions are the same to CLIP's text tower, and what is remembered of them."""

import pytest
import torch
from helpers import tiny_config
from transformers import CLIPModel

from hf_robustft.modeling.captions import CaptionMemory, caption_keys, distinct_captions, pad_captions
from hf_robustft.modeling.dual_encoder import CaptionRules, DualEncoder

pytestmark = pytest.mark.numbers

END = 63
RULES = CaptionRules(END)


def captions(n=12, width=14, seed=0):
    """Random captions of different lengths with random tokens after their end."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (n, width), generator=generator)
    for row in range(n):
        ids[row, 2 + row % (width - 2)] = END
    return ids


def text_model(end_of_text):
    config = tiny_config()
    config.text_config.eos_token_id = end_of_text
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIPModel(config).double().eval()


@torch.no_grad()
@pytest.mark.parametrize("end_of_text", [END, 2], ids=["first end", "highest id of old conversions"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_feature_depends_on_the_tokens_up_to_the_end_and_no_more(end_of_text, ended):
    model, ids = text_model(end_of_text), captions()
    if not ended:
        ids[ids == END] = 5
    whole = model.get_text_features(input_ids=ids).pooler_output
    ends = DualEncoder.of(model).caption_rules.end_positions(ids)
    for row, end in enumerate(ends):
        cut = model.get_text_features(input_ids=ids[row : row + 1, : end + 1]).pooler_output[0]
        torch.testing.assert_close(cut, whole[row], rtol=0, atol=1e-12)
        if end:
            short = model.get_text_features(input_ids=ids[row : row + 1, :end]).pooler_output[0]
            assert (short - whole[row]).abs().max() > 1e-6, "the token at the end is read"


def test_keys_are_equal_where_the_text_tower_cannot_tell_captions_apart():
    base = torch.tensor([[62, 7, 8, END, 1, 2]])
    key = caption_keys(base, RULES)[0]
    assert len(key) == 4 * 8
    for same in ([62, 7, 8, END], [62, 7, 8, END, END, END, END, END], [62, 7, 8, END, 9]):
        assert caption_keys(torch.tensor([same]), RULES) == [key]
        assert caption_keys(torch.tensor([same], dtype=torch.int32), RULES) == [key]
    for other in ([62, 7, END], [62, 7, 9, END], [62, 8, 7, END], [62, 7, 8, 8, END], [62, 7, 8, END - 1]):
        assert caption_keys(torch.tensor([other]), RULES) != [key]
    # An id above 255 must not look like another one.
    assert len(set(caption_keys(torch.tensor([[300, END], [44, END], [300 + 2**16, END]]), RULES))) == 3


def test_distinct_captions_by_hand():
    ids = torch.tensor(
        [[1, 5, END, 0, 0], [1, 6, 7, END, 0], [1, 5, END, END, 9], [1, 6, 7, END, 0], [1, END, 5, 5, 5]]
    )
    distinct = distinct_captions(ids, RULES)
    assert distinct.input_ids.tolist() == [[1, 5, END, 0], [1, 6, 7, END], [1, END, 5, 5]]
    assert distinct.rows.tolist() == [0, 1, 0, 1, 2]
    features = torch.tensor([[10.0], [20.0], [30.0]])
    assert distinct.spread(features).flatten().tolist() == [10, 20, 10, 20, 30]
    alone = distinct_captions(ids[[0, 1, 4]], RULES)
    assert alone.rows is None and alone.input_ids.shape == (3, 4) and alone.spread(features) is features


@pytest.mark.parametrize(("n", "kinds", "kept"), [(20, 3, 8), (20, 8, 8), (20, 9, 16), (20, 17, 20), (5, 2, 5)])
def test_fixed_shapes_for_compiled_models(n, kinds, kept):
    ids = captions(n)[torch.arange(n) % kinds]
    distinct = distinct_captions(ids, RULES, fixed_shapes=True)
    assert distinct.input_ids.shape == (kept, 14), "rows in eights, and the length as it came"
    rows = torch.arange(n) if distinct.rows is None else distinct.rows
    assert caption_keys(distinct.input_ids[rows], RULES) == caption_keys(ids, RULES)


@pytest.mark.same_bits("the same sum on the same shape, repeated")
def test_gradients_of_copies_are_summed_in_a_fixed_order():
    generator = torch.Generator().manual_seed(0)
    ids = captions(10)[torch.randint(0, 10, (4096,), generator=generator)]
    distinct = distinct_captions(ids, RULES)
    gradient = torch.randn(4096, 256, generator=generator)
    seen, threads = set(), torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for _ in range(10):
            features = torch.zeros(len(distinct.input_ids), 256, requires_grad=True)
            distinct.spread(features).backward(gradient)
            seen.add(features.grad.numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(seen) == 1
    for row in range(len(distinct.input_ids)):
        torch.testing.assert_close(features.grad[row], gradient[distinct.rows == row].sum(0), rtol=1e-4, atol=1e-4)


def test_tables_of_captions_are_made_as_wide_as_the_widest():
    table = pad_captions([torch.tensor([[1, 2]]), torch.tensor([[3, 4, 5], [6, 7, 8]])], END)
    assert table.tolist() == [[1, 2, END], [3, 4, 5], [6, 7, 8]]


class Encoder:
    """Features that tell the caption, and a record of what was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, input_ids):
        self.asked.append(input_ids.tolist())
        return torch.stack([input_ids[:, 1].double(), input_ids.double().sum(1) * 0 + len(self.asked)], dim=1)


def ids_of(*words):
    return torch.tensor([[62, word, END, 9] for word in words])


def test_memory_encodes_each_caption_once():
    memory, encoder = CaptionMemory(100), Encoder()
    assert memory.features(ids_of(5, 6, 5), RULES, encoder)[:, 0].tolist() == [5, 6, 5]
    assert encoder.asked == [[[62, 5, END], [62, 6, END]]], "each new caption once, cut after the longest"
    assert memory.features(ids_of(6, 7, 6, 5), RULES, encoder).tolist() == [[6, 1], [7, 2], [6, 1], [5, 1]]
    assert encoder.asked[1:] == [[[62, 7, END]]]
    assert memory.features(ids_of(7, 5), RULES, encoder)[:, 0].tolist() == [7, 5]
    assert len(encoder.asked) == 2 and len(memory) == 3, "nothing is encoded where all is known"
    memory.clear()
    assert len(memory) == 0
    assert memory.features(ids_of(7, 5), RULES, encoder).tolist() == [[7, 3], [5, 3]], "and anew after clearing"


def test_memory_is_bounded_and_right_beyond_its_bound():
    memory, encoder = CaptionMemory(3), Encoder()
    for words in ((5, 6), (7, 8, 9), (9, 5, 8, 7), (10, 11), (5, 11)):
        assert memory.features(ids_of(*words), RULES, encoder)[:, 0].tolist() == list(words)
        assert len(memory) <= 3 and len(memory._features) <= 3
        assert memory._features.untyped_storage().nbytes() <= 3 * 2 * 8
    assert encoder.asked[2] == [[62, 9, END], [62, 8, END]], "7 is the last that found a place"
    nothing = CaptionMemory(0)
    for _ in range(2):
        assert nothing.features(ids_of(5), RULES, encoder)[:, 0].tolist() == [5]
    assert len(nothing) == 0 and len(encoder.asked) == 7
    with pytest.raises(ValueError, match="-1 captions"):
        CaptionMemory(-1)


def test_memory_forgets_nothing_and_learns_nothing_from_an_encoder_that_fails():
    memory, encoder = CaptionMemory(100), Encoder()
    memory.features(ids_of(5), RULES, encoder)
    with pytest.raises(RuntimeError, match="out of memory"):
        memory.features(ids_of(5, 6), RULES, lambda new: (_ for _ in ()).throw(RuntimeError("out of memory")))
    assert memory.features(ids_of(6, 5), RULES, encoder).tolist() == [[6, 2], [5, 1]]


def test_memory_holds_no_graph():
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    got = CaptionMemory(9).features(ids_of(5), RULES, lambda new: weight * new[:, :1])
    assert not got.requires_grad
