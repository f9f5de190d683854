"""Widths of a backbone refuse what no backbone can have."""

from __future__ import annotations

from typing import Any

import pytest

from sparsefront.spaces import Widths


def test_smallest_widths() -> None:
    widths = Widths(layers=1, heads=1, ffn_units=1)
    assert (widths.layers, widths.heads, widths.ffn_units) == (1, 1, 1)


@pytest.mark.parametrize("name", ["layers", "heads", "ffn_units"])
@pytest.mark.parametrize("value", [0, -3, 2.0, True, "6", None])
def test_refusals_name_the_field_and_the_value(name: str, value: Any) -> None:
    values: dict[str, Any] = {"layers": 6, "heads": 12, "ffn_units": 1536, name: value}
    with pytest.raises(ValueError) as refusal:
        Widths(**values)
    assert str(refusal.value) == f"{name} must be a positive integer, got {value!r}"
