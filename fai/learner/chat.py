"""Talk with a model: questions in, answers as they come; earlier turns are remembered as far as the context holds.

/temp /tokens /topk /topp show or change how answers are drawn, /reset forgets the talk, /help says so; quit, or Ctrl+D,
leaves. Ctrl+C stops an answer.
"""

import argparse
import io
import sys
from collections.abc import Callable

from prompt_toolkit import PromptSession

from fai.learner.arguments import add_run_arguments, add_sampling_arguments, open_chosen, sampling_of
from fai.learner.results import printable
from ml.bad_input import BadInput
from ml.chat import Chat
from ml.chat_template import END_OF_ANSWER

SETTINGS: dict[str, tuple[str, Callable[[str], float]]] = {
    "/temp": ("temperature", float),
    "/tokens": ("max_tokens", int),
    "/topk": ("top_k", int),
    "/topp": ("top_p", float),
}
LEAVE = ("quit", "exit", "/quit", "/exit")
HELP = """\
/temp X     below 1 more likely tokens, above 1 more daring ones; 0 always the likeliest
/tokens N   the most tokens of an answer
/topk K     draw among the K likeliest tokens; off draws among all
/topp P     draw among the likeliest that hold this share of the probability
/reset      forget the talk so far
/help       this
quit        leave; Ctrl+D too. Ctrl+C stops an answer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    add_sampling_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    chat = open_chosen(arguments).packed().chat(**sampling_of(arguments))
    read = _reader()
    _tell("Ask, or /help; quit leaves.")
    while True:
        try:
            line = read().strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            _tell("quit, or Ctrl+D, leaves.")
            continue
        if line in LEAVE:
            return
        if line.startswith("/"):
            _obey(chat, line)
        elif line:
            _answer(chat, line)


def _reader() -> Callable[[], str]:
    """Lines from a terminal with editing and history, Korean letters whole; or from a pipe."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        session: PromptSession[str] = PromptSession("> ")
        return session.prompt
    if isinstance(sys.stdin, io.TextIOWrapper):
        # Whatever the locale is; a broken line is refused when it is asked, and the talk goes on.
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    return input


def _obey(chat: Chat, line: str) -> None:
    command, _, value = line.partition(" ")
    if command == "/help":
        print(HELP)
    elif command == "/reset":
        chat.reset()
        print("The talk is forgotten.")
    elif command in SETTINGS:
        _set(chat, command, value.strip())
    else:
        print(f"There is no {command}: /help lists the commands.")


def _set(chat: Chat, command: str, value: str) -> None:
    name, read = SETTINGS[command]
    if value:
        try:
            chat.set(**{name: None if (name, value) == ("top_k", "off") else read(value)})
        except BadInput as problem:
            print(f"{problem}.")
            return
        except ValueError:
            print(f"{value} is no number for {command}.")
            return
    set_to = getattr(chat.params, name)
    print(f"{name} = {'off' if set_to is None else set_to}")


def _answer(chat: Chat, question: str) -> None:
    pieces = chat.ask(question)
    piece = ""
    try:
        for piece in pieces:
            print(printable(piece), end="", flush=True)
    except KeyboardInterrupt:
        piece = " [stopped]"
        print(piece, end="")
    except BadInput as problem:
        print(f"{problem}.")
        return
    finally:
        pieces.close()
    print(end="" if piece.endswith("\n") else "\n")
    if chat.num_forgotten:
        _tell(f"[{chat.num_forgotten} of the oldest turns no longer fit the context and were forgotten]")
    if chat.last is not None and chat.last.finish_reason == "length":
        _tell(
            f"[not closed with {END_OF_ANSWER}: {chat.last.completion_tokens} tokens ended it; /tokens N allows more]"
        )


def _tell(note: str) -> None:
    print(note, file=sys.stderr, flush=True)
