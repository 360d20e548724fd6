"""settings.ini, constraints.txt, environment.yml and pyproject.toml agree, and install."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
# What other platforms and CUDA builds of torch add.
ELSEWHERE = ("nvidia-", "cuda-", "triton", "appnope", "colorama", "pywin")
KEYS = {"": "requirements", "notebooks": "notebooks_requirements", "dev": "dev_requirements"}
SOURCES = [
    "settings.ini",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "constraints.txt",
    "environment.yml",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
]


def settings():
    """The one section of settings.ini."""
    config = configparser.ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def requirements(extra):
    """The requirements of the library ('') or of one of its extras."""
    return [Requirement(line) for line in settings()[KEYS[extra]].splitlines() if line.strip()]


def pins():
    """constraints.txt as {canonical name: version}; only exact pins are allowed there."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line)
            assert match, f"constraints.txt: not an exact pin without a local part: {line!r}"
            name = canonicalize_name(match[1])
            assert name not in found, f"constraints.txt pins {name} twice"
            found[name] = match[2]
    return found


def environment():
    """environment.yml: (the file, conda's dependencies, pip's lines)."""
    spec = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in spec["dependencies"] if isinstance(entry, str)]
    pip = [
        line for entry in spec["dependencies"] if isinstance(entry, dict) for line in entry["pip"]
    ]
    return spec, conda, pip


def needed(roots):
    """The installed distributions that the requirements lead to: {canonical name: version}."""
    found = {}
    queue = list(roots)
    seen = set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        extras = frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        distribution = metadata.distribution(name)
        found[name] = distribution.version.split("+")[0]
        for child in map(Requirement, distribution.requires or []):
            environments = [default_environment() | {"extra": extra} for extra in extras or {""}]
            if child.marker is None or any(map(child.marker.evaluate, environments)):
                queue.append(child)
    return found


@pytest.mark.parametrize("extra", KEYS)
def test_every_requirement_is_pinned_within_its_bounds(extra):
    pinned = pins()
    for requirement in requirements(extra):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} ({KEYS[extra]}) has no pin in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), (
            f"{requirement} does not admit the pinned {pinned[name]}"
        )
        assert (
            any(spec.operator in (">=", "~=") for spec in requirement.specifier) or name == "ghapi"
        ), f"{requirement} has no lower bound"


def test_the_pins_that_the_project_stands_on():
    """2026-11: newer execnb, fastcore and ghapi break nbdev 2 at import.

    An unpinned torch brings gigabytes of CUDA packages.
    """
    bounds = {
        canonicalize_name(requirement.name): str(requirement.specifier)
        for requirement in requirements("dev")
    }
    assert bounds["nbdev"] == "<3,>=2.4.14"
    assert bounds["execnb"] == "<0.2,>=0.1.18"
    assert bounds["fastcore"] == "<2,>=1.12.6"
    assert bounds["ghapi"] == "<2"
    assert pins()["torch"] == "2.13.0" and pins()["nbdev"] == "2.4.14"
    assert "torchvision" not in pins()


def test_the_set_is_complete_and_is_the_one_that_runs():
    """What the requirements lead to is pinned at the version that runs; nothing else is pinned."""
    pinned = pins()
    running = needed(requirement for extra in KEYS for requirement in requirements(extra))
    running = {name: version for name, version in running.items() if not name.startswith(ELSEWHERE)}
    assert {name: pinned.get(name) for name in running} == running
    if sys.version_info[:2] == (3, 11):
        assert not pinned.keys() - running.keys(), "pinned, and nothing needs it"


def test_pyproject_and_environment_agree_with_settings():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    config = settings()
    assert pyproject["project"]["name"] == config["lib_name"]
    assert pyproject["project"]["requires-python"] == ">=" + config["min_python"]
    assert not {"version", "dependencies", "optional-dependencies"} - set(
        pyproject["project"]["dynamic"]
    )
    spec, conda, pip = environment()
    assert spec["name"] == config["lib_name"]
    python = next(
        Requirement(entry.replace("=", "==", 1) + ".*")
        for entry in conda
        if entry.startswith("python=")
    )
    assert Version(str(python.specifier).strip("=.*")) >= Version(config["min_python"])
    assert "pip" in conda
    assert pip[0] == "-c constraints.txt", (
        "an install without the constraints takes untested versions, and torch with CUDA"
    )
    extras = sorted(re.fullmatch(r"-e \.\[(.*)\]", pip[1])[1].split(","))
    assert extras == sorted(extra for extra in KEYS if extra) and len(pip) == 2


