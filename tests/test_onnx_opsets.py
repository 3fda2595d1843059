"""Old opsets mean what they did, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import NodeProto, TensorProto
from onnx_models import Constants, f32, i64, node, randoms

from glyphc.errors import ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate
from tests.onnx_as_people_have_it import model_of, onnx_results

# -- old opsets ----------------------------------------------------------------------------------------------

OLD: dict[str, tuple[int, list[NodeProto], Constants, tuple[int, ...]]] = {
    "softmax-flattens": (9, [node("Softmax", ["x"], ["y"], "s")], {}, (2, 3)),
    "softmax-last": (9, [node("Softmax", ["x"], ["y"], axis=2)], {}, (2, 3)),
    "log-softmax": (11, [node("LogSoftmax", ["x"], ["y"], axis=1)], {}, (2, 2)),
    "hardmax": (11, [node("Hardmax", ["x"], ["y"], axis=1)], {}, (2, 2)),
    "dropout": (7, [node("Dropout", ["x"], ["y"], ratio=0.3)], {}, (4,)),
    "dropout-10": (10, [node("Dropout", ["x"], ["y", "mask"], ratio=0.3)], {}, (4,)),
    "batchnorm": (
        8,
        [node("BatchNormalization", ["x", *"sbmv"], ["y"], epsilon=0.1, momentum=0.9)],
        {"s": randoms(3), "b": randoms(3, seed=2), "m": randoms(3, seed=3), "v": f32(1, 2, 3)},
        (3, 2, 2),
    ),
    "clip": (7, [node("Clip", ["x"], ["y"], min=-0.5, max=1.0)], {}, (4,)),
    "clip-one-side": (10, [node("Clip", ["x"], ["y"], max=1.0)], {}, (4,)),
    "pad": (10, [node("Pad", ["x"], ["y"], pads=[0, 1, 0, 2], value=1.5)], {}, (3,)),
    "slice": (9, [node("Slice", ["x"], ["y"], starts=[1, 0], ends=[3, 2], axes=[1, 2])], {}, (3, 3)),
    "squeeze": (11, [node("Squeeze", ["x"], ["y"], axes=[1])], {}, (1, 3)),
    "unsqueeze": (11, [node("Unsqueeze", ["x"], ["y"], axes=[1, 3])], {}, (3,)),
    "split": (11, [node("Split", ["x"], ["a", "y"], axis=1, split=[1, 3])], {}, (4,)),
    "reduce-sum": (11, [node("ReduceSum", ["x"], ["y"], axes=[1], keepdims=0)], {}, (2, 3)),
    "top-1": (9, [node("TopK", ["x"], ["y", "i"], k=1, axis=1)], {}, (4,)),
    "upsample": (7, [node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 3.0])], {}, (1, 2, 2)),
    "upsample-9": (9, [node("Upsample", ["x", "s"], ["y"], mode="nearest")], {"s": f32(1, 1, 2, 2)}, (1, 2, 2)),
    "resize-10": (10, [node("Resize", ["x", "s"], ["y"])], {"s": f32(1, 1, 1.5, 2)}, (1, 2, 3)),
    "constants-fold": (
        9,
        [
            node("Unsqueeze", ["c"], ["u"], axes=[0]),
            node("Squeeze", ["u"], ["s"], axes=[0]),
            node("Slice", ["s"], ["t"], starts=[0], ends=[4]),
            node("Add", ["x", "t"], ["y"]),
        ],
        {"c": randoms(5)},
        (4,),
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_old_opsets_mean_what_they_did(name: str) -> None:
    opset, nodes, constants, shape = OLD[name]
    if name == "softmax-last":
        shape = (2, 3)
    model = model_of(nodes, {"x": ["N", *shape]}, constants, opset=opset)
    x = randoms(3, *shape)
    found = evaluate(read_onnx(model), {"x": x.astype(np.float64)})
    np.testing.assert_allclose(found["y"], onnx_results(model, {"x": x})["y"], atol=1e-5)


# Nodes of opset 1 to 6, and what they mean today: the version, the nodes, today's nodes, constants, the input's shape.
ANCIENT: dict[str, tuple[int, list[NodeProto], list[NodeProto], Constants, tuple[int, ...]]] = {
    "add-along-channels": (
        6,
        [node("Add", ["x", "c"], ["y"], axis=1, broadcast=1)],
        [node("Reshape", ["c", "s"], ["d"]), node("Add", ["x", "d"], ["y"])],
        {"c": randoms(3), "s": i64(3, 1, 1)},
        (3, 2, 2),
    ),
    "mul-along-last": (
        1,
        [node("Mul", ["x", "c"], ["y"], broadcast=1, consumed_inputs=[0, 0])],
        [node("Mul", ["x", "c"], ["y"])],
        {"c": randoms(2)},
        (3, 2, 2),
    ),
    "prelu": (
        6,
        [node("PRelu", ["x", "c"], ["y"])],
        [node("Reshape", ["c", "s"], ["d"]), node("PRelu", ["x", "d"], ["y"])],
        {"c": randoms(3), "s": i64(3, 1, 1)},
        (3, 2, 2),
    ),
    "gemm": (
        6,
        [node("Gemm", ["x", "w", "c"], ["y"], broadcast=1, transB=1)],
        [node("Gemm", ["x", "w", "c"], ["y"], transB=1)],
        {"w": randoms(2, 4), "c": randoms(2)},
        (4,),
    ),
    "batchnorm-relu": (
        1,
        [
            node("BatchNormalization", ["x", *"sbmv"], ["n"], is_test=1, consumed_inputs=[0, 0, 0, 1, 1]),
            node("Dropout", ["n"], ["d"], is_test=1, ratio=0.5),
            node("Relu", ["d"], ["y"], consumed_inputs=[0]),
        ],
        [node("BatchNormalization", ["x", *"sbmv"], ["n"]), node("Relu", ["n"], ["y"])],
        {"s": randoms(3), "b": randoms(3, seed=2), "m": randoms(3, seed=3), "v": f32(1, 2, 3)},
        (3, 2, 2),
    ),
    "reshape-cast-concat": (
        3,
        [
            node("Reshape", ["x"], ["r"], shape=[0, 2, 2]),
            node("Cast", ["r"], ["d"], to="FLOAT"),
            node("Concat", ["d", "d"], ["y"]),
        ],
        [
            node("Reshape", ["x", "s"], ["r"]),
            node("Cast", ["r"], ["d"], to=TensorProto.FLOAT),
            node("Concat", ["d", "d"], ["y"], axis=1),
        ],
        {"s": i64(0, 2, 2)},
        (4,),
    ),
    "pad": (
        1,
        [node("Pad", ["x"], ["y"], paddings=[0, 1, 0, 2], value=1.5)],
        [node("Pad", ["x", "p", "v"], ["y"])],
        {"p": i64(0, 1, 0, 2), "v": np.float32(1.5)},
        (3,),
    ),
}


@pytest.mark.parametrize("name", ANCIENT)
def test_opsets_before_broadcasting(name: str) -> None:
    version, old, new, constants, shape = ANCIENT[name]
    used = {i for n in old for i in n.input}
    model = model_of(old, {"x": ["N", *shape]}, {k: v for k, v in constants.items() if k in used}, opset=version)
    today = model_of(new, {"x": ["N", *shape]}, constants, opset=17)
    x = randoms(3, *shape)
    found = evaluate(read_onnx(model), {"x": x.astype(np.float64)})
    np.testing.assert_allclose(found["y"], onnx_results(today, {"x": x})["y"], atol=1e-5)


def test_messages_name_the_nodes_of_an_old_file() -> None:
    nodes = [node("Softmax", ["x"], ["s"], "users softmax", axis=0), node("Det", ["s"], ["y"], "users det")]
    with pytest.raises(ModelError, match=r"(?s)'users softmax' \(Flatten\)|'users det' \(Det\)") as caught:
        read_onnx(model_of(nodes, {"x": ["N", 3, 3]}, opset=11))
    assert "shape" not in str(caught.value).split("(", 1)[0]
