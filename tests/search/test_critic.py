from __future__ import annotations

import numpy as np
import pytest
from tests.search.landscape import Landscape

from sparsefront.search.critic import Critic, expected_improvement, genome_features


def test_ranks_unseen_genomes_and_knows_what_it_has_seen() -> None:
    landscape = Landscape(layers=6)
    rng = np.random.default_rng(0)
    genomes = [landscape.space.sample(rng) for _ in range(160)]
    quality = np.array([landscape.quality(genome) for genome in genomes])
    features = genome_features(genomes, space=landscape.space, importance=landscape.importance)
    critic = Critic(features[:100], quality[:100])
    mean, deviation = critic.predict(features[100:])
    assert np.corrcoef(mean, quality[100:])[0, 1] > 0.9
    seen_mean, seen_deviation = critic.predict(features[:100])
    assert np.abs(seen_mean - quality[:100]).mean() < 0.2 * quality.std()
    assert seen_deviation.mean() < deviation.mean()


def test_points_added_later_count_like_the_first_ones_whatever_their_order() -> None:
    landscape = Landscape(layers=6)
    rng = np.random.default_rng(0)
    genomes = [landscape.space.sample(rng) for _ in range(160)]
    quality = np.array([landscape.quality(genome) for genome in genomes])
    features = genome_features(genomes, space=landscape.space, importance=landscape.importance)
    forwards, backwards = Critic(features[:60], quality[:60]), Critic(features[:60], quality[:60])
    few = np.abs(forwards.predict(features[120:])[0] - quality[120:]).mean()
    for at in range(60, 120):
        forwards.add(features[at], quality[at])
        backwards.add(features[179 - at], quality[179 - at])
    assert len(forwards) == 120
    for one, other in zip(forwards.predict(features), backwards.predict(features), strict=True):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-9)
    mean, deviation = forwards.predict(features)
    assert np.abs(mean[120:] - quality[120:]).mean() < few
    assert deviation[60:120].mean() < deviation[120:].mean()


def test_equal_qualities_and_a_single_point_are_no_error() -> None:
    landscape = Landscape()
    features = genome_features([landscape.space.smallest, landscape.space.largest], space=landscape.space)
    mean, deviation = Critic(features[:1], np.array([0.7])).predict(features)
    assert np.isfinite(mean).all() and (deviation > 0).all()
    mean, _ = Critic(features, np.array([0.7, 0.7])).predict(features)
    assert mean == pytest.approx(0.7)
    with pytest.raises(ValueError, match="as many qualities"):
        Critic(features, np.array([0.7]))


def test_features_see_the_tokens_that_have_survived() -> None:
    landscape = Landscape(layers=3)
    genome = landscape.space.largest.replace(0, "keep_percent", 50).replace(1, "keep_percent", 50)
    features = genome_features([genome], space=landscape.space)[0]
    assert features.tolist() == pytest.approx([1, 1, 1, 1, 1, 1, 0.5, 0.25, 0.25])


def test_expected_improvement_is_the_integral() -> None:
    draws = np.random.default_rng(0).normal(0.7, 0.1, 400_000)
    for best in (0.5, 0.7, 0.85):
        exact = expected_improvement(np.array([0.7]), np.array([0.1]), np.array([best]))[0]
        assert exact == pytest.approx(np.maximum(draws - best, 0).mean(), rel=0.02)
