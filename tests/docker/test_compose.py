"""compose.yaml against the code: what it starts exists, and what the code needs is set."""

import importlib
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import celery.bin.beat
import celery.bin.worker
import click
import pytest
from django.core.management import get_commands, load_command_class
from django.urls import resolve
from uvicorn.main import main as uvicorn_command

from fai import cli
from fai_project import celery_settings
from fai_project.redis_server import COORDINATOR as COORDINATOR_ACCOUNT
from fai_project.redis_server import PROVISIONER
from tests.docker.compose import (
    COMPOSE,
    COMPOSE_TEXT,
    COORDINATOR,
    DOCKER,
    INTERPOLATION,
    ROOT,
    SERVICES,
    interpolate,
    read_dockerfile,
    read_env_example,
)
from tests.variables import server_variables, volunteer_variables

OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("fai-"))
LEFT_AT_DEFAULT = {
    "FAI_DEBUG",
    "FAI_TICK_SECONDS",
    "FAI_OFFER_SECONDS",
    "FAI_HEARTBEAT_SECONDS",
    "FAI_LEASE_SECONDS",
    "FAI_LOG_PROMPTS",
    "FAI_REQUESTS_PER_MINUTE",
    "FAI_TOKENS_PER_MINUTE",
    "FAI_OWNER_REQUESTS_PER_MINUTE",
    "FAI_OWNER_TOKENS_PER_MINUTE",
}
"""Variables of the settings that a coordinator in production does well without."""
SECRET = re.compile(r"PASSWORD|SECRET|_KEY|REDISCLI_AUTH")
VALUES = {name: f"{name.lower().replace('_', '-')}-value" for name in read_env_example()} | {
    "CORPUS_DIR": "",
    "UPSTREAM_ROUND": "7",
    "UPSTREAM_SLOTS": "3",
}
MAY_BE_EMPTY = {"UPSTREAM_API_KEY"}

SHOW_SETTINGS = """
import json
from django.conf import settings
print(json.dumps({
    "debug": settings.DEBUG,
    "engine": settings.DATABASES["default"]["ENGINE"],
    "host": settings.DATABASES["default"]["HOST"],
    "storage": settings.STORAGES["default"]["BACKEND"],
    "allowed": settings.ALLOWED_HOSTS,
    "origins": settings.CSRF_TRUSTED_ORIGINS,
    "redis": [settings.REDIS_URL, settings.REDIS_ACL_URL, settings.REDIS_PUBLIC_URL],
}))
"""


def environment_of(service: str) -> dict[str, str]:
    return {name: interpolate(value, VALUES) for name, value in SERVICES[service].get("environment", {}).items()}


def test_the_coordinator_sets_every_variable_of_the_settings_but_those_left_at_their_default():
    for service in COORDINATOR:
        names = {name for name in SERVICES[service]["environment"] if name.startswith("FAI_")}
        assert names == server_variables() - LEFT_AT_DEFAULT, service


def test_the_worker_sets_only_variables_that_the_volunteer_reads():
    names = {name for name in SERVICES["worker"]["environment"] if name.startswith("FAI_")}
    assert names
    assert names <= volunteer_variables()


