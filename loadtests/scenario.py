"""A scenario: which traffic comes how often, what it is to get, and what breaks meanwhile.

They are TOML files, those of the project in loadtests/scenarios; docs/load-tests.md has the fields.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

SCENARIOS: Final = Path(__file__).resolve().parent / "scenarios"

Does = Literal[
    "page", "search", "checkout", "claim", "login", "signup", "events", "idle", "live", "request"
]
Breaks = Literal["kill", "crash", "pause", "restart", "reload", "failover", "brownout"]


class ScenarioError(Exception):
    """The file is not a scenario; the message says where and why."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A table of a scenario file."""


class Targets(Part, frozen=True):
    """What a kind of traffic is to get. Without a word about errors there may be none."""

    p50_ms: float | None = None
    p99_ms: float | None = None
    error_rate: float = 0.0  # of what was sent
    goodput: float | None = None  # the share of arrivals that got a whole answer in time
    goodput_per_s: float | None = None  # answers a second over the whole run
    still_open: float | None = None  # of connections that are held: the share that was never lost


class Traffic(Part, frozen=True):
    """One kind of traffic. rate: arrivals a second; weight: its share of the rate of the mix."""

    does: Does
    name: str = ""
    rate: float | None = None
    weight: float | None = None
    arrivals: Literal["poisson", "constant"] = "poisson"
    trace: str | None = None  # a file of moments, beside the scenario's own
    stages: tuple[tuple[float, float, float], ...] = ()  # seconds, times the rate from, to
    connections: int = 64  # at most; those of `idle` and `live` are opened and held
    short: bool = False  # a connection for each request
    timeout_s: float = 5.0  # from the intended start
    zipf: float = 1.0  # how much more popular the popular products are
    batch: int = 50  # events of one request
    payment_method: str = "tok_approve"
    method: str = "GET"  # these three of `request`
    target: str = "/"
    body: str = ""
    targets: Targets = Targets()

    @property
    def label(self) -> str:
        return self.name or self.does


class Sale(Part, frozen=True):
    """A flash sale that is set up before the run and opens in the middle of it."""

    opens_at_s: float
    units: int
    customer_limit: int = 1
    buyers: int = 500  # customers who are known before it opens


class Fault(Part, frozen=True):
    """What is done to a part of the stack at a moment. brownout: the payment provider's.

    crash and reload are for access and business: one of the processes that serve is killed, or
    all of them are replaced one by one.
    """

    at_s: float
    does: Breaks
    part: str = "provider"
    for_s: float = 0.0  # of pause and brownout
    healthy_within_s: float = 45.0
    mode: str = "slow"  # this and the next two of brownout: docs/sandbox-provider.md
    share: float = 1.0
    delay_ms: int | None = None

    @property
    def what(self) -> str:
        return {
            "kill": f"{self.part} killed",
            "crash": f"a process of {self.part} killed",
            "pause": f"{self.part} paused",
            "restart": f"{self.part} restarted",
            "reload": f"{self.part} replaced process by process",
            "failover": "primary killed, a standby promoted",
            "brownout": f"provider: {self.mode} for {self.share:.0%}",
        }[self.does]


class Stack(Part, frozen=True):
    """What the shop has to be: how a stack of its own is started for this scenario.

    needed: it is not run on any other. capacity: business is a stand-in that can do so many
    requests a second, 20 ms each, and access is all that runs besides.
    """

    products: int = 1000
    standbys: int = 1
    environment: dict[str, str] = {}
    needed: bool = False
    capacity: int | None = None


class Scenario(Part, frozen=True):
    """All of it. seconds: the length to which stages, sale and faults refer."""

    title: str
    traffic: tuple[Traffic, ...]
    about: str = ""
    seconds: float = 30.0
    rate: float | None = None  # of the mix: traffic that has a weight
    products: int = 1000  # how many different pages are asked for at most
    stack: Stack = Stack()
    sale: Sale | None = None
    fault: tuple[Fault, ...] = ()

    def rate_of(self, traffic: Traffic) -> float:
        """Arrivals a second at load 1."""
        if traffic.rate is not None:
            return traffic.rate
        weights = sum(one.weight or 0.0 for one in self.traffic)
        return (self.rate or 0.0) * (traffic.weight or 0.0) / weights


def find(name: str) -> Path:
    """A scenario of the project by its name, or a file by its path."""
    own = SCENARIOS / f"{name}.toml"
    if own.exists():
        return own
    if (path := Path(name)).exists():
        return path
    known = ", ".join(sorted(file.stem for file in SCENARIOS.glob("*.toml")))
    raise ScenarioError(f"no scenario {name}; there are {known}, or give a file")


def read(path: Path) -> Scenario:
    """The scenario in a file, or ScenarioError."""
    try:
        scenario = msgspec.convert(_loaded(path), Scenario)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ScenarioError(f"{path}: {error}") from None
    for reason in _faults_of(scenario):
        raise ScenarioError(f"{path}: {reason}")
    return msgspec.structs.replace(
        scenario, traffic=tuple(_beside(path, traffic) for traffic in scenario.traffic)
    )


def _loaded(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return tomllib.load(file)


def _beside(path: Path, traffic: Traffic) -> Traffic:
    if traffic.trace is None:
        return traffic
    return msgspec.structs.replace(traffic, trace=str(path.parent / traffic.trace))


def _faults_of(scenario: Scenario) -> list[str]:
    reasons = []
    labels = [traffic.label for traffic in scenario.traffic]
    if not labels:
        reasons.append("there is no [[traffic]]")
    if len(set(labels)) < len(labels):
        reasons.append("two kinds of traffic have the same name")
    for traffic in scenario.traffic:
        ways = [traffic.rate, traffic.weight, traffic.trace]
        if sum(way is not None for way in ways) != 1:
            reasons.append(f"{traffic.label}: give it one of rate, weight and trace")
        if traffic.weight is not None and not scenario.rate:
            reasons.append(f"{traffic.label} has a weight, so the scenario needs a rate")
    if scenario.sale is None and any(traffic.does == "claim" for traffic in scenario.traffic):
        reasons.append("claims need a [sale]")
    return reasons
