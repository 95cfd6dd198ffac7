"""Which states an operator's eye should fall on. The keys with no colour are named too: unfold shows only those it knows."""

from training.models import Attempt, Experiment, Round

COLOURS = {
    Experiment.State.RUNNING: "success",
    Experiment.State.PREPARING: "warning",
    Experiment.State.PAUSED: "warning",
    Round.State.OPEN: "success",
    Round.State.MERGING: "warning",
    Round.State.EVALUATING: "warning",
    Round.State.ABANDONED: "danger",
    Attempt.State.ACCEPTED: "success",
    Attempt.State.MERGED: "success",
    Attempt.State.OFFERED: "info",
    Attempt.State.SUBMITTED: "info",
    Attempt.State.VALIDATING: "info",
    Attempt.State.FAILED: "danger",
    Attempt.State.REJECTED: "danger",
    Attempt.State.LATE: "warning",
    Attempt.State.LEASE_EXPIRED: "warning",
    Experiment.State.DRAFT: "",
    Experiment.State.FINISHED: "",
    Round.State.CLOSED: "",
    Attempt.State.OFFER_EXPIRED: "",
    Attempt.State.RELEASED: "",
    Attempt.State.CANCELLED: "",
}
