"""What business and its workers tell Prometheus: which series there are, and what they mean.

A new one is a row: name, what it means, where its number is read from the shop, and its labels.
"""

from __future__ import annotations

from typing import Final

from services import tally
from services.business import readings
from services.business.database_metrics import DATABASE
from services.business.shop import Shop
from services.child import Child
from services.data.batch_counts import SIZES, WAITS_S
from services.families import Family, counter, gauge, histogram, one
from services.reports import Report
from services.watchdog import LOOP

Table = tuple[Family[Shop], ...]

# What a shop tells whoever has opened it: business and each worker.
SHOP: Final[Table] = (
    counter(
        "upstream_calls",
        "Calls of each dependency, by what became of them",
        readings.calls,
        "upstream",
        "outcome",
    ),
    counter(
        "upstream_refused",
        "Of those not sent, those that we did not let begin, and why",
        readings.calls_refused,
        "upstream",
        "reason",
    ),
    histogram(
        "upstream_seconds",
        "Seconds that calls took which began; of a database, as long as they had its connection",
        readings.call_seconds,
        "upstream",
        bounds=tally.BOUNDS_S,
    ),
    gauge(
        "upstream_timeout_seconds",
        "The longest that a call may take",
        readings.of_upstreams("timeout_s"),
        "upstream",
    ),
    gauge(
        "upstream_in_use",
        "Calls that run",
        readings.of_upstreams("in_use"),
        "upstream",
    ),
    gauge(
        "upstream_waiting",
        "Calls that wait for a place",
        readings.of_upstreams("waiting"),
        "upstream",
    ),
    gauge(
        "upstream_limit",
        "The most that may run at once",
        readings.of_upstreams("limit"),
        "upstream",
    ),
    gauge(
        "breaker_state",
        "0: closed; 1: half open, being probed; 2: open, calls are refused",
        readings.breaker_states,
        "upstream",
    ),
    *DATABASE,
    counter(
        "handed_over",
        "Tasks that were to go on whatever becomes of their request",
        one(lambda shop: shop.counts.handed_over_total),
    ),
    histogram(
        "batch_rows",
        "Rows of each batch of an operation: its count is that of the transactions",
        readings.batch_rows,
        "operation",
        bounds=SIZES,
    ),
    histogram(
        "batch_wait_seconds",
        "Seconds that callers waited for their batch to begin",
        readings.batch_waits,
        "operation",
        bounds=WAITS_S,
    ),
    counter(
        "batch_again",
        "Rows that were queued again, because others had locked what they need",
        readings.of_batches("again"),
        "operation",
    ),
    counter(
        "batch_left_out",
        "Callers who left, or whose deadline passed, before their batch began",
        readings.of_batches("left_out"),
        "operation",
    ),
    counter(
        "batch_taken_apart",
        "Batches that failed and were run in parts, to find the rows that fail alone",
        readings.of_batches("taken_apart"),
        "operation",
    ),
    gauge("handed_over_running", "Of these, those that run", one(lambda shop: shop.handed_over)),
    *LOOP,
)

