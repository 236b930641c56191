"""What an ended call is charged for (docs/metering.md has the table). Pure."""

from __future__ import annotations

from typing import Final, TypeGuard, assert_never

from hookspecs import Hold, Outcome, OutcomeStatus, Usage

from ..pricing.tokens import count_text_tokens

_NOTHING: Final = Usage()


def is_measured(usage: Usage | None) -> TypeGuard[Usage]:
    """Whether the provider gave a figure. Hosts report zeros of streams that were left; no call takes no token."""
    return usage is not None and usage != _NOTHING


def usage_to_charge(hold: Hold, outcome: Outcome) -> Usage | None:
    """Return the usage that a call is charged for, or None where it costs nothing.

    * usage reported: that, also when it costs more than was held;
    * completed or aborted without usage: the estimated input and what was streamed, to be capped by the hold;
    * failed before or after it was sent, without usage: nothing.
    """
    if is_measured(outcome.usage):
        return outcome.usage
    match outcome.status:
        case OutcomeStatus.FAILED_BEFORE_SEND | OutcomeStatus.FAILED_AFTER_SEND:
            return None
        case OutcomeStatus.COMPLETED | OutcomeStatus.ABORTED:
            expected = hold.estimate
            audio = min(expected.audio_input_tokens, expected.input_tokens)  # a host's own estimate may be odd
            streamed = count_text_tokens(outcome.streamed_text, expected.model) if outcome.streamed_text else 0
            output = min(streamed, expected.max_output_tokens)
            return Usage(input=expected.input_tokens - audio, audio_input=audio, output=output)
        case _:
            assert_never(outcome.status)
