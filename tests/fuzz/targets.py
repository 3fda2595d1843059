"""What is fuzzed: for every format, how an input is made and what reads it.

``feed`` raises one of ``refusals`` for an input that is refused, returns for one that is accepted, and calls
``reached`` on its way: "read" behind the reader, "compiled" behind the passes. Everything else is a failure.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
import zlib
from pathlib import Path
from random import Random

from glyphc.analysis import cost_file
from glyphc.commands.arrays import load_arrays
from glyphc.exchange.training_client import TrainingClientFiles
from glyphc.exchange.training_files import ProgramFile
from glyphc.ir.errors import IRError
from glyphc.ir.instructions.ckks import check
from glyphc.ir.instructions.ckks_operands import check_operands
from glyphc.ir.instructions.text import CKKS, parse_code
from glyphc.ir.text import record_text
from glyphc.service.settings import load_tokens
from glyphc.storage.headers import TrainingProgramHeader

from . import seeds
from .container_targets import CONTAINERS
from .mutate import integer, mutated_bytes, mutated_text
from .network_targets import NETWORKS
from .target import Reached, Target, json_value

# -- training --


def _ckks(data: bytes, folder: Path, reached: Reached) -> None:
    code = parse_code(data.decode(), CKKS)
    reached("read")
    program = seeds.training()
    check_operands(code, program.parameters, program.outline.periods)
    check(code, program.outline.limbs, program.parameters.decoded_limbs - 1, program.parameters.slot_levels)


def _make_ckks(random: Random) -> bytes:
    text = zlib.decompress(random.choice(seeds.training().codes))
    lines = text.split(b"\n")[1:-1]
    start = random.randrange(len(lines))
    piece = lines[start : start + random.randint(1, 8)]
    body = b"\n".join([CKKS.head.encode(), *piece]) + b"\n"
    return mutated_text(random, body, [b"load", b"scaled", b"product", b"sum", b"target", b"source", b"free", b"pack"])


def _training_program(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "program.training"
    path.write_bytes(data)
    with ProgramFile(path) as program:
        reached("read")
        for step in range(min(program.outline.steps, 3)):
            program.code(step)


def _make_training_program(random: Random) -> bytes:
    program = seeds.training()
    outline = json.loads(json.dumps(dataclasses.asdict(program.outline)))
    parameters = record_text(program.parameters).encode()
    codes = [zlib.decompress(c) for c in program.codes]
    match random.randrange(3):
        case 0:
            parameters = mutated_text(random, parameters)
        case 1:
            at = random.randrange(len(codes))
            codes[at] = mutated_text(random, codes[at])
        case _:
            outline[random.choice(list(outline))] = json_value(random)
    outline["codes"] = [hashlib.sha256(c).hexdigest() for c in codes]
    text = json.dumps(outline, separators=(",", ":")).encode()
    if random.random() < 0.3:
        text = mutated_text(random, text)
    declared = parameters.decode(errors="replace")
    fingerprint = hashlib.sha256(f"{declared}\n".encode() + text).hexdigest()
    parts = {"outline": text, **{f"code/{i:06d}": zlib.compress(c, 1) for i, c in enumerate(codes)}}
    return seeds.container(TrainingProgramHeader(fingerprint, declared, 1000), parts)


def _training_job(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "training.job"
    path.write_bytes(data)
    TrainingClientFiles.load(path)
    reached("read")


def _make_training_job(random: Random) -> bytes:
    from glyphc.exchange.training_client import RECORD_JSON, JobRecord
    from glyphc.ir.text import to_text
    from glyphc.storage.headers import TrainingJobHeader

    job = seeds.job()
    record = JobRecord(job.options, job.loss.name, 60, 24, seeds.plan().ranges)
    network = to_text(job.network).encode()
    text = RECORD_JSON.text(record, JobRecord).encode()
    if random.random() < 0.6:
        text = mutated_text(random, text)
    else:
        network = mutated_text(random, network)
    header = TrainingJobHeader(seeds.training().fingerprint, "1" * 64)
    return seeds.container(header, {"network": network, "job": text})


# -- small files --


def _cost(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "cost.json"
    path.write_bytes(data)
    cost_file.load(path)
    reached("read")


def _make_cost(random: Random) -> bytes:
    if random.random() < 0.5:
        return mutated_text(random, seeds.cost_text())
    tree = json.loads(seeds.cost_text())
    place = tree
    while isinstance(place, dict | list) and place and random.random() < 0.9:
        key = random.choice(list(place)) if isinstance(place, dict) else random.randrange(len(place))
        if random.random() < 0.4 or not isinstance(place[key], dict | list):
            place[key] = json_value(random)
            break
        place = place[key]
    return json.dumps(tree).encode()


def _tokens(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "tokens"
    path.write_bytes(data)
    load_tokens(path)
    reached("read")


def _make_tokens(random: Random) -> bytes:
    names = ("alice", "bob-2", "x" * 64, "Ünï", "a b", "")
    ends = ("2030-01-01T00:00:00Z", "2000-01-01T12:34:56Z", "2030-01-01T00:00:00Z", "never", "9999-99-99", "")
    lines = [
        f"{random.choice(names)} {random.randbytes(32).hex()} {random.choice(ends)}"
        for _ in range(random.randint(1, 4))
    ]
    text = "\n".join(["# tokens", *lines, ""]).encode()
    return mutated_text(random, text) if random.random() < 0.8 else text


def _array(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "x.npy"
    path.write_bytes(data)
    load_arrays(str(path), "input")
    reached("read")


def _make_array(random: Random) -> bytes:
    data = random.choice(seeds.arrays())
    if random.random() < 0.4:
        shape = tuple(abs(integer(random)) for _ in range(random.randint(0, 3)))
        kind = random.choice(("<f8", "<f4", "|O", "<M8[s]", "|S5", "<f99"))
        header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
        padded = header.encode().ljust(117) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + bytes(random.randint(0, 64))
    return mutated_bytes(random, data, seeds.arrays())


_OTHERS = (
    Target("ckks", _make_ckks, _ckks, 280, refusals=(IRError, UnicodeDecodeError)),
    Target("training-program", _make_training_program, _training_program, 3, slow=True),
    Target("training-job", _make_training_job, _training_job, 1, slow=True),
    Target("cost-file", _make_cost, _cost, 20),
    Target("tokens", _make_tokens, _tokens, 200),
    Target("arrays", _make_array, _array, 120),
)

TARGETS: dict[str, Target] = {t.name: t for t in (*NETWORKS, *CONTAINERS, *_OTHERS)}
