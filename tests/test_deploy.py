"""The examples for systemd and Kubernetes, as far as they can be checked without either."""

from __future__ import annotations

import configparser
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from knnex.cli import app
from knnex.settings import Settings
from knnex.workers.metrics import GAUGES

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "docs" / "deploy"
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
KNOWN = {f"KNNEX_{name.upper()}" for name in Settings.model_fields}
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in OBJECTS if one["kind"] == kind}


def containers() -> list[dict[str, Any]]:
    return [one for made in of_kind("Deployment").values() for one in made["spec"]["template"]["spec"]["containers"]]


@pytest.mark.parametrize("name", of_kind("Deployment"))
def test_a_deployment_finds_its_pods(name: str) -> None:
    spec = of_kind("Deployment")[name]["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    pod = spec["template"]["spec"]
    declared = {volume["name"] for volume in pod.get("volumes", ())}
    for one in pod["containers"]:
        assert {mount["name"] for mount in one.get("volumeMounts", ())} <= declared
        assert all(source["configMapRef"]["name"] in of_kind("ConfigMap") for source in one["envFrom"][:1])


@pytest.mark.parametrize("container", containers(), ids=lambda one: one["name"])
def test_a_container_runs_what_the_image_has(container: dict[str, Any]) -> None:
    assert container["image"] == COMPOSE["services"]["worker"]["image"]
    if "args" in container:
        name, *words = container["args"]
        COMMANDS[name].make_context(name, words)
    else:
        assert container["command"] == COMPOSE["services"]["beat"]["entrypoint"]
    for probe in ("startupProbe", "livenessProbe"):
        command = container.get(probe, {}).get("exec", {}).get("command")
        if command:
            assert command[:2] == ["python", "-m"]
            assert importlib.import_module(command[2])
            assert not {"--announced"} & set(command), "a probe must not ask Redis"


def test_settings_are_ours() -> None:
    (settings,) = of_kind("ConfigMap").values()
    assert settings["data"].keys() <= KNOWN
    Settings(**{name.removeprefix("KNNEX_").lower(): value for name, value in settings["data"].items()})
    text = "\n".join(path.read_text() for path in DEPLOY.iterdir())
    assert set(re.findall(r"KNNEX_[A-Z_]+", text)) <= KNOWN


def test_the_service_reaches_the_endpoint() -> None:
    (service,) = of_kind("Service").values()
    endpoint = of_kind("Deployment")["knnex-serve"]["spec"]["template"]
    assert service["spec"]["selector"] == endpoint["metadata"]["labels"]
    (port,) = endpoint["spec"]["containers"][0]["ports"]
    assert port["containerPort"] == int(endpoint["spec"]["containers"][0]["args"][-1])


def test_the_scaler_follows_a_gauge_that_is_there() -> None:
    (scaler,) = of_kind("ScaledObject").values()
    assert scaler["spec"]["scaleTargetRef"]["name"] in of_kind("Deployment")
    (trigger,) = scaler["spec"]["triggers"]
    assert re.findall(r"knnex_\w+", trigger["metadata"]["query"])[0] in GAUGES


def test_the_unit_starts_a_worker_again() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "knnex-worker@.service")
    service = unit["Service"]
    assert (service["Restart"], service["KillSignal"]) == ("always", "SIGTERM")
    program, name, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "knnex"
    COMMANDS[name].make_context(name, words)
