"""What states and reasons are called on pages, in the reader's language."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from ml.protocol import DeviceState, Reason
from training.models import Attempt, Experiment, Round

EXPERIMENTS: dict[str, Promise] = {
    Experiment.State.DRAFT: _("draft"),
    Experiment.State.PREPARING: _("preparing"),
    Experiment.State.RUNNING: pgettext_lazy("experiment", "running"),
    Experiment.State.PAUSED: _("paused"),
    Experiment.State.FINISHED: _("finished"),
}
ROUNDS: dict[str, Promise] = {
    Round.State.OPEN: pgettext_lazy("round", "open"),
    Round.State.MERGING: _("merging"),
    Round.State.EVALUATING: _("evaluating"),
    Round.State.CLOSED: pgettext_lazy("round", "closed"),
    Round.State.ABANDONED: _("abandoned"),
}
ATTEMPTS: dict[str, Promise] = {
    Attempt.State.OFFERED: _("offered"),
    Attempt.State.RUNNING: pgettext_lazy("attempt", "running"),
    Attempt.State.SUBMITTED: _("submitted"),
    Attempt.State.VALIDATING: _("validating"),
    Attempt.State.ACCEPTED: _("accepted"),
    Attempt.State.MERGED: _("merged"),
    Attempt.State.OFFER_EXPIRED: _("offer expired"),
    Attempt.State.LEASE_EXPIRED: _("lease expired"),
    Attempt.State.RELEASED: _("released"),
    Attempt.State.FAILED: _("failed"),
    Attempt.State.REJECTED: _("rejected"),
    Attempt.State.LATE: _("late"),
    Attempt.State.CANCELLED: _("cancelled"),
}
DEVICES: dict[str, Promise] = {
    DeviceState.IDLE: _("idle"),
    DeviceState.MEASURING: _("measuring its speed"),
    DeviceState.DOWNLOADING: _("downloading"),
    DeviceState.TRAINING: _("training"),
    DeviceState.UPLOADING: _("uploading"),
    DeviceState.LEAVING: _("leaving"),
}
REASONS: dict[str, Promise] = {
    Reason.OFFER_EXPIRED: _("The device did not take the offer in time."),
    Reason.LEASE_EXPIRED: _("The device was not heard from while it worked."),
    Reason.RELEASED: _("The device gave the work back."),
    Reason.CLIENT_ERROR: _("The device met an error of its own."),
    Reason.CANCELLED: _("The coordinator called the work off."),
    Reason.ROUND_SPENT: _("The round had paid all its credits to other devices."),
    Reason.DELTA_LOST: _("The delta is no longer in the coordinator's storage."),
    Reason.TOO_LATE: _("The delta came too many rounds late."),
    Reason.WRONG_SIZE: _("The delta is not of the announced size."),
    Reason.TOO_LARGE: _("The delta is larger than this experiment allows."),
    Reason.WRONG_HASH: _("The delta does not have the announced SHA-256."),
    Reason.MALFORMED: _("The delta is not a well-formed safetensors file."),
    Reason.WRONG_TENSORS: _("The delta does not have this model's tensors."),
    Reason.WRONG_METADATA: _("The delta's metadata name another attempt or codec."),
    Reason.WRONG_BASE: _("The delta was trained from another checkpoint."),
    Reason.NOT_FINITE: _("The delta holds values that are not finite."),
    Reason.NORM_OUT_OF_BOUNDS: _("The delta is larger than so much training can make it."),
    Reason.TOO_MANY_TOKENS: _("More tokens were reported than the job has."),
    Reason.NO_TOKENS: _("Nothing was trained."),
    Reason.NO_EXPERIMENT: _("No experiment is running."),
    Reason.EXPERIMENT_PAUSED: _("The experiment is paused."),
    Reason.EXPERIMENT_FINISHED: _("The experiment is finished."),
    Reason.EXPERIMENT_PREPARING: _("The experiment is being prepared."),
    Reason.ROUND_FULL: _("All of this round is given out; the next one opens soon."),
    Reason.ROUND_CLOSING: _("The round is being merged; the next one opens soon."),
    Reason.SPEED_UNKNOWN: _("The device has not measured its speed yet."),
    Reason.OFFER_PENDING: _("An offer is on its way."),
    Reason.TOO_MANY_FAULTS: _("The device rests after several faults."),
    Reason.UPGRADE_NEEDED: _("The device's program must be upgraded."),
    Reason.BANNED: _("The contributor is banned."),
}


def describe(reason: str) -> str:
    """The reason as a sentence; a code that this version does not know stays as it is."""
    return str(REASONS.get(reason, reason))
