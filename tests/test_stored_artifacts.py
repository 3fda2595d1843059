"""Files that an earlier glyphc wrote: they give what they gave then, or are refused by the version that they are of.

After a change of a format: raise its version, run ``pytest tests/test_stored_artifacts.py --update-golden``, and commit
the new folder beside those of earlier versions, which stay.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import glyphc
from glyphc.errors import ArtifactError
from glyphc.exchange.artifacts import ServerProgram, Specification
from glyphc.exchange.client import load_account
from glyphc.exchange.server import Evaluator
from glyphc.ir.instructions.check import check_schedule
from glyphc.storage import artifact, container
from tests.roles import Setting, compiled, make_setting, samples

STORED = Path(__file__).resolve().parent / "compat"
PROGRAM, FILES = STORED / f"program-{artifact.VERSION}", STORED / f"container-{container.VERSION}"
# The second was compiled when sums went over conjugates and unpackings did not say so.
OF_TODAY = [PROGRAM, *STORED.glob(f"conjugates-{artifact.VERSION}")]
BATCH = 2


def write(setting: Setting) -> None:
    """The folders of today's versions: what a user may have kept, but keys for evaluation, which are large."""
    x = samples(BATCH)
    for folder in (PROGRAM, FILES):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    setting.program.save(PROGRAM / "digits.glyphc")
    np.savez_compressed(PROGRAM / "results.npz", clear=setting.program.run(x, mode="clear"))
    shutil.copytree(setting.client, FILES, dirs_exist_ok=True)
    setting.half.save(FILES / "program.server")
    request = setting.account.encrypt(x, FILES / "request.in")
    with Evaluator(setting.half, setting.keys) as evaluator:
        evaluator.evaluate(FILES / "request.in", FILES / "request.out")
    (logits,) = setting.account.decrypt(FILES / "request.out", request).values()
    np.savez_compressed(FILES / "results.npz", decrypted=logits)


@pytest.fixture(scope="module", autouse=True)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    if request.config.getoption("--update-golden"):
        write(make_setting(tmp_path_factory.mktemp("made"), compiled(BATCH)))


def folders(kind: str, today: int) -> list[Path]:
    """Of earlier versions."""
    return sorted(p for p in STORED.glob(f"{kind}-*") if p.name != f"{kind}-{today}")


@pytest.mark.parametrize("folder", OF_TODAY, ids=lambda p: p.name)
def test_a_program_runs_as_it_did(folder: Path) -> None:
    assert folder.is_dir(), "--update-golden stores files of a new version"
    program = glyphc.load(folder / "digits.glyphc")
    with np.load(folder / "results.npz") as results:
        clear = results["clear"]
    np.testing.assert_array_equal(program.run(samples(BATCH), mode="clear"), clear)
    # the keys that its parameters ask for are those of its instructions
    check_schedule(program.schedule)
    encrypted = program.run(samples(BATCH), mode="encrypted")
    np.testing.assert_allclose(encrypted, clear, atol=0.05 * np.ptp(clear))


def test_results_are_decrypted_with_a_key_from_then(tmp_path: Path) -> None:
    assert FILES.is_dir(), "--update-golden stores files of a new version"
    client = tmp_path / "client"
    shutil.copytree(FILES, client)
    # git keeps no such modes, and a key that others may read is refused
    (client / "secret.key").chmod(0o600)
    account = load_account(client)
    (logits,) = account.decrypt(FILES / "request.out").values()
    with np.load(FILES / "results.npz") as results:
        np.testing.assert_array_equal(logits, results["decrypted"])
    assert ServerProgram.load(FILES / "program.server").fingerprint == Specification.load(FILES / "client.spec").program


@pytest.mark.parametrize("folder", folders("program", artifact.VERSION), ids=lambda p: p.name)
def test_programs_of_earlier_versions_are_refused_by_name(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=f"version {folder.name.rpartition('-')[2]}"):
        glyphc.load(folder / "digits.glyphc")


@pytest.mark.parametrize("folder", folders("container", container.VERSION), ids=lambda p: p.name)
def test_files_of_earlier_versions_are_refused_by_name(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=f"version {folder.name.rpartition('-')[2]}"):
        Specification.load(folder / "client.spec")
