"""docker-compose.yml and Dockerfile, as far as they can be checked without a Docker daemon."""

from __future__ import annotations

import fnmatch
import importlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import servers
import yaml

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENGINES = ("elasticsearch", "opensearch")
WORKERS = ("worker", "worker-gpu", "worker-opensearch")
# What else runs in the workers' image.
OURS = (*WORKERS, "beat", "serve")


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, arguments) of each line, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in lines]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in dockerfile() if name == instruction]


def by_service(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("service", names or sorted(SERVICES))


def test_compose_file_follows_the_compose_specification() -> None:
    schema = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(COMPOSE)


def test_schema_notices_a_typo() -> None:
    schema = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    wrong = COMPOSE | {"services": SERVICES | {"redis": {"imgae": "redis:8"}}}
    with pytest.raises(jsonschema.ValidationError, match="imgae"):
        jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(wrong)


@by_service()
def test_what_a_service_waits_for_is_there_and_has_a_health_check(service: str) -> None:
    profiles = set(SERVICES[service].get("profiles", ()))
    for needed, how in SERVICES[service].get("depends_on", {}).items():
        assert how["condition"] == "service_healthy"
        assert "healthcheck" in SERVICES[needed]
        assert set(SERVICES[needed].get("profiles", profiles)) >= profiles


@by_service()
def test_health_check_says_how_often_and_when_to_give_up(service: str) -> None:
    if service in WORKERS:
        assert len(arguments("HEALTHCHECK")) == 1
        check = arguments("HEALTHCHECK")[0]
        assert all(option in check for option in ("--interval=", "--timeout=", "--retries=", "--start-period="))
    else:
        assert SERVICES[service]["healthcheck"].keys() >= {"test", "interval", "timeout", "retries"}


@by_service()
def test_image_is_pinned(service: str) -> None:
    name, _, tag = SERVICES[service]["image"].partition(":")
    assert re.match(r"\d", tag)
    assert "." not in name.split("/")[0], "a registry's host name: let the user's Docker choose"


@by_service(*servers.IMAGES)
def test_image_is_the_one_the_suite_runs_on(service: str) -> None:
    assert SERVICES[service]["image"] == servers.IMAGES[service]


@pytest.mark.parametrize(("screen", "engine"), [("kibana", "elasticsearch"), ("opensearch-dashboards", "opensearch")])
def test_screen_is_of_its_engines_version(screen: str, engine: str) -> None:
    assert SERVICES[screen]["image"].rpartition(":")[2] == SERVICES[engine]["image"].rpartition(":")[2]


@by_service(*OURS)
def test_worker_is_built_here_under_the_version_of_the_package(service: str) -> None:
    assert SERVICES[service]["build"] == "."
    assert SERVICES[service]["image"] == f"knnex-worker:{PROJECT['project']['version']}"


@by_service()
def test_port_is_open_to_this_machine_alone(service: str) -> None:
    for port in SERVICES[service].get("ports", ()):
        assert port.startswith("127.0.0.1:")


def test_no_two_services_want_the_same_port() -> None:
    published = [port.rpartition(":")[0] for one in SERVICES.values() for port in one.get("ports", ())]
    defaults = [re.search(r":-(\d+)}$", port)[1] for port in published]  # type: ignore[index]
    assert len(set(defaults)) == len(defaults)


def test_volumes_are_declared_and_used() -> None:
    used = {volume.split(":")[0] for one in SERVICES.values() for volume in one.get("volumes", ())}
    assert used == COMPOSE["volumes"].keys()


def test_without_a_profile_the_default_engine_runs_whole() -> None:
    default = {name for name, one in SERVICES.items() if "profiles" not in one}
    assert default == {"elasticsearch", "kibana", "redis", "worker", "beat"}
    profiles = {profile for one in SERVICES.values() for profile in one.get("profiles", ())}
    assert profiles == {"gpu", "opensearch", "serve"}


def test_no_password_stands_in_the_file() -> None:
    for one in SERVICES.values():
        assert not [name for name in one.get("environment", {}) if re.search(r"PASSWORD|SECRET|API_KEY", name)]


def test_redis_keeps_what_it_is_given() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


@by_service(*WORKERS)
def test_worker_names_services_that_are_there(service: str) -> None:
    environment = SERVICES[service]["environment"]
    for variable in ("KNNEX_URL", "KNNEX_REDIS_URL"):
        host, port = re.match(r"\w+://([\w-]+):(\d+)", environment[variable]).groups()  # type: ignore[union-attr]
        assert host in SERVICES[service]["depends_on"]
        assert SERVICES[host]["ports"][0].endswith(f":{port}")


def test_workers_of_two_engines_share_no_log() -> None:
    logs = {SERVICES[name]["environment"]["KNNEX_REDIS_URL"] for name in ("worker", "worker-opensearch")}
    assert len(logs) == 2


def test_gpu_worker_reserves_a_gpu() -> None:
    devices = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


@by_service(*OURS)
def test_environment_of_a_worker_is_read_by_the_settings(service: str) -> None:
    from knnex.settings import Settings

    known = {f"KNNEX_{name.upper()}" for name in Settings.model_fields}
    ours = {name for name in SERVICES[service]["environment"] if name.startswith("KNNEX_")}
    ours |= set(re.findall(r"(KNNEX_\w+)=", " ".join(arguments("ENV"))))
    assert ours <= known


def test_image_runs_the_worker_as_an_ordinary_user() -> None:
    names = [name for name, _ in dockerfile()]
    assert arguments("USER") == ["knnex"]
    assert "RUN" not in names[names.index("USER") :]
    (entry,) = arguments("ENTRYPOINT")
    (command,) = arguments("CMD")
    assert [*json.loads(entry), *json.loads(command)] == ["knnex", "worker"]
    assert PROJECT["project"]["scripts"]["knnex"] == "knnex.cli:main"


def test_console_script_has_the_command_that_the_image_runs() -> None:
    from typer.main import get_command

    from knnex.cli import app

    assert "worker" in get_command(app).commands  # type: ignore[attr-defined]


def test_beat_runs_an_application_that_is_there() -> None:
    command = SERVICES["beat"]["entrypoint"]
    assert command[0] == "celery"
    application = importlib.import_module(command[command.index("-A") + 1]).app
    assert application.conf.beat_schedule


def test_image_installs_extras_that_exist() -> None:
    (named,) = re.findall(r"\.whl\)\[([\w,]+)\]", " ".join(arguments("RUN")))
    assert set(named.split(",")) <= PROJECT["project"]["optional-dependencies"].keys()


def test_copied_files_exist() -> None:
    for copied in arguments("COPY"):
        *sources, _ = [word for word in shlex.split(copied) if not word.startswith("--")]
        if "--from=" not in copied:
            assert all((ROOT / source).exists() for source in sources)


def test_health_check_of_the_image_sees_the_worker_of_its_container(redis_url: str) -> None:
    from knnex.ingest import RedisLog

    (check,) = arguments("HEALTHCHECK")
    python, *source = json.loads(check.partition("CMD ")[2])
    assert python == "python"
    # A database that no other test uses: workers of theirs run on this host, too.
    url = urlsplit(redis_url)._replace(path="/13").geturl()

    def healthy() -> bool:
        environment = os.environ | {"KNNEX_REDIS_URL": url}
        return subprocess.run([sys.executable, *source], env=environment, check=False).returncode == 0

    with closing(RedisLog(url)) as log:
        assert not healthy()
        log.announce(f"{socket.gethostname()}-1", {}, ttl=60)
        assert healthy()
        log.retire(f"{socket.gethostname()}-1")
        assert not healthy()


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves a path of the root out; its last matching line decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").rstrip("/")
        if pattern and not line.startswith("#") and fnmatch.fnmatch(path, pattern):
            verdict = not line.startswith("!")
    return verdict


def test_builder_gets_all_that_the_wheel_is_made_of() -> None:
    packages = {name.split(".")[1] for name in PROJECT["tool"]["setuptools"]["packages"] if "." in name}
    needed = [*packages, "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "py.typed"]
    needed += [path.name for path in ROOT.glob("*.py")]
    assert not [name for name in needed if ignored(name)]


@pytest.mark.parametrize("name", [".git", ".venv", ".knnex", "tests", "examples", "worker.env", ".env", "docs"])
def test_builder_gets_nothing_else(name: str) -> None:
    assert ignored(name)
