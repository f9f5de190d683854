"""The exported graph against what people get from the runtimes' own tools, in the same run.

Dense MiniLM widths, one thread, batch 1, unpadded, at four lengths; every graph computes the same logit from the same
weights, which is checked. Rivals: the model exported by torch and fused by ``onnxruntime.transformers.optimizer``
(int8: then ``quantize_dynamic``), and OpenVINO's own conversion of the torch model. Then slim exports: how much of the
largest matrix product's speed they reach, and whether they are slower than their share of the multiply-adds.

    python benchmarks/export_speed.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from common import RESULTS, Target, write_result
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from sparsefront.latency.drift import measure_sessions
from sparsefront.latency.runtime import SHAPES, Feeds, Logits, Session, feeds_of_length
from sparsefront.latency.runtime_onnxruntime import _OnnxSession
from sparsefront.latency.runtimes import runtime
from sparsefront.latency.statistic import Statistic
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.onnx_graph import INPUTS, OUTPUT
from sparsefront.spaces import Genome

DENSE = CrossEncoderConfig(
    vocab_size=2000,
    hidden_size=384,
    head_size=32,
    layer_heads=[12] * 6,
    layer_ffn_units=[1536] * 6,
    max_position_embeddings=512,
)
LENGTHS = (16, 48, 128, 256)
SHARES = {"1/3": 1 / 3, "1/6": 1 / 6, "1/12": 1 / 12}
WAYS = (
    ("onnxruntime", "fp32", "dynamic"),
    ("onnxruntime", "int8", "dynamic"),
    *(("openvino", precision, shapes) for precision in ("fp32", "bf16") for shapes in SHAPES),
)
LARGEST = 1024
"""Rows, columns and depth of the matrix product that stands for the limit."""


class Scorer(nn.Module):
    """The dense cross-encoder as transformers computes it."""

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=DENSE.vocab_size,
            hidden_size=DENSE.hidden_size,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=1536,
            max_position_embeddings=DENSE.max_position_embeddings,
            attn_implementation="eager",
        )
        self.bert = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(DENSE.hidden_size, 1)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "LayerNorm" not in name:
                    parameter.normal_(0.0, 0.05)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Logits (batch,)."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)[0]
        logits: Tensor = self.head(hidden[:, 0]).squeeze(-1)
        return logits

    def arrays(self) -> dict[str, np.ndarray]:
        """Its weights by the names of our state dictionary."""
        from sparsefront.models.backbone import _rename

        own = {name.removeprefix("bert."): value for name, value in self.state_dict().items() if "bert." in name}
        renamed = _rename("rival", own, DENSE)
        renamed |= {"head.weight": self.head.weight, "head.bias": self.head.bias}
        return {name: value.detach().numpy() for name, value in renamed.items()}


def torch_export(model: Scorer, path: Path) -> None:
    """What torch writes of a transformers model."""
    example = tuple(torch.from_numpy(value) for value in feeds_of_length(16).values())
    axes = {name: {0: "batch", 1: "tokens"} for name in INPUTS}
    torch.onnx.export(
        model,
        example,
        str(path),
        input_names=list(INPUTS),
        output_names=[OUTPUT],
        dynamic_axes={**axes, OUTPUT: {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


def onnxruntime_rivals(model: Scorer, folder: Path) -> dict[str, Path]:
    """Precision -> the file that ONNX Runtime's own tools make of the model."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    plain, fused, rounded = (folder / f"{name}.onnx" for name in ("plain", "fused", "int8"))
    torch_export(model, plain)
    optimize_model(str(plain), model_type="bert", num_heads=12, hidden_size=DENSE.hidden_size).save_model_to_file(
        str(fused)
    )
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # fused operators have no type inference
    quantize_dynamic(str(fused), str(rounded), weight_type=QuantType.QInt8, extra_options=options)
    return {"fp32": fused, "int8": rounded}


class OpenVinoConverted:
    """OpenVINO's own conversion of the torch model, called the same way as ours."""

    def __init__(self, model: Scorer, precision: str, shapes: str) -> None:
        import openvino

        example = {name: torch.from_numpy(value) for name, value in feeds_of_length(16).items()}
        self._model = openvino.convert_model(model, example_input=example)
        self._hint = {"fp32": "f32", "bf16": "bf16"}[precision]
        self._shapes = shapes
        self._requests: dict[int | None, Any] = {}
        self._tensor = openvino.Tensor

    def _request(self, length: int | None) -> Any:
        if length not in self._requests:
            import openvino

            model = self._model.clone()
            if length is not None:
                model.reshape({port.get_any_name(): [1, length] for port in model.inputs})
            options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": self._hint}
            self._requests[length] = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
        return self._requests[length]

    def run(self, feeds: Feeds) -> Logits:
        """Logits (batch,)."""
        request = self._request(feeds[INPUTS[0]].shape[1] if self._shapes == "static" else None)
        for name in INPUTS:
            request.set_tensor(name, self._tensor(np.ascontiguousarray(feeds[name]), shared_memory=True))
        request.infer()
        logits: Logits = request.get_output_tensor(0).data.copy()
        return logits


