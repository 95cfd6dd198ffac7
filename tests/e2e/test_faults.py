"""What volunteers' machines and networks do to a running experiment, with real processes."""

import pytest

from tests.e2e.conftest import Cluster, events, wait_for, working

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def running_attempt(cluster: Cluster, nickname: str) -> dict[str, object] | None:
    mine = cluster.attempts(nickname=nickname)
    return next((attempt for attempt in mine if attempt["state"] == "running"), None)


def state_of(cluster: Cluster, attempt_id: object) -> object:
    return next(attempt["state"] for attempt in cluster.attempts() if attempt["id"] == attempt_id)


def test_a_killed_worker_loses_its_lease_and_another_device_gets_the_job(cluster: Cluster) -> None:
    cluster.create_experiment("killed", round_tokens=2_000_000, job_seconds=60, rounds=2)
    first, second = cluster.volunteer("killed-1", "killed"), cluster.volunteer("killed-2", "killed")
    with working(first):
        attempt = wait_for(lambda: running_attempt(cluster, "killed-1"), seconds=60, what="the first device trains")
        first.worker.kill()
        wait_for(
            lambda: state_of(cluster, attempt["id"]) == "lease_expired",
            seconds=30,
            what="the lease runs out",
        )
    with working(second):
        taken = wait_for(
            lambda: [a for a in cluster.attempts(nickname="killed-2") if a["job_id"] == attempt["job_id"]],
            seconds=90,
            what="the second device gets the same job",
        )
        assert taken[0]["state"] in {"offered", "running", "submitted", "validating", "accepted"}
    cluster.check_ledger()


def test_ctrl_c_once_hands_in_what_is_done_and_twice_gives_it_back(cluster: Cluster) -> None:
    cluster.create_experiment("leaving", round_tokens=50_000_000, job_seconds=600, rounds=2)
    once, twice = cluster.volunteer("once", "leaving"), cluster.volunteer("twice", "leaving")
    with working(once, twice):
        wait_for(lambda: running_attempt(cluster, "once"), seconds=90, what="the first trains")
        wait_for(lambda: running_attempt(cluster, "twice"), seconds=90, what="the second trains")
        wait_for(lambda: events(once, "step"), seconds=30, what="a step")
        once.worker.interrupt()
        assert once.worker.wait(20) == 0
        twice.worker.interrupt()
        twice.worker.interrupt()
        assert twice.worker.wait(20) == 0
    handed_in = wait_for(
        lambda: next((a for a in cluster.attempts(nickname="once") if a["state"] == "accepted"), None),
        seconds=30,
        what="the partial delta is accepted",
    )
    assert 0 < handed_in["verified_tokens"] < handed_in["token_budget"]
    assert cluster.attempts(nickname="twice")[-1]["state"] in {"released", "accepted"}
    cluster.check_ledger()


def test_rounds_go_on_after_redis_and_the_coordinator_were_away(cluster: Cluster) -> None:
    cluster.create_experiment("outage", round_tokens=60_000, job_seconds=3, rounds=40)
    volunteer = cluster.volunteer("patient", "outage")
    with working(volunteer):
        wait_for(lambda: cluster.closed_rounds("outage") >= 1, seconds=90, what="a first round")
        cluster.redis.stop()
        wait_for(lambda: not running_attempt(cluster, "patient"), seconds=60, what="the job under way ends")
        cluster.redis.start()
        cluster.check()
        before = cluster.closed_rounds("outage")
        wait_for(lambda: cluster.closed_rounds("outage") > before, seconds=60, what="a round after Redis came back")

        attempt = wait_for(lambda: running_attempt(cluster, "patient"), seconds=60, what="a job under way")
        web = cluster.parts["web"]
        web.kill()
        wait_for(lambda: events(volunteer, "coordinator_away"), seconds=60, what="the worker says so")
        wait_for(lambda: state_of(cluster, attempt["id"]) == "lease_expired", seconds=60, what="the lease runs out")
        web.start()
        cluster.wait_until_ready()
        wait_for(
            lambda: state_of(cluster, attempt["id"]) in {"accepted", "merged"},
            seconds=60,
            what="the work of the outage counts",
        )
    cluster.check_ledger()


def test_a_control_plane_killed_in_the_middle_goes_on_where_it_was(cluster: Cluster) -> None:
    cluster.create_experiment("control", round_tokens=60_000, job_seconds=3, rounds=40)
    volunteer = cluster.volunteer("steady", "control")
    with working(volunteer):
        wait_for(lambda: cluster.closed_rounds("control") >= 1, seconds=90, what="a first round")
        control = cluster.parts["control"]
        control.kill()
        control.start()
        before = cluster.closed_rounds("control")
        wait_for(lambda: cluster.closed_rounds("control") > before, seconds=90, what="a round afterwards")
    cluster.check_ledger()
