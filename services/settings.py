"""Settings of every process, read from TERCET_… variables and from a folder of secret files.

A secret is one file in TERCET_SECRETS_DIR (a Docker or Kubernetes secret, or the folder that
`tercet up` fills at random on its first start), or the variable of the same name. A process
refuses to start on a secret that is missing, short or well known.
"""

from __future__ import annotations

import os
import re
from email.utils import parseaddr
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

SECRET_MIN_LENGTH: Final = 32  # 32 URL-safe base64 characters carry 192 random bits
WELL_KNOWN_SECRETS: Final = ("changeme", "change-me", "default", "password", "secret", "example")


# Classes of traffic whose requests can be counted by customer and by address.
LIMITED: Final = ("login", "checkout", "payment", "webhook", "page", "other", "beacon")


class SettingsError(Exception):
    """The settings can not be used; the message says which variable and why, in plain words."""


def _strong(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if len(text) < SECRET_MIN_LENGTH:
        raise ValueError(f"needs at least {SECRET_MIN_LENGTH} characters")
    if any(word in text.lower() for word in WELL_KNOWN_SECRETS) or len(set(text)) < 8:
        raise ValueError("is a default or easily guessed value")
    return value


def _postgres_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("postgresql", "postgres") or not parts.hostname:
        raise ValueError("must look like postgresql://user@host:5432/database")
    return value


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must look like http://host:port")
    return value.rstrip("/")


def _networks(value: str) -> str:
    for part in _parts(value):
        try:
            ip_network(part)
        except ValueError:
            raise ValueError("must look like 10.0.0.0/8,2001:db8::/32") from None
    return value


def _origins(value: str) -> str:
    for part in _parts(value):
        parts = urlsplit(part)
        if part != f"{parts.scheme}://{parts.netloc}" or parts.scheme not in ("http", "https"):
            raise ValueError("must look like https://shop.example,https://app.example:8443")
    return value


def _rates(value: str) -> str:
    for part in _parts(value):
        name, _, rate = part.partition("=")
        if name not in LIMITED or not re.fullmatch(r"[0-9]*\.?[0-9]+/[1-9][0-9]*", rate):
            classes = ", ".join(LIMITED)
            raise ValueError(f"must look like checkout=10/50,other=5/20; classes are {classes}")
        if float(rate.partition("/")[0]) <= 0:
            raise ValueError("a rate is above 0")
    return value


def _parts(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _http_urls(value: str) -> str:
    urls = [_http_url(part) for part in _parts(value)]
    if not urls:
        raise ValueError("must look like http://host:port")
    return ",".join(urls)


def _smtp_url(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise ValueError("must look like smtp://host:587")
    return value


def _mail_from(value: str) -> str:
    _, address = parseaddr(value)
    if "@" not in address or any(ord(character) < 32 for character in value):
        raise ValueError("must look like Shop <shop@example.com>")
    return value


def _split(value: object) -> object:
    if isinstance(value, str):
        return _parts(value)
    return value


Secret = Annotated[SecretStr, AfterValidator(_strong)]
PostgresUrl = Annotated[str, AfterValidator(_postgres_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
OptionalHttpUrl = Annotated[str, AfterValidator(lambda value: value and _http_url(value))]
HttpUrls = Annotated[str, AfterValidator(_http_urls)]
SmtpUrl = Annotated[SecretStr, AfterValidator(_smtp_url)]
MailFrom = Annotated[str, AfterValidator(_mail_from)]
NetworkList = Annotated[str, AfterValidator(_networks)]
OriginList = Annotated[str, AfterValidator(_origins)]
RateList = Annotated[str, AfterValidator(_rates)]


def cores() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ProcessSettings(BaseSettings):
    """What every process reads."""

    model_config = SettingsConfigDict(env_prefix="TERCET_", extra="ignore", frozen=True)

    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    log_json: bool = Field(True, description="one JSON object a line; false prints for a terminal")


class ValkeySettings(ProcessSettings):
    """What a process needs that holds pages: where it hears which of them are old."""

    valkey_url: str = Field(
        "redis://127.0.0.1:6379/0", description="cache and tag stream; may be lost at any time"
    )
    valkey_password: SecretStr | None = Field(None, description="Valkey's requirepass, if set")


class EventsSettings(ProcessSettings):
    """What a process needs that writes to the log of events, or counts them."""

    events_url: str = Field(
        "", description="the log of events, a Valkey without eviction; none: events are refused"
    )
    events_password: SecretStr | None = Field(None, description="its requirepass, if set")


class DatabaseSettings(ValkeySettings, EventsSettings):
    """What a process needs that reads and writes data."""

    primary_dsn: PostgresUrl = Field(
        description="the primary; with several hosts the one that takes writes: postgresql://tercet_app@a,b/tercet"
    )
    standby_dsns: Annotated[list[PostgresUrl], NoDecode] = Field(
        default_factory=list,
        description="streaming standbys, separated by commas; none: reads go to the primary",
    )
    app_password: Secret = Field(description="password of tercet_app, which reads and writes")
    read_password: Secret = Field(description="password of tercet_read, which only reads")
    primary_pool_size: int = Field(
        8, ge=1, le=200, description="connections of one process to the primary"
    )
    standby_pool_size: int = Field(
        8, ge=1, le=200, description="connections of one process to each standby"
    )
    primary_page_share: int = Field(
        50, ge=1, le=100, description="percent of those that pages and lists may use at once"
    )
    primary_order_share: int = Field(
        75,
        ge=1,
        le=100,
        description="the same for orders, pages included; the rest is for payments and logins",
    )
    standby_page_share: int = Field(
        75, ge=1, le=100, description="percent of a standby's connections for pages and lists"
    )
    pool_wait_ms: int = Field(
        200, ge=1, description="longest wait for a free connection; then 503 with Retry-After"
    )
    primary_read_limit: int = Field(
        4,
        ge=1,
        le=200,
        description="reads of one process that the primary answers at once for want of a standby",
    )
    statement_timeout_ms: int = Field(
        2000,
        ge=10,
        description="longest statement of a request, held by PostgreSQL too; four times the p99.9"
        " (0.5 s) of whole transactions on two busy cores: `tercet timeouts`",
    )
    cache_timeout_ms: int = Field(
        40,
        ge=1,
        description="longest wait for Valkey before the database is asked instead; by then a"
        " standby has answered 99 of 100 (50 ms on two busy cores: `tercet timeouts`)",
    )
    cache_loads: int = Field(
        16, ge=1, description="pages and lists that one process reads from the database at once"
    )
    cache_memory_bytes: int = Field(
        32 * 2**20,
        ge=0,
        description="of pages, and as many of lists, in one process; 0: none, Valkey is asked",
    )
    standby_lag_limit_ms: int = Field(
        1000,
        ge=1,
        le=8000,  # a consistency token lasts 10 s, and a late standby is noticed within 0.6 s
        description="a standby further behind than this is not read from; at most 8000",
    )

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, data: dict[str, object]) -> dict[str, object]:
        if "standby_dsns" in data:
            data["standby_dsns"] = _split(data["standby_dsns"])
        return data


class MigrateSettings(ProcessSettings):
    """What `tercet migrate` and bulk catalog work need."""

    owner_dsn: PostgresUrl = Field(
        description="the primary as the owner: postgresql://tercet_owner@host:5432/tercet"
    )
    owner_password: Secret = Field(description="password of tercet_owner, which migrates")
    operator_token: Secret | None = Field(
        None, description="bearer token of the first operator, which `tercet migrate` registers"
    )


class InternalSettings(ProcessSettings):
    """What access and business share: the credential of the hop between them."""

    internal_secret: Secret = Field(description="credential of access at business")
    internal_secret_previous: Secret | None = Field(
        None, description="the credential before this one, accepted while it is being rotated"
    )


class CookieSettings(ProcessSettings):
    """What sets and reads cookies needs."""

    cookie_secret: Secret = Field(description="key that signs what cookies carry")
    cookie_secure: bool = Field(
        False, description="mark cookies Secure; true wherever access is reached by HTTPS"
    )


class WebhookSettings(ProcessSettings):
    """What who sends webhooks and who receives them share."""

    webhook_secret: Secret = Field(
        description="key of the signatures of webhooks; base64 after whsec_, else as it is"
    )


class MailSettings(ProcessSettings):
    """What sends mails needs."""

    smtp_url: SmtpUrl = Field(
        SecretStr("smtp://127.0.0.1:1025"),
        description="where mails go: smtp://host:587, with user and password before the host where"
        " it wants them; smtps:// for TLS at once, else TLS is begun where the server offers it",
    )
    mail_from: MailFrom = Field(
        "Tercet <shop@localhost>", description="who mails come from, as a mail says it"
    )


class BusinessSettings(
    DatabaseSettings, InternalSettings, CookieSettings, WebhookSettings, MailSettings
):
    """What `tercet business` needs."""

    business_host: str = Field("127.0.0.1", description="address business listens on")
    business_port: int = Field(8081, ge=0, le=65535, description="port business listens on")
    business_workers: int = Field(
        1, ge=1, le=64, description="processes of business on that port; one a core at most"
    )
    business_internal_host: str = Field(
        "127.0.0.1", description="address of business' /metrics, for who watches it only"
    )
    business_internal_port: int = Field(
        0, ge=0, le=65535, description="port of business' /metrics, shared by all; 0: none"
    )
    provider_url: HttpUrl = Field(description="base address of the payment provider")
    provider_secret: Secret = Field(description="bearer credential at the payment provider")
    webhook_secret_previous: Secret | None = Field(
        None, description="the key before this one, believed while it is being rotated"
    )
    request_timeout_ms: int = Field(
        5000, ge=10, description="deadline of a request that names none, and the longest allowed"
    )
    provider_timeout_ms: int = Field(
        3000,
        ge=10,
        description="longest wait for the payment provider's answer; the sandbox's p99.9 is 0.2 s,"
        " a real one's is seconds: `tercet timeouts` shows yours",
    )
    events_kept_days: int = Field(
        90, ge=8, description="how long the hours of analytics are kept; revenue's for ever"
    )
    return_orphan_charges: bool = Field(
        True,
        description="void or refund charges at the provider that stand for no payment of ours;"
        " false where others charge by the same account, and before a restored backup is checked",
    )
    hold_minutes: int = Field(15, ge=1, description="how long an order holds its stock unpaid")
    docs: bool = Field(
        False, description="serve /docs, the page of the API; /openapi.json is always served"
    )


class WorkerSettings(BusinessSettings):
    """What `tercet worker NAME` needs: the same as business, and a port of its own."""

    worker_internal_host: str = Field(
        "127.0.0.1", description="address of a worker's /metrics, for who watches it only"
    )
    worker_internal_port: int = Field(
        0, ge=0, le=65535, description="port of a worker's /metrics, another for each; 0: none"
    )


class AccessSettings(InternalSettings, ValkeySettings, EventsSettings, CookieSettings):
    """What `tercet access` needs."""

    access_host: str = Field("127.0.0.1", description="address access listens on")
    access_port: int = Field(8080, ge=0, le=65535, description="port access listens on")
    access_workers: int = Field(
        1, ge=1, le=64, description="processes of access on that port; one a core at most"
    )
    access_internal_host: str = Field(
        "127.0.0.1", description="address of /metrics; never one that clients can reach"
    )
    access_internal_port: int = Field(
        0, ge=0, le=65535, description="port of /metrics, shared by all processes; 0: none"
    )
    access_log_sample: float = Field(
        0.0, ge=0.0, le=1.0, description="part of the requests that are logged; 0: none, 1: all"
    )
    access_tls_certificate: Path | None = Field(
        None, description="PEM file, with the chain, by which access speaks TLS itself"
    )
    access_tls_key: Path | None = Field(None, description="PEM file of that certificate's key")
    access_memory_limit_bytes: int = Field(
        0, ge=0, description="of one process; above 85 % of it access sheds memory; 0: none"
    )
    business_url: HttpUrls = Field(
        description="base address of business; several by commas, or a name that stands for several"
    )
    page_pool_size: int = Field(
        default_factory=lambda: 4 * cores(),
        ge=1,
        description="connections to business for pages; 2 to 4 a core",
    )
    page_memory_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        description="held pages of one process with all that goes with them; the least asked go",
    )
    checkout_pool_size: int = Field(
        default_factory=lambda: 4 * cores(),
        ge=1,
        description="connections to business for orders and carts",
    )
    login_pool_size: int = Field(
        default_factory=lambda: 2 * cores(),
        ge=1,
        description="connections to business for logins and accounts: a password takes a core of"
        " business some 50 ms, and what waits there for one is no use",
    )
    other_pool_size: int = Field(
        default_factory=lambda: 4 * cores(),
        ge=1,
        description="connections to business for what has none of its own, operators with it",
    )
    payment_pool_size: int = Field(
        64,
        ge=1,
        description="connections to business for payments: arrivals a second x seconds each",
    )
    body_limit_bytes: int = Field(65536, ge=1, description="longest request body accepted")
    access_timeout_ms: int = Field(5000, ge=10, description="deadline of a request, from its head")
    keep_alive_s: int = Field(
        120, ge=1, description="idle client connections are closed after this; above a proxy's 60"
    )
    trusted_proxies: NetworkList = Field(
        "", description="networks of the proxies in front, by commas; they say who the client is"
    )
    proxy_header: Literal["x-forwarded-for", "forwarded"] = Field(
        "x-forwarded-for", description="the field in which they say it; the other is not believed"
    )
    unlimited_networks: NetworkList = Field(
        "127.0.0.0/8,::1/128", description="addresses of no client in particular: not limited"
    )
    allowed_origins: OriginList = Field(
        "",
        description="other sites, by commas, whose pages may send what changes something with the"
        " cookies of here: https://shop.example",
    )
    customer_rates: RateList = Field(
        "checkout=10/50,payment=10/50,other=50/200",
        description="by customer and class of traffic: so many a second / so many at once",
    )
    address_rates: RateList = Field(
        "login=5/50,checkout=50/200,payment=50/200,webhook=1000/5000,beacon=100/500,other=200/1000",
        description="the same by the client's address, which may be that of many people",
    )
    events_buffer_bytes: int = Field(
        4 * 2**20, ge=65536, description="behaviour events of one process on their way to the log"
    )
    connection_limit: int = Field(
        0, ge=0, description="client connections of one process; 0: half of the files it may open"
    )
    connection_limit_by_address: int = Field(
        1000, ge=1, description="client connections of one address (IPv6: /64) at one process"
    )

    live_limit: int = Field(
        0, ge=0, description="live streams of one process; 0: three quarters of its connections"
    )
    live_limit_by_address: int = Field(
        500, ge=1, description="live streams of one address (IPv6: /64) at one process"
    )

    @property
    def business_urls(self) -> list[str]:
        return _parts(self.business_url)

    @property
    def origins(self) -> list[str]:
        return _parts(self.allowed_origins)

    @model_validator(mode="after")
    def _whole_tls(self) -> AccessSettings:
        if (self.access_tls_certificate is None) != (self.access_tls_key is None):
            raise ValueError("TERCET_ACCESS_TLS_CERTIFICATE and TERCET_ACCESS_TLS_KEY go together")
        for path in (self.access_tls_certificate, self.access_tls_key):
            if path is not None and not os.access(path, os.R_OK):
                raise ValueError(f"TERCET_ACCESS_TLS_…: {path} can not be read")
        return self


class ProviderSettings(WebhookSettings):
    """What `tercet provider`, the sandbox payment provider, needs."""

    provider_host: str = Field("127.0.0.1", description="address the sandbox provider listens on")
    provider_port: int = Field(8082, ge=0, le=65535, description="port the sandbox listens on")
    provider_secret: Secret = Field(description="bearer credential its callers must show")
    webhook_url: OptionalHttpUrl = Field(
        "", description="where its webhooks go, the shop's /webhooks/sandbox; none: it sends none"
    )
    provider_public_url: OptionalHttpUrl = Field(
        "", description="where customers' browsers reach it; none: as it was asked by business"
    )
    provider_data: Path = Field(
        Path("provider.sqlite3"), description="file of the sandbox's own ledger"
    )


class MailboxSettings(ProcessSettings):
    """What `tercet mailbox`, which shows the mails of a stack on one's own machine, needs."""

    mailbox_host: str = Field("127.0.0.1", description="address of the mailbox's page")
    mailbox_port: int = Field(8025, ge=0, le=65535, description="port of the mailbox's page")
    mailbox_smtp_host: str = Field("127.0.0.1", description="address where it takes mails")
    mailbox_smtp_port: int = Field(1025, ge=0, le=65535, description="port where it takes mails")


class CatalogSettings(ProcessSettings):
    """What the catalog commands read."""

    currency: str = Field(
        "USD", pattern="^[A-Z]{3}$", description="ISO 4217 code where a file names none"
    )


S = TypeVar("S", bound=ProcessSettings)


def load(kind: type[S]) -> S:
    """Read the settings of one kind of process, or raise SettingsError that names each variable."""
    secrets_dir = os.environ.get("TERCET_SECRETS_DIR")
    if secrets_dir is not None and not Path(secrets_dir).is_dir():
        raise SettingsError(f"TERCET_SECRETS_DIR: {secrets_dir} is not a folder")
    try:
        return kind(_secrets_dir=secrets_dir)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            name = "TERCET_" + "_".join(str(part) for part in item["loc"][:1]).upper()
            reason = item["msg"].removeprefix("Value error, ")
            lines.append(f"{name}: {reason}" if item["loc"] else reason)
        raise SettingsError("\n".join(lines)) from None
