"""Scenario files, what profiles make of them, and whether targets hold."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from loadtests.kinds import KINDS
from loadtests.profiles import FIRST_STEP, HALVINGS, PROFILES, STEP, STEPS, Run, next_step
from loadtests.recorder import Recorder
from loadtests.scenario import SCENARIOS, Scenario, ScenarioError, Targets, Traffic, find, read
from loadtests.verdicts import checks

FILES = sorted(SCENARIOS.glob("*.toml"))
PAGE = Traffic("page", rate=100.0, arrivals="constant")


def of(traffic: Traffic) -> Scenario:
    return Scenario("one", (traffic,), seconds=10)


def in_each_second(run: Run, traffic: Traffic, of: int = 1) -> list[int]:
    seconds = [0] * round(run.seconds)
    for number in range(of):
        for moment in run.arrivals(traffic, seed=1, number=number, of=of):
            seconds[int(moment)] += 1
    return seconds


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_scenario_of_the_project_can_be_run_by_every_profile(file: Path) -> None:
    scenario = read(find(file.stem))
    for profile in PROFILES.values():
        run = Run.of(scenario, profile)
        for traffic in scenario.traffic:
            assert traffic.does in KINDS
            moments = run.arrivals(traffic, seed=1, number=0, of=1)
            assert 0 <= next(moments) < run.seconds, (profile.name, traffic.label)


def test_the_closing_scenario_has_the_four_kinds_with_targets() -> None:
    traffic = {one.does: one for one in read(find("all_four")).traffic}
    assert set(traffic) == {"page", "checkout", "login", "events", "live", "idle"}
    assert traffic["checkout"].short and traffic["login"].short
    assert all(one.targets.p99_ms for one in traffic.values())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("title = 1", "Expected `str`, got `int` - at `$.title`"),
        ('title = "x"\ntraffic = []', "there is no"),
        ('title = "x"\n[[traffic]]\ndoes = "fly"', "Invalid enum value 'fly'"),
        ('title = "x"\n[[traffic]]\ndoes = "page"', "one of rate, weight and trace"),
        ('title = "x"\n[[traffic]]\ndoes = "page"\nweight = 1', "needs a rate"),
        ('title = "x"\n[[traffic]]\ndoes = "claim"\nrate = 1', "claims need a"),
        ('title = "x"\n[[traffic]]\ndoes = "page"\nrate = 1\nspeed = 2', "unknown field"),
        ("title =", "Invalid value"),
    ],
)
def test_a_file_that_is_no_scenario_is_refused_by_name(
    tmp_path: Path, text: str, reason: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ScenarioError, match=r"mine\.toml: ") as error:
        read(file)
    assert reason in str(error.value)


def test_a_name_that_is_not_known_lists_those_that_are() -> None:
    with pytest.raises(ScenarioError, match="there are all_four, brownout"):
        find("nothing")


def test_profiles_change_how_much_comes_and_for_how_long() -> None:
    scenario = of(PAGE)
    average = in_each_second(Run.of(scenario, PROFILES["average"]), PAGE)
    assert average == [100] * 10
    assert in_each_second(Run.of(scenario, PROFILES["smoke"]), PAGE) == [20] * 5
    spike = in_each_second(Run.of(scenario, PROFILES["spike"], seconds=10), PAGE)
    assert spike == [100, 100, 100, 500, 500, 100, 100, 100, 100, 100]
    stress = in_each_second(Run.of(scenario, PROFILES["stress"], seconds=10), PAGE)
    assert stress[3:8] == [200] * 5
    step = Run.of(scenario, PROFILES["breakpoint"], seconds=2, load=3)
    assert in_each_second(step, PAGE) == [300, 300]


def searched(knee: float) -> dict[float, bool]:
    """The steps that look for a knee, of a shop that holds up to there."""
    tried: dict[float, bool] = {}
    while (load := next_step(tried)) is not None:
        tried[load] = load <= knee
    return tried


def test_the_knee_is_looked_for_upwards_and_where_nothing_holds_downwards() -> None:
    up = searched(knee=1.0)
    assert list(up) == [FIRST_STEP * STEP**number for number in range(5)]
    assert list(up.values()) == [True] * 4 + [False]
    assert len(searched(knee=1e9)) == STEPS
    down = searched(knee=0.3)
    assert list(down) == [0.5, 0.25, 0.3125]
    assert list(searched(knee=0.2)) == [0.5, 0.25, 0.125, 0.15625, 0.1953125, 0.244140625]
    assert list(searched(knee=0)) == [FIRST_STEP / 2**number for number in range(HALVINGS + 1)]


def test_stages_of_its_own_are_stretched_over_the_run() -> None:
    buyers = msgspec.structs.replace(PAGE, stages=((5, 0, 0), (1, 10, 10), (4, 1, 1)))
    run = Run.of(of(buyers), PROFILES["average"])
    assert in_each_second(run, buyers) == [0, 0, 0, 0, 0, 1000, 100, 100, 100, 100]
    half = Run.of(of(buyers), PROFILES["average"], seconds=5)
    assert sum(in_each_second(half, buyers)) == 700


def test_a_mix_is_divided_by_weight() -> None:
    pages = Traffic("page", weight=3.0)
    scenario = Scenario("mix", (pages, Traffic("search", weight=1.0)), rate=200.0)
    assert [scenario.rate_of(one) for one in scenario.traffic] == [150, 50]


def test_the_shares_of_processes_are_the_whole(tmp_path: Path) -> None:
    run = Run.of(of(PAGE), PROFILES["average"])
    assert in_each_second(run, PAGE, of=4) == [100] * 10
    (tmp_path / "trace").write_text("0\n1\n2\n3\n99\n")
    traced = Traffic("page", trace=str(tmp_path / "trace"))
    assert in_each_second(Run.of(of(traced), PROFILES["average"]), traced, of=2)[:5] == [
        1,
        1,
        1,
        1,
        0,
    ]


def recorded(answered: int, errors: int = 0, unsent: int = 0, latency_s: float = 0.01) -> Recorder:
    recorder = Recorder("page")
    for _ in range(answered + errors + unsent):
        recorder.arrive()
    for _ in range(answered):
        recorder.answer(latency_s)
    for _ in range(errors):
        recorder.error("status 503")
    for _ in range(unsent):
        recorder.leave_out()
    return recorder


@pytest.mark.parametrize(
    ("targets", "recorder", "missed"),
    [
        (Targets(p99_ms=11, goodput=1.0, goodput_per_s=10), recorded(100), []),
        (Targets(p99_ms=9), recorded(100), ["p99 <= 9 ms"]),
        (Targets(), recorded(99, errors=1), ["errors <= 0.00%"]),
        (Targets(error_rate=0.01, goodput=0.99), recorded(99, errors=1), []),
        (Targets(error_rate=0.5, goodput=0.99), recorded(98, errors=2), ["answered in time"]),
        (Targets(goodput_per_s=10.1), recorded(100), ["goodput >= 10.1/s"]),
        (Targets(), recorded(99, unsent=1), ["all that was due was sent"]),
        (Targets(), Recorder("page"), ["all that was due was sent"]),
        (Targets(still_open=1.0, error_rate=1), recorded(99, errors=1), ["open to the end"]),
    ],
)
def test_a_target_holds_or_is_named(
    targets: Targets, recorder: Recorder, missed: list[str]
) -> None:
    traffic = Traffic("page", rate=1.0, targets=targets)
    found = checks(Run.of(of(traffic), PROFILES["average"]), [recorder])
    told = [check.what for check in found if not check.held]
    assert len(told) == len(missed)
    assert all(word in what for word, what in zip(missed, told, strict=True))


@pytest.mark.parametrize(
    ("profile", "answered", "wanted", "held"),
    [
        ("average", 900, "90/s", True),
        ("average", 899, "90/s", False),
        ("smoke", 90, "18/s", True),
        ("smoke", 89, "18/s", False),
        ("stress", 1800, "90/s", True),  # of twice the load a shop need not do more
        ("stress", 1799, "90/s", False),
    ],
)
def test_less_load_is_to_have_as_much_fewer_answers_and_more_load_no_more(
    profile: str, answered: int, wanted: str, held: bool
) -> None:
    targets = Targets(goodput_per_s=90, error_rate=1)
    traffic = msgspec.structs.replace(PAGE, targets=targets)
    run = Run.of(of(traffic), PROFILES[profile])
    due = sum(in_each_second(run, traffic))
    recorder = recorded(answered, errors=due - answered)
    found = checks(run, [recorder])[-1]
    assert (found.what, found.held) == (f"page: goodput >= {wanted}", held)
