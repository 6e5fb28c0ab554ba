"""docker-compose.yml: what has to hold of it, checked without Docker."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from infra.docker.hand_out import READERS, Reader, hand_out
from infra.local import secret_files
from infra.process import WORKERS
from services import settings as all_settings
from services.settings import (
    AccessSettings,
    BusinessSettings,
    MailboxSettings,
    MigrateSettings,
    ProcessSettings,
    ProviderSettings,
    WorkerSettings,
    load,
)

PROJECT: Final = Path(__file__).resolve().parents[2]
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
ONE_SHOT: Final = {"secrets", "bootstrap", "migrate", "catalog"}
LONG_RUNNING: Final = sorted(SERVICES.keys() - ONE_SHOT)
SERVERS: Final = {"primary", "standby", "valkey", "events"}
KINDS: Final[Mapping[str, type[ProcessSettings]]] = {
    "access": AccessSettings,
    "business": BusinessSettings,
    "provider": ProviderSettings,
    "mailbox": MailboxSettings,
    "migrate": MigrateSettings,
    "catalog": MigrateSettings,
    **{f"worker-{name}": WorkerSettings for name in WORKERS},
}
WATCHED: Final = ("access", "business", *(f"worker-{name}" for name in WORKERS))
NO_SETTINGS: Final = {"TERCET_SECRETS_DIR", "TERCET_READY_FILE", "TERCET_PRODUCTS", "TERCET_PORT"}


def needs(name: str) -> dict[str, str]:
    """The services that one waits for, each with the condition."""
    return {key: value["condition"] for key, value in SERVICES[name].get("depends_on", {}).items()}


def all_needs(name: str) -> set[str]:
    """Everything that has to be started before it."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for needed in needs(waiting.pop()):
            assert needed != name, f"{name} waits for itself"
            if needed not in found:
                found.add(needed)
                waiting.append(needed)
    return found


def networks(name: str) -> set[str]:
    """The networks of a service; one that shares another's network is where that one is."""
    mode = SERVICES[name].get("network_mode", "")
    if mode.startswith("service:"):
        return networks(mode.removeprefix("service:"))
    return set() if mode == "none" else set(SERVICES[name]["networks"])


def default_of(value: str) -> str:
    """A value of the file as it is where no variable of the user's is set."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", value)


def texts(value: Any) -> Iterator[str]:
    """Every key and scalar below a value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    else:
        yield str(value)


def test_every_process_and_server_is_a_service() -> None:
    assert SERVICES.keys() == {*KINDS, *SERVERS, "secrets", "bootstrap"}
    for name in WORKERS:
        assert SERVICES[f"worker-{name}"]["command"] == ["worker", name]
    for name in ("access", "business", "provider", "mailbox", "migrate"):
        assert SERVICES[name]["command"] == [name]


def test_only_access_and_the_mailbox_publish_a_port_and_only_to_this_machine() -> None:
    published = {name for name, service in SERVICES.items() if service.get("ports")}
    assert published == {"access", "mailbox"}
    assert SERVICES["mailbox"]["ports"] == ["127.0.0.1:${TERCET_MAILBOX_PORT:-8025}:8025"]
    assert SERVICES["access"]["ports"] == ["127.0.0.1:${TERCET_PORT:-8080}:8080"]
    assert not any(
        "expose" in service or "container_name" in service for service in SERVICES.values()
    )


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_what_runs_on_is_checked_and_restarted(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    health = service["healthcheck"]
    assert health["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries", "start_period", "start_interval"} <= health.keys()
    assert "max-size" in service["logging"]["options"]


@pytest.mark.parametrize("name", sorted(ONE_SHOT))
def test_a_one_shot_ends_for_good_and_something_waits_for_its_end(name: str) -> None:
    # Without the second, `up --wait` takes the end of a one-shot for a failure.
    assert "restart" not in SERVICES[name]
    assert "service_completed_successfully" in {needs(other).get(name) for other in SERVICES}


def test_each_start_waits_for_what_it_can_not_do_without() -> None:
    assert all(all_needs(name) <= SERVICES.keys() for name in SERVICES)
    assert all("secrets" in all_needs(name) for name in SERVICES.keys() - {"secrets"})
    assert needs("bootstrap") == {"primary": "service_healthy"}
    for name in ("standby", "migrate"):
        assert needs(name)["bootstrap"] == "service_completed_successfully"
    for name in ("business", "catalog", *(f"worker-{worker}" for worker in WORKERS)):
        assert needs(name)["migrate"] == "service_completed_successfully"


def test_business_and_access_start_without_what_they_can_be_without_for_a_while() -> None:
    for name in ("standby", "valkey", "events", "provider"):
        assert needs("business")[name] == "service_started"
    for name in ("business", "valkey", "events"):
        assert needs("access")[name] == "service_started"


def test_clients_of_access_are_on_a_network_with_nothing_else() -> None:
    members = {
        network: {name for name in SERVICES if network in networks(name)}
        for network in COMPOSE["networks"]
    }
    assert members["front"] == {"access"}
    assert members["middle"] == {"access", "business"}
    assert members["cache"] == {"access", "valkey", "events"}
    assert members["webhooks"] == {"access", "provider"}
    assert members["desk"] == {"mailbox"}
    assert members["mail"] == {"mailbox", "worker-mails"}
    assert members["watch"] == set(WATCHED)
    assert members["payments"] == {"provider", "business", *(f"worker-{name}" for name in WORKERS)}
    assert "access" not in members["data"]
    assert "provider" not in members["data"]
    assert networks("primary") == networks("standby") == {"data"}
    assert networks("valkey") == networks("events") == {"data", "cache"}
    for network, options in COMPOSE["networks"].items():
        assert bool((options or {}).get("internal")) == (network not in {"front", "desk"})


@pytest.mark.parametrize("name", WATCHED)
def test_metrics_are_told_on_a_network_that_no_client_is_on(name: str) -> None:
    service = SERVICES[name]
    prefix = f"TERCET_{name.partition('-')[0].upper()}_INTERNAL"
    host = service["environment"][f"{prefix}_HOST"]
    named = {
        network: options["aliases"] for network, options in service["networks"].items() if options
    }
    assert named == {"watch": [host]}
    port = service["environment"][f"{prefix}_PORT"]
    assert not any(port in published for published in service.get("ports", ()))


@pytest.mark.parametrize("name", ["access", "business"])
def test_who_answers_requests_has_the_time_to_end_them(name: str) -> None:
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > 3


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service.get("cap_add", []) == (["CHOWN"] if name == "secrets" else [])
    user, group = service["user"].split(":")
    if name == "secrets":
        assert networks(name) == set(), "root has no network"
    else:
        assert int(user) > 0
        assert int(group) > 0


def reader_of(name: str) -> str:
    """Whose secrets a service is pointed at."""
    return Path(SERVICES[name]["environment"]["TERCET_SECRETS_DIR"]).name


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"secrets"}))
def test_a_service_runs_as_the_group_that_may_read_its_secrets(name: str) -> None:
    group = int(SERVICES[name]["user"].split(":")[1])
    assert READERS[reader_of(name)].group == group
    others = {reader.group for key, reader in READERS.items() if key != reader_of(name)}
    assert group not in others
    assert "secrets:/run/secrets/tercet:ro" in SERVICES[name]["volumes"]


