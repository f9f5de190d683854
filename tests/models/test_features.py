"""Feature statistics: fitted on training rows only, stored, and applied to rows that may hold anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tests.models.tiny import make_config

from sparsefront.models.batching import FeatureTensors
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.feature_branch import FeatureEmbedding
from sparsefront.models.feature_columns import hash_of
from sparsefront.models.features import (
    BINS,
    BUCKETS,
    FIRST_BUCKET,
    LEAST_PIECE,
    MIN_COUNT,
    MISSING,
    UNSEEN,
    FeatureRows,
    Features,
)
from sparsefront.spaces import Genome, InputError

LARGEST = (float(np.finfo(np.float32).max), float(np.finfo(np.float32).min))
FRAME = pd.DataFrame(
    {
        "age": [20.0, 30.0, np.nan, 50.0, 40.0, 60.0],
        "clicks": [0, 0, 0, 0, 1, 100],
        "city": ["rome", "oslo", "rome", None, "oslo", "lima"],
    }
)


def fitted(*, bins: int = BINS, buckets: int = BUCKETS, min_count: int = MIN_COUNT) -> Features:
    options = {"bins": bins, "buckets": buckets, "min_count": min_count}
    return Features.fit(FRAME, numeric=["age", "clicks"], categorical=["city"], origin="rows", train=None, **options)


def test_edges_are_quantiles_of_what_is_known_without_repeats() -> None:
    age, clicks = fitted(bins=4).numeric
    assert age.edges.tolist() == [20, 30, 40, 50, 60]
    assert clicks.edges.tolist() == [0, 0.75, 100]


@pytest.mark.parametrize("value", [np.nan, 7.0, 2.0**24, 20240115, 1.7e9, -1.7e9, 3.4e38, -3.4e38, *LARGEST])
def test_a_number_that_never_differs_still_has_a_scale(value: float) -> None:
    frame = pd.DataFrame({"x": [value, value]})
    features = Features.fit(frame, numeric=["x"], origin="rows")
    (column,) = features.numeric
    assert len(column.edges) == 2 and np.isfinite(column.edges).all() and column.edges[1] > column.edges[0]
    assert np.isfinite(encoded(features, frame)).all()


@pytest.mark.parametrize("values", [[0, 1e-40], [0, 1e-40, 1.0], [0, 6e-38, 1.2e-37, 1e-36], [-1e-45, 0, 1, 2]])
def test_numbers_that_hardly_differ_are_one_edge(values: list[float]) -> None:
    frame = pd.DataFrame({"x": values})
    features = Features.fit(frame, numeric=["x"], origin="rows")
    assert (np.diff(features.numeric[0].edges) >= np.float32(LEAST_PIECE)).all()
    assert np.isfinite(encoded(features, pd.DataFrame({"x": [*values, -1, 3e38, np.nan]}))).all()


def encoded(features: Features, frame: pd.DataFrame) -> NDArray[np.float32]:
    """Tokens of the rows' features."""
    config = Bert4CtrConfig.of(make_config(Genome.uniform(2, heads=2, ffn_units=8)), features)
    embedding = FeatureEmbedding(config)
    embedding.draw(0.02)
    rows = features.encode(frame, "rows")
    tensors = FeatureTensors(torch.from_numpy(rows.numeric), torch.from_numpy(rows.categorical).long())
    found: NDArray[np.float32] = embedding(tensors).detach().numpy()
    return found


def test_rare_unseen_and_missing_values_have_ids_of_their_own() -> None:
    features = fitted()
    (city,) = features.categorical
    assert city.known.tolist() == sorted([hash_of("rome"), hash_of("oslo")]), "lima has one row only"
    asked = pd.DataFrame({"age": [1, 2, 3, 4], "clicks": 0, "city": ["lima", "rome", "cairo", ""]})
    ids = features.encode(asked, "asked").categorical[:, 0]
    rome = FIRST_BUCKET + city.known.tolist().index(hash_of("rome"))
    assert ids.tolist() == [UNSEEN, rome, UNSEEN, MISSING]
    assert fitted(min_count=1).categorical[0].ids == FIRST_BUCKET + 3


