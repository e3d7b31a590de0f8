"""What a stranger gets: three wheels that hold their own package, and ask for all they need and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.packaging.wheels import DISTRIBUTIONS, ROOT, Distribution, Environment, build, contents, environment

pytestmark = pytest.mark.timeout(300)  # a cold cache fetches every dependency

each_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda distribution: distribution.name)

IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys
package, left_out = sys.argv[1:]
importlib.import_module(package)
seen = [package]
for module in pkgutil.walk_packages([*sys.modules[package].__path__], f"{package}."):
    if not module.name.startswith(left_out) and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        seen.append(module.name)
print(json.dumps([seen, sys.modules[package].__file__]))
"""
LIST_DISTRIBUTIONS = """
import importlib.metadata, json
print(json.dumps([distribution.name.lower() for distribution in importlib.metadata.distributions()]))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("wheels"))


def install(directory: Path, *what: str | Path) -> Environment:
    """The wheels and what their metadata asks for, in the versions of our lock."""
    made = environment(directory)
    made.install("--constraint", ROOT / "requirements" / "dev.lock", *what)
    return made


def import_everything(where: Environment, package: str, left_out: str = "-") -> list[str]:
    modules: list[str]
    modules, file = json.loads(where.run("python", "-c", IMPORT_EVERYTHING, package, left_out))
    assert Path(file).is_relative_to(where.directory)
    return modules


def installed(where: Environment) -> set[str]:
    return set(json.loads(where.run("python", "-c", LIST_DISTRIBUTIONS)))


@each_distribution
def test_a_wheel_holds_its_own_package_and_nothing_else(distribution: Distribution, wheels: dict[str, Path]) -> None:
    names = contents(wheels[distribution.name])
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {distribution.package}
    assert len(top) == 2
    suffixes = {Path(name).suffix for name in names if name.startswith(f"{distribution.package}/")}
    assert suffixes <= {".py", ".pyi", ".proto", ".typed"}


@each_distribution
def test_a_wheel_is_typed_and_carries_its_licence(distribution: Distribution, wheels: dict[str, Path]) -> None:
    names = contents(wheels[distribution.name])
    assert f"{distribution.package}/py.typed" in names
    assert [name for name in names if name.endswith("dist-info/licenses/LICENSE")]


@each_distribution
def test_every_module_of_the_source_is_in_the_wheel(distribution: Distribution, wheels: dict[str, Path]) -> None:
    modules = {str(file.relative_to(distribution.project)) for file in distribution.source.rglob("*.py")}
    assert modules <= set(contents(wheels[distribution.name]))


def test_the_library_carries_the_proto_files_that_others_generate_from(wheels: dict[str, Path]) -> None:
    protos = {str(file.relative_to(ROOT)) for file in (ROOT / "handfast").rglob("*.proto")}
    assert protos
    assert protos <= set(contents(wheels["handfast"]))


def test_a_service_installs_the_library_alone(wheels: dict[str, Path], tmp_path: Path) -> None:
    service = install(tmp_path / "service", wheels["handfast"])
    assert "handfast.testing" in import_everything(service, "handfast", left_out="handfast.cli")
    assert not installed(service) & {"click", "pyyaml", "rich", "sqlalchemy", "apscheduler", "hvac", "starlette"}


def test_an_operator_installs_the_command_line(wheels: dict[str, Path], tmp_path: Path) -> None:
    operator = install(tmp_path / "operator", f"handfast[cli] @ {wheels['handfast'].as_uri()}")
    import_everything(operator, "handfast")
    assert operator.run("handfast", "--version") == "handfast 0.1.0\n"
    assert "handfast ca" not in operator.run("handfast", "--help")


def test_a_pod_installs_the_agent_and_no_signing_code(wheels: dict[str, Path], tmp_path: Path) -> None:
    pod = install(tmp_path / "pod", wheels["handfast"], wheels["handfast-agent"])
    import_everything(pod, "handfast_agent")
    assert "Usage: handfast agent" in pod.run("handfast", "agent", "--help")
    assert not installed(pod) & {"handfast-ca", "sqlalchemy", "hvac", "starlette", "uvicorn", "rich"}


def test_a_ca_installs_no_sidecar(wheels: dict[str, Path], tmp_path: Path) -> None:
    authority = install(tmp_path / "authority", wheels["handfast"], wheels["handfast-ca"])
    import_everything(authority, "handfast_ca")
    assert "Usage: handfast ca" in authority.run("handfast", "ca", "--help")
    assert not installed(authority) & {"handfast-agent", "hvac"}
