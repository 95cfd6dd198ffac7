"""Becoming a contributor of a coordinator, and choosing one of its experiments."""

import httpx

from fai.client import Client, CoordinatorError, CoordinatorUnreachable
from fai.config import Options
from fai.contact import PatientContact
from fai.credentials import Credentials, require_writable, save_credentials
from fai.stop import Stop

JOIN_PATIENCE_SECONDS = 5.0
FINISHED = "finished"


def join(options: Options) -> Credentials:
    """A new contributor at the coordinator, stored in the config folder.

    Raises: Stop.
    """
    if options.server_url is None:
        raise Stop("not_joined", exit_code=2, url="URL")
    if options.nickname is None:
        raise Stop("name_missing", exit_code=2)
    require_writable(options.config_dir)
    with Client(server_url=options.server_url, api_key=None, contact=PatientContact()) as client:
        try:
            client.check_server(patience_seconds=JOIN_PATIENCE_SECONDS)
            if options.experiment is not None:
                check_experiment(client, options.experiment, patience_seconds=JOIN_PATIENCE_SECONDS)
            api_key = client.join(options.nickname)
        except CoordinatorUnreachable as error:
            raise error.as_stop(options.server_url, exit_code=2) from error
        except CoordinatorError as error:
            raise Stop("refused", why=error) from error
    credentials = Credentials(
        server_url=options.server_url, api_key=api_key, nickname=options.nickname, experiment=options.experiment
    )
    save_credentials(options.config_dir, credentials)
    return credentials


def is_refused(credentials: Credentials) -> bool:
    """Whether the coordinator answers that the stored key is good for nothing any more."""
    client = Client(server_url=credentials.server_url, api_key=credentials.api_key, contact=PatientContact())
    with client:
        try:
            client.get("me", patience_seconds=JOIN_PATIENCE_SECONDS)
        except CoordinatorUnreachable:
            return False
        except CoordinatorError as error:
            return error.status == httpx.codes.UNAUTHORIZED
    return False


def check_experiment(client: Client, slug: str, *, patience_seconds: float | None) -> None:
    """Return if the experiment exists and may still bring work.

    Raises: Stop with the experiments that there are; CoordinatorUnreachable.
    """
    try:
        state = client.get(f"experiments/{slug}", patience_seconds=patience_seconds)["state"]
    except CoordinatorError as error:
        if error.status != httpx.codes.NOT_FOUND:
            raise error.as_stop() from error
        known = _open_experiments(client)
        raise Stop("experiment_unknown", exit_code=2, url=client.server_url, experiment=slug, known=known) from error
    if state == FINISHED:
        raise Stop("experiment_finished", exit_code=2, experiment=slug, known=_open_experiments(client))


def _open_experiments(client: Client) -> str:
    experiments = client.get("experiments", patience_seconds=JOIN_PATIENCE_SECONDS)
    return ", ".join(one["slug"] for one in experiments if one["state"] != FINISHED) or "-"
