"""Train a model on the dataset in DATA and leave it in RUN.

Settings come from the preset, over it --config, over that each --set:

    fai train data --preset tiny --out run --set max_steps=500 --set optimizer.learning_rate=3e-4

Ctrl+C saves and ends; --resume goes on from there as if it had never stopped.
"""

import argparse
import shlex
from pathlib import Path

from fai.learner.train_screen import open_screen, say_outcome
from ml.config import PRESETS
from ml.config_file import DEFAULT_PRESET, Choices, parse_setting
from ml.tracking import TRACKERS
from ml.training_run import Existing, train

EXIT_INTERRUPTED = 130
TRACKER_HELP = {
    "picture": "also draw the losses: RUN/loss.png",
    "tensorboard": "also keep the figures for TensorBoard, in RUN/tensorboard",
    "wandb": "also send the figures to Weights & Biases, or keep them in RUN/wandb where it is offline",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of `fai dataset`")
    parser.add_argument("--out", metavar="RUN", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--preset", metavar="NAME", help=f"the model's shape: {', '.join(PRESETS)}; default: {DEFAULT_PRESET}"
    )
    parser.add_argument("--config", metavar="F", type=Path, help="a .json or .toml file of settings")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="settings", help="one setting; may be repeated"
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", dest="existing", action="store_const", const="resume", help="go on with RUN")
    existing.add_argument("--force", dest="existing", action="store_const", const="replace", help="replace RUN")
    parser.set_defaults(existing="refuse")
    parser.add_argument("--devices", metavar="N", type=int, default=1, help="GPUs, or processes on the CPU; default: 1")
    for name in TRACKERS:
        parser.add_argument(
            f"--{name}", dest="trackers", action="append_const", const=name, default=[], help=TRACKER_HELP[name]
        )


def run(arguments: argparse.Namespace) -> int:
    existing: Existing = arguments.existing
    choices = Choices(
        preset=arguments.preset, file=arguments.config, settings=dict(map(parse_setting, arguments.settings))
    )
    with open_screen() as screen:
        outcome = train(
            arguments.data,
            out=arguments.out,
            choices=choices,
            existing=existing,
            devices=arguments.devices,
            trackers=arguments.trackers,
            on_step=screen.show,
            on_event=screen.say,
        )
    say_outcome(outcome, resume_command=resume_command(arguments))
    return EXIT_INTERRUPTED if outcome.reason == "interrupted" else 0


def resume_command(arguments: argparse.Namespace) -> str:
    """What goes on with the training in the same way; its settings stand in the run."""
    words = ["fai", "train", str(arguments.data), "--out", str(arguments.out), "--resume"]
    words += ["--devices", str(arguments.devices)] if arguments.devices > 1 else []
    return shlex.join([*words, *(f"--{name}" for name in arguments.trackers)])
