"""Files of the roles: what makes and what reads them."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path
from random import Random
from typing import Any

from glyphc.exchange.key_checks import check_keys
from glyphc.exchange.parts import check_count, input_places, output_places
from glyphc.exchange.requests import check_request
from glyphc.exchange.secret import Secret
from glyphc.ir.text import record_text
from glyphc.storage.container import Reader
from glyphc.storage.headers import HEADERS
from glyphc.storage.withheld import load_secrets

from . import seeds
from .mutate import integer, mutated_bytes, mutated_text
from .target import Reached, Target, random_of

# -- containers of the roles --


def _container(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "f"
    path.write_bytes(data)
    kind = random_of(data).choice(HEADERS)
    for header in HEADERS:
        if header.kind.encode() in data:
            kind = header
    with Reader(path, kind) as reader:
        reached("read")
        reader.verify()


def _make_container(random: Random) -> bytes:
    """Half of them raw bytes, half with another manifest."""
    data = random.choice(seeds.containers())
    if random.random() < 0.5:
        return mutated_bytes(random, data, seeds.containers())
    start = data.index(b'{\n "format"')
    end = data.index(b"}\n", data.index(b'"parts"')) + 2
    return _with_manifest(mutated_text(random, data[start:end]))


def _with_manifest(text: bytes) -> bytes:
    return seeds.zipped({"a": b"abc", "b/0": bytes(100), "secret": bytes(seeds.RING), "manifest.json": text})


def _secret(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "secret.key"
    path.write_bytes(data)
    Secret.load(path)
    reached("read")


def _header_of(random: Random, kind: type[Any], **usual: Any) -> Any:
    """A header, one of its fields perhaps hostile."""
    values = {f.name: usual.get(f.name, "") for f in dataclasses.fields(kind)}
    if random.random() < 0.7:
        name = random.choice(list(values))
        old = values[name]
        if isinstance(old, int):
            values[name] = abs(integer(random))
        else:
            values[name] = mutated_text(random, str(old).encode()).decode(errors="replace")
    return kind(**values)


def _make_secret(random: Random) -> bytes:
    from glyphc.storage.headers import SecretHeader

    parameters = record_text(seeds.halves()[0].specification.client.parameters)
    header = _header_of(random, SecretHeader, key="1" * 64, parameters=parameters, scrypt_log2_cost=0)
    data = bytes(random.choice((0, 1, 2, 255)) for _ in range(8)) + bytes(seeds.RING - 8)
    return seeds.container(header, {"secret": data[: random.choice((seeds.RING, seeds.RING, 10, 0))]})


def _inputs(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "x.enc"
    path.write_bytes(data)
    half = seeds.halves()[0]
    check_request(path, half, "1" * 64, (1 << 40) - 87)
    reached("read")


def _make_inputs(random: Random) -> bytes:
    from glyphc.storage.headers import InputsHeader

    half = seeds.halves()[0]
    samples = random.choice((1, 2, 3, 4, 5))
    header = _header_of(random, InputsHeader, program=half.fingerprint, key="1" * 64, samples=samples, seed="3" * 64)
    client = half.specification.client
    passes = -(-samples // client.batch)
    names = [p.name for n in range(passes) for p in input_places(client, samples, n)]
    size = seeds.RING * 5 if random.random() < 0.8 else abs(integer(random)) % 10_000
    return seeds.container(header, {n: bytes(size) for n in names})


def _keys(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "evaluation.keys"
    path.write_bytes(data)
    check_keys(path, seeds.halves()[random_of(data).randrange(3)])
    reached("read")


def _make_keys(random: Random) -> bytes:
    from glyphc.storage.headers import KeysHeader

    half = random.choice(seeds.halves())
    parameters = record_text(half.specification.client.parameters)
    header = _header_of(random, KeysHeader, parameters=parameters, modulus=(1 << 40) - 87, seed="3" * 64)
    parts = {"a": bytes(10), "weights/program": random.choice((half.fingerprint.encode(), b"\xff", b""))}
    return seeds.container(header, parts)


def _outputs(data: bytes, folder: Path, reached: Reached) -> None:
    from glyphc.storage.headers import OutputsHeader

    path = folder / "y.enc"
    path.write_bytes(data)
    with Reader(path, OutputsHeader) as reader:
        check_count(reader, reader.header.samples, seeds.halves()[0].specification.client, output_places)
        reached("read")
        reader.verify()


def _make_outputs(random: Random) -> bytes:
    from glyphc.storage.headers import OutputsHeader

    usual = {"program": "0" * 64, "key": "1" * 64, "request": "2" * 64, "samples": 2}
    header = _header_of(random, OutputsHeader, **usual, modulus_bits=30, flooding_bits=0)
    return seeds.container(header, {f"000000/000/{n:05d}": b"abc" for n in range(random.randint(1, 3))})


def _weights(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "m.weights"
    path.write_bytes(data)
    program = seeds.programs()[1]
    load_secrets(path, program.public_stages, program.fingerprint)
    reached("read")


def _make_weights(random: Random) -> bytes:
    from glyphc.storage.headers import WeightsHeader

    parts = dict(seeds.secret_parts())
    name = random.choice(list(parts))
    match random.randrange(3):
        case 0:
            parts[name] = mutated_bytes(random, parts[name])
        case 1:
            parts[name] = zlib.compress(bytes(random.choice((0, 1, 1 << 10, 1 << 20))))
        case _:
            parts[name] = zlib.compress(mutated_bytes(random, zlib.decompress(parts[name])))
    return seeds.container(WeightsHeader(seeds.programs()[1].fingerprint), parts)


CONTAINERS = (
    Target("container", _make_container, _container, 200),
    Target("secret", _make_secret, _secret, 8),
    Target("inputs", _make_inputs, _inputs, 10),
    Target("keys", _make_keys, _keys, 8),
    Target("outputs", _make_outputs, _outputs, 10),
    Target("weights", _make_weights, _weights, 2, slow=True),
)