def test_versions_agree():
    import memdpc

    assert memdpc.__version__ == settings()["version"] == metadata.version("memdpc")


def run(*command, cwd, **env):
    """Run a command to its end; its output where it fails."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}"
    return done.stdout


def copy_sources(target):
    """The files that a package is built from, and nothing else of the work tree."""
    target.mkdir()
    for name in SOURCES:
        shutil.copy2(ROOT / name, target)
    leave_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "memdpc", target / "memdpc", ignore=leave_out)
    return target


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A copy of the sources, and environment.yml's pip part installed into a new environment.

    As conda does it: from a requirements file.
    """
    folder = tmp_path_factory.mktemp("install")
    source = copy_sources(folder / "memdpc")
    env = folder / "env"
    (source / "pip-part.txt").write_text("\n".join(environment()[2]) + "\n")
    run(sys.executable, "-m", "venv", env, cwd=folder)
    run(env / "bin/python", "-m", "pip", "install", "--quiet", "-r", "pip-part.txt", cwd=source)
    return source, env / "bin"


@pytest.mark.slow
@pytest.mark.xdist_group("install")
def test_the_pip_part_of_environment_yml_installs(fresh):
    source, programs = fresh
    run(programs / "python", "-m", "pip", "check", cwd=source)
    command = ("pip", "list", "--format", "json", "--disable-pip-version-check")
    listed = json.loads(run(programs / "python", "-m", *command, cwd=source).splitlines()[-1])
    installed = {
        canonicalize_name(entry["name"]): entry["version"].split("+")[0] for entry in listed
    }
    assert {name: installed[name] for name in installed if name not in ("pip", "memdpc")} == pins()
    run(
        programs / "python",
        "-c",
        "import nbdev.export, papermill, jupyterlab, ipywidgets, torch, memdpc",
        cwd=source.parent,
    )
    assert "pretrain" in run(programs / "memdpc", "--help", cwd=source.parent)
    assert "pretrain" in run(programs / "python", "-m", "memdpc", "--help", cwd=source.parent)


@pytest.mark.slow
@pytest.mark.xdist_group("install")
def test_the_wheel_holds_the_library_and_nothing_else(fresh, tmp_path):
    """The wheel has every module, the licence and what settings.ini requires."""
    source, programs = fresh
    options = ("--quiet", "--no-deps", "--no-build-isolation")
    run(programs / "python", "-m", "pip", "wheel", *options, "-w", tmp_path, ".", cwd=source)
    (wheel,) = tmp_path.glob("*.whl")
    (distribution,) = metadata.distributions(path=[str(unpack(wheel, tmp_path / "site"))])
    files = {str(path) for path in distribution.files}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "memdpc").rglob("*.py")}
    assert modules | {"memdpc/py.typed"} <= files
    assert all(name.startswith(("memdpc/", "memdpc-")) for name in files)
    assert any(name.endswith("LICENSE") for name in files)
    declared = {
        str(requirement)
        for requirement in map(Requirement, distribution.requires)
        if requirement.marker is None
    }
    assert declared == {str(requirement) for requirement in requirements("")}


def unpack(wheel, folder):
    """Unpack a wheel, which is a zip file."""
    shutil.unpack_archive(wheel, folder, "zip")
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("install")
def test_the_wheel_runs_with_the_base_dependencies_alone(tmp_path):
    """2026-11: a library that imported a development tool, which only the authors had."""
    source = copy_sources(tmp_path / "memdpc")
    env = tmp_path / "env"
    run(sys.executable, "-m", "venv", env, cwd=tmp_path)
    pip = (env / "bin/python", "-m", "pip")
    run(*pip, "wheel", "--quiet", "--no-deps", "-w", tmp_path, ".", cwd=source)
    (wheel,) = tmp_path.glob("*.whl")
    run(*pip, "install", "--quiet", "-c", "constraints.txt", wheel, cwd=source)
    run(*pip, "check", cwd=tmp_path)
    program = "from memdpc import MemDPC, pretrain; MemDPC('tiny', img_size=32)"
    run(env / "bin/python", "-c", program, cwd=tmp_path)
    assert "pretrain" in run(env / "bin/memdpc", "--help", cwd=tmp_path)
