"""Whether the targets of a scenario held in a run."""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.generator import BEHIND_LIMIT_S
from loadtests.profiles import Run
from loadtests.recorder import Recorder
from loadtests.scenario import Targets, Traffic
from loadtests.story import Check


def checks(run: Run, recorders: Sequence[Recorder]) -> list[Check]:
    """One for each target. That all was sent is a target of every kind of traffic."""
    by_label = {recorder.work: recorder for recorder in recorders}
    found: list[Check] = []
    for traffic in run.scenario.traffic:
        recorder = by_label.get(traffic.label) or Recorder(traffic.label)
        found.append(_sent(recorder))
        found += _targets(run, traffic, recorder)
    return found


def _sent(recorder: Recorder) -> Check:
    late = recorder.late_us > BEHIND_LIMIT_S * 1e6
    return Check(
        f"{recorder.work}: all that was due was sent",
        recorder.unsent == 0 and recorder.due > 0,
        f"{recorder.unsent:,} of {recorder.due:,} unsent"
        + (
            f", the generator was {recorder.late_us / 1e6:.1f} s late (--processes)" if late else ""
        ),
    )


def _targets(run: Run, traffic: Traffic, recorder: Recorder) -> list[Check]:
    label, targets = traffic.label, traffic.targets
    found = [
        Check(
            f"{label}: errors <= {targets.error_rate:.2%}",
            recorder.error_rate <= targets.error_rate,
            f"{recorder.error_rate:.2%} of {recorder.sent:,}",
        ),
        *_latencies(label, targets, recorder),
    ]
    if targets.goodput is not None:
        whole = recorder.answered + sum(recorder.refusals.values())
        share = whole / recorder.due if recorder.due else 0.0
        found.append(
            Check(
                f"{label}: answered in time >= {targets.goodput:.2%}",
                share >= targets.goodput,
                f"{share:.2%} of {recorder.due:,}",
            )
        )
    if targets.goodput_per_s is not None:
        rate = recorder.answered / run.seconds
        wanted = targets.goodput_per_s * _share_of_written(run, traffic, recorder)
        found.append(
            Check(
                f"{label}: goodput >= {wanted:.4g}/s",
                rate >= wanted,
                f"{rate:.1f}/s",
            )
        )
    if targets.still_open is not None:
        lost = sum(recorder.errors.values())
        share = 1 - lost / recorder.due if recorder.due else 0.0
        found.append(
            Check(
                f"{label}: connections open to the end >= {targets.still_open:.2%}",
                share >= targets.still_open,
                f"{share:.2%} of {recorder.due:,}",
            )
        )
    return found


def _share_of_written(run: Run, traffic: Traffic, recorder: Recorder) -> float:
    """How much of the load that the scenario writes was due, 1 at most.

    A target of answers a second is written for that load. Less load can not give as many; more
    load asks for no more, since what a shop can do has an end.
    """
    written = run.written(traffic)
    return min(1.0, recorder.due / written) if written else 1.0


def _latencies(label: str, targets: Targets, recorder: Recorder) -> list[Check]:
    found = []
    for percentile, limit_ms in ((50.0, targets.p50_ms), (99.0, targets.p99_ms)):
        if limit_ms is not None:
            value_ms = recorder.percentile_ms(percentile)
            found.append(
                Check(
                    f"{label}: p{percentile:g} <= {limit_ms:g} ms",
                    0 < value_ms <= limit_ms,
                    f"{value_ms:.1f} ms",
                )
            )
    return found


def print_checks(found: Sequence[Check]) -> None:
    for check in found:
        print(f"{'held  ' if check.held else 'MISSED'}  {check.what}  ({check.detail})")
