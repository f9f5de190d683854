"""Tasks: splits without leaks, tokenising, the cache, and fingerprints."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from sparsefront.models import task as task_module
from sparsefront.models.rows import TokenRows
from sparsefront.models.splits import column_split, group_split, hold_back, random_split, time_split
from sparsefront.models.task import Task
from sparsefront.models.tokens import encode_texts, load_arrays, save_arrays, tokenizer_hash
from sparsefront.spaces import InputError

REPO = Path(__file__).resolve().parents[2]
HOME_DEPOT = REPO.parent / "shared" / "data" / "home_depot" / "train.parquet"
WORDS = (
    *("red", "blue", "green", "small", "large", "cheap", "leather", "for", "men", "women", "kids"),
    *("sofa", "couch", "lamp", "table", "boots", "shoes"),
)
CONTENT: dict[str, Any] = {
    "text": ["query", "title"],
    "label": {"column": "click", "kind": "binary"},
    "split": {"group": "query", "valid": 0.2, "test": 0.2},
    "max_length": 12,
}
shares = st.floats(0.05, 0.4)


@cache
def tokenizer(vocabulary: int = 120) -> Tokenizer:
    """A tiny WordPiece tokenizer with BERT's pair template."""
    made = Tokenizer(WordPiece(unk_token="[UNK]"))
    made.normalizer = BertNormalizer(lowercase=True)
    made.pre_tokenizer = BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        WORDS * 3, WordPieceTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    )
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return made


def make_frame(rows: int = 200, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    queries = [" ".join(rng.choice(WORDS, size=2)) for _ in range(rows // 4)]
    titles = [" ".join(rng.choice(WORDS, size=int(size))) for size in rng.integers(2, 14, size=rows)]
    columns = {"query": rng.choice(queries, size=rows), "title": titles, "click": rng.integers(0, 2, size=rows)}
    return pd.DataFrame({**columns, "day": rng.integers(0, 50, size=rows)})


@given(st.lists(st.integers(0, 12), min_size=5, max_size=200), shares, shares, st.integers(0, 3))
def test_no_group_crosses_a_split(groups: list[int], valid: float, test: float, seed: int) -> None:
    codes = group_split(groups, valid=valid, test=test, seed=seed)
    assert all(len(set(codes[np.array(groups) == group])) == 1 for group in set(groups))
    largest = max(groups.count(group) for group in groups)
    for code, share in ((1, valid), (2, test)):
        assert (codes == code).sum() <= share * len(groups) + max(1, largest)
        assert len(set(groups)) < 3 or (codes == code).any(), "three groups are enough for three splits"


def test_group_split_meets_the_shares_and_ignores_the_order_of_rows() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(500), rng.integers(1, 30, size=500))
    codes = group_split(list(groups), valid=0.1, test=0.2, seed=0)
    assert [(codes == code).mean() for code in (1, 2)] == pytest.approx([0.1, 0.2], abs=0.002)
    sizes = [pd.Series(groups[codes == code]).value_counts().mean() for code in (0, 1, 2)]
    assert sizes[1:] == pytest.approx([sizes[0]] * 2, rel=0.2), "every split gets groups of all sizes"
    order = rng.permutation(len(groups))
    assert (group_split(list(groups[order]), valid=0.1, test=0.2, seed=0) == codes[order]).all()
    assert (group_split(list(groups), valid=0.1, test=0.2, seed=1) != codes).any()


def test_rows_of_a_column_are_where_it_says_they_are() -> None:
    values = ["test", "train", "valid", "dev", None, 1, "Test"]
    assert column_split(values, ("train", "valid", "test")).tolist() == [2, 0, 1, -1, -1, -1, -1]


@given(st.lists(st.integers(0, 8), min_size=4, max_size=100), shares, st.integers(0, 3), st.booleans())
def test_what_is_held_back_is_of_the_training_rows_alone(
    groups: list[int], share: float, seed: int, by_group: bool
) -> None:
    codes = np.where(np.random.default_rng(seed).random(len(groups)) < 0.7, 0, 2).astype(np.int8)
    codes[:2] = 0
    held = hold_back(codes, groups=groups if by_group else None, valid=share, seed=seed)
    assert ((held == 2) == (codes == 2)).all()
    train = np.array(groups)[codes == 0]
    if not by_group:
        assert (held == 1).sum() == round(share * len(train))
        return
    own = held[codes == 0]
    assert all(len(set(own[train == group])) == 1 for group in set(train))
    assert (own == 1).sum() <= share * len(train) + max(np.bincount(train))
    assert (own == 0).any() and (len(set(train)) < 2 or (own == 1).any()), "two groups are enough for two splits"


def test_a_giant_group_goes_to_train() -> None:
    groups = ["giant"] * 900 + [f"g{i}" for i in range(100)]
    for seed in range(5):
        codes = group_split(groups, valid=0.05, test=0.05, seed=seed)
        assert codes[0] == 0 and [(codes == code).sum() for code in (1, 2)] == [50, 50]


@given(st.lists(st.integers(0, 30), min_size=3, max_size=100), shares, shares)
def test_time_split_is_ordered_and_never_cuts_an_instant(times: list[int], valid: float, test: float) -> None:
    instants = np.array(times)
    codes = time_split(instants, valid=valid, test=test)
    for early, late in ((0, 1), (1, 2), (0, 2)):
        if (codes == early).any() and (codes == late).any():
            assert instants[codes == early].max() < instants[codes == late].min()


@given(st.integers(10, 500), shares, shares, st.integers(0, 3))
def test_random_split_meets_the_shares_exactly(rows: int, valid: float, test: float, seed: int) -> None:
    codes = random_split(rows, valid=valid, test=test, seed=seed)
    assert (codes == 1).sum() == round(rows * valid) and (codes == 2).sum() == round(rows * test)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 25), st.integers(1, 25)), min_size=1, max_size=8), st.integers(5, 30))
