"""ir/ and backends/ lie beside glyphc/ but belong to it, in the wheel and in the source tree."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"glyphc": ROOT / "glyphc", "glyphc/ir": ROOT / "ir", "glyphc/backends": ROOT / "backends"}
LINKS = {ROOT / "glyphc" / "ir": "../ir", ROOT / "glyphc" / "backends": "../backends"}
PAYLOAD = {".py", ".lark", ".css", ".html", ".js", ".typed"}


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that imports from `cwd` first."""
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


def source_files() -> set[str]:
    """What the wheel must hold, by its names there."""
    found = set()
    for prefix, folder in PACKAGES.items():
        for path in folder.rglob("*"):
            # Whether rglob follows links depends on Python's version; each file counts once, where it lies.
            if path.suffix in PAYLOAD and not any(link in path.parents for link in LINKS):
                found.add(f"{prefix}/{path.relative_to(folder).as_posix()}")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build folder left in the tree would bring old modules back."""
    tree = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("glyphc", "ir", "backends"):
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=ignore)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree / file)
    dist = tmp_path_factory.mktemp("dist")
    build = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist, tree],
        cwd=dist,
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    (path,) = dist.glob("*.whl")
    return path


def test_the_wheel_has_one_top_level(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"glyphc", "glyphc-0.1.0.dist-info"}
    assert "glyphc-0.1.0.dist-info/licenses/LICENSE" in names


def test_the_wheel_holds_every_source_file_and_no_other(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("glyphc-")}
    assert names == source_files()
    assert {"glyphc/py.typed", "glyphc/ir/__init__.py", "glyphc/backends/openfhe/__init__.py"} <= names


def test_the_unpacked_wheel_imports(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    result = python("import glyphc.ir, glyphc.backends; print(glyphc.ir.__file__)", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()) == tmp_path / "glyphc" / "ir" / "__init__.py"


@pytest.mark.parametrize(("link", "target"), LINKS.items(), ids=lambda value: Path(value).name)
def test_the_source_tree_links_its_packages(link: Path, target: str) -> None:
    assert link.is_symlink(), f"{link} must be a symbolic link (on checkout: git config core.symlinks true)"
    assert link.readlink() == Path(target)


def test_the_source_tree_imports_by_full_name() -> None:
    result = python("import glyphc.ir, glyphc.backends; print(glyphc.ir.__name__)", cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "glyphc.ir"


def test_ir_refuses_to_be_a_top_level_module() -> None:
    result = python("import ir", cwd=ROOT)
    assert result.returncode != 0
    assert "ImportError" in result.stderr
    assert "glyphc.ir" in result.stderr
