"""The ONNX front end's error messages: they name the node and say what to do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx_models import MODELS, Constants, W, build, f32, i64, node, randoms

from glyphc.errors import ModelError
from glyphc.frontends.from_onnx import read_network, read_onnx
from glyphc.ir.ops import Output

# -- files that are no models --------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.onnx' does not exist"):
        read_onnx(tmp_path / "nothing.onnx")
    with pytest.raises(ModelError, match="is a directory"):
        read_onnx(tmp_path)


@pytest.mark.parametrize("data", [b"", b"not a network at all", b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(1000)])
def test_garbage(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"garbage\.onnx' is not .*[Ee]xport it again"):
        read_onnx(path)
    with pytest.raises(ModelError, match="the given data is not "):
        read_onnx(data)


@pytest.mark.filterwarnings("ignore:The onnxtxt format is experimental")
@pytest.mark.parametrize("suffix", ["json", "textproto", "onnxtxt"])
def test_garbage_in_the_text_formats(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"garbage.{suffix}"
    path.write_bytes(b"\xff{not a network")
    with pytest.raises(ModelError, match=f"garbage.{suffix}' is not an ONNX file"):
        read_onnx(path)


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_truncated_file(kept: float, tmp_path: Path) -> None:
    data = (MODELS / "digits-mlp.onnx").read_bytes()
    path = tmp_path / "half.onnx"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ModelError, match=r"half\.onnx' is not "):
        read_onnx(path)


def test_invalid_models() -> None:
    unknown_op = build([node("Relu", ["x"], ["y"], "r")])
    unknown_op.graph.node[0].op_type = "Rellu"
    with pytest.raises(ModelError, match=r"not a valid ONNX model: .*Rellu"):
        read_onnx(unknown_op)
    mismatch = build([node("Gemm", ["x", "w"], ["y"], "fc")], {"w": randoms(5, 3)})
    with pytest.raises(ModelError, match=r"'fc' \(Gemm\): .*shape .3, 5. cannot be applied to .* shape .4."):
        read_onnx(mismatch)


def test_versions() -> None:
    old = build([node("Relu", ["x"], ["y"])])
    old.opset_import[0].version = 0
    with pytest.raises(ModelError, match=r"opset 0.*onnx.version_converter"):
        read_onnx(old)
    new = build([node("Relu", ["x"], ["y"])])
    new.opset_import[0].version = 9999
    with pytest.raises(ModelError, match=r"opset 9999.*update the onnx package"):
        read_onnx(new)
    new.opset_import[0].version = 17
    new.ir_version = 9999
    with pytest.raises(ModelError, match=r"ir_version 9999 is higher.*update the onnx package"):
        read_onnx(new)


# -- inputs and outputs --------------------------------------------------------------------------------------


def test_inputs_that_do_not_fit() -> None:
    relu = [node("Relu", ["x"], ["y"])]
    with pytest.raises(ModelError, match=r"axis 2 of input 'x' .*'width'.*update_model_dims"):
        read_onnx(build(relu, shape=(3, "width")))
    with pytest.raises(ModelError, match=r"axis 1 of input 'x' .*'unknown'"):
        read_onnx(build(relu, shape=(None,)))
    no_input = build([node("Identity", ["c"], ["y"])], {"c": f32(1, 2, 3, 4)})
    del no_input.graph.input[:]
    with pytest.raises(ModelError, match=r"no output .* depends on an input \(inputs: none\)"):
        read_onnx(no_input)
    scalar = build(relu)
    for value in (*scalar.graph.input, *scalar.graph.output):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, []))
    assert read_onnx(scalar).inputs[0].type.shape == ()
    scalar.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match=r"input 'x' .* says nothing of its shape"):
        read_onnx(scalar)
    sequence = build([node("SequenceAt", ["x", "i"], ["y"])], {"i": np.array(0)})
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 4])
    sequence.graph.input[0].CopyFrom(helper.make_value_info("x", helper.make_sequence_type_proto(kind)))
    with pytest.raises(ModelError, match=r"input 'x' .* is not a tensor"):
        read_onnx(sequence)


@pytest.mark.parametrize("dtype", [TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.FLOAT8E4M3FN])
def test_input_types(dtype: int) -> None:
    model = build([node("Identity", ["x"], ["y"])], dtype=dtype)
    with pytest.raises(ModelError, match=f"input 'x' .* is {TensorProto.DataType.Name(dtype)}; only tensors of floats"):
        read_onnx(model)


def test_outputs_that_do_not_fit() -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Identity", ["c"], ["fixed"])]
    network = read_network(build(nodes, {"c": f32(1)}, outputs=("y", "fixed")))
    assert [op.name for _, op in network.graph.of(Output)] == ["y"]
    assert "output 'fixed'" in network.notes[0]
    fixed = build([*nodes, node("Identity", ["x"], ["z"])], {"c": f32(1)}, outputs=("fixed",))
    with pytest.raises(ModelError, match=r"no output .* depends on an input \(inputs: 'x'\)"):
        read_onnx(fixed)
    none = build(nodes, {"c": f32(1)})
    del none.graph.output[:]
    with pytest.raises(ModelError, match="has no output"):
        read_onnx(none)
    twice = build(nodes, {"c": f32(1)})
    twice.graph.output.append(twice.graph.output[0])
    with pytest.raises(ModelError, match="output 'y' more than once"):
        read_onnx(twice)


# -- unsupported nodes ---------------------------------------------------------------------------------------


def test_all_unsupported_nodes_are_listed() -> None:
    nodes = [
        node("Gemm", ["x", "w"], ["a"], "good_fc"),
        node("Erf", ["a"], ["e0"], "good_erf"),
        node("Bernoulli", ["e0"], ["drawn"], "bad_random"),
        node("Cast", ["drawn"], ["b"], "good_cast", to=TensorProto.FLOAT),
        node("Mul", ["b", "b"], ["c"], "good_square"),
        node("Relu", ["c"], ["d"], "good_relu"),
        node("Softmax", ["d"], ["e"], "good_softmax"),
        node("Add", ["e", "one"], ["f"], "good_add"),
        node("Swish", ["f"], ["g"], "bad_custom", domain="my.ops"),
        node("Gemm", ["g", "w"], ["h"], "bad_transposed", transA=1),
        node("Tanh", ["h"], ["i"], "good_tanh"),
        node("RandomNormalLike", ["i"], ["j"]),
        node("CategoryMapper", ["j"], ["y"], "bad_ml", domain="ai.onnx.ml", cats_int64s=[0], cats_strings=["a"]),
    ]
    model = build(nodes, {"w": randoms(4, 4), "one": f32(1)})
    with pytest.raises(ModelError) as caught:
        read_onnx(model)
    message = str(caught.value)
    listed = dict(re.findall(r"^  '(\S+)' \((\w+)\): \S", message, re.MULTILINE))
    assert listed == {
        "bad_random": "Bernoulli",
        "bad_custom": "Swish",
        "bad_transposed": "Gemm",
        "#11": "RandomNormalLike",
        "bad_ml": "CategoryMapper",
    }
    assert "has 5 node(s)" in message
    assert "good_" not in message
    assert message.splitlines()[-1].startswith("Replace them in the network and export it again.")
    assert "Swish" in message and "register_activation" in message
    assert "register_activation('CategoryMapper'" not in message


def test_nodes_behind_an_unsupported_one_are_checked() -> None:
    nodes = [
        node("RandomUniformLike", ["x"], ["a"], "chance"),
        node("Flatten", ["a"], ["b"], "flat", axis=1),
        node("Gemm", ["b", "w"], ["c"], "fc"),
        node("Add", ["c", "c"], ["d"], "twice"),
        node("Mod", ["d", "c"], ["m"], "mod", fmod=1),
        node("Greater", ["m", "c"], ["e"], "greater"),
        node("Bernoulli", ["m"], ["y"], "random"),
    ]
    model = build(nodes, {"w": randoms(25, 5)}, (1, 5, 5))
    with pytest.raises(ModelError) as caught:
        read_onnx(model)
    listed = re.findall(r"^  '(\w+)' ", str(caught.value), re.MULTILINE)
    assert listed == ["chance", "mod", "random"]


def test_nodes_that_only_the_body_of_another_reads_are_listed() -> None:
    body = helper.make_graph(
        [node("Identity", ["outer"], ["r"])],
        "b",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
    )
    nodes = [
        node("Bernoulli", ["x"], ["outer"], "chance"),
        node("If", ["yes"], ["y"], "branch", then_branch=body, else_branch=body),
    ]
    with pytest.raises(ModelError, match=r"1 node\(s\)(?s:.*)'chance' \(Bernoulli\)"):
        read_onnx(build(nodes, {"yes": np.array(True)}))


BN: Constants = {k: f32(1, 1, 1) for k in "sbmv"}
REASONS: dict[str, tuple[list[NodeProto], Constants, tuple[int, ...], str]] = {
    "matmul-left": (
        [node("MatMul", ["w", "x"], ["y"])],
        {"w": randoms(2, 3)},
        (4,),
        "along the batch axis, or moves it",
    ),
    "gemm-transa": ([node("Gemm", ["x", "w"], ["y"], transA=1)], {"w": randoms(3, 2)}, (4,), "transA=1"),
    "gemm-left": (
        [node("Gemm", ["w", "x"], ["y"])],
        {"w": randoms(2, 3)},
        (4,),
        "operand B is computed by the network",
    ),
    "gemm-two": ([node("Gemm", ["x", "x"], ["y"])], {}, (3,), "operand B is computed by the network"),
    "gemm-c-batch": (
        [node("Gemm", ["x", "w", "c"], ["y"])],
        {"w": W, "c": randoms(3, 1)},
        (4,),
        "'c' of shape .3, 1. differs along the batch axis",
    ),
    # ONNX would add every sample to every other one
    "add-ranks": (
        [node("Reshape", ["x", "s"], ["r"]), node("Add", ["r", "x"], ["y"])],
        {"s": i64(-1, 1, 4)},
        (4,),
        "combines tensors of 3 and 2 axes, batch included",
    ),
    "concat-constant": ([node("Concat", ["x", "c"], ["y"], axis=1)], {"c": randoms(3, 2)}, (4,), "cannot compute it"),
    "top-2": ([node("TopK", ["x", "k"], ["y", "i"])], {"k": i64(5)}, (4,), r"k is \[5\] of 4 elements"),
    "top-batch": ([node("TopK", ["x", "k"], ["y", "i"], axis=0)], {"k": i64(1)}, (4,), "axis=0 is the batch"),
    "pool-order": (
        [node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], storage_order=1)],
        {},
        (1, 4, 4),
        "storage_order=1",
    ),
    "pool-indices": (
        [node("MaxPool", ["x"], ["p", "y"], kernel_shape=[2])],
        {},
        (1, 4),
        r"\(MaxPool\): its output 1 is not supported",
    ),
    "pool-window": ([node("MaxPool", ["x"], ["y"], kernel_shape=[5])], {}, (1, 4), "window of 5 does not fit"),
    "prelu-slope": ([node("PRelu", ["x", "x"], ["y"])], {}, (4,), "slope is computed by the network"),
    "add-batch": ([node("Add", ["x", "c"], ["y"])], {"c": randoms(3, 4)}, (4,), "'c'.*along the batch axis"),
    "add-batch-scalars": ([node("Add", ["x", "c"], ["y"])], {"c": randoms(3)}, (), "along the batch axis"),
    "div-zero": (
        [node("Div", ["x", "c"], ["y"])],
        {"c": f32(1, 0, 2)},
        (3,),
        "constant 'c', which holds a zero",
    ),
    "softmax-batch": ([node("Softmax", ["x"], ["y"], axis=0)], {}, (4,), "axis=0 is the batch"),
    "softmax-scalars": ([node("Softmax", ["x"], ["y"])], {}, (), "axis=-1 is the batch"),
    "argmax-default": ([node("ArgMax", ["x"], ["y"])], {}, (4,), "axis=0 is the batch"),
    "dropout-mask": (
        [node("Dropout", ["x"], ["d", "mask"]), node("Where", ["mask", "d", "d"], ["y"])],
        {},
        (4,),
        r"\(Dropout\): its output 1 is not supported",
    ),
    "dropout-training": (
        [node("Dropout", ["x", "r", "t"], ["y"])],
        {"r": np.float32(0.5), "t": np.array(True)},
        (4,),
        "training mode",
    ),
    "batchnorm-training": (
        [node("BatchNormalization", ["x", *"sbmv"], ["y", "m2", "v2"], training_mode=1)],
        BN,
        (3,),
        "training mode",
    ),
    "batchnorm-variance": (
        [node("BatchNormalization", ["x", *"sbmv"], ["y"])],
        BN | {"v": f32(1, -1, 1)},
        (3,),
        "constant 'v' holds a variance",
    ),
    "text": (
        [node("Constant", [], ["c"], value_string=b"abc"), node("Add", ["x", "c"], ["y"])],
        {},
        (4,),
        "constant 'c' holds .*, not real numbers",
    ),
    "cast-bool": ([node("Cast", ["x"], ["y"], to=TensorProto.BOOL)], {}, (4,), "casts FLOAT to BOOL"),
    "equal": ([node("Equal", ["x", "c"], ["y"])], {"c": f32(1)}, (4,), "real numbers for equality"),
    "slice-batch": (
        [node("Slice", ["x", "first", "last"], ["y"])],
        {"first": i64(0), "last": i64(2)},
        (4,),
        "does not leave the batch axis alone",
    ),
    "reduce-batch": ([node("ReduceMean", ["x"], ["y"], axes=[0])], {}, (4,), "axis=0 is the batch"),
    "matmul-samples": ([node("MatMul", ["x", "x"], ["y"])], {}, (3,), "multiplies"),
    "conv-channels": ([node("Conv", ["x", "k"], ["y"])], {"k": randoms(2, 3, 3)}, (2, 5), "not fit 2 channels"),
    "conv-weight": ([node("Conv", ["x", "x"], ["y"])], {}, (3, 3), "weight is computed by the network"),
    "batch-as-number": (
        [node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=TensorProto.FLOAT), node("Mul", ["x", "f"], ["y"])],
        {},
        (2,),
        "constant 'f' depends on the number of samples",
    ),
    "nan": (
        [node("Gemm", ["x", "w"], ["y"])],
        {"w": W * np.float32("nan")},
        (4,),
        "constant 'w' holds NaN or inf",
    ),
    "infinity": (
        [node("Add", ["x", "far"], ["y"])],
        {"far": f32(np.inf)},
        (4,),
        "constant 'far' holds NaN or inf",
    ),
    "empty": ([node("Gemm", ["x", "w"], ["y"])], {"w": randoms(4, 0)}, (4,), "constant 'w' is empty"),
    "infinite-alpha": ([node("LeakyRelu", ["x"], ["y"], alpha=np.inf)], {}, (4,), "attribute alpha is inf"),
    "folded-nan": (
        [node("Div", ["zero", "zero"], ["ratio"]), node("Mul", ["x", "ratio"], ["y"])],
        {"zero": f32(0)},
        (4,),
        "constant 'ratio' holds NaN",
    ),
}


@pytest.mark.parametrize("case", REASONS.values(), ids=REASONS.keys())
def test_reasons(case: tuple[list[NodeProto], Constants, tuple[int, ...], str]) -> None:
    nodes, constants, shape, reason = case
    model = build(nodes, constants, shape)
    with pytest.raises(ModelError, match=reason):
        read_onnx(model)


def test_training_mode_of_batch_normalization() -> None:
    # opset 13: outputs beyond the first mean training, read or not
    normalize = node("BatchNormalization", ["x", *"sbmv"], ["y", "m2", "v2", "m3", "v3"])
    with pytest.raises(ModelError, match="training mode"):
        read_onnx(build([normalize], BN, (3,), opset=13))


def test_constants_that_overflow_when_combined() -> None:
    nodes = [node("Gemm", ["x", "huge"], ["h"], alpha=1e30), node("Div", ["x", "tiny"], ["d"])]
    constants: Constants = {"huge": np.full((4, 3), 1e300), "tiny": np.array(1e-310)}
    for output, name in (("h", "huge"), ("d", "tiny")):
        model = build(nodes, constants, outputs=(output,), dtype=TensorProto.DOUBLE)
        with pytest.raises(ModelError, match=f"constant '{name}' overflows"):
            read_onnx(model)


@pytest.mark.parametrize(
    ("op_type", "shape", "bad", "constants", "declared"),
    [
        ("Reshape", (6,), i64(-1, -1), {}, (6,)),
        ("Reshape", (6,), i64(-1, -1, 2), {}, (3, 2)),
        ("Reshape", (6,), i64(0, -2, -3), {}, (2, 3)),
        ("Reshape", (6,), i64(0, -1, 4), {}, (2, 3)),
        ("Reshape", (6,), i64(0, 6, 0), {}, (6, 1)),
        ("MatMul", (3,), W, {}, (3,)),
        ("Gemm", (3,), W, {}, (3,)),
        ("BatchNormalization", (3,), f32(1, 2, 3, 4), BN, (3,)),
        ("Add", (3,), f32(1, 2, 3, 4), {}, (3,)),
    ],
)
def test_shapes_that_onnx_cannot_check(
    op_type: str,
    shape: tuple[int, ...],
    bad: npt.NDArray[np.generic],
    constants: Constants,
    declared: tuple[int, ...],
) -> None:
    """Invalid models, but onnx doesn't see it: it does not know what a Reshape by a computed shape gives."""
    constants = {"bad.negative": -bad, "shape.negative": -i64(*np.shape(bad)), **constants}
    nodes = [
        node("Neg", ["shape.negative"], ["shape"]),
        node("Neg", ["bad.negative"], ["bad.flat"]),
        node("Reshape", ["bad.flat", "shape"], ["bad"]),
        node(op_type, ["x", "bad", *(k for k in "bmv" if k in constants)], ["y"], "culprit"),
    ]
    model = build(nodes, constants, shape, sample_shapes={"y": declared})
    with pytest.raises(ModelError, match=rf"has 1 node.*\n  'culprit' \({op_type}\): "):
        read_onnx(model)


