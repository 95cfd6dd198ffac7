"""What an operator sees and does in the admin."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission

from contributors import ledger
from contributors.models import Account, ApiKey, Contributor, Device, EscrowLine, Hold, Posting, Txn
from tests.contributors.make import NOW, make_contributor, make_earning, make_hold, make_key

pytestmark = pytest.mark.django_db
MODELS = (Contributor, ApiKey, Device, Account, Txn, Hold, EscrowLine)


def address(model, *parts):
    return "/".join(["/admin/contributors", model._meta.model_name, *map(str, parts), ""])


def run_action(client, model, action, rows, **fields):
    data = {"action": action, "_selected_action": [row.pk for row in rows], **fields}
    response = client.post(address(model), data, follow=True)
    assert response.status_code == 200
    return [str(message) for message in response.context["messages"]]


@pytest.fixture
def mina():
    mina = make_contributor("mina", credits_=100)
    make_key(mina)
    make_earning(mina, 50, release_at=NOW + timedelta(days=1))
    make_hold(mina, 30)
    Device.objects.create(contributor=mina, name="laptop", protocol_version=1, created_at=NOW)
    return mina


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_everything_can_be_looked_at_and_nothing_added_changed_or_deleted(admin_client, mina, model):
    owned = {"contributor": mina} if model is Account else {}
    row = model.objects.filter(**owned).order_by("-pk").first()
    before = model.objects.order_by("pk").values()
    expected = list(before)
    assert admin_client.get(address(model)).status_code == 200
    assert admin_client.get(address(model), {"q": "mina"}).status_code == 200
    assert admin_client.get(address(model, row.pk, "change")).status_code == 200
    for parts in (("add",), (row.pk, "delete"), (row.pk, "change")):
        assert admin_client.post(address(model, *parts), {"post": "yes"}).status_code == 403
    assert "delete_selected" not in admin_client.get(address(model)).content.decode()
    assert list(before.all()) == expected


def test_balances_are_listed_without_a_query_per_row(admin_client, mina, django_assert_max_num_queries):
    for number in range(20):
        make_earning(make_contributor(f"person {number}"), 1_000 + number, source=f"attempt:p{number}")
    with django_assert_max_num_queries(12):
        page = admin_client.get(address(Contributor)).content.decode()
    for balance in ("70", "50", "1019"):
        assert f">{balance}<" in page.replace(" ", "").replace("\n", "")


def test_a_ban_needs_a_reason(admin_client, mina):
    (message,) = run_action(admin_client, Contributor, "ban", [mina])
    assert "write the reason" in message
    assert Contributor.objects.get().banned_at is None


def test_ban_and_unban(admin_client, mina, redis_settings):
    assert run_action(admin_client, Contributor, "ban", [mina], reason="sent noise") == ["mina is banned."]
    mina.refresh_from_db()
    assert mina.ban_reason == "sent noise"
    assert ApiKey.objects.get().revoked_at
    assert run_action(admin_client, Contributor, "unban", [mina]) == ["mina is no longer banned."]
    mina.refresh_from_db()
    assert mina.banned_at is None


def test_a_ban_without_redis_says_what_is_left_to_do(admin_client, mina, settings):
    settings.REDIS_ACL_URL = "redis://127.0.0.1:1/0"
    (message,) = run_action(admin_client, Contributor, "ban", [mina], reason="sent noise")
    assert "ban again" in message
    assert Contributor.objects.get().banned_at


def test_keys_are_revoked_and_stay(admin_client, mina):
    assert run_action(admin_client, ApiKey, "revoke", [ApiKey.objects.get()]) == ["1 keys are revoked."]
    assert ApiKey.objects.get().revoked_at


def test_who_may_only_look_cannot_ban(client, mina, django_user_model):
    viewer = django_user_model.objects.create_user("viewer", password="x", is_staff=True)
    viewer.user_permissions.add(*view_permissions())
    client.force_login(viewer)
    assert client.get(address(Contributor)).status_code == 200
    client.post(address(Contributor), {"action": "ban", "_selected_action": [mina.pk], "reason": "x"})
    assert Contributor.objects.get().banned_at is None


def view_permissions():
    return Permission.objects.filter(codename__startswith="view_", content_type__app_label="contributors")


def test_a_transaction_shows_its_postings(admin_client, mina):
    txn = Txn.objects.get(idempotency_key="earn:gift:mina")
    page = admin_client.get(address(Txn, txn.pk, "change")).content.decode()
    assert Posting.objects.filter(txn=txn).count() == 2
    assert "mina: available" in page
    assert "system: mint" in page
    assert ledger.violations(now=NOW) == []
