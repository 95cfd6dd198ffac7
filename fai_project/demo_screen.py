"""What the demo shows: a live table on a terminal, a line for each event elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from training.models import Experiment, Round

LOSS_BAR_WIDTH = 24


class DemoScreen:
    """Rounds, validation loss, who contributed what, and at the end a completion with its bill."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live: Live | None = None
        self._told: set[str] = set()

    def say(self, message: str) -> None:
        """One line, above the live table where there is one."""
        self._console.print(Text.assemble(("▸ ", "cyan"), message), soft_wrap=True)

    @contextmanager
    def live(self) -> Iterator[None]:
        """While the context lasts, `update` redraws in place."""
        with Live(console=self._console, refresh_per_second=4) as live:
            self._live = live
            yield
        self._live = None

    def update(self, experiment: "Experiment") -> None:
        """Draw the experiment as it stands; off a terminal, tell what has changed."""
        rounds = list(experiment.rounds.select_related("base", "result").order_by("number"))
        people = contributions(experiment)
        if self._console.is_terminal and self._live is not None:
            self._live.update(Group(_experiment_line(experiment), _round_table(rounds), _people_table(people)))
        else:
            self._tell(experiment, rounds, people)

    def show_completion(self, nickname: str, question: str, answer: dict[str, Any], *, before: int, after: int) -> None:
        """The question, the model's answer, and what it cost."""
        usage = answer["usage"]
        bill = Table.grid(padding=(0, 2))
        bill.add_column(justify="right")
        bill.add_column()
        bill.add_row(f"{before:,}", "credits before")
        bill.add_row(
            f"-{before - after:,}",
            f"{usage['prompt_tokens']} prompt + {usage['completion_tokens']} generated = "
            f"{usage['total_tokens']} tokens",
        )
        bill.add_row(f"{after:,}", "credits after")
        text = answer["choices"][0]["message"]["content"].strip()
        self._console.print(
            Panel(
                Group(Text(question, style="bold"), Text(text), Text(), bill),
                title=f"{nickname} spends: POST /v1/chat/completions, model {answer['model']}",
                title_align="left",
            )
        )

    def _tell(self, experiment: "Experiment", rounds: "list[Round]", people: list[dict[str, Any]]) -> None:
        if experiment.state != experiment.State.FINISHED:
            self._tell_once(f"experiment {experiment.state}")
        for round_ in rounds:
            if round_.number == 1:
                self._tell_once(f"untrained model: validation loss {round_.base.validation_loss:.4f}")
            if round_.result is not None and round_.result.validation_loss is not None:
                self._tell_once(
                    f"round {round_.number}: validation loss {round_.result.validation_loss:.4f}, "
                    f"{_tokens(round_)[0]:,} tokens"
                )
        if experiment.state == experiment.State.FINISHED:
            self._tell_once("experiment finished")
            for person in people:
                self._tell_once(
                    f"{person['nickname']}: {person['tokens']:,} tokens, {person['earned']:,} credits earned"
                )

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self.say(message)


def contributions(experiment: "Experiment") -> list[dict[str, Any]]:
    """Per device: what it does, its verified tokens, and its contributor's credits."""
    from django.db.models import Sum  # noqa: PLC0415 - Django is set up by now, not before

    from contributors import ledger  # noqa: PLC0415
    from training.models import Attempt, Enrollment  # noqa: PLC0415

    enrolled = Enrollment.objects.filter(experiment=experiment).select_related("device__contributor").order_by("pk")
    found = []
    for enrollment in enrolled:
        device = enrollment.device
        attempts = Attempt.objects.filter(device=device, job__round__experiment=experiment)
        sums = attempts.aggregate(tokens=Sum("verified_tokens"), earned=Sum("earned_credits"))
        balance = ledger.balance(device.contributor)
        found.append(
            {
                "nickname": device.contributor.nickname,
                "state": device.state,
                "speed": enrollment.tokens_per_second,
                "tokens": sums["tokens"] or 0,
                "earned": sums["earned"] or 0,
                "available": balance.available,
                "escrow": balance.escrow,
            }
        )
    return found


def _experiment_line(experiment: "Experiment") -> Text:
    return Text.assemble((experiment.title, "bold"), f"  {experiment.state}")


def _round_table(rounds: "list[Round]") -> RenderableType:
    table = Table(title="Rounds", title_justify="left", expand=False)
    for name, justify in (("round", "right"), ("state", "left"), ("tokens", "left"), ("validation loss", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    if not rounds:
        return Text("preparing: tokenizer, token shards, untrained model …", style="dim")
    untrained = rounds[0].base.validation_loss or 1.0
    table.add_row("0", "untrained", "", _loss_bar(untrained, untrained))
    for round_ in rounds:
        accepted, target = _tokens(round_)
        loss = round_.result.validation_loss if round_.result else None
        table.add_row(
            str(round_.number),
            round_.state,
            ProgressBar(total=target, completed=accepted, width=16),
            _loss_bar(loss, untrained) if loss is not None else "",
        )
    return table


def _people_table(people: list[dict[str, Any]]) -> RenderableType:
    table = Table(title="Volunteers", title_justify="left", expand=False)
    for name in ("name", "now", "tokens/s", "tokens", "earned", "in escrow", "available"):
        table.add_column(name, justify="left" if name in ("name", "now") else "right")
    for person in people:
        speed = f"{person['speed']:,.0f}" if person["speed"] else "measuring"
        numbers = (f"{person[name]:,}" for name in ("tokens", "earned", "escrow", "available"))
        table.add_row(person["nickname"], person["state"], speed, *numbers)
    return table


def _loss_bar(loss: float, untrained: float) -> Text:
    width = max(0, round(LOSS_BAR_WIDTH * loss / untrained))
    change = f" {100 * (loss / untrained - 1):+.0f}%" if loss != untrained else ""
    return Text.assemble(f"{loss:.3f} ", ("█" * width, "green"), change)


def _tokens(round_: "Round") -> tuple[int, int]:
    """Tokens that were trained so far, those under way included, and the round's target."""
    from django.db.models import Sum  # noqa: PLC0415 - Django is set up by now, not before

    from training import rounds  # noqa: PLC0415
    from training.models import Attempt  # noqa: PLC0415

    if round_.state in (round_.State.CLOSED, round_.State.EVALUATING, round_.State.MERGING):
        merged = round_.merged_attempts.values_list("verified_tokens", flat=True)
        return sum(tokens or 0 for tokens in merged), round_.target_tokens
    live = Attempt.objects.live().filter(job__round=round_).aggregate(tokens=Sum("progress_tokens"))
    return rounds.allocation(round_).accepted_tokens + (live["tokens"] or 0), round_.target_tokens