def test_broken_constants() -> None:
    short = build([node("Gemm", ["x", "w"], ["y"])], {"w": W})
    short.graph.initializer[0].raw_data = short.graph.initializer[0].raw_data[:-8]
    strange = build([node("Gemm", ["x", "w"], ["y"])], {"w": W})
    strange.graph.initializer[0].data_type = 121
    for model in (short, strange):
        with pytest.raises(ModelError, match=r"constant 'w' has data that don't fit|not a valid ONNX model"):
            read_onnx(model)


@pytest.mark.parametrize(
    ("nodes", "constants", "listed"),
    [
        # what follows from an error is not another one
        (
            [node("Bernoulli", ["x"], ["d"], "chance"), node("Add", ["x", "d"], ["y"], "add")],
            {"c": randoms(3, 4)},
            ["chance"],
        ),
        (
            [
                node("Bernoulli", ["x"], ["b"], "random"),
                node("Cast", ["b"], ["y"], "cast", to=TensorProto.FLOAT),
            ],
            {"c": f32(1)},
            ["random"],
        ),
    ],
)
def test_exactly_these_are_listed(nodes: list[NodeProto], constants: Constants, listed: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        read_onnx(build(nodes, constants, batch=3))
    assert re.findall(r"^  '(\w+)' ", str(caught.value), re.MULTILINE) == listed


def test_attributes_of_a_future_opset(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build([node("Gemm", ["x", "w"], ["y"], "fc", squared=1)], {"w": W})
    with pytest.raises(ModelError, match=r"not a valid ONNX model: .*squared"):
        read_onnx(model)
    monkeypatch.setattr(onnx.checker, "check_model", lambda model: None)
    with pytest.raises(ModelError, match=r"'fc' \(Gemm\): attribute\(s\) squared are not supported"):
        read_onnx(model)


def test_sparse_constants() -> None:
    values = numpy_helper.from_array(f32(1, 2), "c")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(i64(0, 2), "c.indices"), [4])
    model = build([node("Add", ["x", "d"], ["y"])], {"d": f32(1, 2, 3, 4)})
    del model.graph.initializer[:]
    model.graph.sparse_initializer.append(sparse)
    model.graph.node[0].input[1] = "c"
    with pytest.raises(ModelError, match="constant 'c' is sparse"):
        read_onnx(model)
