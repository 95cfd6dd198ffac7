"""OpenAPI shapes of the wire's dataclasses, and of what only pages and scripts read."""

from rest_framework import serializers
from rest_framework_dataclasses.serializers import DataclassSerializer

from ml import protocol
from training.models import Checkpoint, Experiment, Round


class HeartbeatSchema(DataclassSerializer):  # type: ignore[type-arg]
    class Meta:
        dataclass = protocol.Heartbeat


class DirectivesSchema(DataclassSerializer):  # type: ignore[type-arg]
    class Meta:
        dataclass = protocol.Directives


class JobSpecSchema(DataclassSerializer):  # type: ignore[type-arg]
    class Meta:
        dataclass = protocol.JobSpec


class ReportSchema(DataclassSerializer):  # type: ignore[type-arg]
    class Meta:
        dataclass = protocol.Report


class ReceiptSchema(DataclassSerializer):  # type: ignore[type-arg]
    class Meta:
        dataclass = protocol.Receipt


class ServiceSchema(serializers.Serializer[object]):
    service = serializers.CharField()
    protocol_version = serializers.IntegerField()
    version = serializers.CharField()


class ClaimSchema(serializers.Serializer[object]):
    nonce = serializers.CharField(max_length=32)


class ReleaseSchema(serializers.Serializer[object]):
    reason = serializers.ChoiceField(
        choices=[protocol.Reason.RELEASED.value, protocol.Reason.CLIENT_ERROR.value],
        default=protocol.Reason.RELEASED.value,
    )
    detail = serializers.CharField(max_length=300, allow_blank=True, default="")


class ReceivedSchema(serializers.Serializer[object]):
    offset = serializers.IntegerField()
    receipt = ReceiptSchema(allow_null=True)


class UploadHeadersSchema(serializers.Serializer[object]):
    """The announcement that comes with every piece of a delta."""

    offset = serializers.IntegerField(min_value=0)
    size_bytes = serializers.IntegerField(min_value=1)
    sha256 = serializers.RegexField(r"^[0-9a-f]{64}$")
    report = serializers.CharField(max_length=1_000, allow_blank=True)


class CheckpointSchema(serializers.ModelSerializer[Checkpoint]):
    sha256 = serializers.CharField(source="blob_id")
    size_bytes = serializers.IntegerField(source="blob.size_bytes")
    tokenizer_sha256 = serializers.CharField(source="experiment.tokenizer_id")

    class Meta:
        model = Checkpoint
        fields = ("number", "sha256", "size_bytes", "tokenizer_sha256", "validation_loss", "published_at")


class RoundSchema(serializers.ModelSerializer[Round]):
    base_sha256 = serializers.CharField(source="base.blob_id")
    base_validation_loss = serializers.FloatField(source="base.validation_loss", allow_null=True)
    validation_loss = serializers.FloatField(source="result.validation_loss", allow_null=True, default=None)
    manifest_sha256 = serializers.CharField(source="manifest_id", allow_null=True)
    result_sha256 = serializers.CharField(source="result.blob_id", allow_null=True, default=None)
    step_sha256 = serializers.CharField(source="result.step_id", allow_null=True, default=None)
    accepted_tokens = serializers.IntegerField(source="merged_tokens")
    num_deltas = serializers.IntegerField()
    num_late = serializers.IntegerField()
    num_held_back = serializers.IntegerField()
    uploaded_bytes = serializers.IntegerField()

    class Meta:
        model = Round
        fields = (
            "number",
            "state",
            "base_sha256",
            "base_validation_loss",
            "validation_loss",
            "manifest_sha256",
            "result_sha256",
            "step_sha256",
            "target_tokens",
            "accepted_tokens",
            "num_deltas",
            "num_late",
            "num_held_back",
            "uploaded_bytes",
            "opened_at",
            "closed_at",
        )


class ExperimentSchema(serializers.ModelSerializer[Experiment]):
    round_number = serializers.IntegerField()

    class Meta:
        model = Experiment
        fields: tuple[str, ...] = (
            "slug",
            "title",
            "description",
            "state",
            "model",
            "inner",
            "outer",
            "codec",
            "round_number",
            "num_rounds",
            "round_tokens",
            "round_min_tokens",
            "round_seconds",
            "grace_seconds",
            "max_staleness",
            "staleness_percent",
            "credits_per_teraflop",
            "credits_per_completion_token",
            "max_delta_bytes",
            "started_at",
            "finished_at",
        )


class CheckpointLossSchema(serializers.ModelSerializer[Checkpoint]):
    class Meta:
        model = Checkpoint
        fields = ("number", "validation_loss", "published_at")


class ExperimentDetailSchema(ExperimentSchema):
    checkpoints = CheckpointLossSchema(many=True)

    class Meta(ExperimentSchema.Meta):
        fields = (*ExperimentSchema.Meta.fields, "checkpoints")