def test_columns_of_any_cardinality_share_the_ids_that_there_are() -> None:
    values = [f"user {number}" for number in range(1000)]
    frame = pd.DataFrame({"user": values * 2})
    one = Features.fit(frame, categorical=["user"], origin="rows", buckets=100)
    (column,) = one.categorical
    ids = one.encode(frame, "rows").categorical[:, 0]
    assert column.ids == FIRST_BUCKET + 100 and ids.min() >= FIRST_BUCKET and ids.max() < column.ids
    assert (ids[:1000] == ids[1000:]).all()
    shared = np.bincount(ids[:1000])
    assert column.collision_share == pytest.approx(np.mean([shared[one] > 1 for one in ids[:1000]]))
    assert Features.fit(frame, categorical=["user"], origin="rows").categorical[0].collision_share == 0


def test_what_other_rows_hold_changes_no_statistic_and_a_row_alone_is_encoded_alike() -> None:
    features = fitted()
    rows = features.encode(FRAME, "rows")
    assert rows.numeric.dtype == np.float32 and np.isnan(rows.numeric[2, 0])
    for at in range(len(FRAME)):
        alone = features.encode(FRAME.iloc[[at]], "rows")
        np.testing.assert_array_equal(alone.numeric[0], rows.numeric[at])
        assert alone.categorical[0].tolist() == rows.categorical[at].tolist()
    taken = rows.take(np.array([5, 0]))
    assert taken.categorical.tolist() == rows.categorical[[5, 0]].tolist()


def test_columns_of_a_serving_table_are_found_by_name() -> None:
    features = fitted()
    shuffled = FRAME[["city", "clicks", "age"]].assign(more=1)
    np.testing.assert_array_equal(features.encode(shuffled, "x").numeric, features.encode(FRAME, "x").numeric)
    with pytest.raises(InputError, match="requests: no column 'clicks', which is a feature; there are age, city"):
        features.encode(FRAME[["age", "city"]], "requests")
    twice = pd.concat([FRAME, FRAME[["age"]]], axis=1)
    with pytest.raises(InputError, match="requests: column 'age' stands there twice"):
        features.encode(twice, "requests")
    with pytest.raises(InputError, match="requests: row 1: numeric 'clicks' is 'many'"):
        features.encode(FRAME.assign(clicks="many"), "requests")


def test_features_come_back_as_they_were_saved(tmp_path: Path) -> None:
    features = fitted(buckets=1)
    features.save(tmp_path / "features.safetensors")
    back = Features.load(tmp_path / "features.safetensors")
    assert back.report() == features.report() and back.names == ("age", "clicks", "city")
    for name in ("numeric", "categorical"):
        np.testing.assert_array_equal(
            getattr(back.encode(FRAME, "x"), name), getattr(features.encode(FRAME, "x"), name)
        )
    Features().save(tmp_path / "none.safetensors")
    none = Features.load(tmp_path / "none.safetensors")
    assert len(none) == 0 and none.encode(FRAME, "x").numeric.shape == (6, 0)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    with pytest.raises(InputError, match="no such file"):
        Features.load(path)
    fitted().save(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="damaged, or not the feature statistics of a model"):
        Features.load(path)
    edges, known = np.array([0, 1], np.float32), np.array([1, 2], np.uint64)
    metadata = {"columns": '{"numeric": ["a"], "categorical": [["b", 2]]}'}
    wrong_arrays: tuple[dict[str, NDArray[Any]], ...] = (
        {"numeric.0": edges[::-1].copy(), "categorical.0": known},
        {"numeric.0": edges[:1], "categorical.0": known},
        {"numeric.0": edges, "categorical.0": known[::-1].copy()},
        {"numeric.0": edges},
        {"numeric.0": edges, "categorical.0": known, "categorical.1": known},
        {"numeric.0": np.array([0, np.nan], np.float32), "categorical.0": known},
    )
    for arrays in wrong_arrays:
        save_file(arrays, path, metadata=metadata)
        with pytest.raises(InputError, match="damaged"):
            Features.load(path)
    save_file({"numeric.0": edges, "categorical.0": known}, path, metadata=metadata)
    assert Features.load(path).names == ("a", "b")
    for wrong in ("{}", "[]", '{"numeric": [], "categorical": [["b"]]}'):
        save_file({"numeric.0": edges, "categorical.0": known}, path, metadata={"columns": wrong})
        with pytest.raises(InputError, match="damaged"):
            Features.load(path)


def test_rows_must_agree() -> None:
    with pytest.raises(ValueError, match="3 rows of numbers need as many ids, got 2"):
        FeatureRows(np.zeros((3, 1), np.float32), np.zeros((2, 1), np.int32))
    with pytest.raises(ValueError, match="numeric must be"):
        FeatureRows(np.zeros(3, np.float32), np.zeros((3, 1), np.int32))
