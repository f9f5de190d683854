"""The behaviour encoder: what a vector is, what it depends on, and what its fingerprint says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.models.tiny import LONGEST, write_checkpoint

from sparsefront.models.backbone import Backbone, load_backbone
from sparsefront.models.behaviour_encoder import BehaviourEncoder, Pooling

TEXTS = ["red sofa", "", "blue lamps a b c d", "sofa", "red sofa", "x" * 10_000, "a " * 5_000, "c" * 9]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp("backbone")
    write_checkpoint(folder, num_hidden_layers=3)
    return load_backbone(str(folder))


def states_of(backbone: Backbone, text: str, layers: int, max_tokens: int) -> NDArray[np.float32]:
    """(tokens, width) states behind the first layers, by Hugging Face."""
    tokenizer = backbone.tokenizer
    ids = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")["input_ids"]
    encoder = backbone.cross_encoder().encoder.train(False)
    found: list[torch.Tensor] = []

    class Reads:
        tokens = torch.zeros(0)

        def __call__(self, layer: int, hidden: torch.Tensor, *_: object) -> None:
            found.append(hidden)

    with torch.no_grad():
        last = encoder(ids, torch.ones_like(ids), torch.zeros_like(ids), cls_only=False, reader=Reads()).hidden
    states: NDArray[np.float32] = [*found, last][layers][0].numpy()
    return states


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_pooled_states_of_the_lower_layers(backbone: Backbone, layers: int, pooling: Pooling) -> None:
    encoder = BehaviourEncoder.of(backbone, layers=layers, pooling=pooling, max_tokens=12)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float16 and vectors.shape == (len(TEXTS), encoder.width) and encoder.width == 32
    assert encoder.layers == layers
    for text, vector in zip(TEXTS, vectors, strict=True):
        states = states_of(backbone, text, layers, 12)
        assert len(states) <= 12
        expected = states.mean(0) if pooling == "mean" else states[0]
        np.testing.assert_allclose(vector, expected, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(vectors[0], vectors[4])
    np.testing.assert_allclose(encoder.first_state(), states_of(backbone, "", layers, 12)[0], rtol=1e-5, atol=1e-5)


def test_a_text_alone_and_among_others_has_one_vector(backbone: Backbone) -> None:
    encoder = BehaviourEncoder.of(backbone, layers=2, max_tokens=20)
    together = encoder.encode(TEXTS * 50)
    for text, vector in zip(TEXTS, together, strict=False):
        np.testing.assert_allclose(encoder.encode([text])[0], vector, rtol=1e-3, atol=1e-3)
    assert encoder.encode([]).shape == (0, 32)


def test_long_texts_are_cut_and_counted(backbone: Backbone) -> None:
    encoder = BehaviourEncoder.of(backbone, layers=1, max_tokens=6)
    told: list[tuple[int, int]] = []
    found = encoder.encodings(TEXTS, progress=lambda *done: told.append(done))
    assert encoder.texts_cut == int((found.tokens > 6).sum()) and found.tokens[6] == 5_002 and found.tokens[1] == 2
    assert told[-1] == (len(TEXTS), len(TEXTS))
    np.testing.assert_array_equal(encoder.encode(["a " * 5_000]), encoder.encode(["a a a a"]))
    assert encoder.texts_cut == int((found.tokens > 6).sum()) + 1


def test_the_fingerprint_names_all_that_vectors_depend_on(backbone: Backbone, tmp_path: Path) -> None:
    encoder = BehaviourEncoder.of(backbone, layers=2, max_tokens=20)
    again = BehaviourEncoder.of(backbone, layers=2, max_tokens=20)
    assert encoder.fingerprint == again.fingerprint and len(encoder.fingerprint) == 64
    write_checkpoint(tmp_path / "other", num_hidden_layers=3, seed=1)
    write_checkpoint(tmp_path / "heads", num_hidden_layers=3, num_attention_heads=8)
    words = load_backbone(str(tmp_path / "other")).tokenizer
    words.add_tokens(["never"])
    others = [
        BehaviourEncoder.of(backbone, layers=1, max_tokens=20),
        BehaviourEncoder.of(backbone, layers=2, max_tokens=19),
        BehaviourEncoder.of(backbone, layers=2, max_tokens=20, pooling="cls"),
        BehaviourEncoder.of(load_backbone(str(tmp_path / "other")), layers=2, max_tokens=20),
        BehaviourEncoder.of(load_backbone(str(tmp_path / "heads")), layers=2, max_tokens=20),
        BehaviourEncoder(encoder.parts().config, encoder.encoder.state_dict(), words, max_tokens=20),
    ]
    assert len({encoder.fingerprint, *(one.fingerprint for one in others)}) == 7


def test_what_stands_above_the_lower_layers_does_not_matter(backbone: Backbone) -> None:
    changed = {name: tensor + (1.0 if ".layers.2." in name else 0.0) for name, tensor in backbone.weights.items()}
    other = Backbone(
        name="x", config=backbone.config, weights=changed, tokenizer=backbone.tokenizer, fingerprint="another"
    )
    first, second = (BehaviourEncoder.of(one, layers=2, max_tokens=20) for one in (backbone, other))
    assert first.fingerprint == second.fingerprint
    np.testing.assert_array_equal(first.encode(TEXTS), second.encode(TEXTS))
    assert BehaviourEncoder.of(other, layers=3, max_tokens=20).fingerprint != first.fingerprint


def test_parts_make_the_same_encoder(backbone: Backbone) -> None:
    encoder = BehaviourEncoder.of(backbone, layers=2, pooling="cls", max_tokens=9)
    parts = encoder.parts()
    for array in parts.arrays.values():
        array.flags.writeable = False  # as Ray's object store hands them out
    built = parts.build()
    assert built.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(built.encode(TEXTS), encoder.encode(TEXTS))


def test_what_an_encoder_cannot_be_is_refused(backbone: Backbone) -> None:
    for layers in (0, 4):
        with pytest.raises(ValueError, match=f"layers must be from 1 to the backbone's 3, got {layers}"):
            BehaviourEncoder.of(backbone, layers=layers, max_tokens=9)
    for tokens in (2, LONGEST + 1):
        with pytest.raises(ValueError, match=f"max_tokens must be from 3 to the model's {LONGEST}, got {tokens}"):
            BehaviourEncoder.of(backbone, layers=1, max_tokens=tokens)
    with pytest.raises(ValueError, match="pooling must be mean or cls, got 'max'"):
        BehaviourEncoder.of(backbone, layers=1, max_tokens=9, pooling="max")  # type: ignore[arg-type]
