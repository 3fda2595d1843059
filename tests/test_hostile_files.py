"""Files that nobody means well: each gets an error that names the culprit, and takes neither memory nor time."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_models import Constants, build, f32, i64, node

from glyphc.compiler import compile
from glyphc.errors import ArtifactError, GlyphcError, ModelError
from glyphc.exchange.artifacts import Specification
from glyphc.frontends.from_dsl import parse_glyph
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir import memory
from glyphc.ir.errors import IRError, IRSyntaxError, TooLargeError
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import ClientSpec, Port
from glyphc.ir.layout import Layout
from glyphc.ir.ops import Input
from glyphc.ir.parameters import Parameters
from glyphc.ir.text import parse, record_text
from glyphc.ir.types import FixedPoint, Level
from glyphc.sources import read_model
from glyphc.storage.container import Writer
from glyphc.storage.headers import SpecHeader


def one(
    op: str, constants: Constants | None = None, shape: tuple[int, ...] = (2, 4), **attributes: object
) -> ModelProto:
    """A model of one node that reads the input and then its constants."""
    return build([node(op, ["x", *(constants or {})], ["y"], name="culprit", **attributes)], constants, shape)


# -- onnx's own C++, which ends the process where others raise an error --


def sliced(*before: onnx.NodeProto, shape: tuple[int, ...] = (1, 2, 1), constants: Constants | None = None) -> bytes:
    """A model that slices what some nodes make of the input; the last of them gives "h"."""
    ends = {"starts": i64(0), "ends": i64(1), "axes": i64(2), "steps": i64(1)}
    last = node("Slice", ["h", *ends], ["y"], name="culprit")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)
    initializers = [numpy_helper.from_array(v, k) for k, v in {**ends, **(constants or {})}.items()]
    graph = helper.make_graph([*before, last], "g", [x], [y], initializers)
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


NEGATIVE = {
    "a kernel larger than the image": lambda: sliced(
        node("Conv", ["x", "w"], ["h"], dilations=[2, 2]), constants={"w": np.ones((2, 1, 1, 2), dtype=np.float32)}
    ),
    "behind another slice": lambda: sliced(
        node("Slice", ["x", "starts", "ends", "axes", "steps"], ["a"]),
        node("AveragePool", ["a"], ["h"], kernel_shape=[3, 1]),
        shape=(1, 8, 1),
    ),
    "a pad that cuts": lambda: sliced(
        node("Pad", ["x", "pads"], ["h"]), constants={"pads": np.array([0, 0, 0, 0, 0, 0, -5, 0])}
    ),
    "inside a body": lambda: sliced(
        node("If", ["c"], ["h"], then_branch=body(), else_branch=body()), constants={"c": np.array(True)}
    ),
}


def body() -> onnx.GraphProto:
    """Of a branch, with a slice of less than nothing."""
    inner = [
        node("AveragePool", ["x"], ["a"], kernel_shape=[5, 1]),
        node("Slice", ["a", "starts", "ends", "axes", "steps"], ["b"]),
    ]
    return helper.make_graph(inner, "b", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)])


@pytest.mark.parametrize("name", NEGATIVE)
def test_slices_of_less_than_nothing(name: str) -> None:
    """In a process of its own: a failed assertion in C++ ends it."""
    code = "import sys; from glyphc.frontends.from_onnx import read_onnx; read_onnx(sys.stdin.buffer.read())"
    done = subprocess.run([sys.executable, "-c", code], input=NEGATIVE[name](), capture_output=True)
    assert done.returncode == 1, done.stderr.decode()
    assert re.search(
        r"ModelError: node '\w*' \(Slice\)|Error: the given data has .*\n.* \(If\): a window", done.stderr.decode()
    )


def test_slices_of_something_are_read() -> None:
    graph = read_onnx(sliced(node("Relu", ["x"], ["h"]), shape=(1, 2, 1)))
    assert [n.type.shape for n in graph.outputs] == [(1, 1, 1)]


# -- readers of operators: what trips over a file's numbers is an error that names node, operator and file --

MISFITS: dict[str, Callable[[], ModelProto]] = {
    "CumSum without an axis": lambda: one("CumSum", {"axis": i64()}),
    "InstanceNormalization of single numbers": lambda: build(
        [node("InstanceNormalization", ["x", "s", "b"], ["y"], name="culprit")],
        {"s": f32(1), "b": f32(0)},
        (),
        sample_shapes={"y": ()},
    ),
    "MaxPool that stands still": lambda: one("MaxPool", shape=(1, 4, 4), kernel_shape=[2, 2], strides=[0, 1]),
    "AveragePool with a window of nothing": lambda: one("AveragePool", shape=(1, 4, 4), kernel_shape=[0, 2]),
    "QuantizeLinear with as many zero points as it likes": lambda: build(
        [node("QuantizeLinear", ["x", "s", "z"], ["y"], name="culprit")],
        {"s": f32(1, 1), "z": np.zeros(3, dtype=np.uint8)},
        (2, 4),
        sample_shapes={"y": (2, 4)},
    ),
    "LayerNormalization with scales of another size": lambda: one("LayerNormalization", {"scale": f32(1, 2, 3)}),
    "ReduceSum over an axis that is not there": lambda: one("ReduceSum", {"axes": i64(7)}),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_misfit_names_node_and_operator(name: str) -> None:
    with pytest.raises(ModelError, match=r"given ONNX model"):
        read_onnx(MISFITS[name]())


def test_an_expansion_that_does_not_fit_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr("onnx.reference.ops.op_expand.common_reference_implementation", lambda *_: made.append(1))
    shape = numpy_helper.from_array(np.array([1, 255, 1 << 20]), "shape")
    expand = helper.make_node("Expand", ["x", "shape"], ["y"], name="culprit")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 2, 4]), ("y", None)))
    model = helper.make_model(helper.make_graph([expand], "g", [x], [y], [shape]))
    with pytest.raises(ModelError, match=r"'culprit' \(Expand\)"):
        read_onnx(model)
    assert made == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"QQQ", "dim_param of a Dimension"),
        (b"culprit", "name of a NodeProto"),
        (b"Relu", "op_type of a NodeProto"),
        (b"WWW", "name of a TensorProto"),
    ],
)
def test_texts_that_are_no_utf_8(text: bytes, what: str) -> None:
    """Protobuf gives bytes for them, which nothing expects."""
    data = onnx_bytes("Relu", 17, axis="QQQ")
    read_onnx(data)
    with pytest.raises(ModelError, match=f"given data is not an ONNX file, or is damaged: {what} is no text"):
        read_onnx(data.replace(text, b"\xff" * len(text)))


def test_attributes_that_are_no_utf_8() -> None:
    for data in (onnx_bytes("Cast", 5, to="QQQ"), onnx_bytes("Pad", 10, mode="QQQ", pads=[0, 1, 0, 1])):
        with pytest.raises(ModelError, match=r"(?s)given .*'culprit' \((Cast|Pad)\)"):
            read_onnx(data.replace(b"QQQ", b"\xff\xfe\xfd"))
    with pytest.raises(ModelError, match=r"'culprit' \(Cast\) is none of opset 5"):
        read_onnx(onnx_bytes("Cast", 5, to="NONE"))


def onnx_bytes(operator: str, opset: int, axis: str = "N", **attributes: object) -> bytes:
    node = helper.make_node(operator, ["x"], ["y"], name="culprit", **attributes)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [axis, 4]), ("y", None)))
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(np.zeros(2), "WWW")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString()


def test_a_fault_of_a_reader_names_node_operator_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a reader trips over; and a bug of ours (here a TypeError) stays one."""
    from glyphc.frontends import from_onnx
    from glyphc.frontends.onnx_call import Rule

    def broken(error: Exception) -> Rule:
        def convert(call: object) -> tuple[()]:
            raise error

        return Rule(convert)

    path = tmp_path / "m.onnx"
    onnx.save(one("Relu"), path)
    for error in (IndexError("7"), ZeroDivisionError(), KeyError("k"), OverflowError(), ValueError("v")):
        monkeypatch.setitem(from_onnx.RULES, "Relu", broken(error))
        with pytest.raises(ModelError, match=r"m\.onnx.*\n.*'culprit' \(Relu\).*do not fit") as caught:
            read_onnx(path)
        assert caught.value.__cause__ is error  # nothing is hidden from whoever looks for it
    for bug in (TypeError("bug"), AttributeError("bug"), AssertionError("bug")):
        monkeypatch.setitem(from_onnx.RULES, "Relu", broken(bug))
        with pytest.raises(type(bug), match="bug"):
            read_onnx(path)


