"""`/v1/disputes`: a buyer's bank takes a payment back, or asks about it; `dispute_life.py` has what happens to one."""

from __future__ import annotations

from credits_plugin.sandbox.call import Call, Route, list_route, page_of
from credits_plugin.sandbox.errors import StripeError
from credits_plugin.sandbox.params import (
    boolean,
    created_filter,
    hash_of,
    merge_metadata,
    metadata,
    text,
    unsupported,
)
from credits_plugin.sandbox.resources.dispute_life import (
    CLOSED,
    EVIDENCE_FILES,
    EVIDENCE_TEXTS,
    REVIEW_OF,
    accept,
    obey_test_evidence,
)
from credits_plugin.sandbox.store import Json

MOST_EVIDENCE_CHARACTERS = 150_000

_UPDATE = {
    "evidence": hash_of(
        {name: text(max_length=20_000, clearable=True) for name in EVIDENCE_TEXTS}
        | unsupported(*EVIDENCE_FILES, "enhanced_evidence")
    ),
    "metadata": metadata(),
    "submit": boolean(),
}


def update(call: Call) -> Json:
    """Stage evidence, or (the default) submit it, which puts the dispute under review; emits `charge.dispute.updated`.

    The texts `winning_evidence`, `losing_evidence` and `escalate_inquiry_evidence` in `uncategorized_text` decide the
    dispute a moment later, as in Stripe's test mode.
    """
    dispute = _open_dispute(call)
    evidence = dispute["evidence"] | call.params.get("evidence", {})
    if sum(len(value) for value in evidence.values() if isinstance(value, str)) > MOST_EVIDENCE_CHARACTERS:
        raise StripeError("The combined character count of the evidence must not exceed 150,000.", param="evidence")
    has_evidence = any(isinstance(value, str) for value in evidence.values())
    details = dispute["evidence_details"] | {"has_evidence": has_evidence}
    changes: Json = {
        "evidence": evidence,
        "evidence_details": details,
        "metadata": merge_metadata(dispute["metadata"], call.params.get("metadata", {})),
    }
    submits = has_evidence and call.params.get("submit", "evidence" in call.params)
    if submits:
        details["submission_count"] += 1
        changes["status"] = REVIEW_OF[dispute["status"]]
    updated = call.update(dispute, changes, event_type="charge.dispute.updated")
    if submits:
        obey_test_evidence(call, updated)
    return updated


def close(call: Call) -> Json:
    """Give in: the dispute is lost (an inquiry is closed); emits `charge.dispute.closed`."""
    return accept(call, _open_dispute(call))


def _open_dispute(call: Call) -> Json:
    dispute = retrieve(call)
    if dispute["status"] in CLOSED:
        raise StripeError("This dispute is already closed")
    return dispute


def retrieve(call: Call) -> Json:
    """One dispute."""
    return call.fetch("dispute", call.path["id"])


def list_all(call: Call) -> Json:
    """Disputes, newest first; filters: `charge`, `payment_intent`."""
    wanted = {name: call.params[name] for name in ("charge", "payment_intent") if name in call.params}
    return page_of(call, "dispute", where=lambda row: all(row[name] == value for name, value in wanted.items()))


ROUTES = (
    list_route("/v1/disputes", list_all, charge=text(), payment_intent=text(), created=created_filter()),
    Route("GET", "/v1/disputes/{id}", retrieve),
    Route("POST", "/v1/disputes/{id}", update, _UPDATE),
    Route("POST", "/v1/disputes/{id}/close", close),
)
