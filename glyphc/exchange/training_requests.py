"""The files of encrypted prediction with trained weights, for both sides: what a request holds, and its checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glyphc.errors import ArtifactError
from glyphc.ir.errors import IRError
from glyphc.ir.instructions.ckks import LOGITS, Code, check
from glyphc.ir.instructions.ckks_operands import check_operands
from glyphc.ir.instructions.text import CKKS
from glyphc.ir.parameters import Parameters
from glyphc.ir.typed_json import TypedJSON
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingRequestHeader

from .artifacts import read_seed
from .code_parts import CODE_FAULTS, code_part, read_code
from .training_files import Named, ProgramFile, check_run

_JSON = TypedJSON()
MOST_PASSES = 1 << 20
OUTLINE = "outline"


@dataclass(frozen=True)
class RequestOutline:
    """data: names and limbs of a pass's ciphertexts; passes: how many; code: SHA-256 of the instructions."""

    data: Named
    passes: int
    code: str

    def text(self) -> str:
        return _JSON.text(self, RequestOutline)


def sample_part(number: int, at: int) -> str:
    """Of ciphertext ``at`` of a pass."""
    return f"{number:06d}/{at:06d}"


def sample_stream(number: int, at: int) -> str:
    """Of the residues that it takes from the request's seed."""
    return f"request/{sample_part(number, at)}"


def read_request(reader: Reader[TrainingRequestHeader], program: ProgramFile, key: str) -> tuple[RequestOutline, Code]:
    """What a request asks for, checked as hostile; ArtifactError for one of another run, or that breaks a rule."""
    check_run(reader, program, key)
    try:
        outline: RequestOutline = _JSON.read(reader.read(OUTLINE).decode(errors="replace"), RequestOutline)
        names = {name for name, _ in outline.data}
        if len(names) != len(outline.data) or names & {name for name, _ in program.outline.state}:
            raise IRError("a ciphertext is named twice")
        if any(not 1 <= limbs <= program.parameters.linear_limbs for _, limbs in outline.data):
            raise IRError("a ciphertext has no limbs, or too many")
        if not 1 <= outline.passes <= MOST_PASSES or not outline.data:
            raise IRError("it has no samples, or too many")
        read_seed(reader.header.seed, reader)
        code = read_code(reader, 0, outline.code, CKKS)
        check_operands(code, program.parameters, program.outline.periods)
        limbs = dict((*outline.data, *program.outline.state))
        stored = check(code, limbs, program.parameters.decoded_limbs - 1, program.parameters.slot_levels)
        if stored != {LOGITS: 1}:
            raise IRError("it does not store logits on one limb, and nothing else")
    except CODE_FAULTS as e:
        raise reader.damaged(f"what it asks for is unreadable ({e})") from None
    if reader.header.step < 0:
        raise ArtifactError(f"{reader.name} asks for weights before the first step")
    return outline, code


def expected_parts(
    outline: RequestOutline, sizes: Callable[[int], Sequence[int]], reader: Reader[TrainingRequestHeader]
) -> None:
    """ArtifactError unless a request has exactly its parts. sizes: of a fresh ciphertext on so many limbs, any of
    them."""
    parts = reader.parts
    head = [(name, parts[name].size if name in parts else 0) for name in (OUTLINE, code_part(0))]
    # before as many names are made as a stranger asks for
    count = len(head) + outline.passes * len(outline.data)
    if len(parts) != count:
        raise reader.damaged(f"it has {len(parts)} parts, not {count}")
    rest = []
    for number in range(outline.passes):
        for at, (_, limbs) in enumerate(outline.data):
            name, possible = sample_part(number, at), sizes(limbs)
            found = parts[name].size if name in parts else 0
            rest.append((name, found if found in possible else possible[0]))
    reader.expect([*head, *rest])


def possible_sizes(parameters: Parameters, limbs: int) -> Sequence[int]:
    """Bytes of a fresh ciphertext, known without OpenFHE, whose primes lie on both sides of 2^linear_bits."""
    fewest, most = ((parameters.linear_bits + more + 7) // 8 for more in (0, 1))
    ring = parameters.ring
    return range(ring * limbs * fewest, ring * limbs * most + 1, ring)
