"""Writes what the compose file's Redis needs before it starts: its certificate, and the accounts of the coordinator.

    python docker/prepare_redis.py --host fai.example.org --redis /redis --public /broker-ca --authority /authority

Passwords come from REDIS_COORDINATOR_PASSWORD and REDIS_PROVISIONER_PASSWORD. Running it again is safe: devices'
accounts and a certificate that is good for RENEW_DAYS more stay as they are.
"""

import argparse
import hashlib
import ipaddress
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from fai_project.redis_server import COORDINATOR, PROVISIONER, RULES

INTERNAL_HOST = "redis"
"""Redis's name among the containers."""
AUTHORITY_DAYS = 3_650
CERTIFICATE_DAYS = 397
RENEW_DAYS = 60
PASSWORD = re.compile(r"[A-Za-z0-9_-]{20,}")
"""Long enough for the internet, and safe inside a URL."""

# Python 3.13 checks certificates strictly: an authority needs its key usage, a certificate its authority's key id.
REQUEST = """
[req]
prompt = no
distinguished_name = name
[name]
CN = {name}
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""


class PasswordUnusable(ValueError):
    """A password that is missing, too short, or would break a URL."""


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    os.umask(0o077)
    passwords = {
        COORDINATOR: os.environ.get("REDIS_COORDINATOR_PASSWORD", ""),
        PROVISIONER: os.environ.get("REDIS_PROVISIONER_PASSWORD", ""),
    }
    try:
        write_accounts(options.redis, passwords=passwords)
    except PasswordUnusable as problem:
        print(f"prepare_redis: {problem}", file=sys.stderr)  # noqa: T201  the operator reads it
        return 1
    (options.redis / "data").mkdir(exist_ok=True)
    write_certificates(host=options.host, redis=options.redis, public=options.public, authority=options.authority)
    return 0


def write_accounts(folder: Path, *, passwords: Mapping[str, str]) -> None:
    """Put the coordinator's accounts into users.acl, and leave the devices', which Redis saves there, as they are.

    Where ours are the ones written last time, nothing is touched: Redis may be running and saving.

    Raises: PasswordUnusable.
    """
    own = "".join(f"user {user} {_secret(user, passwords)}{rules}\n" for user, rules in RULES.items())
    path, last = folder / "users.acl", folder / "written.acl"
    if path.exists() and last.exists() and last.read_text(encoding="ascii") == own:
        return
    lines = path.read_text(encoding="ascii").splitlines(keepends=True) if path.exists() else []
    devices = [line for line in lines if line.strip() and line.split()[1] not in RULES]
    _replace(path, own + "".join(devices))
    _replace(last, own)


def write_certificates(*, host: str, redis: Path, public: Path, authority: Path) -> None:
    """Make a private authority once, and Redis's certificate for `host` where there is none that lasts.

    The authority's key stays in `authority`; its certificate goes to `public`, for the coordinator and the devices.
    """
    signer = authority / "authority.pem"
    if not signer.exists():
        _certify(signer, kind="authority", name="FAI broker", days=AUTHORITY_DAYS)
    _replace(public / "ca.crt", _openssl("x509", "-in", str(signer)), mode=0o644)
    certificate = redis / "redis.pem"
    if not _lasts(certificate, host=host, authority=public / "ca.crt"):
        _certify(certificate, kind="server", name=host[:64], days=CERTIFICATE_DAYS, host=host, signer=signer)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Prepare the certificate and the accounts of the coordinator's Redis.")
    parser.add_argument("--host", required=True, help="name under which volunteers reach Redis")
    parser.add_argument("--redis", type=Path, required=True, help="Redis's own folder")
    parser.add_argument("--public", type=Path, required=True, help="folder for the authority's certificate")
    parser.add_argument("--authority", type=Path, required=True, help="folder that keeps the authority's key")
    return parser


def _secret(user: str, passwords: Mapping[str, str]) -> str:
    if user not in passwords:
        return ""
    if not PASSWORD.fullmatch(passwords[user]):
        raise PasswordUnusable(
            f"the password of {user} needs 20 or more letters, digits, - or _: make one with `openssl rand -hex 32`."
        )
    return f"#{hashlib.sha256(passwords[user].encode('ascii')).hexdigest()} "


def _certify(
    path: Path, *, kind: str, name: str, days: int, host: str = INTERNAL_HOST, signer: Path | None = None
) -> None:
    """Write a fresh P-256 key and its certificate, of `kind`, a section of REQUEST, into one file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        request, key, certificate = (Path(folder) / file for file in ("request.cnf", "key", "certificate"))
        names = f"{'IP' if _is_address(host) else 'DNS'}:{host}, DNS:{INTERNAL_HOST}"
        request.write_text(REQUEST.format(name=name, names=names), encoding="ascii")
        command = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-sha256"]
        command += ["-config", str(request), "-extensions", kind, "-days", str(days)]
        command += ["-keyout", str(key), "-out", str(certificate)]
        if signer is not None:
            command += ["-CA", str(signer), "-CAkey", str(signer)]
        _openssl(*command)
        _replace(path, key.read_text(encoding="ascii") + certificate.read_text(encoding="ascii"))


def _lasts(certificate: Path, *, host: str, authority: Path) -> bool:
    """Whether the certificate is there, names `host`, is signed by `authority`, and is good for RENEW_DAYS more."""
    then = str(int(time.time()) + RENEW_DAYS * 86_400)
    option = "-verify_ip" if _is_address(host) else "-verify_hostname"
    try:
        _openssl("verify", "-CAfile", str(authority), "-attime", then, option, host, str(certificate))
    except subprocess.CalledProcessError:
        return False
    return True


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _openssl(*arguments: str) -> str:
    answer = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=True)
    return answer.stdout


def _replace(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file whole or not at all, for its owner's eyes unless `mode` says otherwise."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(text, encoding="ascii")
    draft.chmod(mode)
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
