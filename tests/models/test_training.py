"""Training on a toy task that a tiny model can learn in seconds."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from tests.models.tiny import make_config, make_rows
from torch import Tensor, nn

from sparsefront.models.batching import to_tensors
from sparsefront.models.checkpoint import Checkpoints
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.loss import label_loss
from sparsefront.models.rank_distillation import RankTeacher
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.models.token_gates import GateSample
from sparsefront.models.training import TrainOptions, mix_targets, train
from sparsefront.spaces import Genome, InputError

DENSE = Genome.uniform(2, heads=4, ffn_units=32)
SMALL = Genome.parse("h1.f8.k0.60-h1.f8.k1.00")
FAST = TrainOptions(epochs=6, learning_rate=3e-3, tokens_per_batch=256, precision="fp32")
CLS, GOOD, BAD = 2, 7, 8


def toy_rows(rows: int = 300, *, seed: int = 0) -> TokenRows:
    """Rows that are relevant when they hold one token rather than another, somewhere."""
    rng = np.random.default_rng(seed)
    label = np.arange(rows) % 2
    lengths = rng.integers(4, 9, rows)
    parts = []
    for positive, length in zip(label, lengths, strict=True):
        tokens = rng.integers(10, 100, length)
        tokens[0] = CLS
        tokens[rng.integers(1, length)] = GOOD if positive else BAD
        parts.append(tokens)
    ids = np.concatenate(parts).astype(np.int32)
    return TokenRows(
        input_ids=ids,
        token_type_ids=np.zeros(len(ids), np.int8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        target=label.astype(np.float32),
        positive=label.astype(bool),
    )


def fresh(seed: int = 0, **changes: Any) -> CrossEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CrossEncoder(make_config(DENSE, initializer_range=0.1, **changes))


def auc(model: CrossEncoder, rows: TokenRows, genome: Genome | None = None) -> float:
    return float(roc_auc_score(rows.positive, score_rows(model, rows, genome=genome, precision="fp32")))


def log_loss(model: CrossEncoder, rows: TokenRows, genome: Genome) -> float:
    logits = score_rows(model, rows, genome=genome, precision="fp32").astype(np.float64)
    return float((np.logaddexp(0.0, logits) - rows.target * logits).mean())


def class_rows(rows: int = 300, *, seed: int = 0) -> TokenRows:
    """Rows of three classes: those with the one token, with the other, and with neither."""
    plain = toy_rows(rows, seed=seed)
    target = plain.target.copy()
    ids = plain.input_ids.copy()
    for row in range(0, rows, 3):
        own = ids[plain.offsets[row] : plain.offsets[row + 1]]
        own[np.isin(own, (GOOD, BAD))] = 9
        target[row] = 2
    return replace(plain, input_ids=ids, target=target, positive=np.zeros(rows, bool), classes=3)


def accuracy(model: CrossEncoder, rows: TokenRows, genome: Genome | None = None) -> float:
    logits = score_rows(model, rows, genome=genome, precision="fp32")
    return float((logits.argmax(axis=1) == rows.target).mean())


def weights_of(model: CrossEncoder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# -- learning --------------------------------------------------------------------------------------------------------


def test_a_separable_task_is_learnt() -> None:
    model, unseen = fresh(), toy_rows(200, seed=1)
    before = auc(model, unseen)
    seen: list[tuple[int, int]] = []
    report = train(model, toy_rows(), FAST, progress=lambda done, total: seen.append((done, total)))
    assert before < 0.8
    assert auc(model, unseen) > 0.97
    assert report.final_loss < 0.2
    total = 6 * int(toy_rows().lengths.sum())
    assert report.steps == len(seen)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not model.training


def test_a_fraction_of_an_epoch_sees_a_fraction_of_the_tokens() -> None:
    rows, seen = toy_rows(), []
    report = train(
        fresh(),
        rows,
        TrainOptions(epochs=0.5, tokens_per_batch=64, precision="fp32"),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (round(0.5 * int(rows.lengths.sum())),) * 2
    epoch = list(rows.batches(tokens_per_batch=64, shuffle_seed=0))
    assert report.steps == len(seen) < len(epoch) * 0.6


def test_elastic_training_trains_the_genomes_that_it_draws() -> None:
    rows, unseen = toy_rows(), toy_rows(200, seed=1)
    alone, elastic = fresh(), fresh()
    drawn: list[float] = []

    def sandwich(rng: np.random.Generator) -> tuple[Genome, ...]:
        drawn.append(float(rng.random()))
        return DENSE, SMALL

    train(alone, rows, FAST)
    report = train(elastic, rows, FAST, genomes=sandwich)
    assert len(drawn) == report.steps
    assert len(set(drawn)) == len(drawn), "one generator runs through all steps"
    assert auc(elastic, unseen) > 0.97
    assert auc(fresh(), unseen, SMALL) < 0.8
    assert auc(elastic, unseen, SMALL) > 0.9
    assert log_loss(elastic, unseen, SMALL) < 0.7 * log_loss(alone, unseen, SMALL)


def test_a_step_trains_only_the_units_it_runs() -> None:
    model = fresh()
    before = weights_of(model)
    train(model, toy_rows(20), TrainOptions(weight_decay=0.0, precision="fp32"), genomes=lambda rng: (SMALL,))
    for name, value in model.state_dict().items():
        if name.endswith("ffn_in.weight"):
            assert torch.equal(value[8:], before[name][8:]), name
            assert not torch.equal(value[:8], before[name][:8]), name


def test_distillation_follows_the_teacher_and_not_the_labels() -> None:
    rows, unseen = toy_rows(), toy_rows(200, seed=1)
    opposite = np.where(rows.positive, -3, 3).astype(np.float32)
    for share, learnt in ((1.0, 0.05), (0.0, 0.95)):
        model = fresh()
        train(model, rows, TrainOptions(**{**vars(FAST), "distil_share": share}), teacher_logits=opposite)
        assert (auc(model, unseen) < learnt) if share else (auc(model, unseen) > learnt)


def test_teacher_logits_stay_with_their_rows_in_every_order() -> None:
    rows, unseen = toy_rows(), toy_rows(200, seed=1)
    blind = replace(rows, target=np.full(len(rows), 0.5, np.float32))
    logits = np.where(rows.positive, 3, -3).astype(np.float32)
    model = fresh()
    train(model, blind, TrainOptions(**{**vars(FAST), "distil_share": 1.0}), teacher_logits=logits)
    assert auc(model, unseen) > 0.95


def test_classes_are_learnt_by_an_elastic_model_too() -> None:
    rows, unseen = class_rows(), class_rows(200, seed=1)
    model = fresh(outputs=3)
    report = train(model, rows, FAST, genomes=lambda rng: (DENSE, SMALL))
    assert report.final_loss < 0.4
    assert accuracy(model, unseen) > 0.95 and accuracy(model, unseen, SMALL) > 0.75
    assert accuracy(model.slim(SMALL), unseen) == pytest.approx(accuracy(model, unseen, SMALL), abs=0.01)


def test_classes_are_distilled_from_the_teachers_probabilities() -> None:
    """The teacher takes each class for the next one; whoever follows it does so too."""
    rows, unseen = class_rows(), class_rows(200, seed=1)
    taught = (rows.target.astype(int) + 1) % 3
    model = fresh(outputs=3)
    train(model, rows, replace(FAST, distil_share=1.0), teacher_logits=4 * np.eye(3, dtype=np.float32)[taught])
    shifted = replace(unseen, target=(unseen.target + 1) % 3)
    assert accuracy(model, shifted) > 0.95
    assert accuracy(model, unseen) < 0.05


def test_every_epoch_has_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    batches = TokenRows.batches

    def watched(rows: TokenRows, **arguments: Any) -> Any:
        seeds.append(arguments["shuffle_seed"])
        return batches(rows, **arguments)

    monkeypatch.setattr(TokenRows, "batches", watched)
    for seed in (0, 1):
        train(fresh(), toy_rows(10), TrainOptions(epochs=3, seed=seed, precision="fp32"))
    assert len(set(seeds)) == len(seeds) == 6


# -- what stays and what repeats -------------------------------------------------------------------------------------


def test_frozen_embeddings_do_not_move_and_are_free_afterwards() -> None:
    model = fresh()
    before = weights_of(model)
    train(model, toy_rows(40), TrainOptions(freeze_embeddings=True, precision="fp32"))
    for name, value in model.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved is not name.startswith("encoder.embeddings."), name
    assert all(parameter.requires_grad for parameter in model.parameters())
    train(model, toy_rows(40), TrainOptions(precision="fp32"))
    assert not torch.equal(model.encoder.embeddings.norm.weight, before["encoder.embeddings.norm.weight"])


def test_the_seed_decides_the_weights() -> None:
    start, rows = fresh(), toy_rows(60)
    trained = []
    for seed in (1, 1, 2):
        torch.rand(3)  # whatever was drawn before does not matter
        model = copy.deepcopy(start)
        train(model, rows, TrainOptions(seed=seed, tokens_per_batch=128, precision="fp32"), genomes=shuffled)
        trained.append(weights_of(model))
    first, again, other = trained
    for name, value in first.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(other[name], value, atol=1e-5) for name, value in first.items())


def shuffled(rng: np.random.Generator) -> list[Genome]:
    return [DENSE, SMALL.replace(0, "heads", int(rng.integers(0, 5)))]


def test_a_slim_model_without_units_trains() -> None:
    model = fresh().slim(Genome.parse("h0.f0.k1.00-h2.f0.k1.00"))
    before = weights_of(model)
    train(model, toy_rows(40), TrainOptions(precision="fp32"))
    assert not torch.equal(model.head.weight, before["head.weight"])


def test_bf16_training_learns_too() -> None:
    model = fresh()
    train(model, toy_rows(), TrainOptions(**{**vars(FAST), "precision": "bf16"}))
    assert auc(model, toy_rows(200, seed=1)) > 0.95
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


# -- targets ---------------------------------------------------------------------------------------------------------


def test_mix_targets() -> None:
    target = np.array([0.0, 1.0, 0.5], np.float32)
    logits = np.array([0.0, -1000.0, np.log(3.0)], np.float32)
    mixed = mix_targets(target, logits, 0.25)
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed, [0.125, 0.75, 0.5625], atol=1e-6)
    np.testing.assert_array_equal(mix_targets(target, None, 0.5), target)
    np.testing.assert_array_equal(mix_targets(target, logits, 0.0), target)
    np.testing.assert_allclose(mix_targets(target, logits, 1.0), [0.5, 0.0, 0.75], atol=1e-6)


def test_mix_targets_of_classes() -> None:
    target = np.array([2.0, 0.0], np.float32)
    logits = np.log(np.array([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]], np.float32))
    mixed = mix_targets(target, logits, 0.25)
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed, [[0.05, 0.075, 0.875], [0.775, 0.2, 0.025]], atol=1e-6)
    np.testing.assert_array_equal(mix_targets(target, logits, 0.0), target)
    np.testing.assert_allclose(mix_targets(target, logits, 1.0), np.exp(logits), atol=1e-6)


def class_loss(logits: list[float], target: NDArray[np.float32]) -> float:
    return label_loss(torch.tensor([logits], dtype=torch.float64), torch.from_numpy(target)).item()


@settings(deadline=None)
@given(st.integers(0, 2), st.lists(st.floats(-9, 9), min_size=6, max_size=6), st.floats(0, 1))
def test_the_loss_of_mixed_classes_is_the_mixture_of_losses(label: int, logits: list[float], share: float) -> None:
    target, teacher = np.array([label], np.float32), np.array([logits[:3]], np.float32)
    own, taught = class_loss(logits[3:], target), class_loss(logits[3:], mix_targets(target, teacher, 1.0))
    mixed = class_loss(logits[3:], mix_targets(target, teacher, share))
    assert mixed == pytest.approx(share * taught + (1 - share) * own, abs=1e-4)


@given(st.floats(0, 1), st.floats(-20, 20, width=32), st.floats(0, 1), st.floats(-5, 5))
def test_the_loss_of_the_mixture_is_the_mixture_of_losses(
    label: float, teacher: float, share: float, logit: float
) -> None:
    def entropy(target: float) -> float:
        return float(np.logaddexp(0.0, logit) - target * logit)

    column: NDArray[np.float32] = np.array([label], np.float32)
    mixed = float(mix_targets(column, np.array([teacher], np.float32), share)[0])
    probability = 1 / (1 + np.exp(-teacher))
    assert 0 <= mixed <= 1
    assert entropy(mixed) == pytest.approx(share * entropy(probability) + (1 - share) * entropy(label), abs=1e-5)


# -- refusals --------------------------------------------------------------------------------------------------------


def test_distillation_without_logits_or_with_too_few_is_refused_before_anything_moves() -> None:
    model, rows = fresh(), make_rows([4, 5, 6])
    before = weights_of(model)
    with pytest.raises(ValueError, match="distil_share is positive, but there are no teacher logits"):
        train(model, rows, TrainOptions(distil_share=0.5))
    with pytest.raises(ValueError, match=r"teacher_logits must be of shape \(3,\), got \(2,\)"):
        train(model, rows, TrainOptions(distil_share=0.5), teacher_logits=np.zeros(2, np.float32))
    classes = make_rows([4, 5, 6], classes=3)
    with pytest.raises(ValueError, match=r"teacher_logits must be of shape \(3, 3\), got \(3,\)"):
        train(model, classes, TrainOptions(distil_share=0.5), teacher_logits=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="rows of 3 classes do not fit a model of 1 outputs"):
        train(model, classes, TrainOptions())
    with pytest.raises(ValueError, match="rows of 0 classes do not fit a model of 3 outputs"):
        train(fresh(outputs=3), rows, TrainOptions())
    with pytest.raises(ValueError, match="rows must not be empty, got none"):
        train(model, make_rows([]), TrainOptions())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training(poison: float) -> None:
    model = fresh()
    with torch.no_grad():
        model.head.bias.fill_(poison)
    before = weights_of(model)
    with pytest.raises(FloatingPointError, match=r"training loss became (nan|inf) at learning rate 5e-05"):
        train(model, toy_rows(40), TrainOptions(precision="fp32", freeze_embeddings=True, dropout=0.0))
    assert not model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} != {0.0}
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert set(moved) <= {"head.bias"}, "no step was taken"  # NaN differs from itself


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("epochs", 0, "epochs must be positive, got 0"),
        ("epochs", float("nan"), "epochs must be positive, got nan"),
        ("epochs", float("inf"), "epochs must be positive, got inf"),
        ("learning_rate", 0.0, "learning_rate must be positive, got 0.0"),
        ("learning_rate", float("nan"), "learning_rate must be positive, got nan"),
        ("distil_share", -0.1, "distil_share must be between 0 and 1, got -0.1"),
        ("distil_share", 1.5, "distil_share must be between 0 and 1, got 1.5"),
        ("dropout", 1.0, "dropout must be between 0 and 1, got 1.0"),
        ("dropout", -0.1, "dropout must be between 0 and 1, got -0.1"),
    ],
)
def test_options_refuse(name: str, value: float, line: str) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError) as refusal:
        TrainOptions(**options)
    assert str(refusal.value) == line


def test_dropout_of_the_options_lasts_for_the_training() -> None:
    model, rows = fresh(hidden_dropout_prob=0.3), toy_rows(20)
    seen: set[float] = set()

    def watch(done: int, total: int) -> None:
        seen.update(module.p for module in model.modules() if isinstance(module, nn.Dropout))

    train(model, rows, TrainOptions(dropout=0.0, precision="fp32"), progress=watch)
    assert seen == {0.0}
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.3}


# -- ranking distillation --------------------------------------------------------------------------------------------


LOW = 55
"""Tokens below it are what the teacher looks at: nothing that the label would teach."""


def ranking_of(rows: TokenRows, *, layers: tuple[int, ...] = (0,)) -> RankTeacher:
    return RankTeacher((rows.input_ids < LOW).astype(np.float32), rows.offsets, layers=layers)


def agreement(model: CrossEncoder, rows: TokenRows) -> float:
    """Share of the pairs of a low and another token of a row that the first layer ranks as the teacher does."""
    (batch,) = (to_tensors(one, torch.device("cpu")) for one in rows.batches(batch_size=len(rows)))
    with torch.no_grad():
        encoded = model.encoder(batch.input_ids, batch.attention_mask, batch.token_type_ids, score_layers=(0,))
    scores = encoded.scores[0]
    assert scores is not None
    there = batch.attention_mask.bool()
    there[:, 0] = False
    low, high = there & (batch.input_ids < LOW), there & (batch.input_ids >= LOW)
    pairs = low[:, :, None] & high[:, None, :]
    return float((scores[:, :, None] > scores[:, None, :])[pairs].float().mean())


def test_ranking_distillation_teaches_the_first_layer_the_teacher_s_order() -> None:
    rows = toy_rows()
    found = {}
    for name, ranking in (("with", ranking_of(rows)), ("without", None)):
        model = fresh()
        train(model, rows, FAST, ranking=ranking)
        found[name] = agreement(model, toy_rows(seed=5))
        assert auc(model, toy_rows(seed=5)) > 0.9, "and the task is learnt all the same"
    assert found["with"] > 0.85
    assert found["with"] > found["without"] + 0.2


def test_ranking_of_other_rows_or_layers_is_refused() -> None:
    rows = toy_rows()
    with pytest.raises(ValueError, match="ranking must be of the rows that are trained on"):
        train(fresh(), rows, FAST, ranking=ranking_of(toy_rows(20)))
    with pytest.raises(ValueError, match="only those before the last rank tokens"):
        train(fresh(), rows, FAST, ranking=ranking_of(rows, layers=(1,)))


def test_a_checkpoint_without_the_ranking_is_of_another_training(tmp_path: Path) -> None:
    rows, path = toy_rows(60), tmp_path / "training.safetensors"
    keep = Checkpoints(path, shares=(0.5,), reached=lambda share: False)
    train(fresh(), rows, FAST, ranking=ranking_of(rows), checkpoints=keep)
    assert path.exists()
    with pytest.raises(InputError, match="another training"):
        train(fresh(), rows, FAST, checkpoints=keep)


# -- gates -----------------------------------------------------------------------------------------------------------


def test_training_with_gates_is_training_with_the_schedule() -> None:
    rows, schedule = toy_rows(), DENSE.replace(0, "keep_percent", 60)
    once = TrainOptions(epochs=1, learning_rate=1e-3, tokens_per_batch=256, precision="fp32", dropout=0.0)
    gathered, masked = fresh(), fresh()
    train(gathered, rows, once, genomes=lambda rng: (schedule,))
    train(masked, rows, once, gates=GateSample.of_schedule((60,)))
    for name, value in gathered.state_dict().items():
        torch.testing.assert_close(masked.state_dict()[name], value, atol=1e-4, rtol=1e-3)
    expected = score_rows(gathered, rows, genome=schedule, precision="fp32")
    found = score_rows(masked, rows, gates=GateSample.of_schedule((60,)), precision="fp32")
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found - score_rows(masked, rows, precision="fp32")).max() > 1e-3, "the gates do drop tokens"


def test_a_training_with_gates_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a checkpoint would not know them"):
        train(
            fresh(), toy_rows(20), FAST, gates=GateSample.of_schedule((60,)), checkpoints=Checkpoints(tmp_path / "kept")
        )


def test_weights_say_which_rows_count_whatever_their_scale() -> None:
    rows = toy_rows()
    wrong = np.arange(len(rows)) % 4 == 1
    spoilt = replace(rows, target=np.where(wrong, 1 - rows.target, rows.target))
    weighted = replace(spoilt, weight=np.where(wrong, 0, 7).astype(np.float32))
    model = fresh()
    train(model, weighted, FAST)
    assert roc_auc_score(rows.target, score_rows(model, rows)) > 0.95
    alike, plain = fresh(), fresh()
    exact = replace(FAST, epochs=1, precision="fp32")  # bf16 makes much of a last bit
    train(alike, replace(rows, weight=np.full(len(rows), 7, np.float32)), exact)
    train(plain, rows, exact)
    told, expected = (score_rows(model, rows, precision="fp32") for model in (alike, plain))
    np.testing.assert_allclose(told, expected, atol=1e-4)
    with pytest.raises(ValueError, match="must not all be 0"):
        train(fresh(), replace(rows, weight=np.zeros(len(rows), np.float32)), FAST)


def test_a_part_at_rate_zero_stays_as_it_is_and_others_move_as_fast_as_asked() -> None:
    rows = toy_rows(64)

    def moved(**rates: float) -> dict[str, float]:
        model = fresh()
        before = copy.deepcopy(model.state_dict())
        train(model, rows, replace(FAST, epochs=0.2, weight_decay=0.0), rates=rates)
        assert all(parameter.requires_grad for parameter in model.parameters()) and not model.training
        return {
            part: max(
                float((value - before[name]).abs().max())
                for name, value in model.state_dict().items()
                if name.startswith(part)
            )
            for part in ("encoder", "head")
        }

    plain, frozen, faster = moved(), moved(encoder=0.0), moved(encoder=0.0, head=3.0)
    assert plain["encoder"] > 0 and frozen["encoder"] == 0 == faster["encoder"]
    assert faster["head"] == pytest.approx(3 * frozen["head"], rel=0.2)
    for rates, told in (({"branch": 1.0}, "does not have: branch"), ({"head": -1.0}, "at least 0 and finite")):
        with pytest.raises(ValueError, match=told):
            train(fresh(), rows, FAST, rates=rates)


def test_a_checkpoint_of_other_rates_is_of_another_training(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    kept = Checkpoints(path, (0.5,), lambda share: False)
    rows = toy_rows(64)
    train(fresh(), rows, FAST, checkpoints=kept)
    with pytest.raises(InputError):
        train(fresh(), rows, FAST, checkpoints=kept, rates={"head": 2.0})
