"""What the playground's scripts say, in the reader's language; {names} are filled in by them."""

from django.utils.translation import gettext as _


def script_texts() -> dict[str, str]:
    """Texts by the name under which inference/static/inference/playground/ asks for them."""
    return {**_status_texts(), **_figure_texts(), **_error_texts()}


def _status_texts() -> dict[str, str]:
    return {
        "thinking": _("The model reads your text…"),
        "loading_model": _("Loading the model… This takes some seconds the first time."),
        "no_engine_yet": _("No engine serves this model yet. Trying again in {seconds} s."),
        "waiting": _("Too many requests at the moment. Trying again in {seconds} s."),
        "stopped": _("stopped"),
        "finish_stop": _("ended by itself"),
        "finish_length": _("cut at the most tokens"),
        "turns_left_out": _("The earliest turns no longer fit into the model's context and were left out."),
        "copied": _("Copied"),
        "empty_answer": _("The model ended at once, without a text."),
    }


def _figure_texts() -> dict[str, str]:
    return {
        "newest": _("Newest (round {number})"),
        "round": _("Round {number}"),
        "untrained": _("Round 0, untrained"),
        "with_loss": _("{name} · loss {loss}"),
        "price": _("{credits} credits per token · context of {context} tokens"),
        "free": _("free of charge · context of {context} tokens"),
        "tokens": _("{prompt} + {completion} tokens"),
        "speed": _("{rate} tokens/s"),
        "seed": _("seed {seed}"),
        "turn_cost": _("{credits} credits"),
        "turn_cost_about": _("about {credits} credits"),
        "nothing_paid": _("free of charge"),
        "settling": _("settling…"),
        "session": _("In this tab: {tokens} tokens, {credits} credits"),
        "held": _("{credits} held for an answer under way"),
        "probability": _("{percent}% likely"),
    }


def _error_texts() -> dict[str, str]:
    """By the code of an error of /v1; one without an entry is shown as the server words it."""
    return {
        "invalid_api_key": _("This API key is not valid: copy it again, whole. It begins with fai_sk_."),
        "key_revoked": _("This API key was revoked: make a new one."),
        "key_expired": _("This API key has expired: make a new one."),
        "insufficient_permissions": _("This API key may not spend credits: use one with the scope “completion”."),
        "insufficient_quota": _(
            "Too few credits for this answer. Ask for fewer tokens, or earn more by giving computing time."
        ),
        "context_length_exceeded": _(
            "The text does not fit into the model's context: shorten it, lower “Most tokens”, or clear the chat."
        ),
        "model_not_found": _("This checkpoint is no longer offered: choose another one."),
        "service_unavailable": _("No engine answers for this model at the moment. Try again later."),
        "engine_failed": _("The engine was lost in the middle of the answer. This answer costs nothing."),
        "network": _("The server cannot be reached. Is the network there?"),
        "broken_stream": _("The connection broke off in the middle of the answer."),
    }
