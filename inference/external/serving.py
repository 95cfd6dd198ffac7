"""The process of a bridge: its loop, its pages for Prometheus, its end on a signal."""

import asyncio
import signal
from contextlib import ExitStack

from django.conf import settings

from inference.engine import metrics
from inference.engine.mailbox import Mailbox
from inference.engine.pages import EnginePages
from inference.engine.presence import can_reach
from inference.external.bridge import Bridge, BridgeOptions
from inference.external.mail import ExternalMail
from inference.external.server import ExternalServer


def serve_external(url: str, options: BridgeOptions, *, metrics_address: tuple[str, int] | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    asyncio.run(_serve(url, options, metrics_address))


async def _serve(url: str, options: BridgeOptions, metrics_address: tuple[str, int] | None) -> None:
    server = ExternalServer(url, api_key=settings.UPSTREAM_API_KEY, tokenizer=options.tokenizer)
    mail = ExternalMail(settings.REDIS_URL, engine_id=options.engine_id)
    bridge = Bridge(server, mail, options)
    metrics.MODELS.set_function(lambda: len(bridge.status().models))
    metrics.RUNNING.set_function(lambda: bridge.underway.num_all)
    metrics.SLOT_COUNT.set_function(lambda: options.num_slots)
    metrics.PROBLEMS.set_function(lambda: len(bridge.status().problems))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, bridge.stop)
    with ExitStack() as stack:
        if metrics_address is not None:
            mailbox = Mailbox(settings.REDIS_URL, engine_id=options.engine_id)
            stack.enter_context(make_pages(bridge, mailbox, metrics_address))
        try:
            await bridge.run()
        finally:
            await server.close()
            await mail.close()


def make_pages(bridge: Bridge, mailbox: Mailbox, address: tuple[str, int]) -> EnginePages:
    """Live while the bridge's loop turns, ready while its server and Redis answer."""
    return EnginePages(
        address,
        registry=metrics.REGISTRY,
        is_live=lambda: not bridge.is_stuck,
        is_ready=lambda: bool(bridge.status().models) and can_reach(mailbox),
    )