def sessions_of(model: Scorer, folder: Path) -> dict[tuple[str, str, str], dict[str, Session]]:
    """(runtime, precision, shapes) -> ``{"ours": ..., rival: ...}``."""
    arrays = model.arrays()
    files = onnxruntime_rivals(model, folder)
    found: dict[tuple[str, str, str], dict[str, Session]] = {}
    for precision in ("fp32", "int8"):
        ours = runtime("onnxruntime", precision=precision).load(DENSE, arrays)
        found["onnxruntime", precision, "dynamic"] = {"ours": ours, "fused": _OnnxSession(str(files[precision]), 1)}
    for precision in ("fp32", "bf16"):
        for shapes in SHAPES:
            ours = runtime("openvino", precision=precision, shapes=shapes).load(DENSE, arrays)
            converted = OpenVinoConverted(model, precision, shapes)
            found["openvino", precision, shapes] = {"ours": ours, "converted": converted}
    return found


def call_rows(visits: int) -> list[dict[str, Any]]:
    """What a call costs apart from the model: one whose layers have neither heads nor FFN units."""
    empty = DENSE.with_genome(Genome.uniform(6, heads=0, ffn_units=0))
    sessions = [runtime(name, precision=precision, shapes=shapes).load(empty) for name, precision, shapes in WAYS]
    stats = measure_sessions(sessions, statistic=Statistic.of_length(48), visits=visits)
    return [
        {"cell": "call", "runtime": name, "precision": precision, "shapes": shapes, "us": one.median_us}
        for (name, precision, shapes), one in zip(WAYS, stats, strict=True)
    ]


def multiply_adds(genome: Genome, length: int) -> float:
    """Multiply-adds of the matrix products that the exported graph computes for one row."""
    hidden, size = DENSE.hidden_size, DENSE.head_size
    heads = genome.column("heads")
    last = max((layer for layer, count in enumerate(heads) if count), default=-1)
    total, before = 0.0, length
    for layer, gene in enumerate(genome):
        inner = gene.heads * size
        if layer < last:
            after = genome.lengths(length)[layer]
            total += 4 * before * inner * hidden + 2 * before**2 * inner + 2 * after * gene.ffn_units * hidden
            before = after
        else:
            if layer == last:  # one query; keys and values are re-associated
                total += 4 * inner * hidden + 2 * before * gene.heads * hidden
            total += 2 * gene.ffn_units * hidden
    return total


