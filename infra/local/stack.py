"""The whole local stack: which parts there are, where they listen, what they are told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from infra.local.addresses import EVERY_ADDRESS, LOOPBACK, free_port
from infra.local.cluster import Cluster
from infra.local.folder import DataFolder
from infra.local.node import Node
from infra.local.parts import External, Part
from infra.local.postgres import Bootstrap
from infra.local.servers import MissingError, Servers, find_servers
from infra.local.tiers import Catalog, Mailbox, Migrate, Tier
from infra.local.valkey import Valkey
from infra.process import WORKERS

PROJECT: Final = Path(__file__).resolve().parents[2]
INTERNAL: Final = " internal"  # after a part's name: its second port
WRITABLE: Final = "?target_session_attrs=read-write"
VALKEYS: Final = ("valkey", "events")  # the cache, and the log of events, which is no cache
ADDRESS_VARIABLES: Final = (
    "TERCET_PRIMARY_DSN",
    "TERCET_OWNER_DSN",
    "TERCET_STANDBY_DSNS",
    "TERCET_VALKEY_URL",
    "TERCET_EVENTS_URL",
    "TERCET_PROVIDER_URL",
    "TERCET_SECRETS_DIR",
)


@dataclass(frozen=True)
class StackOptions:
    """What `tercet up` was asked for."""

    data_dir: Path
    host: str
    port: int
    products: int
    servers_only: bool = False
    standbys: int = 1


class Stack:
    """The parts of one data folder and what they have to know of each other."""

    def __init__(self, options: StackOptions, previous: Mapping[str, Any]) -> None:
        self.options = options
        self.folder = DataFolder.at(options.data_dir)
        self._previous_ports = _ports(previous)
        self._taken = {options.port}
        self.parts: list[Part] = []
        self.cluster = Cluster(self.folder)
        self._add_servers()
        self._add_tiers()

    @property
    def url(self) -> str:
        """Where the shop is, as a client on this machine says it."""
        host = EVERY_ADDRESS.get(self.options.host, self.options.host)
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self.tls else 'http'}://{shown}:{self.options.port}"

    @property
    def tls(self) -> bool:
        """Whether the settings give access a certificate."""
        return bool(os.environ.get("TERCET_ACCESS_TLS_CERTIFICATE"))

    @property
    def mailbox_url(self) -> str:
        """Where the mails of this stack are read; empty where they go elsewhere."""
        box = next((part for part in self.parts if isinstance(part, Mailbox)), None)
        return f"http://{box.address}" if box is not None else ""

    def part(self, name: str) -> Part:
        """The part of that name."""
        return next(part for part in self.parts if part.name == name)

    def variables(self) -> dict[str, str]:
        """The TERCET_… variables that name this stack's addresses; no secret is among them."""
        given = {name: os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)}
        made = {"TERCET_SECRETS_DIR": str(self.folder.secrets)}
        if self.cluster.nodes:
            made |= self._database_variables()
        for part in self.parts:
            if isinstance(part, Valkey):
                made[f"TERCET_{part.name.upper()}_URL"] = f"redis://{part.address}/0"
            elif isinstance(part, Mailbox):
                made["TERCET_SMTP_URL"] = f"smtp://{part.internal_address}"
            elif part.name in ("provider", "business") and not isinstance(part, External):
                made[f"TERCET_{part.name.upper()}_URL"] = f"http://{part.address}"
        variables = {**made, **given, "TERCET_SECRETS_DIR": made["TERCET_SECRETS_DIR"]}
        if "TERCET_OWNER_DSN" not in variables:
            variables["TERCET_OWNER_DSN"] = _as_user(
                variables["TERCET_PRIMARY_DSN"], "tercet_owner"
            )
        return variables

    def _database_variables(self) -> dict[str, str]:
        cluster = self.cluster
        made = {"TERCET_OWNER_DSN": _dsn("tercet_owner", cluster.leader)}
        if cluster.waits:  # any of them may be the primary tomorrow, and any a standby
            nodes = [cluster.leader, *cluster.followers]
            made["TERCET_PRIMARY_DSN"] = _dsn("tercet_app", *nodes) + WRITABLE
            standbys = nodes
        else:
            made["TERCET_PRIMARY_DSN"] = _dsn("tercet_app", cluster.leader)
            standbys = cluster.followers
        if standbys:
            made["TERCET_STANDBY_DSNS"] = ",".join(_dsn("tercet_read", node) for node in standbys)
        return made

    def environment(self) -> dict[str, str]:
        """The whole environment of a process of this stack."""
        paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        tiers = [part for part in self.parts if isinstance(part, Tier) and part.port]
        listen = {name: value for tier in tiers for name, value in tier.listens_on().items()}
        environment = {
            "TERCET_DOCS": "true",  # a shop on one's own machine shows its API
            # Nobody but its owner knows the authority of a certificate that the settings name.
            "TERCET_WEBHOOK_URL": "" if self.tls else f"{self.url}/webhooks/sandbox",
            **os.environ,
            **self.variables(),
            **listen,
            "TERCET_PROVIDER_DATA": str(self.folder.provider / "provider.sqlite3"),
            "PYTHONPATH": os.pathsep.join(paths),
        }
        # The servers started here know the passwords in the folder, no other; a Valkey of
        # somebody else's does not know the one in the folder.
        for part in self.parts:
            if isinstance(part, Node):
                for role in ("OWNER", "APP", "READ"):
                    environment.pop(f"TERCET_{role}_PASSWORD", None)
            elif isinstance(part, Valkey):
                environment.pop(f"TERCET_{part.name.upper()}_PASSWORD", None)
            elif part.name in VALKEYS:
                environment.setdefault(f"TERCET_{part.name.upper()}_PASSWORD", "")
        return environment

    def _add_servers(self) -> None:
        servers = self._find_servers()
        if servers is None or os.environ.get("TERCET_PRIMARY_DSN"):
            self._add_external("primary", "TERCET_PRIMARY_DSN")
            self._add_external("standby", "TERCET_STANDBY_DSNS")
        elif os.environ.get("TERCET_STANDBY_DSNS"):
            self._add_nodes(servers, ("primary",))
            self._add_external("standby", "TERCET_STANDBY_DSNS")
        else:
            numbered = (f"standby-{number}" for number in range(2, self.options.standbys + 1))
            self._add_nodes(servers, ("primary", "standby", *numbered))
        for name in VALKEYS:
            if servers is None or os.environ.get(f"TERCET_{name.upper()}_URL"):
                self._add_external(name, f"TERCET_{name.upper()}_URL")
            else:
                self._add_valkey(servers, name)

    def _add_valkey(self, servers: Servers, name: str) -> None:
        memory = os.environ.get("TERCET_EVENTS_MEMORY") if name == "events" else None
        self.parts.append(
            Valkey(
                name,
                folder=self.folder,
                servers=servers,
                port=self._port(name),
                options=(f"maxmemory {memory}",) if memory else (),
                disposable=name == "valkey",
            )
        )

    def _add_nodes(self, servers: Servers, names: tuple[str, ...]) -> None:
        cluster = self.cluster
        if cluster.leader_name not in names:
            raise MissingError(
                f"{cluster.leader_name} is the primary of {self.folder.root}: start it with as "
                "many standbys as before"
            )
        leader_name = cluster.leader_name
        for name in names:
            # A standby comes after the roles: it connects as one of them.
            needs = () if name == leader_name else ("bootstrap",)
            node = Node(
                name,
                needs,
                folder=self.folder,
                servers=servers,
                port=self._port(name),
                cluster=cluster,
            )
            cluster.nodes.append(node)
            self.parts.append(node)
            if name == names[0]:
                self.parts.append(
                    Bootstrap(
                        "bootstrap", (leader_name,), is_task=True, primary=lambda: cluster.leader
                    )
                )

    def _add_tiers(self) -> None:
        names = {part.name for part in self.parts}
        database = ("bootstrap",) if "bootstrap" in names else ()
        nodes = {node.name for node in self.cluster.nodes}
        servers = tuple(names & ({"primary", "standby", *VALKEYS} | nodes))
        self.parts.append(
            Migrate(
                "migrate",
                database,
                is_task=True,
                arguments=("migrate",),
                variables=self.environment,
                folder=self.folder,
            )
        )
        if self.options.servers_only:
            return
        self.parts.append(
            Catalog(
                "catalog",
                ("migrate",),
                is_task=True,
                arguments=(),
                variables=self.environment,
                folder=self.folder,
                products=self.options.products,
            )
        )
        if os.environ.get("TERCET_PROVIDER_URL"):
            self._add_external("provider", "TERCET_PROVIDER_URL")
        else:
            self._add_tier("provider", ready_path="/live")
        mailbox = self._add_mailbox()
        uses = (*servers, "provider")
        self._add_tier("business", needs=("migrate",), uses=uses)
        for name in WORKERS:
            self._add_worker(name, (*uses, *mailbox) if name == "mails" else uses)
        self._add_tier("access", uses=("business", *(names & set(VALKEYS))))

    def _add_mailbox(self) -> tuple[str, ...]:
        """Unless the settings name a server for mails."""
        if os.environ.get("TERCET_SMTP_URL"):
            return ()
        self.parts.append(
            Mailbox(
                "mailbox",
                arguments=("mailbox",),
                variables=self.environment,
                host=LOOPBACK,
                port=self._port("mailbox"),
                internal_port=self._port("mailbox" + INTERNAL),
                ready_path="/live",
            )
        )
        return ("mailbox",)

    def _add_tier(
        self,
        name: str,
        *,
        needs: tuple[str, ...] = (),
        uses: tuple[str, ...] = (),
        ready_path: str = "/ready",
    ) -> None:
        public = name == "access"
        self.parts.append(
            Tier(
                name,
                needs,
                uses,
                arguments=(name,),
                variables=self.environment,
                host=self.options.host if public else LOOPBACK,
                port=self.options.port if public else self._port(name),
                internal_port=0 if name == "provider" else self._port(name + INTERNAL),
                ready_path=ready_path,
                tls=public and self.tls,
            )
        )

    def _add_worker(self, name: str, uses: tuple[str, ...]) -> None:
        self.parts.append(
            Tier(
                f"worker-{name}",
                ("migrate",),
                uses,
                arguments=("worker", name),
                variables=self.environment,
                internal_port=self._port(f"worker-{name}{INTERNAL}"),
                ready_file=self.folder.run / f"worker-{name}.ready",
            )
        )

    def _add_external(self, name: str, variable: str) -> None:
        given = os.environ.get(variable)
        if given:
            self.parts.append(External(name, address=_without_password(given)))

    def _find_servers(self) -> Servers | None:
        given = ("TERCET_PRIMARY_DSN", "TERCET_VALKEY_URL", "TERCET_EVENTS_URL")
        if all(os.environ.get(name) for name in given):
            return None  # neither wheel is needed then
        return find_servers(self.folder.root)

    def _port(self, name: str) -> int:
        """A free port for a part, the one of the last run if it can be had."""
        port = free_port(self._previous_ports.get(name, 0))
        while port in self._taken:
            port = free_port()
        self._taken.add(port)
        return port


def environment_of(data_dir: Path) -> dict[str, str]:
    """The TERCET_… variables by which a command reaches the stack that runs on `data_dir`.

    Raises NotRunningError where none does.
    """
    variables = DataFolder.at(data_dir).running_state().get("environment", {})
    return {str(name): str(value) for name, value in variables.items()}


def _ports(state: Mapping[str, Any]) -> dict[str, int]:
    ports = {}
    for part in state.get("parts", []):
        if part.get("state") == "external":
            continue
        for key, name in (("address", ""), ("internal_address", INTERNAL)):
            _, _, port = str(part.get(key, "")).rpartition(":")
            if port.isdigit():
                ports[part["name"] + name] = int(port)
    return ports


def _dsn(user: str, *nodes: Node) -> str:
    return f"postgresql://{user}@{','.join(f'{LOOPBACK}:{node.port}' for node in nodes)}/tercet"


def _as_user(dsn: str, user: str) -> str:
    parts = urlsplit(dsn)
    _, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}@{place}"))


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    return parts.netloc.rpartition("@")[2] + parts.path
