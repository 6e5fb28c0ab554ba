"""Profiles: how hard and how long a scenario is run. What it is made of stays the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from loadtests.scenario import Scenario, Traffic
from loadtests.schedule import Stage, staged, trace

SMOKE_S: Final = 5.0  # enough to see that everything answers
SMOKE_LOAD: Final = 0.2
WARM_UP_S: Final = 2.0
SOAK_S: Final = 1800.0
STEP_S: Final = (
    10.0  # of breakpoint: some thousand requests at the rates of the project's scenarios
)
STEP: Final = 1.25  # from one step to the next: the knee is known to a quarter
FIRST_STEP: Final = 0.5
STEPS: Final = 24  # the last of them is 84 times the load of the scenario
HALVINGS: Final = 4  # where not even the first step held: down to a 32nd of the load


@dataclass(frozen=True, slots=True)
class Profile:
    """shape: parts of the length, and times the load from and to. load: what they are times of.

    seconds: None, the scenario's own length.
    """

    name: str
    about: str
    shape: Sequence[tuple[float, float, float]] = ((1.0, 1.0, 1.0),)
    load: float = 1.0
    seconds: float | None = None
    length: float = 1.0  # times the scenario's own


PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile("smoke", "a fifth of the load for 5 s", load=SMOKE_LOAD, seconds=SMOKE_S),
        Profile("average", "the load as it is written"),
        Profile(
            "stress",
            "up to twice the load, and down again",
            ((0.3, 1.0, 2.0), (0.5, 2.0, 2.0), (0.2, 2.0, 0.5)),
            length=2.0,
        ),
        Profile(
            "spike",
            "five times the load for a fifth of the time, at once",
            ((0.3, 1.0, 1.0), (0.2, 5.0, 5.0), (0.5, 1.0, 1.0)),
            length=1.5,
        ),
        Profile(
            "breakpoint",
            "steps of a quarter more, until one misses a target twice: where the knee is",
            seconds=STEP_S,
        ),
        Profile("warm-up", "a fifth of the load, not measured", load=SMOKE_LOAD, seconds=WARM_UP_S),
        Profile("soak", "the load for half an hour, and what it does to memory", seconds=SOAK_S),
    )
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a scenario: its length, its load, and where in it what happens.

    stretch: what the scenario's own moments are multiplied by.
    """

    scenario: Scenario
    profile: Profile
    seconds: float
    load: float

    @classmethod
    def of(
        cls, scenario: Scenario, profile: Profile, *, seconds: float | None = None, load: float = 1
    ) -> Run:
        own_s = profile.seconds or scenario.seconds * profile.length
        return cls(scenario, profile, seconds or own_s, profile.load * load)

    @property
    def stretch(self) -> float:
        return self.seconds / self.scenario.seconds

    def stages(self, traffic: Traffic) -> list[Stage]:
        """The rates of one kind of traffic over the run: its own stages, else the profile's."""
        rate = self.scenario.rate_of(traffic) * self.load
        if traffic.stages:
            parts = [(length_s * self.stretch, *times) for length_s, *times in traffic.stages]
        else:
            parts = [(part * self.seconds, *times) for part, *times in self.profile.shape]
        return [Stage(length_s, rate * begin, rate * end) for length_s, begin, end in parts]

    def written(self, traffic: Traffic) -> int:
        """Arrivals that a run of this length has at the load as the scenario writes it."""
        as_written = Run(self.scenario, PROFILES["average"], self.seconds, load=1.0)
        even = msgspec.structs.replace(traffic, arrivals="constant")
        return sum(1 for _ in as_written.arrivals(even, seed=0, number=0, of=1))

    def arrivals(self, traffic: Traffic, *, seed: int, number: int, of: int) -> Iterator[float]:
        """Those of process `number` out of `of`: together they have the rate of the whole."""
        if traffic.trace is not None:
            moments = trace(Path(traffic.trace))
            return iter([moment for moment in moments[number::of] if moment < self.seconds])
        shares = [
            Stage(stage.seconds, stage.begin / of, stage.end / of) for stage in self.stages(traffic)
        ]
        random = traffic.arrivals == "poisson"
        own_seed = seed * of + number if random else None
        moments_s = staged(shares, seed=own_seed, first=number / of)
        return (moment for moment in moments_s if moment < self.seconds)


def next_step(tried: Mapping[float, bool]) -> float | None:
    """The load of the next step of a search for the knee; None: it is found, or there is none.

    tried: whether each load held. It goes up by quarters from one that held until one has missed,
    and first down by halves where not even the first one holds.
    """
    if not tried:
        return FIRST_STEP
    if len(tried) >= STEPS:
        return None
    held = [load for load, well in tried.items() if well]
    if not held:
        return min(tried) / 2 if len(tried) <= HALVINGS else None
    following = max(held) * STEP
    nearest_missed = min((load for load, well in tried.items() if not well), default=math.inf)
    return following if following < nearest_missed else None
