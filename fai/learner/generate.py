"""Continue a prompt: by drawing from the likely tokens, greedily, or by beam search.

The text goes to the output stream as it comes; how long it took goes to the error stream.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from fai.learner.arguments import add_run_arguments, add_sampling_arguments, given_of, open_chosen, sampling_of
from fai.learner.results import printable
from ml.beam_search import BeamsInvalid
from ml.chat_template import ANSWER, END_OF_ANSWER
from ml.generation import Completion, PromptInvalid, read_prompt
from ml.run import Run

Prompt = str | tuple[int, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", metavar="T", help="the text to continue")
    prompts.add_argument("--prompt-file", type=Path, metavar="F", help="a UTF-8 file that holds it")
    prompts.add_argument("--ask", metavar="T", help="a question, put as the study documents put theirs")
    add_sampling_arguments(parser)
    parser.add_argument("--num", type=int, default=1, metavar="N", help="so many texts, each with the next seed")
    parser.add_argument("--beams", type=int, metavar="N", help="search for the likeliest text with N candidates")
    parser.add_argument("--length-penalty", type=float, metavar="X", help="of the search: 0 favours short texts (1.0)")
    parser.add_argument(
        "--stop",
        action="append",
        metavar="STR",
        help=f"a text that ends it; may be repeated (default: {END_OF_ANSWER})",
    )


def run(arguments: argparse.Namespace) -> None:
    model = open_chosen(arguments).packed()
    prompt = _read(arguments, model)
    is_asked = arguments.ask is not None or (isinstance(prompt, str) and ANSWER in prompt)
    stop = tuple(arguments.stop or [END_OF_ANSWER])
    if arguments.beams is not None:
        completion = model.search(prompt, **_beam_params(arguments), stop=stop)
        print(printable(completion.text.removesuffix("\n")))
        _report(completion, is_asked=is_asked)
        return
    if arguments.num < 1:
        raise PromptInvalid(f"--num must be at least 1, not {arguments.num}")
    params = sampling_of(arguments)
    for number in range(arguments.num):
        if arguments.num > 1:
            print(f"--- {number + 1} of {arguments.num}, seed {params.get('seed', 0)} ---")
        _report(_stream(model, prompt, params | {"stop": stop}), is_asked=is_asked)
        params["seed"] = params.get("seed", 0) + 1


def _read(arguments: argparse.Namespace, model: Run) -> Prompt:
    if arguments.ask is not None:
        return model.encode_question(arguments.ask)
    return str(arguments.prompt) if arguments.prompt is not None else read_prompt(arguments.prompt_file)


def _beam_params(arguments: argparse.Namespace) -> dict[str, Any]:
    drawing = given_of(arguments, "temperature", "top_k", "top_p", "min_p", "seed")
    if drawing or arguments.greedy or arguments.num != 1:
        raise BeamsInvalid("--beams finds one likeliest text and draws nothing: leave out the options of drawing.")
    return {"num_beams": arguments.beams} | given_of(arguments, "length_penalty", "repetition_penalty", "max_tokens")


def _stream(model: Run, prompt: Prompt, params: dict[str, Any]) -> Completion:
    continuation = model.stream(prompt, **params)
    for piece in continuation:
        print(printable(piece), end="", flush=True)
    completion = continuation.completion
    print(end="" if completion.text.endswith("\n") else "\n")
    return completion


def _report(completion: Completion, *, is_asked: bool) -> None:
    pace = f", {completion.tokens_per_second:,.1f} tokens/s after the first" if completion.tokens_per_second else ""
    print(
        f"[{completion.prompt_tokens} tokens in the prompt, {completion.completion_tokens} generated in "
        f"{completion.seconds:.2f} s{pace}; ended by {completion.finish_reason}]",
        file=sys.stderr,
    )
    if is_asked and completion.finish_reason == "length":
        print(
            f"The answer was not closed with {END_OF_ANSWER}: --max-tokens or the context ended it. "
            "More: docs/faq/generation.md",
            file=sys.stderr,
        )