def test_the_settings_load_from_the_environment_of_web_alone(tmp_path: Path):
    environment = {**environment_of("web"), "FAI_STATE_DIR": str(tmp_path), "PATH": os.environ["PATH"]}
    answer = subprocess.run(
        [sys.executable, "-c", f"import django; django.setup(){SHOW_SETTINGS}"],
        env={**environment, "DJANGO_SETTINGS_MODULE": "fai_project.settings"},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    shown = json.loads(answer.stdout)
    host = VALUES["PUBLIC_HOST"]
    assert shown["debug"] is False
    assert (shown["engine"], shown["host"]) == ("django.db.backends.postgresql", "db")
    assert shown["storage"] == "storages.backends.s3.S3Storage"
    assert set(shown["allowed"]) == {host, "web", "127.0.0.1"}
    assert shown["origins"] == [f"https://{host}"]
    coordinator, provisioner, public = shown["redis"]
    assert coordinator.startswith(f"rediss://{COORDINATOR_ACCOUNT}:redis-coordinator-password-value@redis:6380/")
    assert provisioner.startswith(f"rediss://{PROVISIONER}:redis-provisioner-password-value@redis:6380/")
    assert public == f"rediss://{host}:6380/0"


def test_env_example_lists_exactly_what_compose_interpolates():
    assert set(read_env_example()) == {match["name"] for match in INTERPOLATION.finditer(COMPOSE_TEXT)}


def test_compose_refuses_to_start_while_a_variable_without_default_is_empty():
    for name, value in read_env_example().items():
        rules = {match["rule"] for match in INTERPOLATION.finditer(COMPOSE_TEXT) if match["name"] == name}
        assert (":-" if value or name in MAY_BE_EMPTY else ":?") in rules, name


def test_env_example_holds_no_secret():
    assert not [name for name, value in read_env_example().items() if SECRET.search(name) and value]


def test_compose_holds_no_secret():
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if SECRET.search(variable):
                assert INTERPOLATION.fullmatch(value), f"{name}: {variable}"
            for password in re.findall(r"://[^/@\s]*?:(.*?)@", INTERPOLATION.sub("<${}>", value)):
                assert password == "<${}>", f"{name}: {variable}"
    identities = COMPOSE["configs"]["s3-identities"]["content"]
    credentials = json.loads(interpolate(identities, VALUES))["identities"][0]["credentials"]
    assert credentials == [{"accessKey": "s3-access-key-value", "secretKey": "s3-secret-key-value"}]


def test_defaults_are_not_secrets():
    assert not [
        match["name"]
        for match in INTERPOLATION.finditer(COMPOSE_TEXT)
        if match["rule"] == ":-" and match["rest"] and SECRET.search(match["name"])
    ]


@pytest.mark.parametrize("service", OURS)
def test_the_command_exists(service: str):
    command = [interpolate(word, VALUES) for word in SERVICES[service]["command"]]
    match command:
        case ["celery", "-A", application, "worker" | "beat" as kind, *options]:
            assert importlib.import_module(f"{application}.celery").app.main == application
            parse_options({"worker": celery.bin.worker.worker, "beat": celery.bin.beat.beat}[kind], options)
        case ["uvicorn", target, *options]:
            module, attribute = target.split(":")
            assert callable(getattr(importlib.import_module(module), attribute))
            parse_options(uvicorn_command, [target, *options])
        case ["python", "manage.py", name, *options]:
            load_command_class(get_commands()[name], name).create_parser("manage.py", name).parse_args(options)
        case ["fai", *arguments]:
            cli._parser().parse_args(arguments)
        case ["python", "docker/prepare_redis.py", *options]:
            runpy.run_path(str(DOCKER / "prepare_redis.py"))["_parser"]().parse_args(options)
        case ["python", script]:
            assert (ROOT / script).is_file()
        case _:
            pytest.fail(f"nothing here knows how to check {command}")


def parse_options(command: click.Command, options: list[str]) -> None:
    """Fail on an option that the command does not have, without running its callbacks."""
    command.make_context(command.name, list(options), resilient_parsing=True)
    known = {name for parameter in command.params for name in parameter.opts}
    unknown = [option for option in options if option.startswith("-") and option.split("=")[0] not in known]
    assert not unknown


def test_the_workers_take_every_queue_between_them():
    queues = [
        queue
        for service in SERVICES.values()
        if "--queues" in service.get("command", [])
        for queue in service["command"][service["command"].index("--queues") + 1].split(",")
    ]
    assert sorted(queues) == sorted(queue.name for queue in celery_settings.task_queues)


def test_beat_runs_once():
    assert sum("beat" in service.get("command", []) for service in SERVICES.values()) == 1


def test_everything_that_stays_up_and_can_be_asked_has_a_health_check():
    staying = {name for name, service in SERVICES.items() if service.get("restart") != "no"}
    assert staying - {name for name in staying if "healthcheck" in SERVICES[name]} == {"beat", "worker"}


def test_the_health_check_of_web_asks_a_page_that_exists():
    url = re.search(r"http://127\.0\.0\.1:8000(/\S*?)\"", SERVICES["web"]["healthcheck"]["test"][-1])
    assert url is not None
    assert resolve(url[1]).url_name == "health"


@pytest.mark.parametrize("service", ["engine", "external"])
def test_the_health_check_of_an_engine_asks_its_own_pages(service: str):
    command = [part for word in SERVICES[service]["command"] for part in word.split("=", 1)]
    port = command[command.index("--metrics-port") + 1]
    assert f"http://127.0.0.1:{port}/health" in SERVICES[service]["healthcheck"]["test"][-1]
    grace = float(command[command.index("--grace-seconds") + 1])
    assert SERVICES[service]["stop_grace_period"] == f"{grace + 15:.0f}s"


def test_the_bridge_to_another_engine_is_told_all_of_it_by_env():
    command = [interpolate(word, VALUES) for word in SERVICES["external"]["command"]]
    assert {
        "--upstream=upstream-url-value", "--experiment=upstream-experiment-value", "--round=7", "--slots=3",
    } <= set(command)  # fmt: skip
    assert environment_of("external")["FAI_UPSTREAM_API_KEY"] == "upstream-api-key-value"


def test_dependencies_networks_and_volumes_are_declared():
    for name, service in SERVICES.items():
        for dependency, wanted in service.get("depends_on", {}).items():
            other = SERVICES[dependency]
            one_shot = wanted["condition"] == "service_completed_successfully"
            assert one_shot == (other.get("restart") == "no"), f"{name} -> {dependency}"
            assert one_shot or "healthcheck" in other, f"{name} -> {dependency}"
        assert set(service.get("networks", [])) <= set(COMPOSE["networks"]), name
    mounted = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}
    assert {name for name in mounted if re.fullmatch(r"[a-z0-9-]+", name)} == set(COMPOSE["volumes"])
    files = [name for name in mounted if name.startswith("./")]
    assert all((DOCKER / name).is_file() for name in files)