# -- sizes, before memory is taken --


def _pad() -> ModelProto:
    return build([node("Pad", ["x", "p"], ["y"], name="culprit")], {"p": i64(0, 0, 0, 0, 10**9, 0)}, (2, 4))


def _tile() -> ModelProto:
    return build([node("Tile", ["x", "r"], ["y"], name="culprit")], {"r": i64(1, 10**6, 100)}, (2, 4))


def _expand() -> ModelProto:
    return build([node("Expand", ["x", "s"], ["y"], name="culprit")], {"s": i64(1, 10**7, 4)}, (1, 4))


def _constant() -> ModelProto:
    nodes = [
        node("ConstantOfShape", ["s"], ["c"], name="culprit"),
        node("ReduceSum", ["c"], ["r"], keepdims=0),
        node("Add", ["x", "r"], ["y"]),
    ]
    return build(nodes, {"s": i64(10**5, 10**5)}, (2, 4))


def _product() -> ModelProto:
    nodes = [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["y"], name="culprit")]
    return build(nodes, None, (2000, 100))


def _convolution() -> ModelProto:
    weight = np.ones((1, 1, 200, 200), dtype=np.float32)
    return build([node("Conv", ["x", "w"], ["y"], name="culprit")], {"w": weight}, (1, 400, 400))


