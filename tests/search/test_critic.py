from __future__ import annotations

import numpy as np
import pytest
from tests.search.landscape import Landscape

from sparsefront.search.critic import (
    Critic,
    Floats,
    _loss,
    expected_hypervolume,
    expected_improvement,
    genome_features,
)
from sparsefront.search.front import hypervolume


def drawn(count: int) -> tuple[Floats, Floats]:
    """(count, features) and (count,) quality of random genomes."""
    landscape = Landscape(layers=6)
    rng = np.random.default_rng(0)
    genomes = [landscape.space.sample(rng) for _ in range(count)]
    quality = np.array([landscape.quality(genome) for genome in genomes])
    return genome_features(genomes, space=landscape.space, importance=landscape.importance), quality


def test_ranks_unseen_genomes_and_knows_what_it_has_seen() -> None:
    features, quality = drawn(160)
    critic = Critic(features[:100], quality[:100])
    mean, deviation = critic.predict(features[100:])
    assert np.corrcoef(mean, quality[100:])[0, 1] > 0.9
    seen_mean, seen_deviation = critic.predict(features[:100])
    assert np.abs(seen_mean - quality[:100]).mean() < 0.2 * quality.std()
    assert seen_deviation.mean() < deviation.mean()


def test_standing_is_the_mean_on_the_critic_s_own_scale() -> None:
    features, quality = drawn(60)
    critic = Critic(features[:40], quality[:40])
    critic.add(features[40], quality[40])
    mean, _ = critic.predict(features)
    slope, offset = np.polyfit(critic.standing(features), mean, 1)
    assert slope * critic.standing(features) + offset == pytest.approx(mean, abs=1e-5)
    assert 0 < slope <= quality.std() * 1.5


def test_a_fit_from_another_critic_is_about_as_good() -> None:
    features, quality = drawn(200)
    fresh = Critic(features[:120], quality[:120])
    warm = Critic(features[:120], quality[:120], start=Critic(features[:40], quality[:40]))
    errors = [np.abs(one.predict(features[120:])[0] - quality[120:]).mean() for one in (fresh, warm)]
    assert errors[1] < 1.3 * errors[0]


def test_points_added_later_count_like_the_first_ones_whatever_their_order() -> None:
    features, quality = drawn(160)
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


def test_expected_hypervolume_is_the_area_that_draws_add_on_average() -> None:
    rng = np.random.default_rng(0)
    known = np.array([0.55, 0.62, 0.7]), np.array([20.0, 50.0, 90.0])
    reference = {"quality_ref": 0.5, "latency_ref_us": 100.0}
    before = hypervolume(*known, **reference)
    for mean, deviation, latency_us in ((0.66, 0.05, 30.0), (0.5, 0.02, 95.0), (0.6, 0.1, 10.0), (0.8, 0.1, 120.0)):
        added = [
            hypervolume([*known[0], quality], [*known[1], latency_us], **reference) - before
            for quality in rng.normal(mean, deviation, 4000)
        ]
        exact = expected_hypervolume(
            np.array([mean]), np.array([deviation]), np.array([latency_us]), front=known, floor=0.5, limit_us=100.0
        )
        assert exact[0] == pytest.approx(np.mean(added), rel=0.08, abs=1e-9)


def test_the_gradient_of_the_hyperparameters_is_that_of_their_posterior() -> None:
    rng = np.random.default_rng(0)
    points, targets = rng.random((25, 4)), rng.normal(size=25)
    at = rng.normal(0, 0.5, 6)
    value, gradient = _loss(at, points, targets)
    for number in range(6):
        step = np.zeros(6)
        step[number] = 1e-5
        slope = (_loss(at + step, points, targets)[0] - _loss(at - step, points, targets)[0]) / 2e-5
        assert gradient[number] == pytest.approx(slope, rel=1e-3, abs=1e-6)
    assert np.isfinite(value)
