"""The main job on this machine: two volunteers train a small model together, earn credits, and spend some of them.

python -m fai_project.demo [--exit] [--corpus DIR]
"""

import argparse
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

import django
import httpx

from fai_project.demo_screen import DemoScreen
from fai_project.local import LocalCoordinator, LocalVolunteer, NotReady
from fai_project.processes import ProcessDied
from fai_project.redis_server import RedisFailed, RedisMissing, find_executable
from ml.bad_input import CorpusInvalid
from ml.config import PRESETS
from ml.corpus import read_documents

ROOT = Path(__file__).resolve().parent.parent
SLUG = "demo"
NICKNAMES = ("은하", "Daniel")
NUM_ROUNDS = 6
QUESTION = "What is a Future in Dart?"
POLL_SECONDS = 0.5
LEAST_FREE_BYTES = 300 * 2**20
TIMERS = {
    "FAI_TICK_SECONDS": "0.5",
    "FAI_HEARTBEAT_SECONDS": "2",
    "FAI_OFFER_SECONDS": "20",
    "FAI_LEASE_SECONDS": "30",
}
EXPERIMENT: dict[str, Any] = {
    "slug": SLUG,
    "title": "Dart and Flutter, a first model",
    "model": PRESETS["tiny"].to_dict(),
    "inner": {"learning_rate": 6e-3, "batch_tokens": 512, "warmup_steps": 5},
    "outer": {"learning_rate": 1.0, "momentum": 0.5, "nesterov": True},
    "codec": "int8",
    "num_rounds": NUM_ROUNDS,
    "round_tokens": 160 * 1_024,
    "round_min_tokens": 1_024,
    "round_seconds": 120,
    "job_seconds": 60,
    "escrow_seconds": 60,
}
"""The demo's experiment, small enough for two cores."""


class DemoFailed(Exception):
    """What went wrong, in a sentence."""


def main(argv: list[str] | None = None) -> int:
    arguments = read_arguments(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        read_documents(arguments.corpus)
        find_executable()
        folder = make_folder()
    except (CorpusInvalid, RedisMissing, DemoFailed) as problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 2
    return run_in(folder, arguments)


def make_folder() -> Path:
    """A folder of its own for the demo's state.

    Raises: DemoFailed where there is no room for it.
    """
    path = ROOT / ".state"
    try:
        path.mkdir(exist_ok=True)
        free_bytes = shutil.disk_usage(path).free
        if free_bytes < LEAST_FREE_BYTES:
            raise DemoFailed(f"{path} has {free_bytes >> 20} MiB left, {LEAST_FREE_BYTES >> 20} are needed: free some.")
        return Path(tempfile.mkdtemp(prefix="demo-", dir=path))
    except OSError as error:
        raise DemoFailed(
            f"{path} cannot be written ({error.strerror}): put the project into a folder of yours."
        ) from error


def run_in(folder: Path, arguments: argparse.Namespace) -> int:
    """Run the demo with its state in `folder`, which is removed unless its logs are wanted; an exit code."""
    try:
        run(folder, arguments)
    except (DemoFailed, ProcessDied, NotReady, RedisFailed) as problem:
        print(f"demo: {problem}\ndemo: the logs are in {folder}", file=sys.stderr)
        return 1
    except OSError as problem:
        print(f"demo: {problem.strerror or problem}: free some space or permissions and try again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped")
    shutil.rmtree(folder)
    return 0


def read_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--corpus", type=Path, default=ROOT / "data" / "sample", help="folder of Markdown and Dart files"
    )
    parser.add_argument("--exit", action="store_true", help="end by itself once everything has been shown")
    return parser.parse_args(argv)


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """The whole demo; everything that it started has ended when it returns or raises."""
    screen = DemoScreen()
    volunteers: list[LocalVolunteer] = []
    screen.say("starting Redis, web, control plane and engine")
    with LocalCoordinator(folder, timers=TIMERS) as coordinator:
        try:
            os.environ.update(coordinator.environment)
            django.setup()
            password = secrets.token_urlsafe(9)
            make_operator(password)
            screen.say(f"coordinator: {coordinator.url}/  dashboard: {coordinator.url}/admin/ (admin, {password})")
            make_experiment(arguments.corpus.resolve())
            for nickname in NICKNAMES:
                volunteer = LocalVolunteer(folder / nickname, url=coordinator.url, nickname=nickname, experiment=SLUG)
                volunteers.append(volunteer)
                volunteer.join()
                volunteer.worker.start()
                screen.say(f"{nickname} joined: celery -A fai worker (process {volunteer.worker.pid})")
            watch(screen, coordinator, volunteers)
            spend(screen, coordinator, volunteers[0])
            check_ledger(screen)
            screen.say(f"look around: {coordinator.url}/  dashboard: {coordinator.url}/admin/ (admin, {password})")
            if not arguments.exit:
                screen.say("Ctrl+C ends the demo")
                _wait_for_interrupt(coordinator)
        finally:
            for volunteer in volunteers:
                volunteer.worker.interrupt()
            for volunteer in volunteers:
                volunteer.worker.stop()