LARGE = {
    "Pad": _pad,
    "Tile": _tile,
    "Expand": _expand,
    "ConstantOfShape": _constant,
    "MatMul": _product,
    "Conv": _convolution,
}


@pytest.mark.parametrize("name", LARGE)
def test_what_is_too_large_is_named_before_it_is_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, "1GB")
    before = peak()
    with pytest.raises(
        ModelError, match=r"culprit.*(GB|bytes), more than the memory limit of 1 GB.*GLYPHC_MEMORY_LIMIT"
    ):
        read_onnx(LARGE[name]())
    assert peak() - before < 500_000  # kB


def peak() -> int:
    """Of this process so far, in kB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def test_a_repetition_is_refused_at_the_usual_limit() -> None:
    """A million times 64 elements: refused by what onnx infers, before 9 GB of places are worked out."""
    model = build([node("Tile", ["x", "r"], ["y"], name="culprit")], {"r": i64(1, 10**6)}, (64,))
    before = peak()
    with pytest.raises(ModelError, match=r"culprit.*memory limit of 16 GB"):
        read_onnx(model)
    assert peak() - before < 200_000  # kB


def test_an_input_that_fits_no_machine() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2**20, 2**20])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2**20, 2**20])
    model = helper.make_model(helper.make_graph([node("Relu", ["x"], ["y"])], "g", [value], [out]))
    with pytest.raises(ModelError, match=r"1048576, 1048576.*memory limit"):
        read_onnx(model)


def test_compressed_zeros_are_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    data = base64.b64encode(zlib.compress(bytes(1 << 26), 1)).decode()
    text = (
        'glyph-ir 1 level source batch 1\n%0 = input (name="x", shape=[4]) : TensorType(shape=[4])\n'
        f'%1 = output %0 (name="y") : TensorType(shape=[4])\nconst "w" float64 [{{}}] "{data}"\n'
    )
    monkeypatch.setenv(memory.VARIABLE, "10MB")
    before = peak()
    with pytest.raises(TooLargeError, match=r"line 4.*constant .*67.1 MB.*limit of 10 MB"):
        parse(text.format(1 << 23))
    with pytest.raises(IRSyntaxError, match="inflates to more than 8 bytes"):
        parse(text.format(1))
    assert peak() - before < 50_000  # kB


def test_many_constants_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, "1MB")
    graph = Graph(Level.SOURCE, 1)
    graph.add_constant("a", np.zeros(100_000))
    with pytest.raises(TooLargeError, match=r"'b'.*limit of 1 MB"):
        graph.add_constant("b", np.zeros(100_000))


def test_calibration_is_counted_with_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, "2500kB")
    model = one("Relu", shape=(200,))
    compile(model, np.random.default_rng(1).normal(size=(20, 200)), insecure_ring=1024)
    with pytest.raises(ModelError, match=r"too large to be compiled \(pass 'expand'\).*on 500 calibration samples"):
        compile(model, np.ones((500, 200)), insecure_ring=1024)


def test_maps_are_counted_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, "10MB")
    weight = np.ones((800, 800), dtype=np.float32)
    model = build([node("Gemm", ["x", "w"], ["y"], name="c")], {"w": weight}, (800,))
    with pytest.raises(ModelError, match=r"pass 'fold'.*linear map .*from 800 to 800 values.*limit of 10 MB"):
        compile(model, np.ones((2, 800)), insecure_ring=1024)


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8 * 10**9), ("512 mb", 512 * 10**6), ("1000", 1000), ("", 16 * 10**9)]
)
def test_the_limit_is_a_size(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, text)
    assert memory.limit() == size


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf", "1e99GB"])
def test_a_limit_that_is_no_size(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, text)
    with pytest.raises(IRError, match="is no size"):
        memory.limit()


def test_a_chain_of_functions_ends_somewhere() -> None:
    names = ["x", *(f"h{i}" for i in range(3000)), "y"]
    nodes = [node("Relu", [a], [b]) for a, b in pairwise(names)]
    with pytest.raises(ModelError, match="more than 256 functions of one value in a row"):
        compile(build(nodes), np.ones((2, 4)), insecure_ring=1024)


def test_more_nodes_than_any_network_has(tmp_path: Path) -> None:
    names = ["x", *(f"h{i}" for i in range(10_000)), "y"]
    model = build([])
    model.graph.node.extend(node("Add", [a, a], [b]) for a, b in pairwise(names))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4]))
    with pytest.raises(ModelError, match="10,001 nodes, more than the 10,000"):
        read_onnx(model)
    text = "".join(f"y{i} = y{i - 1} + 1\n" for i in range(1, 300)).replace("y0", "x")
    path = tmp_path / "n.glyph"
    path.write_text(f"input x: [4]\n{text}output y299\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glyphc.sources.MOST_NODES", 300)
        with pytest.raises(ModelError, match="301 nodes, more than the 300"):
            read_model(path)


def test_names_of_a_long_chain_stay_short() -> None:
    """Every value keeps the names that it is made of: of thousands, that would be quadratic."""
    from glyphc.passes.fold import _join

    joined = ""
    for i in range(1000):
        joined = _join(joined, f"n{i}")
    assert joined.startswith("n0+n1+")
    assert joined.endswith("+n255+...")


# -- the language --


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("x -> dense(1e999)", "whole number"),
        ("x -> dense(1e18)", "too large"),
        ("x -> dense(2000000000)", "memory limit"),
        ("x -> reshape([1e300, 2])", "too large"),
        ("x -> dense(1.5)", "whole number"),
    ],
)
def test_numbers_out_of_place_in_a_network(expression: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_glyph(f"weights he_normal(seed=0)\ninput x: [4]\ny = {expression}\noutput y\n")


# -- parameters and specifications --

SMALL = Parameters(1024, 20, 40)
LAYOUT = Layout(1024, 2, 4, 1, 1, 4, 1, True)
SPEC = ClientSpec(
    SMALL,
    (Port("x", (4,), FixedPoint((1.0,), (0.0,), -8, 8), LAYOUT),),
    (Port("y", (4,), FixedPoint((1.0,), (0.0,), -8, 8), LAYOUT),),
    2,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("plaintext_bits", 10**11),
        ("large_digits", 0),
        ("degree", 10**9),
        ("ring", 10**9),
        ("ring", 1000),
        ("slots", 3),
        ("scaling_bits", -1),
        ("bgv_bits", 1 << 40),
        ("levels_kept", 10**6),
        ("sum_primes", 1),
        ("sum_primes", 5),
        ("unpack_strides", (0,)),
        ("unpack_strides", (1,) * 100_000),
        ("level_budget", (0, 3)),
        ("slots", "128, level_budget=[9, 9]"),
        ("slots", "2, level_budget=[1, 2]"),
    ],
)
def test_parameters_out_of_bounds_are_named(field: str, value: object, tmp_path: Path) -> None:
    shown = str(list(value)) if isinstance(value, tuple) else str(value)
    text = record_text(SPEC)
    known = {"ring": "ring=1024", "plaintext_bits": "plaintext_bits=20", "bgv_bits": "bgv_bits=40"}
    more = f"bgv_bits=40, {field}={shown}"
    hostile = text.replace(known.get(field, "bgv_bits=40"), f"{field}={shown}" if field in known else more, 1)
    assert hostile != text
    path = tmp_path / "client.spec"
    with Writer(path, SpecHeader("0" * 64)) as writer:
        writer.add("spec", hostile.encode())
    with pytest.raises(ArtifactError, match=f"client.spec.*{'level_budget' if 'budget' in shown else field}"):
        Specification.load(path)


def test_sums_that_one_prime_does_not_hold() -> None:
    with pytest.raises(ValueError, match="keep BGV sums on one prime of 48 bits, too few for bgv_bits=55"):
        Parameters(1024, 20, 55, sum_primes=2).check_powers()
    Parameters(1024, 20, 47, sum_primes=2).check_powers()


def test_a_specification_of_a_batch_that_fits_no_machine(tmp_path: Path) -> None:
    path = tmp_path / "client.spec"
    text = record_text(SPEC).replace("batch=2, features=4", "batch=2000000000, features=4")
    text = text.replace("zero_elsewhere=true", "zero_elsewhere=true, chunks=1000000000")
    text = text.replace("], batch=2)", "], batch=2000000000)")
    with Writer(path, SpecHeader("0" * 64)) as writer:
        writer.add("spec", text.encode())
    with pytest.raises(ArtifactError, match=r"memory limit"):
        Specification.load(path)


def test_a_graph_that_is_too_large_keeps_its_line(tmp_path: Path) -> None:
    path = tmp_path / "g.gir"
    path.write_text(
        'glyph-ir 1 level source batch 1\n%0 = input (name="x", shape=[1048576, 1048576]) '
        ': TensorType(shape=[1048576, 1048576])\n%1 = output %0 (name="y") : TensorType(shape=[1048576, 1048576])\n'
    )
    with pytest.raises(GlyphcError, match=r"g\.gir.*line 2.*memory limit"):
        read_model(path)


def test_a_tensor_may_be_as_large_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, str(1000 * memory.ELEMENT_BYTES))
    graph = Graph(Level.SOURCE, 1)
    graph.add(Input("x", (1000,)))
    with pytest.raises(TooLargeError):
        graph.add(Input("z", (1001,)))