BUSINESS: Final[Table] = (
    counter(
        "requests",
        "Requests, by route and status; held: from memory; left: access did not wait",
        readings.requests,
        "route",
        "outcome",
    ),
    histogram(
        "request_seconds",
        "Seconds from a request's head to the end of its answer",
        readings.request_seconds,
        "route",
    ),
    counter(
        "parts_degraded",
        "Parts that a product page was sent without",
        readings.parts_degraded,
        "part",
    ),
    counter(
        "cache_gets",
        "Values that caches gave, by where from; stale: from memory while it is loaded anew",
        readings.cache_gets,
        "cache",
        "source",
    ),
    counter(
        "cache_lease_waits",
        "Loads that another process was at already",
        readings.of_caches("lease_waits"),
        "cache",
    ),
    counter(
        "cache_lease_hits",
        "Of these, those that ended with the other process' value",
        readings.of_caches("lease_hits"),
        "cache",
    ),
    counter("cache_failures", "Loads that failed", readings.of_caches("failures"), "cache"),
    gauge("cache_bytes", "Process memory that values take", readings.cache_bytes, "cache"),
    gauge(
        "cache_loads_running",
        "Loads from the database that run",
        one(lambda shop: shop.store.loads.running),
    ),
    gauge(
        "cache_loads_waiting",
        "Loads that wait for a place among those",
        one(lambda shop: shop.store.loads.waiting),
    ),
    counter(
        "cache_loads_refused",
        "Loads that got no place in time: their readers were told 503",
        one(lambda shop: shop.store.loads.refused),
    ),
    counter(
        "valkey_reads",
        "Questions to Valkey about values and purges",
        one(lambda shop: shop.store.cached.reads),
    ),
    counter(
        "valkey_batches",
        "MGETs in which they were asked",
        one(lambda shop: shop.store.cached.batches),
    ),
    counter(
        "wake_ups_asked",
        "Commits that the outbox relays were to be told of",
        one(lambda shop: shop.store.wake_ups.asked),
    ),
    counter(
        "wake_ups_sent",
        "Messages by which they were told",
        one(lambda shop: shop.store.wake_ups.sent),
    ),
    counter("logins", "Sessions that began by a password", one(lambda s: s.counts.logins_total)),
    counter(
        "logins_refused",
        "Tries with a wrong password, or an address without an account",
        one(lambda shop: shop.counts.logins_refused_total),
    ),
    counter(
        "logins_throttled",
        "Tries that came too soon after others: their passwords were not looked at",
        one(lambda shop: shop.counts.logins_throttled_total),
    ),
    counter(
        "password_hashes",
        "Passwords that were hashed, to be kept or to be compared",
        one(lambda shop: shop.passwords.hashes_total),
    ),
    counter(
        "password_hashes_refused",
        "Of those asked for, those that did not fit: their callers were told 503",
        one(lambda shop: shop.passwords.refused_total),
    ),
    counter(
        "password_processes_lost",
        "Processes for hashes that were gone or stuck when they were to answer",
        one(lambda shop: shop.passwords.hashers.lost_total),
    ),
    gauge(
        "password_hashes_running",
        "Those that run or wait for a process",
        one(lambda shop: shop.passwords.in_hand),
    ),
    counter(
        "own_reads",
        "Reads of what belongs to a customer, by the kind of server that answered",
        readings.own_reads,
        "answered_by",
    ),
    counter(
        "own_reads_missed",
        "Of these, not found on a standby, and asked of the primary again",
        one(lambda shop: shop.database.own.misses),
    ),
    counter(
        "token_waits",
        "Reads that waited for a standby to replay what their customer had seen",
        one(lambda shop: shop.database.own.waits),
    ),
    counter(
        "token_waits_in_vain",
        "Of these, went to the primary after 20 ms",
        one(lambda shop: shop.database.own.waits_in_vain),
    ),
    *SHOP,
)

WORKER: Final[Table] = (
    histogram(
        "round_seconds",
        "Seconds that each round took; their count is the number of rounds",
        readings.round_seconds,
        "name",
    ),
    counter(
        "items",
        "What the rounds found to do, and did: rows published, payments checked, orders expired",
        readings.of_rounds("items_total"),
        "name",
    ),
    counter(
        "errors",
        "Rounds, or items of one, that could not be done and are tried again",
        readings.of_rounds("errors_total"),
        "name",
    ),
    gauge(
        "last_round_age_seconds",
        "Seconds since the end of the last round that could be done",
        readings.of_rounds("age_s"),
        "name",
    ),
    counter(
        "escalated",
        "Payments and what is done with them of which the provider gives no evidence: look",
        one(lambda shop: shop.counts.escalated_total),
    ),
    counter(
        "orphan_charges_found",
        "Charges at the provider that stand for no payment of ours: look how they came about",
        one(lambda shop: shop.counts.orphans_found_total),
    ),
    counter(
        "orphan_charges_returned",
        "Such charges that were voided or refunded",
        one(lambda shop: shop.counts.orphans_returned_total),
    ),
    counter("mails_sent", "Mails that a server took", one(lambda s: s.counts.mails_sent_total)),
    gauge(
        "mails_kept",
        "Mails that wait to be sent, and dead ones: look why; of the mails worker only",
        readings.mails,
        "state",
    ),
    gauge(
        "live_watched_topics",
        "What somebody listens to; of the live worker that tells, and no other",
        readings.live_watched,
    ),
    counter(
        "events_counted",
        "Behaviour events and transfers that were counted, duplicates with them",
        one(lambda shop: shop.counts.events_counted_total),
    ),
    gauge(
        "log_waiting_entries",
        "Entries of the log of events that are not counted yet; of a rollups worker only",
        readings.events_waiting,
    ),
    gauge(
        "log_oldest_seconds",
        "Age of the oldest of them",
        readings.events_age,
    ),
    gauge(
        "outbox_waiting_rows",
        "Rows that wait to be published, counted up to 10,000; of the outbox worker only",
        readings.outbox_waiting,
    ),
    gauge(
        "outbox_oldest_seconds",
        "Age of the oldest of them",
        readings.outbox_age,
    ),
    *SHOP,
)


def report_of(shop: Shop, child: Child | None) -> Report[Shop]:
    """What a process of business says about itself."""
    return Report("business", shop, BUSINESS, child)


def report_of_worker(shop: Shop) -> Report[Shop]:
    """What a worker says about itself."""
    return Report("worker", shop, WORKER, None)
