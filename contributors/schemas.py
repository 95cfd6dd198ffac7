"""Shapes of requests and answers under /api/v1/, for validation and for the OpenAPI document."""

from typing import Any

from rest_framework import serializers
from rest_framework_dataclasses.serializers import DataclassSerializer

from contributors.api_keys import MAX_OVERLAP
from contributors.models import ApiKey, Contributor, Device, Posting, Scope
from ml.protocol import DeviceAccount


class Text(serializers.CharField):
    """A string and nothing else: REST framework's own field takes numbers for it."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class JoinRequest(serializers.Serializer[Any]):
    nickname = Text(max_length=200, help_text="1 to 40 visible characters.")


class Joined(serializers.Serializer[Any]):
    contributor_id = serializers.IntegerField()
    nickname = serializers.CharField()
    api_key = serializers.CharField(help_text="Shown this once; scopes volunteer and completion.")


class RegisterRequest(serializers.Serializer[Any]):
    name = Text(max_length=200, help_text="1 to 60 visible characters; the same name, the same device.")
    hardware = serializers.DictField(help_text="Flat: device, name, memory_bytes, cores, bf16, and what else helps.")
    protocol_version = serializers.IntegerField(min_value=0, max_value=2**31 - 1)


class DeviceAccountSchema(DataclassSerializer):  # type: ignore[type-arg]
    class Meta:
        dataclass = DeviceAccount


class Me(serializers.ModelSerializer[Contributor]):
    contributor_id = serializers.IntegerField(source="pk")
    available_credits = serializers.IntegerField(help_text="What may be spent.")
    held_credits = serializers.IntegerField(help_text="Set aside for completions under way.")
    escrow_credits = serializers.IntegerField(help_text="Earned, not yet spendable; me/ledger says until when.")

    class Meta:
        model = Contributor
        fields = ("contributor_id", "nickname", "available_credits", "held_credits", "escrow_credits", "created_at")


class LedgerEntry(serializers.ModelSerializer[Posting]):
    kind = serializers.CharField(source="txn.kind", help_text="earn, escrow_release, usage or correction.")
    account = serializers.CharField(source="account.kind", help_text="available or escrow.")
    source = serializers.CharField(  # type: ignore[assignment]  # a field's name, where Field has an attribute of it
        source="txn.source", help_text="What it was for, such as attempt:42."
    )
    created_at = serializers.DateTimeField(source="txn.created_at")
    release_at = serializers.DateTimeField(
        source="txn.escrow_line.release_at",
        default=None,
        allow_null=True,
        help_text="When an earning leaves escrow.",
    )

    class Meta:
        model = Posting
        fields = ("id", "kind", "account", "amount", "source", "created_at", "release_at")


class DeviceSchema(serializers.ModelSerializer[Device]):
    device_id = serializers.IntegerField(source="pk")

    class Meta:
        model = Device
        fields = ("device_id", "name", "hardware", "state", "idle_reason", "created_at", "last_seen_at")


class KeyLimits(serializers.Serializer[Any]):
    is_shared = serializers.BooleanField(
        required=False, help_text="To be lent: completes at your cost up to its cap, and can do nothing else."
    )
    credit_cap = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=2**63 - 1, help_text="Credits that it may spend."
    )
    cap_period = serializers.ChoiceField(
        choices=ApiKey.CapPeriod.choices, required=False, help_text="In UTC, from its start; none: for good."
    )
    requests_per_minute = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=2**31 - 1, help_text="null: the coordinator's default."
    )
    tokens_per_minute = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=2**31 - 1, help_text="null: the coordinator's default."
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True)


class KeyRequest(KeyLimits):
    name = Text(max_length=60)
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices), min_length=1, max_length=8)


class RotationRequest(serializers.Serializer[Any]):
    overlap_seconds = serializers.IntegerField(
        default=0,
        min_value=0,
        max_value=int(MAX_OVERLAP.total_seconds()),
        help_text="How long the key goes on beside its successor; both spend under one cap and one rate.",
    )


class KeySchema(serializers.ModelSerializer[ApiKey]):
    replaced_by = serializers.SlugRelatedField[ApiKey](
        slug_field="prefix", read_only=True, allow_null=True, help_text="Prefix of the key's successor."
    )

    class Meta:
        model = ApiKey
        fields = (
            "prefix", "name", "scopes", "is_shared", "credit_cap", "cap_period", "requests_per_minute",
            "tokens_per_minute", "created_at", "expires_at", "revoked_at", "last_used_at", "replaced_by",
        )  # fmt: skip


class CreatedKey(KeySchema):
    api_key = serializers.CharField(help_text="Shown this once.")

    class Meta(KeySchema.Meta):
        fields = (*KeySchema.Meta.fields, "api_key")  # type: ignore[assignment]
