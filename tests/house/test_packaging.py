"""What is installed is what was written, and nothing else on the path takes its place: wheel and editable install."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    done = subprocess.run(
        [str(each) for each in command], cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(target: str, source: Path, out: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", out, cwd=source)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def installed(where: Path, *what: str | Path) -> Path:
    """A fresh environment with guardtrail in it. Its dependencies are those of the environment that runs the tests."""
    venv.create(where, with_pip=False)
    python = where / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet", "--no-index", "--no-deps"),
        *("--no-build-isolation", "--root-user-action=ignore", *what),
        cwd=ROOT,
    )
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=where).strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), "utf-8")
    return python


@pytest.fixture(scope="session")
def from_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory.mktemp("from_wheel"), wheel)


@pytest.fixture(scope="session")
def from_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # pip runs the build backend with this interpreter: it needs hatchling, and takes it from the path.
    where = tmp_path_factory.mktemp("from_checkout")
    built = tmp_path_factory.mktemp("editable")
    script = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    run(sys.executable, "-c", script, built, cwd=ROOT)
    return installed(where, *built.iterdir())


def test_wheel_holds_the_package_the_adapters_and_the_packs(wheel: Path) -> None:
    held = names(wheel)
    wanted = {str(file.relative_to(ROOT)) for file in (ROOT / "guard").rglob("*.py")} | {"guard/py.typed"}
    wanted |= {f"guard/adapters/{file.name}" for file in (ROOT / "adapters").glob("*.py")}
    wanted |= {"_guardtrail_pytest.py"}
    wanted |= {f"guard/_packs/{file.name}" for file in (ROOT / "policies").glob("*.yaml")}
    assert {
        "guard/_packs/baseline.yaml",
        "guard/_packs/git-maintainer.yaml",
        "guard/adapters/__init__.py",
        "guard/adapters/mcp.py",
    } <= wanted
    assert {name for name in held if not name.startswith("guardtrail-")} == wanted


def test_wheel_keeps_the_adapters_own_init(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("guard/adapters/__init__.py") == (ROOT / "guard" / "adapters" / "__init__.py").read_bytes()


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (meta,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA")]
        (points,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    for line in ("Name: guardtrail", "License-Expression: Apache-2.0", "Requires-Python: >=3.11", "Provides-Extra: mcp"):
        assert f"\n{line}\n" in meta
    assert "Provides-Extra: all" not in meta
    assert "guardtrail = guard.cli:main" in points
    assert "[pytest11]\nguardtrail = _guardtrail_pytest" in points


def test_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert names(build("wheel", source, tmp_path / "out")) == names(wheel)
    assert not [path for path in source.rglob("*") if path.name in {"__pycache__", ".hypothesis", "results.json"}]


LOOK = """
import importlib.util, json, os, sys
import guard, guard.adapters, guard.packs
found = importlib.util.find_spec("guard.adapters.mcp")
beside = importlib.util.find_spec("guard.adapters.evil")
try:
    import adapters
    foreign = getattr(adapters, "WHO", "namespace")
except ImportError:
    foreign = None
pack = guard.packs.pack_path("baseline")
print(json.dumps({"guard": guard.__file__, "mcp": found and found.origin, "evil": beside is not None, "foreign": foreign,
                  "pack": str(pack), "text": pack.read_text("utf-8"), "packs": guard.packs.packs(), "ran": "evil" in sys.modules}))
"""


@pytest.fixture(params=["package", "namespace"])
def hostile(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A working directory that is also first on `sys.path`, with an `adapters` and a `policies` of its own."""
    adapters, policies = tmp_path / "adapters", tmp_path / "policies"
    adapters.mkdir()
    policies.mkdir()
    if request.param == "package":
        (adapters / "__init__.py").write_text("WHO = 'foreign'\n", "utf-8")
        (policies / "__init__.py").write_text("", "utf-8")
    for name in ("mcp", "_core", "evil"):
        (adapters / f"{name}.py").write_text("import sys; sys.modules['evil'] = sys\n", "utf-8")
    (policies / "baseline.yaml").write_text("guardtrail: 1\nname: hostile\n", "utf-8")
    (policies / "evil.yaml").write_text("guardtrail: 1\nname: evil\n", "utf-8")
    (tmp_path / "_packs").mkdir()
    shutil.copy(policies / "baseline.yaml", tmp_path / "_packs" / "baseline.yaml")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "guardtrail"\n', "utf-8")
    return tmp_path


@pytest.mark.parametrize("install", ["from_wheel", "from_checkout"])
def test_a_foreign_adapters_and_a_hostile_pack_change_nothing(install: str, hostile: Path, request: pytest.FixtureRequest) -> None:
    python: Path = request.getfixturevalue(install)
    seen = json.loads(run(python, "-c", LOOK, cwd=hostile, PYTHONPATH=str(hostile)))
    home = Path(seen["guard"]).parent
    adapters, packs = (home / "adapters", home / "_packs") if install == "from_wheel" else (ROOT / "adapters", ROOT / "policies")
    assert home.is_relative_to(python.parent.parent) == (install == "from_wheel")
    assert Path(seen["mcp"]) == adapters / "mcp.py"
    assert Path(seen["pack"]) == packs / "baseline.yaml"
    assert seen["text"] == (ROOT / "policies" / "baseline.yaml").read_text("utf-8")
    assert not seen["evil"]
    assert not seen["ran"]
    assert "evil" not in seen["packs"]
    assert seen["foreign"] in ("foreign", "namespace"), "the foreign package must stay what its owner finds under `adapters`"


def test_an_installed_package_takes_no_checkout_beside_it(from_wheel: Path) -> None:
    """`../pyproject.toml` of an installed package is in site-packages: anybody's. A packaged adapter settles it."""
    home = Path(run(from_wheel, "-c", "import guard; print(guard.__file__)", cwd=from_wheel.parent).strip()).parent
    beside = home.parent / "adapters"
    beside.mkdir()
    fake = home.parent / "pyproject.toml"
    try:
        (beside / "evil.py").write_text("", "utf-8")
        fake.write_text('[project]\nname = "guardtrail"\n', "utf-8")
        assert run(from_wheel, "-c", "import guard.adapters as a; print(len(a.__path__))", cwd=from_wheel.parent).strip() == "1"
    finally:
        shutil.rmtree(beside)
        fake.unlink()


def test_editable_install_copies_nothing(from_checkout: Path) -> None:
    packages = Path(run(from_checkout, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=from_checkout.parent).strip())
    assert not (packages / "guard").exists()


def test_the_command_is_installed(from_wheel: Path) -> None:
    said = run(from_wheel.parent / "guardtrail", "--help", cwd=from_wheel.parent)
    for verb in ("init", "lint", "test", "check", "explain", "token", "audit"):
        assert verb in said


@pytest.mark.parametrize("install", ["from_wheel", "from_checkout"])
def test_what_pytest_loads_is_installed_and_imports_nothing_of_ours(install: str, request: pytest.FixtureRequest) -> None:
    python: Path = request.getfixturevalue(install)
    look = "import sys, _guardtrail_pytest as p; print(p.__file__, 'guard' in sys.modules)"
    file, loaded = run(python, "-c", look, cwd=python.parent).split()
    assert Path(file).is_relative_to(python.parent.parent) == (install == "from_wheel")
    assert loaded == "False"
