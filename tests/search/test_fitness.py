from __future__ import annotations

import functools
import pickle
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.models.test_bahe import BRANCH, make_bahe, make_histories
from tests.models.test_bert4ctr import featured
from tests.models.test_bert4ctr import make_model as make_bert4ctr
from tests.models.tiny import make_model, make_rows
from tests.search.conftest import Finished

from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.metrics import DECIDING, OF_EVERY_KIND, quality
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.models.task_file import Metric
from sparsefront.models.uncertainty import paired_error, standard_error
from sparsefront.search.fitness import Fitness, FitnessData, _unlikeness, slice_of
from sparsefront.search.prepare import Prepared
from sparsefront.spaces import Genome, SearchSpace, Widths

ROWS = 1200
NEVER, ALWAYS = 1e9, -1e9  # bars that no genome and every genome reaches
CASES: list[tuple[Metric, int]] = [
    ("auc", 0),
    ("average_precision", 0),
    ("log_loss", 0),
    ("pearson_spearman", 0),
    ("f1", 0),
    ("accuracy", 3),
    ("macro_f1", 3),
]
"""Metrics and numbers of classes."""
cases = pytest.mark.parametrize(("metric", "classes"), CASES, ids=str)
SMALL = Genome.from_columns(heads=[1, 2], ffn_units=[16, 0], keep_percent=[60, 100])


@pytest.fixture(scope="module")
def fitness(prepared: Prepared) -> Fitness:
    data = FitnessData.of(prepared.supernet, prepared.rows["valid"], "auc", precision="fp32")
    return Fitness(cast(FitnessData, pickle.loads(pickle.dumps(data))))  # noqa: S301 - as it travels to a worker


def test_quality_is_that_of_the_slim_model(prepared: Prepared, fitness: Fitness) -> None:
    rows = prepared.rows["valid"]
    logits = score_rows(prepared.supernet.slim(SMALL), rows, precision="fp32")
    found = fitness(SMALL)
    assert found["quality"] == pytest.approx(quality("auc", rows.positive, rows.target, logits), abs=1e-3)
    assert found["forward_seconds"] > 0 and 0 < found["standard_error"] < 0.2


def test_an_evaluation_leaves_no_trace(fitness: Fitness) -> None:
    first = fitness(SMALL)["quality"]
    other = fitness(fitness.model.genome)["quality"]
    assert fitness(SMALL)["quality"] == first != other