def test_truncation_takes_from_the_longer_text_and_keeps_the_markers(sizes: list[tuple[int, int]], limit: int) -> None:
    columns = [" ".join(["sofa"] * first) for first, _ in sizes], [" ".join(["lamp"] * second) for _, second in sizes]
    arrays = encode_texts(tokenizer(), columns, limit)
    sofa, lamp, cls, sep = (tokenizer().token_to_id(word) for word in ("sofa", "lamp", "[CLS]", "[SEP]"))
    for row, (first, second) in enumerate(sizes):
        ids = arrays["input_ids"][arrays["offsets"][row] : arrays["offsets"][row + 1]].tolist()
        types = arrays["token_type_ids"][arrays["offsets"][row] : arrays["offsets"][row + 1]].tolist()
        assert arrays["raw_lengths"][row] == first + second + 3
        assert len(ids) == min(limit, first + second + 3)
        a, b = ids.count(sofa), ids.count(lamp)
        assert ids == [cls, *[sofa] * a, sep, *[lamp] * b, sep]
        assert types == [0] * (a + 2) + [1] * (b + 1)
        room = limit - 3
        assert a == first or a >= room // 2
        assert b == second or b >= room // 2


def test_one_text_column_and_a_limit_below_the_markers() -> None:
    arrays = encode_texts(tokenizer(), [["sofa sofa", "lamp"]], 3)
    assert arrays["offsets"].tolist() == [0, 3, 6]
    assert arrays["token_type_ids"].sum() == 0
    with pytest.raises(ValueError, match="max_length must be above the tokenizer's 3 special tokens, got 3"):
        encode_texts(tokenizer(), [["a"], ["b"]], 3)


def test_tokens_follow_the_rows_of_each_split(tmp_path: Path) -> None:
    frame = make_frame()
    made = Task.from_frame(frame, CONTENT)
    rows = made.tokenise(tokenizer(), tmp_path)
    assert {name: len(part) for name, part in rows.items()} == {"train": 120, "valid": 40, "test": 40}
    for name, part in rows.items():
        index = made.indices(name)
        assert part.positive.tolist() == frame["click"].iloc[index].astype(bool).tolist()
        texts = [frame[column].iloc[index].tolist() for column in ("query", "title")]
        assert part.input_ids.tolist() == encode_texts(tokenizer(), texts, 12)["input_ids"].tolist()
    report = made.report()["tokens"]
    assert 0 < report["truncated_share"] < 1 and report["p50"] <= report["p99"] <= report["max"]


