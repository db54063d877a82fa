"""What the oracle knows about events that correct others: which may be accepted, why others are not, and their rows."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tests.support.oracles.usage import Row
from tests.support.usage.scenario_organization import OrganizationClient, SentEvent

Accepted = Mapping[str, SentEvent]


def compare_rejection(it: OrganizationClient, sent: SentEvent, accepted: Accepted) -> None:
    """Check the code of a correction that was not accepted, although the event by itself is valid."""
    it.expect_equal("code of a correction", sent.event, expected=True, found=_is_right(it, sent, accepted))


def _is_right(it: OrganizationClient, sent: SentEvent, accepted: Accepted) -> bool:
    event, target_id = sent.event, sent.event["corrects"]
    target = accepted.get(target_id)
    of_target = [one for one in it.sent_events if one.event["event_id"] == target_id]
    match sent.code:
        case "corrected_event_not_found":
            known = {"accepted", "duplicate"}
            return not any(one.status in known and one.responded_at < sent.sent_at for one in of_target)
        case "corrected_event_is_correction":
            return any("corrects" in one.event for one in of_target)
        case "event_already_corrected":
            others = [one.event for one in accepted.values() if one.event.get("corrects") == target_id]
            return sent.status == "conflict" and any(it["event_id"] != event["event_id"] for it in others)
        case "corrected_reservation_differs":
            names = {event.get("reservation_id"), target and target.event.get("reservation_id")}
            return len(names - {None}) == 2
        case "corrected_usage_mode_differs":
            return True  # compared with the ingestion time of the target by `expected_rows`
    return False


def expected_rows(
    it: OrganizationClient, accepted: Accepted, ingested: Mapping[str, datetime]
) -> dict[str, list[Row]]:
    """Return the expected rows of each event, and check that the accepted corrections are possible.

    Args:
        it: the organization.
        accepted: the accepted events by id.
        ingested: when each of them was ingested.
    """
    known = {id_: sent for id_, sent in accepted.items() if id_ in ingested}
    rows = {
        id_: it.state.rows(sent.event, ingested[id_])
        for id_, sent in known.items()
        if "corrects" not in sent.event
    }
    corrected_by: dict[str, list[str]] = defaultdict(list)
    for id_, sent in known.items():
        if "corrects" not in sent.event:
            continue
        target_id = sent.event["corrects"]
        corrected_by[target_id].append(id_)
        it.expect_equal("corrected event", sent.event, expected=True, found=target_id in rows)
        if target_id in rows:
            target = rows[target_id][0]
            rows[id_] = it.state.rows(sent.event, ingested[id_], corrected=target)
            it.expect_equal(
                "mode of a correction", sent.event, expected=target.usage_mode, found=rows[id_][0].usage_mode
            )
    for target_id, ids in corrected_by.items():
        it.expect_equal("corrections", target_id, expected=1, found=len(ids))
        if target_id in rows:
            rows[target_id] += [row.cancelled(ingested[ids[0]]) for row in rows[target_id]]
    _compare_rejected_modes(it, rows)
    return rows


def _compare_rejected_modes(it: OrganizationClient, rows: Mapping[str, list[Row]]) -> None:
    for sent in it.sent_events:
        target = rows.get(sent.event.get("corrects", ""), [])
        if sent.code != "corrected_usage_mode_differs" or not target:
            continue
        at = min(datetime.fromisoformat(sent.event["started_at"]).astimezone(UTC), target[0].ingested_at)
        change = it.state.mode_at(at)
        mode = "managed" if change is None else change.mode
        it.expect_equal(
            "mode of a rejected correction", sent.event, expected=True, found=mode != target[0].usage_mode
        )


def compare_repeated_requests(
    it: OrganizationClient, accepted: Accepted, flags: Mapping[str, list[str]]
) -> None:
    """Check that all events of a provider request but one are flagged. Corrections never are."""
    flagged = {id_ for id_, found in flags.items() if "provider_request_repeated" in found}
    by_request: dict[Any, set[str]] = defaultdict(set)
    for id_, sent in accepted.items():
        request_id = None if "corrects" in sent.event else sent.event.get("provider_request_id")
        if request_id is None:
            it.expect_equal("repeated request", sent.event, expected=False, found=id_ in flagged)
        else:
            by_request[request_id].add(id_)
    for request_id, ids in by_request.items():
        it.expect_equal("repeated requests", request_id, expected=len(ids) - 1, found=len(ids & flagged))
