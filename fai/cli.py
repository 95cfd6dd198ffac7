"""The command line: fai join, worker, status, key, verify; and a learner's commands, each a module of fai.learner."""

import argparse
import contextlib
import dataclasses
import functools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fai import __version__
from fai.client import Client, CoordinatorError, CoordinatorUnreachable
from fai.config import LANGUAGES, Options, credentials_of, preferred_language, read_options, worker_config
from fai.contact import PatientContact
from fai.credentials import FILE_NAME, Credentials, save_credentials
from fai.joining import is_refused, join
from fai.learner.command import COMMANDS, run_command
from fai.messages import sentence
from fai.stop import Stop, print_stop

if TYPE_CHECKING:
    from fai.verifying import Outcome

NUM_MOVEMENTS = 10
PATIENCE_SECONDS = 5.0
EXIT_DIFFERENT = 1
EXIT_UNVERIFIABLE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in COMMANDS:
        return run_command(words[0], words[1:])
    arguments = _parser().parse_args(words)
    chosen = {name: value for name, value in vars(arguments).items() if name.isupper()}
    others = {name: value for name, value in vars(arguments).items() if name.islower() and name != "command"}
    language = chosen.get("LANG") or preferred_language()
    try:
        options = read_options(chosen)
        return int(arguments.command(options, **others) or 0)
    except Stop as stop:
        print_stop(stop, language)
        return stop.exit_code
    except KeyboardInterrupt:
        return 130


def run_join(options: Options) -> None:
    """Become a contributor, or choose another experiment as the contributor that one is."""
    stored = credentials_of(options)
    is_somebody_else = stored is not None and options.nickname not in {None, stored.nickname}
    if stored is None or (is_somebody_else and is_refused(stored)):
        _tell_joined(options, join(options))
        _say(options, "next_step")
        return
    if is_somebody_else:
        raise Stop("other_name", url=stored.server_url, nickname=stored.nickname)
    if options.experiment not in {None, stored.experiment}:
        save_credentials(options.config_dir, dataclasses.replace(stored, experiment=options.experiment))
    _say(options, "already_joined", url=stored.server_url, nickname=stored.nickname)


def run_worker(options: Options) -> int:
    """Join where no key is stored for the coordinator, then be the worker of `celery -A fai worker`."""
    if options.api_key is None and credentials_of(options) is None:
        _tell_joined(options, join(options))
    config = worker_config(options)
    # Celery is loaded for this command alone: the others answer at once.
    from fai.celery import app  # noqa: PLC0415

    app.config_for_worker = config
    app.Worker().start()
    return 0


def run_status(options: Options) -> None:
    """Credits and the latest movements."""
    config = worker_config(options)
    with _client(config.server_url, api_key=config.api_key) as client:
        me = client.get("me", patience_seconds=PATIENCE_SECONDS)
        movements = client.get("me/ledger", patience_seconds=PATIENCE_SECONDS)["results"]
    _say(
        options,
        "status_line",
        nickname=me["nickname"],
        url=config.server_url,
        available=me["available_credits"],
        held=me["held_credits"],
        escrow=me["escrow_credits"],
    )
    _say(options, "ledger_title" if movements else "ledger_empty")
    for movement in movements[:NUM_MOVEMENTS]:
        print(f"{movement['created_at']:.19}  {movement['amount']:>+12,}  {movement['kind']}  {movement['paid_for']}")


def run_key(options: Options, *, lent_credits: int | None) -> None:
    """A further key that can only complete: for a program of one's own, or to lend, up to so many credits a week."""
    config = worker_config(options)
    wanted: dict[str, Any] = {"name": "fai key", "scopes": ["completion"]}
    if lent_credits is not None:
        wanted |= {"is_shared": True, "credit_cap": lent_credits, "cap_period": "week"}
    with _client(config.server_url, api_key=config.api_key) as client:
        answer = client.post("me/keys", wanted)
    _say(options, "key_created", api_key=answer["api_key"])


def run_verify(options: Options, *, experiment: str, round_number: str) -> int:
    """0 where merging the round again gives the same bytes, 1 where not, 2 where that cannot be found out."""
    try:
        outcome = _verify(options, experiment, round_number)
    except Stop as stop:
        stop.exit_code = EXIT_UNVERIFIABLE
        raise
    told = {"experiment": experiment, "round": round_number}
    if not outcome.problems:
        _say(options, "verify_equal", sha256=outcome.result_sha256[:12], **told)
        return 0
    _say(options, "verify_different", **told)
    for problem in outcome.problems:
        print(f"- {problem}", flush=True)
    return EXIT_DIFFERENT


