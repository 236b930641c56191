"""What the endpoints of payment intents take."""

from __future__ import annotations

from credits_plugin.sandbox.params import (
    SHIPPING,
    Param,
    boolean,
    choice,
    currency,
    hash_of,
    integer,
    list_of,
    metadata,
    text,
    unsupported,
    url,
)

CAPTURE_METHOD = choice("automatic", "automatic_async", "manual")
FIELDS: dict[str, Param] = {
    "customer": text(),
    "description": text(max_length=1000, clearable=True),
    "metadata": metadata(),
    "payment_method": text(),
    "receipt_email": text(clearable=True),
    "setup_future_usage": choice("off_session", "on_session", clearable=True),
    "shipping": SHIPPING,
    "statement_descriptor": text(max_length=22),
    "statement_descriptor_suffix": text(max_length=22),
}
_ACCEPTANCE = hash_of(
    {"accepted_at": integer(), "type": choice("online", "offline", required=True), "offline": hash_of({})}
    | {"online": hash_of({"ip_address": text(), "user_agent": text()})}
)
CONFIRM: dict[str, Param] = {
    "error_on_requires_action": boolean(),
    "mandate_data": hash_of({"customer_acceptance": _ACCEPTANCE}),
    "off_session": boolean(),
    "payment_method": text(),
    "receipt_email": text(clearable=True),
    "return_url": url(),
    "use_stripe_sdk": boolean(),
    **unsupported(
        "allowed_payment_method_types", "amount_details", "capture_method",
        "confirmation_token", "excluded_payment_method_types", "hooks", "mandate", "payment_details",
        "payment_method_data", "payment_method_options", "payment_method_types", "radar_options",
        "setup_future_usage", "shipping",
    ),
}  # fmt: skip
CONFIRM_LATER = CONFIRM | unsupported("amount_to_confirm", "client_secret")
CREATE: dict[str, Param] = {
    **CONFIRM,
    **FIELDS,
    **unsupported(
        "application_fee_amount", "customer_account", "on_behalf_of", "payment_method_configuration", "transfer_data",
        "transfer_group",
    ),
    "amount": integer(required=True),
    "automatic_payment_methods": hash_of({"enabled": boolean(), "allow_redirects": choice("always", "never")}),
    "capture_method": CAPTURE_METHOD,
    "confirm": boolean(),
    "confirmation_method": choice("automatic", "manual"),
    "currency": currency(required=True),
    "payment_method_types": list_of(choice("card", "sepa_debit", "us_bank_account")),
}  # fmt: skip
UPDATE: dict[str, Param] = {
    **FIELDS,
    **unsupported(
        "allowed_payment_method_types", "amount", "amount_details", "application_fee_amount", "capture_method",
        "currency", "customer_account", "excluded_payment_method_types", "hooks", "payment_details",
        "payment_method_configuration", "payment_method_data", "payment_method_options", "payment_method_types",
        "transfer_data", "transfer_group",
    ),
}  # fmt: skip
CAPTURE: dict[str, Param] = {
    "amount_to_capture": integer(minimum=1),
    **unsupported(
        "amount_details", "application_fee_amount", "final_capture", "hooks", "metadata", "payment_details",
        "statement_descriptor", "statement_descriptor_suffix", "transfer_data",
    ),
}  # fmt: skip
CONFIRM_ONLY = ("confirm", "error_on_requires_action", "mandate_data", "off_session", "return_url", "use_stripe_sdk")
