"""What a recorder keeps."""

from __future__ import annotations

import json

from loadtests.recorder import Recorder, merged


def test_percentiles_are_those_of_all_latencies() -> None:
    recorder = Recorder("work")
    for number in range(1, 1001):
        recorder.answer(number / 1000)
    for percentile in (50, 90, 99, 99.9):
        assert abs(recorder.percentile_ms(percentile) / (percentile * 10) - 1) < 0.002
    assert abs(recorder.max_ms() / 1000 - 1) < 0.002
    assert abs(recorder.mean_ms() / 500.5 - 1) < 0.002


def test_waiting_in_vain_counts_as_latency_and_failing_at_once_does_not() -> None:
    recorder = Recorder("work")
    recorder.answer(0.010)
    recorder.error("no connection")
    assert recorder.max_ms() < 11
    recorder.error("no answer in time", 5.0)
    assert recorder.max_ms() >= 5000
    assert recorder.errors == {"no connection": 1, "no answer in time": 1}
    assert recorder.sent == 3


def test_a_run_fails_by_errors_and_by_what_was_not_sent_but_not_by_refusals() -> None:
    refused, broken, unsent = Recorder("refused"), Recorder("broken"), Recorder("unsent")
    refused.refuse("sold out", 0.01)
    broken.error("status 500")
    unsent.unsent += 1
    assert [work.failed for work in (refused, broken, unsent)] == [False, True, True]


def test_latencies_beyond_the_scale_are_kept_at_its_end() -> None:
    recorder = Recorder("work")
    recorder.answer(0.0)
    recorder.answer(3600.0)
    assert recorder.sent == 2
    assert recorder.max_ms() >= 600_000


def test_what_several_processes_recorded_is_one_recorder() -> None:
    parts = [Recorder("work"), Recorder("work")]
    for number in range(1, 1001):
        part, second = parts[number % 2], number // 500
        part.arrive(second)
        part.answer(number / 1000, second)
    parts[0].arrive(1)
    parts[0].leave_out(1)
    parts[1].arrive(2)
    parts[1].error("no answer in time", 5.0, 2)
    documents = [json.loads(json.dumps(part.document())) for part in parts]
    whole = merged("work", documents)
    assert (whole.due, whole.answered, whole.unsent, whole.sent) == (1002, 1000, 1, 1001)
    assert whole.errors == {"no answer in time": 1}
    assert abs(whole.percentile_ms(99) / 990 - 1) < 0.003
    first, then, last = whole.timeline(3)
    assert (first.due, first.answered, then.due, then.unsent) == (499, 499, 501, 1)
    assert (last.errors, last.p99_ms) == (1, 5000.0)
    assert abs(first.p50_ms - 250) <= 1
