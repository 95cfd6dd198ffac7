import ssl

from fai.broker import connection_settings
from ml.protocol import BrokerAccount


def test_tls_checks_the_certificate_against_the_coordinators_authority() -> None:
    account = BrokerAccount(url="rediss://w1:pw@fai.example.org:6380/0", queue="w:1:jobs", ca_certificate="PEM")
    settings = connection_settings(account)
    assert settings["broker_url"] == account.url
    assert settings["broker_use_ssl"] == {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_check_hostname": True,
        "ssl_ca_data": "PEM",
    }


def test_tls_without_an_authority_trusts_those_of_the_system() -> None:
    account = BrokerAccount(url="rediss://w1:pw@fai.example.org:6380/0", queue="w:1:jobs", ca_certificate=None)
    assert connection_settings(account)["broker_use_ssl"]["ssl_cert_reqs"] == ssl.CERT_REQUIRED
    assert "ssl_ca_data" not in connection_settings(account)["broker_use_ssl"]


def test_an_account_without_tls_uses_none() -> None:
    account = BrokerAccount(url="redis://w1:pw@127.0.0.1:6379/0", queue="w:1:jobs", ca_certificate=None)
    assert connection_settings(account) == {"broker_url": account.url, "broker_use_ssl": False}