def test_no_secret_stands_in_the_file() -> None:
    for text in texts(COMPOSE):
        match = re.search(r"TERCET_\w*(SECRET|PASSWORD|TOKEN)\w*", text)
        assert match is None or match.group() == "TERCET_SECRETS_DIR", text
        assert not re.search(r"://[^/@\s]*:[^/@\s]*@", text), text
    passwords = [text for text in texts(COMPOSE) if re.match(r"(POSTGRES|PG)_?PASSWORD", text)]
    assert passwords
    assert all(
        re.match(r'POSTGRES_PASSWORD_FILE$|PGPASSWORD="\$\$\(cat ', text) for text in passwords
    )


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_process_can_use_the_settings_it_is_given(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = tmp_path.stat().st_gid  # to hand out to groups of others takes root
    hand_out(tmp_path, {key: Reader(group, reader.names) for key, reader in READERS.items()})
    known = {
        f"TERCET_{field}".upper()
        for kind in vars(all_settings).values()
        if isinstance(kind, type) and issubclass(kind, ProcessSettings)
        for field in kind.model_fields
    }
    for key, value in SERVICES[name]["environment"].items():
        assert key in known | NO_SETTINGS, f"{key} is not a setting"
        monkeypatch.setenv(key, default_of(value))
    monkeypatch.setenv("TERCET_SECRETS_DIR", str(tmp_path / reader_of(name)))
    load(KINDS[name])


def test_addresses_name_services_that_are_on_a_network_of_the_caller() -> None:
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            for host in re.findall(r"://(?:\w+@)?([a-z-]+):\d+", str(value)):
                assert host in SERVICES, f"{name}: {key} names {host}"
                assert networks(name) & networks(host), f"{name} can not reach {host}"


def test_what_is_mounted_from_the_project_is_there_and_read_only() -> None:
    mounted = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, _, rest = volume.partition(":")
            if source.startswith("."):
                assert (PROJECT / source).exists(), source
                assert rest.endswith(":ro")
                mounted.add(source)
            else:
                assert source in COMPOSE["volumes"], source
    assert {"./infra/postgres", "./infra/valkey"} <= mounted


def test_data_is_kept_where_the_official_images_have_it_and_nowhere_else() -> None:
    for name in ("primary", "standby"):
        assert f"{name}:/var/lib/postgresql" in SERVICES[name]["volumes"]
    for name in ("valkey", "events"):
        assert f"{name}:/data" in SERVICES[name]["volumes"]
    # Without a mount there, each container of the image makes a volume without a name.
    assert "/var/lib/postgresql" in SERVICES["bootstrap"]["tmpfs"]


def test_the_images_are_the_official_ones_and_ours_is_built_once() -> None:
    images = {service["image"] for service in SERVICES.values()}
    assert images == {"postgres:18", "valkey/valkey:9", "tercet"}
    # Everything waits for `secrets`, so what it builds is there; others must not ask a registry.
    assert [name for name, service in SERVICES.items() if "build" in service] == ["secrets"]
    ours = [service for service in SERVICES.values() if service["image"] == "tercet"]
    assert all(service["pull_policy"] == "never" for service in ours)


def test_every_secret_that_is_made_has_a_reader_and_no_reader_has_all() -> None:
    read = {name for reader in READERS.values() for name in reader.names}
    assert read == set(secret_files.NAMES)
    own = ("internal_secret", "cookie_secret", "valkey_password", "events_password")
    assert READERS["access"].names == own
    assert all(len(reader.names) < len(secret_files.NAMES) for reader in READERS.values())
