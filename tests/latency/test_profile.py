"""A real, tiny profile: structure and guarantees, never speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparsefront.latency.profile import profile, random_genomes
from sparsefront.latency.runtimes import runtime
from sparsefront.latency.table import LatencyTable
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.multiply_adds import multiply_adds
from sparsefront.spaces import Genome, InputError, SearchSpace

CONFIG = CrossEncoderConfig(
    vocab_size=100,
    hidden_size=64,
    head_size=16,
    layer_heads=[4, 4],
    layer_ffn_units=[256, 256],
    max_position_embeddings=32,
)


def test_profile_gives_a_usable_table(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    table = profile(
        CONFIG, runtime=runtime("onnxruntime"), length_tokens=16, effort="quick", heldout=4,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert table.error.models == 4
    assert table.error.mean >= 0
    assert (table.fingerprint.runtime, table.fingerprint.threads, table.fingerprint.length_tokens) == (
        "onnxruntime",
        1,
        16,
    )
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(table.notes["heldout"]) == len(table.notes["heldout_us"]) == 4
    dense, small = Genome.uniform(2, heads=4, ffn_units=256), Genome.uniform(2, heads=1, ffn_units=32)
    assert 0 < table.predict(small) <= table.predict(dense)
    table.save(tmp_path / "table")
    loaded = LatencyTable.load(tmp_path / "table", table.fingerprint, backbone=table.backbone)
    assert loaded.predict(dense) == table.predict(dense)


def test_random_genomes_belong_to_the_joint_space() -> None:
    drawn = random_genomes(CONFIG, 30, np.random.default_rng(0), length_tokens=16)
    space = SearchSpace.preset("joint", widths=CONFIG.widths)
    assert len(set(drawn)) == 30
    assert all(space.contains(genome) for genome in drawn)
    adds = multiply_adds([CONFIG.genome, *drawn], [16], CONFIG, cls_only=False)[:, 0]
    assert (adds[1:] < adds[0] / 24).sum() >= 30 // 5 - 1  # as small as what a tight budget asks for


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(InputError, match="between 1 and 32"):
        profile(CONFIG, runtime=runtime("onnxruntime"), length_tokens=33)
    with pytest.raises(InputError, match="quick, normal"):
        profile(CONFIG, runtime=runtime("onnxruntime"), length_tokens=8, effort="long")  # type: ignore[arg-type]
