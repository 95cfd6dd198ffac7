"""How to reach the device's account on the coordinator's Redis."""

import ssl
from typing import Any

from redis.exceptions import AuthenticationError, NoPermissionError

from ml.protocol import BrokerAccount

ACCOUNT_REFUSED = (AuthenticationError, NoPermissionError)
"""Redis knows no such account, or no longer with this password: its data was lost, or the account withdrawn."""


def connection_settings(account: BrokerAccount) -> dict[str, Any]:
    """Celery settings; TLS always checks the certificate, against the coordinator's own authority where it has one."""
    if not account.url.startswith("rediss://"):
        return {"broker_url": account.url, "broker_use_ssl": False}
    tls: dict[str, Any] = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    if account.ca_certificate is not None:
        tls["ssl_ca_data"] = account.ca_certificate
    return {"broker_url": account.url, "broker_use_ssl": tls}
