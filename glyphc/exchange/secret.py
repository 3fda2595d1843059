"""The file of the secret key: readable by its owner only, encrypted if there is a passphrase."""

from __future__ import annotations

import os
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from glyphc.backends.coredumps import no_core_dumps
from glyphc.errors import ArtifactError, GlyphcError, SecretError
from glyphc.ir.integer_parameters import ProgramParameters
from glyphc.ir.text import record_text
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import SecretHeader

from .artifacts import read_program_parameters

# 128 MiB and about half a second for each guess of a passphrase (RFC 7914 with r = 8, p = 1).
_LOG2_COST = 17
_MOST_LOG2_COST = 20
_TAG_BYTES = 16
_H = TypeVar("_H", bound=SecretHeader)


@dataclass(frozen=True, eq=False)
class Secret:
    """A client's secret: the ternary key, shape (N,); key: the digest of the evaluation keys made from it.

    Its repr does not show it.
    """

    key: str
    parameters: ProgramParameters
    ternary: npt.NDArray[np.int64] = field(repr=False)

    def save(self, path: Path, passphrase: str | None = None) -> None:
        """Write with mode 0600; never in the clear if there is a passphrase."""
        data = self.ternary.astype(np.int8).tobytes()
        write_secret(path, SecretHeader(self.key, record_text(self.parameters), 0, "", ""), data, passphrase)

    @staticmethod
    def load(path: Path, passphrase: str | None = None) -> Secret:
        """Read it; SecretError when it needs a passphrase or another one, ArtifactError when it is damaged."""
        with Reader(path, SecretHeader) as reader:
            parameters = read_program_parameters(reader.header.parameters, reader)
            data = read_secret(reader, passphrase, parameters.ring)
            ternary = np.frombuffer(data, dtype=np.int8).astype(np.int64)
            if int(np.abs(ternary).max()) > 1:
                raise reader.damaged("it holds no ternary secret")
            return Secret(reader.header.key, parameters, ternary)


def write_secret(path: Path, header: SecretHeader, data: bytes, passphrase: str | None) -> None:
    """A file of mode 0600 with these bytes, encrypted if there is a passphrase. header: without an encryption."""
    if passphrase is not None:
        salt, nonce = os.urandom(16), os.urandom(12)
        header = replace(header, scrypt_log2_cost=_LOG2_COST, salt=salt.hex(), nonce=nonce.hex())
        data = AESGCM(_stretch(normalized(passphrase), salt, _LOG2_COST)).encrypt(nonce, data, _bound(header))
    with Writer(path, header, secret=True) as writer:
        writer.add("secret", data)


def read_secret(reader: Reader[_H], passphrase: str | None, size: int | None = None) -> bytes:
    """What :func:`write_secret` wrote. size: in bytes, if known.

    SecretError when it needs a passphrase or another one, ArtifactError when it is damaged.
    """
    no_core_dumps()
    encrypted = reader.header.scrypt_log2_cost > 0
    if size is None:
        reader.expect([("secret", reader.parts["secret"].size if "secret" in reader.parts else 0)])
    else:
        reader.expect([("secret", size + _TAG_BYTES * encrypted)])
    data = reader.read("secret")
    if encrypted:
        return _decrypt(data, reader, passphrase)
    if passphrase is not None:
        raise SecretError(f"{reader.name} is not encrypted; use it without a passphrase")
    return data


def needs_passphrase(path: Path, header: type[SecretHeader] = SecretHeader) -> bool:
    """Whether the key in a file is encrypted."""
    with Reader(path, header) as reader:
        return reader.header.scrypt_log2_cost > 0


def check_apart(client: Path, server: Path) -> None:
    """GlyphcError when the client's folder is the server's, or lies in it: the whole of that one is handed over.

    Links are followed; neither folder needs to exist.
    """
    own, sent = client.resolve(), server.resolve()
    if own == sent:
        raise GlyphcError("the client's folder and the server's must be two: the secret key is not for the server")
    if own.is_relative_to(sent):
        raise GlyphcError(
            f"the client's folder {os.fspath(client)!r} lies in the server's, {os.fspath(server)!r}, and would be sent "
            "along with it: the secret key is not for the server. Use two folders side by side"
        )


def check_mode(path: Path) -> None:
    """ArtifactError when others may read the file."""
    if path.stat().st_mode & 0o077:
        raise ArtifactError(f"the secret key {os.fspath(path)!r} may be read by others; do 'chmod 600' on it first")


def _decrypt(data: bytes, reader: Reader[_H], passphrase: str | None) -> bytes:
    header = reader.header
    if passphrase is None:
        raise SecretError(f"the secret key {reader.name} is encrypted and needs its passphrase")
    try:
        salt, nonce = bytes.fromhex(header.salt), bytes.fromhex(header.nonce)
    except ValueError:
        raise reader.damaged("its header is unreadable") from None
    if header.scrypt_log2_cost > _MOST_LOG2_COST or len(salt) != 16 or len(nonce) != 12:
        raise reader.damaged("its header asks for an unusual encryption")
    # files made before passphrases were normalized took them as they were typed
    for text in dict.fromkeys((normalized(passphrase), passphrase)):
        with suppress(InvalidTag):
            return AESGCM(_stretch(text, salt, header.scrypt_log2_cost)).decrypt(nonce, data, _bound(header))
    raise SecretError(f"wrong passphrase for {reader.name} (or its header was changed)")


def normalized(passphrase: str) -> str:
    """A passphrase in Unicode's form NFKC: keyboards and terminals write one text in several ways."""
    return unicodedata.normalize("NFKC", passphrase)


def _stretch(passphrase: str, salt: bytes, log2_cost: int) -> bytes:
    raw = passphrase.encode("utf-8", "surrogateescape")
    return Scrypt(salt=salt, length=32, n=1 << log2_cost, r=8, p=1).derive(raw)


def _bound(header: SecretHeader) -> bytes:
    """What the encryption also protects against changes."""
    return f"{header.key}\n{header.parameters}".encode()
