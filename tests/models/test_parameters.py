from __future__ import annotations

from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.parameters import array_shapes, random_arrays


def test_every_array_of_a_model_of_many_layers_is_drawn() -> None:
    config = CrossEncoderConfig(
        vocab_size=100, hidden_size=16, head_size=8, layer_heads=[2] * 30, layer_ffn_units=[32] * 30
    )
    arrays = random_arrays(config)
    assert {name: values.shape for name, values in arrays.items()} == array_shapes(config)
    assert all(values.std() > 0 for values in arrays.values() if values.size > 1)
