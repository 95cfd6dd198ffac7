"""One key's balance under 200 requests at once that together cost twice of it, on PostgreSQL.

python -m benchmarks.serving.service_balance [--quick] [--preset tiny]
"""

import argparse
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

from benchmarks.job_cycles import database
from benchmarks.serving.service_load import Stream, play
from benchmarks.serving.service_process import NUM_CORES, PROMPT_TOKENS, body, keep_to_cores, started
from benchmarks.serving.service_rows import PRICE, SMALL_CREDITS
from benchmarks.tables import Goal, print_goals

NUM_REQUESTS = 200
MAX_TOKENS = 2 * SMALL_CREDITS // NUM_REQUESTS // PRICE - PROMPT_TOKENS
LEFT = """SELECT balance - held FROM contributors_account a JOIN contributors_contributor c ON a.contributor_id = c.id
          WHERE c.nickname = 'small' AND a.kind = 'available'"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="accepted and without effect: it is quick")
    parser.add_argument("--preset", default="tiny")
    options = parser.parse_args()
    keep_to_cores(NUM_CORES)
    with (
        tempfile.TemporaryDirectory(prefix="fai-balance-") as folder,
        database("postgresql", Path(folder)) as url,
        started(options.preset, database_url=url) as service,
    ):
        with watched(url) as seen:
            streams = play(
                [body(number, max_tokens=MAX_TOKENS) for number in range(NUM_REQUESTS)],
                port=service.port,
                api_key=service.keys["small"],
                num_connections=NUM_REQUESTS,
            )
        bills = service.read_bills()
    report(streams, seen, bills["violations"], left=bills["available"]["small"])


@contextmanager
def watched(url: str) -> Iterator[list[int]]:
    """What is left of the balance, looked at again and again for as long as the context lasts."""
    seen: list[int] = []
    is_over = threading.Event()

    def watch() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not is_over.is_set():
                seen.extend(row[0] for row in connection.execute(LEFT))
                time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        is_over.set()
        watcher.join()


def report(streams: Sequence[Stream], seen: Sequence[int], violations: Sequence[str], *, left: int) -> None:
    refusals = Counter(refusal(each.error) for each in streams if each.error)
    num_served = len(streams) - refusals.total()
    paid = PRICE * sum(each.usage["total_tokens"] for each in streams if not each.error)
    print_goals(
        Goal(
            measured=f"{min(seen):,}",
            wanted="never below 0",
            reached=min(seen) >= 0,
            what=f"credits, the least among {len(seen):,} looks at the balance; {SMALL_CREDITS:,} at first",
        ),
        Goal(
            measured=f"{refusals['insufficient_quota']} of {refusals.total()}",
            wanted="all",
            reached=set(refusals) == {"insufficient_quota"},
            what=f"refusals that are a typed 429; {num_served} of {len(streams)} requests were served",
        ),
        Goal(
            measured=f"{len(violations)} and {SMALL_CREDITS - left - paid}",
            wanted="0 and 0",
            reached=not violations and SMALL_CREDITS - left == paid,
            what="violations of the ledger; credits that were paid for nothing",
        ),
    )


def refusal(error: str) -> str:
    return str(json.loads(error)["error"]["code"])


if __name__ == "__main__":
    main()