def _verify(options: Options, experiment: str, round_number: str) -> "Outcome":
    # Slow to load, and of use to this command alone.
    from fai.verifying import Verifier  # noqa: PLC0415

    if not re.fullmatch("[1-9][0-9]{0,8}", round_number):
        raise Stop("bad_number", name="ROUND", value=round_number[:20])
    stored = credentials_of(options)
    server_url = options.server_url or (stored.server_url if stored else None)
    if server_url is None:
        raise Stop("server_missing")
    with _client(server_url, api_key=None) as client:
        client.check_server(patience_seconds=PATIENCE_SECONDS)
        verifier = Verifier(
            client=client,
            folder=options.cache_dir / "verify",
            language=options.language,
            say=functools.partial(_say, options),
        )
        return verifier.verify(experiment, int(round_number))


@contextlib.contextmanager
def _client(server_url: str, *, api_key: str | None) -> Iterator[Client]:
    """Raises: Stop where the coordinator cannot be reached or refuses."""
    try:
        with Client(server_url=server_url, api_key=api_key, contact=PatientContact()) as client:
            yield client
    except CoordinatorUnreachable as error:
        raise error.as_stop(server_url, exit_code=1) from error
    except CoordinatorError as error:
        raise error.as_stop() from error


def _tell_joined(options: Options, credentials: Credentials) -> None:
    _say(options, "joined", url=credentials.server_url, nickname=credentials.nickname)
    _say(options, "key_shown_once", path=options.config_dir / FILE_NAME, api_key=credentials.api_key)


def _say(options: Options, key: str, **values: Any) -> None:
    print(sentence(options.language, key, **values), flush=True)


def _parser() -> argparse.ArgumentParser:
    """Options are named as their environment variables without FAI_."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--server", dest="SERVER_URL", metavar="URL", help="the coordinator's address")
    shared.add_argument("--lang", dest="LANG", choices=LANGUAGES, help="language of the terminal")
    joining = argparse.ArgumentParser(add_help=False)
    joining.add_argument("--name", dest="NAME", help="your nickname")
    joining.add_argument("--experiment", dest="EXPERIMENT", metavar="SLUG", help="default: whichever runs")

    parser = argparse.ArgumentParser(
        prog="fai",
        description="Train a GPT together and spend what it earns you; or make one on your own, stage by stage.",
    )
    parser.add_argument("--version", action="version", version=f"fai {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    join_ = commands.add_parser("join", parents=[joining], help="become a contributor of a coordinator")
    join_.add_argument("SERVER_URL", metavar="URL", help="the coordinator's address")
    join_.add_argument("--lang", dest="LANG", choices=LANGUAGES, help="language of the terminal")
    join_.set_defaults(command=run_join)

    worker = commands.add_parser("worker", parents=[shared, joining], help="join if need be, then train")
    worker.add_argument("--device", dest="DEVICE", metavar="NAME", help="this machine's name; default: its host name")
    worker.add_argument("--threads", dest="THREADS", metavar="N", help="cores to compute on; default: all but one")
    worker.set_defaults(command=run_worker)

    status = commands.add_parser("status", parents=[shared], help="your credits")
    status.set_defaults(command=run_status)
    key = commands.add_parser("key", parents=[shared], help="make an API key for completions")
    key.add_argument(
        "--lend",
        dest="lent_credits",
        metavar="CREDITS",
        type=int,
        help="for somebody else: so many of your credits a week, and no look at your account",
    )
    key.set_defaults(command=run_key)
    verify = commands.add_parser(
        "verify",
        parents=[shared],
        help="merge a round again from its public files and compare every byte",
        description="Merge a round again from its public files and compare every byte; no key is needed.",
        epilog="Exit code: 0 where all is equal, 1 where not, 2 where that cannot be found out.",
    )
    verify.add_argument("experiment", metavar="EXPERIMENT", help="the experiment's name in its address")
    verify.add_argument("round_number", metavar="ROUND", help="a merged round's number")
    verify.set_defaults(command=run_verify)
    for name, what in COMMANDS.items():
        commands.add_parser(name, help=what, add_help=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