def test_the_cache_is_used_and_a_damaged_file_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(*args: Any, **named: Any) -> Any:
        calls.append(1)
        return encode_texts(*args, **named)

    monkeypatch.setattr(task_module, "encode_texts", counted)
    made = Task.from_frame(make_frame(), CONTENT)
    first = made.tokenise(tokenizer(), tmp_path)
    fresh = Task.from_frame(make_frame(), CONTENT)
    assert _same(fresh.tokenise(tokenizer(), tmp_path), first) and len(calls) == 1
    assert fresh.token_report == made.token_report
    (stored,) = (tmp_path / "tokens").iterdir()
    good = stored.read_bytes()
    flipped = good[:-3] + bytes([good[-3] ^ 1]) + good[-2:]
    other = tmp_path / "other.safetensors"
    save_arrays(other, {"input_ids": np.zeros(3, np.int32)})
    for count, content in enumerate((b"", b"not a tensor file", good[:-10], flipped, other.read_bytes()), start=2):
        stored.write_bytes(content)
        assert _same(made.tokenise(tokenizer(), tmp_path), first)
        assert len(calls) == count
        assert stored.read_bytes() == good and len(list(stored.parent.iterdir())) == 1


def test_the_cache_tells_tokenizers_lengths_and_data_apart(tmp_path: Path) -> None:
    Task.from_frame(make_frame(), CONTENT).tokenise(tokenizer(), tmp_path)
    Task.from_frame(make_frame(), CONTENT).tokenise(tokenizer(60), tmp_path)
    Task.from_frame(make_frame(), {**CONTENT, "max_length": 9}).tokenise(tokenizer(), tmp_path)
    Task.from_frame(make_frame(seed=1), CONTENT).tokenise(tokenizer(), tmp_path)
    assert len(list((tmp_path / "tokens").iterdir())) == 4


def test_a_hugging_face_tokenizer_gives_the_same_rows_whatever_was_called_before(tmp_path: Path) -> None:
    wrapped: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), pad_token="[PAD]", cls_token="[CLS]")
    before = tokenizer_hash(wrapped)
    wrapped(["sofa lamp table"], ["red"], truncation=True, max_length=4, padding="max_length")
    assert tokenizer_hash(wrapped) == before
    made = Task.from_frame(make_frame(), CONTENT)
    assert _same(made.tokenise(wrapped, tmp_path), made.tokenise(tokenizer(), tmp_path))
    with pytest.raises(ValueError, match="the tokenizer must be a fast one, got str"):
        made.tokenise("bert", tmp_path)


def test_the_default_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEFRONT_CACHE", str(tmp_path / "own"))
    Task.from_frame(make_frame(), CONTENT).tokenise(tokenizer())
    assert len(list((tmp_path / "own" / "tokens").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a file where the folder should be")
    with pytest.raises(InputError) as caught:
        Task.from_frame(make_frame(), CONTENT).tokenise(tokenizer(), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/tokens: cannot write the token cache: File exists; "
        "expected a writable folder, $SPARSEFRONT_CACHE names another"
    )


def test_columns_that_hold_lists_or_stand_there_twice() -> None:
    frame = make_frame()
    for name, key in (("query", "text"), ("click", "label.column"), ("shop", "split.group")):
        content = {**CONTENT, "split": {"group": "shop"}}
        bad = frame.assign(shop="corner")
        bad[name] = pd.Series([["a", "b"]] * len(frame))
        with pytest.raises(InputError) as caught:
            Task.from_frame(bad, content)
        line = f"memory: row 1: column '{name}' ({key}) holds list values; expected single ones"
        assert str(caught.value) == line
    doubled = pd.concat([frame, frame[["title"]]], axis=1)
    with pytest.raises(InputError, match="memory: column 'title' stands there twice; expected different names"):
        Task.from_frame(doubled, CONTENT)


def test_save_and_load_arrays(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"a": np.arange(5, dtype=np.int64), "empty": np.zeros(0, np.int32)}
    save_arrays(tmp_path / "x.safetensors", arrays)
    again = load_arrays(tmp_path / "x.safetensors")
    assert again is not None and again.keys() == arrays.keys() and (again["a"] == arrays["a"]).all()
    assert load_arrays(tmp_path / "absent.safetensors") is None


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 13},
        {"metric": "average_precision"},
        {"protect": "separators"},
        {"text": "title"},
        {"split": {**CONTENT["split"], "seed": 1}},
        {"label": {"column": "click", "kind": "soft"}},
        {"label": {"column": "click", "kind": "class"}, "metric": "accuracy"},
        {"split": {"column": "fold"}},
    ],
)
def test_the_fingerprint_follows_every_setting_that_matters(change: dict[str, Any]) -> None:
    frame = make_frame().assign(fold=["train", "train", "valid", "test"] * 50)
    made = Task.from_frame(frame, CONTENT)
    assert made.fingerprint == Task.from_frame(frame, {**CONTENT, "name": "another name"}).fingerprint
    assert made.fingerprint != Task.from_frame(frame, {**CONTENT, **change}).fingerprint
    assert made.fingerprint != Task.from_frame(make_frame(seed=1), CONTENT).fingerprint