def make_operator(password: str) -> None:
    from django.contrib.auth import get_user_model  # noqa: PLC0415 - Django is set up by now, not before

    get_user_model().objects.create_superuser("admin", password=password)


def make_experiment(corpus: Path) -> None:
    """Create the experiment and set its preparation going, as the operator's button does."""
    from django.utils import timezone  # noqa: PLC0415 - Django is set up by now, not before

    from training import experiments, tasks  # noqa: PLC0415
    from training.models import Experiment  # noqa: PLC0415

    experiment = Experiment.objects.create(**EXPERIMENT, corpus_dir=str(corpus), created_at=timezone.now())
    experiments.start(experiment=experiment, now=timezone.now())
    tasks.prepare.delay(experiment.pk)


def watch(screen: DemoScreen, coordinator: LocalCoordinator, volunteers: list[LocalVolunteer]) -> None:
    """Show the experiment live until it is finished.

    Raises: DemoFailed, processes.ProcessDied.
    """
    from training.models import Experiment  # noqa: PLC0415 - Django is set up by now, not before

    with screen.live():
        while True:
            experiment = Experiment.objects.get(slug=SLUG)
            screen.update(experiment)
            if experiment.state == Experiment.State.FINISHED:
                return
            if experiment.problem:
                raise DemoFailed(experiment.problem)
            coordinator.check()
            for volunteer in volunteers:
                volunteer.worker.check()
            time.sleep(POLL_SECONDS)


def spend(screen: DemoScreen, coordinator: LocalCoordinator, volunteer: LocalVolunteer) -> None:
    """Ask the model as that volunteer, with the key that earned the credits.

    Raises: DemoFailed.
    """
    key = volunteer.api_key()
    with httpx.Client(base_url=coordinator.url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        before = _wait_for_credits(client)
        body = {
            "model": SLUG,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": 64,
            "temperature": 0.7,
            "seed": 1,
        }
        answer = client.post("/v1/chat/completions", json=body)
        if answer.status_code != httpx.codes.OK:
            raise DemoFailed(f"the completion was refused: {answer.text}")
        after = client.get("/api/v1/me").json()["available_credits"]
    screen.show_completion(volunteer.nickname, QUESTION, answer.json(), before=before, after=after)


def check_ledger(screen: DemoScreen) -> None:
    """Raises: DemoFailed."""
    from django.utils import timezone  # noqa: PLC0415 - Django is set up by now, not before

    from training import earnings  # noqa: PLC0415

    audit = earnings.audit(now=timezone.now())
    if audit.violations:
        raise DemoFailed("; ".join(audit.violations))
    screen.say(f"ledger clean: {audit.num_transactions} transactions, {audit.minted_credits:,} credits minted")


def _wait_for_credits(client: httpx.Client) -> int:
    """The balance once it is there: the first earnings rest in escrow for a while."""
    deadline = time.monotonic() + 2 * EXPERIMENT["escrow_seconds"]
    while time.monotonic() < deadline:
        account = client.get("/api/v1/me").json()
        if account["available_credits"] and not account["escrow_credits"]:
            return int(account["available_credits"])
        time.sleep(POLL_SECONDS)
    raise DemoFailed("no credits became available")


def _wait_for_interrupt(coordinator: LocalCoordinator) -> None:
    while True:
        coordinator.check()
        time.sleep(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
