"""What is said of probabilities beside the metric."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score
from tests.models.tiny import make_rows

from sparsefront.models.gauc import gauc
from sparsefront.models.scorecard import scorecard

ROWS = make_rows([3] * 60)
LOGITS = np.random.default_rng(1).normal(size=60).astype(np.float32)


def test_scores_are_those_of_scikit_learn() -> None:
    rows = replace(ROWS, target=ROWS.positive.astype(np.float32))
    scores = scorecard(rows, LOGITS)
    probabilities = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    assert scores["auc"] == roc_auc_score(rows.positive, LOGITS)
    assert scores["log_loss"] == pytest.approx(log_loss(rows.positive, probabilities))
    bins = scores["reliability"]
    off = np.abs(np.array(bins["predicted"]) - bins["happened"])
    assert scores["calibration_error"] == pytest.approx(np.average(off, weights=bins["rows"]))
    assert sum(bins["rows"]) == 60 and json.loads(json.dumps(scores)) == scores and "gauc" not in scores


def test_users_are_scored_where_one_has_both_kinds_of_rows() -> None:
    user = np.arange(60, dtype=np.int32) % 7
    assert scorecard(replace(ROWS, user=user), LOGITS)["gauc"] == gauc(ROWS.positive, LOGITS, user)
    assert "gauc" not in scorecard(replace(ROWS, user=np.arange(60, dtype=np.int32)), LOGITS)


def test_rows_of_one_kind_have_no_auc_and_classes_no_probabilities() -> None:
    alike = replace(ROWS, positive=np.ones(60, np.bool_))
    assert set(scorecard(alike, LOGITS)) == {"log_loss", "calibration_error", "reliability"}
    classes = make_rows([3] * 60, classes=3)
    assert scorecard(classes, np.zeros((60, 3), np.float32)) == {}