def test_the_order_of_classes_matters_to_the_fingerprint() -> None:
    label = {"column": "click", "kind": "class"}
    made = [
        Task.from_frame(make_frame(), {**CONTENT, "label": {**label, **classes}})
        for classes in ({}, {"classes": [0, 1]}, {"classes": [1, 0]})
    ]
    assert len({one.fingerprint for one in made}) == 3
    assert [one.classes for one in made] == [(0, 1), (0, 1), (1, 0)]
    assert (made[1].target == 1 - made[2].target).all()


@pytest.mark.parametrize(
    ("label", "split"),
    [
        ({"column": "click", "kind": "binary", "range": None, "positive": None}, {"group": "query", "time": None}),
        ({"column": "click", "kind": "graded", "range": [0.0, 1.0], "positive": 0.5}, {"group": None, "time": "day"}),
    ],
)
def test_a_task_of_old_keeps_its_fingerprint(label: dict[str, Any], split: dict[str, Any]) -> None:
    """A run folder and a token cache are found by it: keys that came later must not move it."""
    split = {**split, "valid": 0.2, "test": 0.2, "seed": 0}
    made = Task.from_frame(make_frame(), {**CONTENT, "label": label, "split": split})
    key = {"data": made.data_sha256, "text": ["query", "title"], "label": label, "split": split}
    content = json.dumps({**key, "max_length": 12, "metric": "auc"}, sort_keys=True)
    assert made.fingerprint == hashlib.sha256(content.encode()).hexdigest()


def test_graded_soft_and_boolean_labels() -> None:
    frame = make_frame().assign(grade=lambda f: f["click"] + 1.5, flag=lambda f: f["click"].astype(bool))
    graded = {"column": "grade", "kind": "graded", "range": [1, 3], "positive": 2.5}
    made = Task.from_frame(frame, {**CONTENT, "label": graded})
    assert set(made.target.tolist()) == {0.25, 0.75}
    assert (made.positive == (frame["click"] == 1)).all()
    soft = Task.from_frame(frame.assign(p=made.target), {**CONTENT, "label": {"column": "p", "kind": "soft"}})
    assert (soft.target == made.target).all() and (soft.positive == made.positive).all()
    flag = Task.from_frame(frame, {**CONTENT, "label": {"column": "flag", "kind": "binary"}})
    assert (flag.positive == made.positive).all()


def test_grades_need_no_positive_one() -> None:
    frame = make_frame().assign(grade=lambda f: f["day"] / 10)
    made = Task.from_frame(frame, {**CONTENT, "label": {"column": "grade", "kind": "graded", "range": [0, 5]}})
    assert made.spec.metric == "pearson_spearman" and not made.positive.any()
    assert made.target == pytest.approx(frame["day"] / 50)
    report = made.report()
    assert "positive_rate" not in report and report["target_mean"] == pytest.approx(frame["day"].mean() / 50)
    assert report["splits"]["valid"].keys() == {"rows", "row_share", "target_mean", "groups"}


def test_classes_are_indices_of_the_sorted_values_of_the_training_rows(tmp_path: Path) -> None:
    names = np.array(["rock", "folk", "jazz"])
    frame = make_frame().assign(genre=lambda f: names[f["day"] % 3])
    made = Task.from_frame(frame, {**CONTENT, "label": {"column": "genre", "kind": "class"}})
    assert made.classes == ("folk", "jazz", "rock") and not made.positive.any()
    assert [made.classes[int(one)] for one in made.target] == frame["genre"].tolist()
    rows = made.tokenise(tokenizer(), tmp_path)
    for name, part in rows.items():
        assert part.classes == 3 and part.target.tolist() == made.target[made.indices(name)].tolist()
    report = made.report()
    assert report["classes"] == ["folk", "jazz", "rock"] and "positive_rate" not in report
    assert report["class_counts"] == frame["genre"].value_counts().sort_index().tolist()
    assert [sum(part["class_counts"]) for part in report["splits"].values()] == [120, 40, 40]
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize("kind", ["int64", "float64", "Int64", "object", "category"])
def test_whole_numbers_are_classes_in_whatever_column(kind: Any) -> None:
    frame = make_frame().assign(level=lambda f: (f["day"] % 3 - 1).astype(kind))
    made = Task.from_frame(frame, {**CONTENT, "label": {"column": "level", "kind": "class"}})
    assert made.classes == (-1, 0, 1) and {type(one) for one in made.classes} == {int}


