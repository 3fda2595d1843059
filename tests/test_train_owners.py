"""Several owners of data, one key holder, one server: trained as if the data were one set."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_chain import F64, chain

from glyphc.backends.ckks_clear import SimulatedCKKS
from glyphc.backends.openfhe.residues import Uniform
from glyphc.backends.openfhe.training_fresh import FreshCiphertexts, TrainingKeyMaker
from glyphc.backends.openfhe.training_public import PUBLIC_STREAM, PublicEncryptor
from glyphc.errors import ArtifactError, DataError, ParameterError
from glyphc.exchange.placement import Placement, placements, sources_of
from glyphc.exchange.training_client import JOB_FILE, TrainingClientFiles, prepare
from glyphc.exchange.training_files import TRAINED
from glyphc.exchange.training_owners import contribute
from glyphc.frontends.from_onnx import read_onnx
from glyphc.frontends.to_onnx import to_onnx
from glyphc.ir.graph import Graph
from glyphc.ir.noise import public_encryption
from glyphc.storage.container import Reader
from glyphc.storage.headers import OwnerSpecHeader
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job, Options, RangeSource, make_job, make_owned_job
from glyphc.train.optimizers import SGD, Constant, Followed
from glyphc.train.plan import Plan
from glyphc.train.planning import plan_of
from glyphc.trainer.loop import train
from tests.commands import succeeding

RING = 1024
STEPS, RATE, CLIP = 8, 0.2, 2.0
NETWORK = chain((4, 1))
SIZES = (12, 7, 8)


def owners(seed: int = 3) -> list[tuple[F64, F64]]:
    random = np.random.default_rng(seed)
    return [(x := random.normal(size=(count, 4)), (x.sum(axis=1) > 0).astype(int)) for count in SIZES]


def options(**changes: Any) -> Options:
    usual = Options(SGD(RATE), 8, 4, "binary-cross-entropy", clip=CLIP, source=RangeSource.BOUNDS, insecure_ring=RING)
    return replace(usual, **changes)


def plan(widths: tuple[int, ...], end: str = "sigmoid") -> tuple[Job, Plan]:
    loss = {"sigmoid": "binary-cross-entropy", "softmax": "softmax-cross-entropy"}[end]
    job = make_owned_job(chain(widths, end), 28, options(loss=loss, optimizer=SGD(0.1, 0.3, weight_decay=0.01)))
    return job, plan_of(job)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([(4, 1), (3, 2), (20, 1), (4, 3, 1)]), st.integers(0, 99))
def test_placements_say_what_a_plan_does(widths: tuple[int, ...], seed: int) -> None:
    """Of every layout; and they survive as bytes."""
    of = plan(widths)[1]
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(4, widths[0])), random.integers(2, size=(4, widths[-1])).astype(float)

    def messages(x: F64, y: F64) -> dict[str, F64]:
        return {name: message for name, (message, _) in of.data(x, y).items()}

    found, expected = placements(messages, 4, widths[0], widths[-1]), messages(x, y)
    assert found.keys() == expected.keys()
    for name, place in found.items():
        again = Placement.from_bytes(place.to_bytes(), RING, x.size + y.size + 1)
        np.testing.assert_allclose(again.message(RING, sources_of(x, y)), expected[name], rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match="beyond the ring or its sources"):
        Placement.from_bytes(found["forward:0" if "forward:0" in found else "labels:0"].to_bytes(), RING, 1)


def test_noise_of_public_encryption_is_as_simulated() -> None:
    """And about 40 times that of encryption under the secret key, at this ring."""
    p, random = plan((4, 1))[1].parameters, np.random.default_rng(0)
    maker, seed = TrainingKeyMaker(p, (RING // 4,)), bytes(32)
    key = FreshCiphertexts(maker.client, RING).write(np.zeros(RING), p.linear_limbs, Uniform(seed, PUBLIC_STREAM))
    encryptor, message = PublicEncryptor(p, key, seed), random.uniform(-0.4, 0.4, RING)
    for limbs in (1, p.linear_limbs):
        scale = maker.client.contexts.scales[limbs - 1]
        noise = (maker.client.decrypt(encryptor.encrypt(message, limbs)) - message).std() * scale
        assert noise == pytest.approx(public_encryption(RING), rel=0.15)
    simulated = SimulatedCKKS(p, 1).encrypt_publicly(message, 1) - message
    assert simulated.std() * 2.0**p.linear_bits == pytest.approx(public_encryption(RING), rel=0.15)


def glyphc(*arguments: object) -> None:
    succeeding("training", *arguments)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[F64, F64]]]:
    """A run by the commands: a key holder in the folder "client", a "server" and three owners. Not to be changed; what
    its steps saw."""
    folder = tmp_path_factory.mktemp("begun")
    (folder / "m.onnx").write_bytes(to_onnx(NETWORK).SerializeToString())
    chosen = ("--batch", 4, "--steps", STEPS, "--learning-rate", RATE, "--loss", "binary-cross-entropy")
    folders = ("--client", folder / "client", "--server", folder / "server", "--spec", folder / "owners.spec")
    ranges = ("--ranges", "bounds", "--clip", CLIP, "--insecure-ring", RING)
    glyphc("invite", folder / "m.onnx", "--samples", 28, *chosen, *ranges, *folders)
    parts: list[tuple[F64, F64]] = []
    for number, (x, y) in enumerate(owners()):
        output, data = folder / f"owner{number}", saved(folder, f"owner{number}", x, y)
        spec = ("--spec", folder / "owners.spec", "--insecure")
        glyphc("contribute", *spec, *data, "--first", len(parts), "-o", output)
        for batch in output.iterdir():
            batch.rename(folder / "server" / "batches" / batch.name)
        parts += batches(x, y)
    assert len(parts) == 7
    glyphc("run", "--server", folder / "server")
    return folder, [parts[step % 7] for step in range(STEPS)]


def saved(folder: Path, name: str, x: F64, y: F64) -> tuple[object, ...]:
    """Samples as files, and the options that name them."""
    np.save(folder / f"{name}-x.npy", x)
    np.save(folder / f"{name}-y.npy", y)
    return ("--data", folder / f"{name}-x.npy", "--labels", folder / f"{name}-y.npy")


def batches(x: F64, y: F64) -> list[tuple[F64, F64]]:
    """In the order that a seed of 0 draws; the last one is filled up with the first samples."""
    order = np.random.default_rng(0).permutation(len(x))
    rows = [order[np.arange(4 * b, 4 * b + 4) % len(x)] for b in range(-(-len(x) // 4))]
    return [(x[r], y[r]) for r in rows]


def by_hand(steps: list[tuple[F64, F64, float]]) -> tuple[F64, F64]:
    """Weights and bias of logistic regression after steps on these samples, which are scaled down, at these rates."""
    weight, bias = NETWORK.constant("w0")[0], NETWORK.constant("b0")[0]
    for x, y, rate in steps:
        x = x * np.minimum(1, CLIP / np.linalg.norm(x, axis=1))[:, None]
        error = 1 / (1 + np.exp(-(x @ weight + bias))) - y
        weight, bias = weight - rate * error @ x / 4, bias - rate * error.mean()
    return weight, bias


def assert_trained(folder: Path, steps: list[tuple[F64, F64, float]], output: Path) -> Graph:
    """That what the key holder decrypts is what these steps come to; the network."""
    glyphc("finish", "--client", folder / "client", "--server", folder / "server", "-o", output)
    trained, (weight, bias) = read_onnx(output), by_hand(steps)
    np.testing.assert_allclose(trained.constant("w0")[0], weight, atol=2e-3)
    np.testing.assert_allclose(trained.constant("b0")[0], bias, atol=2e-3)
    return trained


def test_three_owners_train_as_one(begun: tuple[Path, list[tuple[F64, F64]]], tmp_path: Path) -> None:
    """Weights are those of one set of data, up to noise; owners get no model and no secret."""
    folder, seen = begun
    steps = [(x, y, RATE) for x, y in seen]
    assert_trained(folder, steps, tmp_path / "t.onnx")
    assert np.abs(by_hand(steps)[0] - NETWORK.constant("w0")[0]).max() > 0.05


@pytest.mark.slow
def test_what_owners_began_is_gone_on_with_twice(begun: tuple[Path, list[tuple[F64, F64]]], tmp_path: Path) -> None:
    """From state to state, on samples of the key holder's, each time at another rate: all steps by hand, and one run in
    simulation, come to the same weights."""
    for name in ("client", "server"):
        shutil.copytree(begun[0] / name, tmp_path / name)
    steps = [(x, y, RATE) for x, y in begun[1]]
    for number, (count, rate) in enumerate(((8, 0.4), (6, 0.1))):
        x = np.random.default_rng(number).normal(size=(count, 4))
        y = (x[:, 0] > x[:, 1]).astype(int)
        chosen = ("--steps", 2, "--learning-rate", rate, "--state", tmp_path / "server" / TRAINED)
        update, data = tmp_path / f"update{number}", saved(tmp_path, f"more{number}", x, y)
        glyphc("continue", "--client", tmp_path / "client", "--update", update, *chosen, *data)
        shutil.copytree(update, tmp_path / "server", dirs_exist_ok=True)
        glyphc("run", "--server", tmp_path / "server")
        before, steps = steps, [*steps, *((x, y, rate) for x, y in batches(x, y))]
        trained = assert_trained(tmp_path, steps, tmp_path / "t.onnx")
        assert np.abs(by_hand(steps)[0] - by_hand(before)[0]).max() > 0.01
    # all samples as one set, in an order in which a seed of 0 draws them as they came
    at = np.random.default_rng(0).permutation(4 * len(steps))
    x, y = np.empty((len(at), 4)), np.empty((len(at), *steps[0][1].shape[1:]), dtype=int)
    x[at], y[at] = np.concatenate([x for x, _, _ in steps]), np.concatenate([y for _, y, _ in steps])
    rates = Followed(Followed(Constant(), STEPS, 0.4 / RATE), STEPS + 2, 0.1 / RATE)
    chosen = options(optimizer=SGD(RATE, schedule=rates), steps=len(steps), source=RangeSource.TRIAL)
    ranges = TrainingClientFiles.load(tmp_path / "client" / JOB_FILE).plan.ranges
    simulated = train(replace(make_job(NETWORK, x, y, chosen), ranges=ranges), "simulate").network
    for name in ("w0", "b0"):
        np.testing.assert_allclose(trained.constant(name), simulated.constant(name), atol=1e-3)


def test_owners_are_told_what_does_not_fit(tmp_path: Path) -> None:
    network, ((x, y), *_) = chain((4, 1)), owners()
    spec = tmp_path / "owners.spec"
    prepare(make_owned_job(network, 12, options(steps=3)), tmp_path / "client", tmp_path / "server", spec=spec)
    secret = (tmp_path / "client" / "secret.key").read_bytes()
    assert secret not in spec.read_bytes()
    with Reader(spec, OwnerSpecHeader) as reader:  # the public key is random, and may have any two bytes
        assert all(b"w0" not in reader.read(name) for name in reader.parts if name != "public-key")
    cases: list[tuple[Any, Any, int, str]] = [
        (x[:, :3], y, 0, r"shape \(samples, 4\)"),
        (x, y[:5], 0, "12 samples, but 5 labels"),
        (x, y, 1, "12 samples are batches 1 to 3 of 4; the run has batches 0 to 2"),
        (np.where(x > 1, np.nan, x), y, 0, "NaN or infinity"),
    ]
    for samples, labels, first, message in cases:
        with pytest.raises(DataError, match=message):
            contribute(spec, samples, labels, tmp_path / "out", first, insecure=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ParameterError, match="protect nothing"):
        contribute(spec, x, y, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    damaged = bytearray(spec.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    spec.write_bytes(damaged)
    with pytest.raises(ArtifactError, match="is not usable"):
        contribute(spec, x, y, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": RangeSource.TRIAL}, "others' data cannot be tried"),
        ({"batch": None}, "say how many samples a step has"),
        ({"batch": 5}, "come in whole batches"),
        ({"loss": None}, "say what the labels are for"),
        ({"clip": None}, "what norm they clip samples to"),
        ({"loss": "mean-squared-error"}, "no bound that all owners know"),
    ],
)
def test_what_a_key_holder_has_to_say(changes: dict[str, Any], message: str) -> None:
    end = "" if "mean" in str(changes.get("loss")) else "sigmoid"
    with pytest.raises(TrainingError, match=message):
        make_owned_job(chain((4, 1), end), 28, options(**changes))