def largest_product(name: str, precision: str) -> Session:
    """One matrix product of LARGEST^3 in a runtime, as a model with our inputs' names is loaded."""
    weight = numpy_helper.from_array(np.ones((LARGEST, LARGEST), np.float32), "weight")
    left = numpy_helper.from_array(np.ones((LARGEST, LARGEST), np.float32), "left")
    nodes = [
        helper.make_node("Cast", [INPUTS[0]], ["scale"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["left", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weight"], ["product"]),
        helper.make_node("ReduceMax", ["product"], ["largest"], keepdims=0),
        helper.make_node("Reshape", ["largest", "one"], [OUTPUT]),
    ]
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    inputs = [helper.make_tensor_value_info(INPUTS[0], TensorProto.INT64, [1, 1])]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1])]
    graph = helper.make_graph(nodes, "product", inputs, outputs, [weight, left, one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return ProductSession(name, precision, model)


class ProductSession:
    """The product in ONNX Runtime or OpenVINO."""

    def __init__(self, name: str, precision: str, model: onnx.ModelProto) -> None:
        if name == "onnxruntime":
            session = _OnnxSession(model.SerializeToString(), 1)._session
            self._call: Callable[[Any], Any] = lambda ids: session.run([OUTPUT], {INPUTS[0]: ids})[0]
            return
        import openvino

        core = openvino.Core()
        hint = {"fp32": "f32", "bf16": "bf16"}[precision]
        options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": hint}
        compiled: Any = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
        self._call = lambda ids: compiled([ids])[0]

    def run(self, feeds: Feeds) -> Logits:
        """One product."""
        logits: Logits = self._call(np.ones((1, 1), np.int64))
        return logits


def slim_genomes(length: int) -> dict[str, Genome]:
    """Per share of the dense multiply-adds a uniform genome, and the winners that the Home Depot benchmark stored.

    The winners of its random search prune tokens, which the others do not.
    """
    dense = multiply_adds(DENSE.genome, length)
    uniform = [Genome.uniform(6, heads=h, ffn_units=64 * f) for h in range(1, 13) for f in range(0, 25)]
    found = {
        f"uniform {share}": min(uniform, key=lambda one: abs(multiply_adds(one, length) - value * dense))
        for share, value in SHARES.items()
    }
    stored = json.loads((RESULTS / "home_depot.json").read_text(encoding="utf-8"))["rows"]
    for row in stored:
        if row.get("cell") in ("searched joint", "random joint") and "genome" in row:
            found[f"{row['cell']} {row['budget']}, seed {row['seed']}"] = Genome.parse(row["genome"])
    return found


def dense_rows(sessions: Mapping[tuple[str, str, str], Mapping[str, Session]], visits: int) -> list[dict[str, Any]]:
    """Ours beside the rivals, per runtime, precision and length."""
    rows: list[dict[str, Any]] = []
    for (name, precision, shapes), each in sessions.items():
        for length in LENGTHS:
            feeds = feeds_of_length(length, vocabulary=DENSE.vocab_size)
            logits = {who: float(session.run(feeds)[0]) for who, session in each.items()}
            stats = measure_sessions(list(each.values()), statistic=Statistic.of_length(length), visits=visits)
            us = {who: one.median_us for who, one in zip(each, stats, strict=True)}
            rival = min(value for who, value in us.items() if who != "ours")
            rows.append(
                {
                    "cell": "dense",
                    "runtime": name,
                    "precision": precision,
                    "shapes": shapes,
                    "length_tokens": length,
                    **{f"{who}_us": value for who, value in us.items()},
                    "ours_over_fastest": us["ours"] / rival,
                    "largest_logit_difference": max(logits.values()) - min(logits.values()),
                }
            )
    return rows


def slim_rows(name: str, precision: str, shapes: str, length: int, visits: int) -> list[dict[str, Any]]:
    """Slim exports beside the dense one and the largest product."""
    serving = runtime(name, precision=precision, shapes=shapes)
    genomes = {"dense": DENSE.genome, **slim_genomes(length)}
    sessions = [serving.load(DENSE.with_genome(genome)) for genome in genomes.values()]
    sessions.append(largest_product(name, precision))
    stats = measure_sessions(sessions, statistic=Statistic.of_length(length), visits=visits)
    limit = 2 * LARGEST**3 / stats[-1].median_us / 1e3
    dense_us, dense_work = stats[0].median_us, multiply_adds(DENSE.genome, length)
    rows = []
    for (kind, genome), one in zip(genomes.items(), stats, strict=False):
        work = multiply_adds(genome, length)
        rows.append(
            {
                "cell": "slim",
                "runtime": name,
                "precision": precision,
                "shapes": shapes,
                "length_tokens": length,
                "kind": kind,
                "genome": genome.key(),
                "us": one.median_us,
                "gflops": 2 * work / one.median_us / 1e3,
                "share_of_largest_product": 2 * work / one.median_us / 1e3 / limit,
                "time_over_work": one.median_us / dense_us / (work / dense_work),
            }
        )
    return rows


def main() -> None:
    """Measure, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Scorer().eval()
    visits = 6 if quick else 20
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        rows = dense_rows(sessions_of(model, Path(folder)), visits)
    rows += call_rows(visits)
    for name, precision, shapes in WAYS:
        if precision != "int8":  # its largest product is another operator
            rows += slim_rows(name, precision, shapes, 48, 2 * visits)
    targets = [
        Target(
            f"dense export over the fastest rival, {row['runtime']} {row['precision']} {row['shapes']}, "
            f"{row['length_tokens']} tokens",
            "<=",
            1.0,
            row["ours_over_fastest"],
        )
        for row in rows
        if row["cell"] == "dense"
    ]
    for name, precision, shapes in WAYS:
        for kinds in ("uniform", "searched joint", "random joint"):
            slow = [
                row["time_over_work"]
                for row in rows
                if row["cell"] == "slim"
                and (row["runtime"], row["precision"], row["shapes"]) == (name, precision, shapes)
                and row["kind"].startswith(kinds)
            ]
            if slow:
                claim = f"slim exports ({kinds}), {name} {precision} {shapes}: largest time over share of multiply-adds"
                targets.append(Target(claim, "<=", 1.25, max(slow)))
    write_result("export_speed", rows, targets, [0], quick)


if __name__ == "__main__":
    main()