@pytest.mark.parametrize("value", [0.5, np.inf, True, pd.Timestamp(0), pd.NA])
def test_other_values_are_no_classes(value: Any) -> None:
    frame = make_frame().astype({"click": object})
    frame.loc[2, "click"] = value
    with pytest.raises(InputError, match=r"row 3: label 'click' is .*; expected a class: a whole number or text"):
        Task.from_frame(frame, {**CONTENT, "label": {"column": "click", "kind": "class"}})
    frame.loc[2, "click"] = "1"
    with pytest.raises(
        InputError, match=r"label 'click' (holds whole numbers and text|is '1', a class that no training)"
    ):
        Task.from_frame(frame, {**CONTENT, "label": {"column": "click", "kind": "class"}})


def test_many_classes_are_not_all_listed() -> None:
    frame = make_frame().assign(
        name=[f"c{row % 20:02d}" for row in range(200)], fold=["train"] * 160 + ["valid", "test"] * 20
    )
    frame.loc[199, "name"] = "other"
    with pytest.raises(InputError, match=r"expected one of 'c00', 'c01', 'c02', 'c03', 'c04', 'c05' and 14 more$"):
        Task.from_frame(frame, {**CONTENT, "label": {"column": "name", "kind": "class"}, "split": {"column": "fold"}})


def test_official_rows_are_tested_on_and_valid_ones_held_back() -> None:
    folds = ["train", "test", "train", "train"] * 50
    frame = make_frame().assign(fold=folds)
    for group in (None, "query"):
        split = {"column": "fold", "valid": 0.2, "group": group}
        made = Task.from_frame(frame, {**CONTENT, "split": split})
        assert made.indices("test").tolist() == np.flatnonzero(np.array(folds) == "test").tolist()
        assert len(made.indices("valid")) == pytest.approx(30, abs=3)
        if group:
            queries = [set(frame["query"].iloc[made.indices(name)]) for name in ("train", "valid")]
            assert not queries[0] & queries[1]
        other = Task.from_frame(frame, {**CONTENT, "split": {**split, "seed": 1}})
        assert other.indices("valid").tolist() != made.indices("valid").tolist()


def test_one_text_column_is_a_task_like_any_other(tmp_path: Path) -> None:
    frame = make_frame()
    rows = Task.from_frame(frame, {**CONTENT, "text": "title"}).tokenise(tokenizer(), tmp_path)["test"]
    assert not rows.token_type_ids.any()
    first = rows.input_ids[rows.offsets[:-1]]
    assert set(first.tolist()) == {tokenizer().token_to_id("[CLS]")}


@pytest.mark.skipif(not HOME_DEPOT.exists(), reason="../shared/data/home_depot/train.parquet is not on this machine")
def test_home_depot(tmp_path: Path) -> None:
    content = {
        **CONTENT,
        "data": str(HOME_DEPOT),
        "text": ["search_term", "product_title"],
        "label": {"column": "relevance", "kind": "graded", "range": [1, 3], "positive": 2.5},
        "split": {"group": "search_term"},
    }
    path = tmp_path / "home_depot.yaml"
    path.write_text(yaml.safe_dump(content))
    made = Task.from_file(path)
    report = made.report()
    assert (report["name"], report["rows"]) == ("home_depot", 74_067)
    assert report["splits"]["valid"]["rows"] == pytest.approx(7407, abs=2)
    terms = made.frame["search_term"]
    parts = [set(terms.iloc[made.indices(name)]) for name in ("train", "valid", "test")]
    assert sum(map(len, parts)) == terms.nunique()


def _same(first: dict[str, TokenRows], second: dict[str, TokenRows]) -> bool:
    return all(
        np.array_equal(array, second[name].to_arrays()[key])
        for name, rows in first.items()
        for key, array in rows.to_arrays().items()
    )