def test_weights_are_copied_when_it_is_built(prepared: Prepared) -> None:
    model = prepared.supernet.slim(prepared.supernet.genome)
    fitness = Fitness(FitnessData.of(model, prepared.rows["valid"], "auc", precision="fp32"))
    before = fitness(SMALL)["quality"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    assert fitness(SMALL)["quality"] == before
    assert Fitness(FitnessData.of(model, prepared.rows["valid"], "auc", precision="fp32"))(SMALL)["quality"] != before


@pytest.mark.parametrize("kind", ["text", "text and features", "histories", "histories and features"])
def test_an_encoder_in_bf16_says_nearly_the_same(kind: str) -> None:
    model: CrossEncoder
    lengths = [5, 3, 6, 4] * 10
    if kind.startswith("text"):
        rows = make_rows(lengths)
        model = make_model(Genome.uniform(3, heads=3, ffn_units=20))
        if kind.endswith("features"):
            rows, model = featured(rows), make_bert4ctr()
    else:
        told = kind.endswith("features")
        rows, model = make_histories([[one] for one in lengths], features=told), make_bahe(**BRANCH if told else {})
    rows = replace(rows, positive=np.arange(len(rows)) % 2 == 0)
    qualities, logits = [], []
    for precision in ("fp32", "bf16"):
        fitness = Fitness(FitnessData.of(model, rows, "auc", precision=cast(Any, precision)))
        qualities.append(fitness(model.genome)["quality"])
        logits.append(score_rows(fitness.model, rows, precision="fp32"))
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.1 * np.abs(logits[0]).max()
    assert qualities[0] == pytest.approx(qualities[1], abs=0.05)


def test_the_search_stored_what_fitness_says(prepared: Prepared, finished: Finished) -> None:
    """The actors of the finished run gave the same qualities as this process."""
    fitness = Fitness(FitnessData.of(prepared.supernet, prepared.rows["valid"], "auc"))
    rows = finished.report["front"]
    assert np.allclose(
        [fitness(Genome.parse(row["genome"]))["quality"] for row in rows], [row["quality"] for row in rows], atol=1e-6
    )


DENSE = Genome.uniform(2, heads=3, ffn_units=20)
SPACE = SearchSpace.preset("joint", widths=Widths(2, 3, 20), ffn_granule=4, keep_percents=(100, 70, 40))


def some_genomes(count: int, seed: int = 0) -> list[Genome]:
    rng = np.random.default_rng(seed)
    found = dict[Genome, None]()
    while len(found) < count:
        found[SPACE.sample(rng)] = None
    return list(found)


def supernet(metric: Metric = "auc", classes: int = 0) -> CrossEncoder:
    """A model whose parts do not change all of its mind: its genomes are as much alike as those of a trained one.

    One that decides does so either way.
    """
    model = make_model(DENSE, scale=0.15, outputs=classes or 1)
    if metric in DECIDING:
        rows = make_rows([4 + row % 10 for row in range(300)])
        with torch.no_grad():
            model.head.bias.sub_(torch.from_numpy(score_rows(model, rows, precision="fp32")).mean(0))
    return model


def learnt_rows(rows: int, classes: int = 0) -> TokenRows:
    """Rows whose labels the dense model knows something about, and smaller ones less."""
    rng = np.random.default_rng(0)
    plain = make_rows([int(length) for length in rng.integers(4, 14, rows)])
    logits = score_rows(supernet(classes=classes), plain, precision="fp32")
    score = (logits - logits.mean(axis=0)) / logits.std(axis=0) + rng.normal(scale=0.7, size=logits.shape)
    if classes:
        target = score.argmax(axis=1).astype(np.float32)
        return replace(plain, target=target, positive=np.zeros(rows, bool), classes=classes)
    target = (1 / (1 + np.exp(-2 * score))).astype(np.float32)
    return replace(plain, target=target, positive=score > np.quantile(score, 0.6))


def fitness_of(rows: int = ROWS, metric: Metric = "auc", classes: int = 0) -> Fitness:
    model = supernet(metric, classes)
    return Fitness(FitnessData.of(model, learnt_rows(rows, classes), metric, precision="fp32"))


@functools.cache
def exact_qualities(metric: Metric, classes: int) -> dict[Genome, float]:
    """Of some genomes, on all rows."""
    fitness = fitness_of(metric=metric, classes=classes)
    return {genome: fitness(genome)["quality"] for genome in some_genomes(50)}


def slice_in(fitness: Fitness) -> NDArray[np.bool_]:
    """The rows that it scores first."""
    chosen = slice_of(fitness.rows.kinds, of_each=fitness.metric in OF_EVERY_KIND)
    assert chosen is not None
    return chosen


class Counted:
    """How many rows the model is run on."""

    def __init__(self, fitness: Fitness, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = 0
        forward = fitness.model.encoder.forward

        def counted(input_ids: torch.Tensor, *arguments: Any, **named: Any) -> Any:
            self.rows += len(input_ids)
            return forward(input_ids, *arguments, **named)

        monkeypatch.setattr(fitness.model.encoder, "forward", counted)

    def taken(self) -> int:
        """Rows since the last call."""
        rows, self.rows = self.rows, 0
        return rows


@cases
def test_without_a_bar_all_rows_are_scored_as_score_rows_does(metric: Metric, classes: int) -> None:
    fitness = fitness_of(metric=metric, classes=classes)
    genomes = some_genomes(6)
    fitness(DENSE)
    fitness(genomes[0], NEVER)  # leaves no trace
    for genome in genomes:
        found = fitness(genome)
        logits = score_rows(fitness.model, fitness.rows, genome=genome, precision="fp32")
        assert found["quality"] == quality(metric, fitness.rows.positive, fitness.rows.target, logits)
        assert found["rows"] == ROWS and found["estimate_error"] == 0.0 < found["standard_error"]


@cases
def test_a_genome_below_the_bar_is_scored_on_a_slice(
    metric: Metric, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitness = fitness_of(metric=metric, classes=classes)
    genome, first = some_genomes(2)
    exact = fitness(genome)
    logits, reference = (
        score_rows(fitness.model, fitness.rows, genome=one, precision="fp32") for one in (genome, first)
    )
    fitness = fitness_of(metric=metric, classes=classes)
    counted = Counted(fitness, monkeypatch)
    known = fitness(first, NEVER)
    assert known["rows"] == ROWS == counted.taken()  # there is nothing to compare it with
    found = fitness(genome, NEVER)
    chosen = slice_in(fitness)
    assert found["rows"] == counted.taken() == chosen.sum() and 300 <= chosen.sum() < 0.5 * ROWS
    on = metric, fitness.rows.positive[chosen], fitness.rows.target[chosen]
    ours, theirs = logits[chosen], reference[chosen]
    assert found["quality"] == pytest.approx(known["quality"] + quality(*on, ours) - quality(*on, theirs), rel=1e-4)
    assert found["estimate_error"] == pytest.approx(
        paired_error(*on, ours, theirs) * np.sqrt(1 - chosen.mean()), rel=1e-2
    )
    assert found["quality"] != exact["quality"]
    whole = np.hypot(exact["standard_error"], found["estimate_error"])
    assert (
        found["standard_error"] == pytest.approx(whole, rel=0.1) and found["standard_error"] > found["estimate_error"]
    )


@cases
def test_a_genome_that_may_reach_the_bar_is_scored_on_the_other_rows_too(
    metric: Metric, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitness = fitness_of(metric=metric, classes=classes)
    counted = Counted(fitness, monkeypatch)
    for genome in some_genomes(5):
        exact = fitness(genome)
        assert counted.taken() == ROWS
        found = fitness(genome, ALWAYS)
        assert counted.taken() == ROWS
        assert found.keys() == exact.keys()
        for name in found.keys() - {"forward_seconds"}:
            assert found[name] == pytest.approx(exact[name], rel=1e-4), (
                name
            )  # rounding may change which token is dropped


@cases
def test_estimates_err_as_much_as_they_say_and_less_than_the_slice(metric: Metric, classes: int) -> None:
    fitness = fitness_of(metric=metric, classes=classes)
    chosen = slice_in(fitness)
    on = metric, fitness.rows.positive[chosen], fitness.rows.target[chosen]
    errors, stated, plain = [], [], []
    for at, (genome, exact) in enumerate(exact_qualities(metric, classes).items()):
        if at % 5 == 0:
            fitness(genome)
            continue
        found = fitness(genome, NEVER)
        logits = score_rows(fitness.model, fitness.rows, genome=genome, precision="fp32")
        errors.append(found["quality"] - exact)
        stated.append(found["estimate_error"])
        plain.append(standard_error(*on, logits[chosen]) * np.sqrt(1 - chosen.mean()))
    assert 0.6 < rms(np.divide(errors, stated)) < 1.4
    assert rms(np.array(errors)) < (0.75 if classes else 0.6) * np.mean(plain)  # a decision may turn for little


def rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@cases
def test_few_genomes_that_reach_the_bar_end_early_and_most_far_below_do(metric: Metric, classes: int) -> None:
    exact = exact_qualities(metric, classes)
    early = {}
    for above in (0.0, 3 * float(np.std(list(exact.values())))):
        fitness = fitness_of(metric=metric, classes=classes)
        for at, (genome, value) in enumerate(exact.items()):
            bar = None if at < 10 else value + above
            early[above, genome] = fitness(genome, bar)["rows"] < ROWS
    wrong, right = (
        sum(early[above, genome] for genome in exact) for above in dict.fromkeys(above for above, _ in early)
    )
    assert wrong <= 3 and right >= 36  # of 40


def test_the_reference_is_the_most_alike_of_those_useful_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsefront.search.fitness.REFERENCES", 2)
    fitness = fitness_of()
    first, second, third = some_genomes(3)
    exact = {genome: fitness(genome)["quality"] for genome in (first, second)}
    for genome in (second, first):  # each is most like itself
        again = fitness(genome, NEVER)
        assert again["rows"] < ROWS and again["estimate_error"] < 1e-3
        assert again["quality"] == pytest.approx(exact[genome], abs=1e-3)
    fitness(third)  # takes the place of the second, which was not of use since
    assert fitness(first, NEVER)["estimate_error"] < 1e-3 < fitness(second, NEVER)["estimate_error"]


def test_with_too_few_rows_for_two_rungs_there_is_one() -> None:
    fitness = fitness_of(rows=500)
    fitness(DENSE)
    assert fitness(some_genomes(1)[0], NEVER)["rows"] == 500


@pytest.mark.parametrize(
    ("sizes", "of_each", "expected"),
    [
        ((400, 800), True, (100, 200)),  # a quarter
        ((1000, 9000), True, (250, 2250)),
        ((300, 400), True, (129, 172)),  # 300 rows
        ((60, 1940), True, (30, 970)),  # 30 of the rarest kind
        ((60, 1940), False, (15, 485)),
        ((59, 1941), True, None),
        ((300, 299), False, None),
        ((0, 900), True, None),
        ((0, 900), False, (0, 300)),
        ((0, 0), False, None),
        ((400, 200, 600), True, (100, 50, 150)),
        ((400, 59, 600), True, None),
        ((400, 3, 797), False, (100, 1, 200)),
    ],
)
def test_a_slice_holds_enough_rows_of_every_kind(
    sizes: tuple[int, ...], of_each: bool, expected: tuple[int, ...] | None
) -> None:
    places = np.random.default_rng(0).permutation(sum(sizes))
    kinds = np.split(places, np.cumsum(sizes)[:-1])
    chosen = slice_of(kinds, of_each=of_each)
    if expected is None:
        assert chosen is None
    else:
        assert chosen is not None
        assert tuple(int(chosen[kind].sum()) for kind in kinds) == expected


def test_what_is_the_same_for_all_classes_of_a_row_makes_no_model_unlike() -> None:
    logits = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    shifted = logits + np.arange(9, dtype=np.float32)[:, None]
    assert _unlikeness(logits, shifted) == pytest.approx(0, abs=1e-9)
    assert _unlikeness(logits, logits * np.float32(1.1)) > 1e-4
    assert _unlikeness(logits[:, 0], logits[:, 0] + 3) == pytest.approx(0, abs=1e-9)


def test_batches_too_large_to_be_kept_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fitness_of()
    monkeypatch.setattr("sparsefront.search.fitness.CACHED_TOKENS", 100)
    made = fitness_of()
    assert kept._cached is not None and made._cached is None
    for genome, bar in zip(some_genomes(3), (None, NEVER, ALWAYS), strict=True):
        assert made(genome, bar) | {"forward_seconds": 0} == kept(genome, bar) | {"forward_seconds": 0}


def test_a_bar_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="bar must be a number, got nan"):
        fitness_of()(DENSE, float("nan"))