def test_hosts_in_urls_are_services_that_share_a_network():
    for service in COORDINATOR:
        for value in environment_of(service).values():
            host = re.match(r"\w+://(?:[^/@]*@)?([\w.-]+)", value)
            if host and host[1] in SERVICES:
                assert set(SERVICES[service]["networks"]) & set(SERVICES[host[1]]["networks"]), host[1]


def test_a_volunteer_beside_the_coordinator_reaches_neither_database_nor_store():
    reached = set(SERVICES["worker"]["networks"])
    neighbours = {name for name, service in SERVICES.items() if reached & set(service.get("networks", []))}
    assert neighbours == {"worker", "web", "redis", "proxy"}
    shared = {mount.split(":")[0] for name in COORDINATOR for mount in SERVICES[name]["volumes"]}
    assert not shared & {mount.split(":")[0] for mount in SERVICES["worker"]["volumes"]}


def test_only_the_proxy_and_redis_are_published():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"redis": ["6380:6380"], "proxy": ["80:80", "443:443", "443:443/udp"]}


def test_only_init_sees_the_keys_of_redis_and_of_its_authority():
    def holders(volume: str) -> set[str]:
        return {
            name
            for name, service in SERVICES.items()
            if any(m.startswith(f"{volume}:") for m in service.get("volumes", []))
        }

    assert holders("authority") == {"init"}
    assert holders("redis") == {"init", "redis"}


def test_our_images_are_built_once_and_never_taken_from_a_registry():
    built = {name: SERVICES[name]["build"] for name in OURS if "build" in SERVICES[name]}
    assert {SERVICES[name]["image"] for name in built} == {SERVICES[name]["image"] for name in OURS}
    assert len(built) == 2
    for name in OURS:
        assert SERVICES[name]["pull_policy"] == ("build" if name in built else "never")
        assert name in built or "init" in dependencies(name)
    for build in built.values():
        assert (DOCKER / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()


def dependencies(service: str) -> set[str]:
    """What must be there before the service starts, directly or not."""
    direct = set(SERVICES[service].get("depends_on", {}))
    return direct.union(*map(dependencies, direct))


def test_images_are_pinned_to_a_version():
    images = [service["image"] for name, service in SERVICES.items() if name not in OURS]
    for name in ("server.Dockerfile", "worker.Dockerfile"):
        images += [line.rest.split()[0] for line in read_dockerfile(name) if line.word == "FROM"]
    assert len(images) == 8
    assert all(re.fullmatch(r"[a-z/]+:\d[\w.-]*", image) for image in images), images


@pytest.mark.parametrize("service", OURS)
def test_containers_can_write_nothing_but_their_volumes(service: str):
    assert SERVICES[service]["read_only"] is True
    assert SERVICES[service]["cap_drop"] == ["ALL"]
    assert "user" not in SERVICES[service]
