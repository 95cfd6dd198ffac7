"""A training run's folder, and the model in it.

RUN/config.json                     TrainConfig, and which dataset it was trained on
RUN/tokenizer.json                  a copy of the dataset's
RUN/metrics.jsonl                   one line a step, and one an evaluation
RUN/loss.png                        their picture, where it was asked for
RUN/checkpoints/STEP/               model.safetensors, and what training needs to go on; newest last by name
RUN/best/model.safetensors          the lowest validation loss, with best/state.json saying step and loss

    from ml.run import open_run

    run = open_run("RUN")
    run.generate("final", temperature=0.8, seed=1).text
    for piece in run.stream("final", max_tokens=20):
        print(piece, end="")
    run.search("final", num_beams=4).text
    run.evaluate("DATA").total.bits_per_byte
    run.analyze("final").positions
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import Tokenizer
from torch import Tensor

from ml import beam_search, inspection
from ml import tokenizer as tokenizers
from ml.attention import attention_maps
from ml.bad_input import BadInput
from ml.beam_search import BeamParams
from ml.chat import Chat
from ml.chat_template import ChatTemplate
from ml.checkpoint import CheckpointInvalid, load_model
from ml.config import ModelConfig, TrainConfig
from ml.dataset import Dataset, DatasetInvalid, open_dataset
from ml.files import replacing, sha256_file
from ml.generation import Completion, Continuation, check_prompt, encode_prompt, require_unicode, room_after
from ml.inspection import Analysis
from ml.model import GPT
from ml.packed import pack
from ml.sampling import SamplingParams
from ml.scores import Evaluation, evaluate
from ml.speed import Speed, measure_speed
from ml.tokenizer import end_of_text

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
METRICS_FILE = "metrics.jsonl"
PICTURE_FILE = "loss.png"
CHECKPOINTS_FOLDER = "checkpoints"
MODEL_FILE = "model.safetensors"
BEST_FOLDER = "best"


class RunInvalid(BadInput):
    """A folder that holds no run, or not the whole of one."""

    page: ClassVar[str] = "checkpoint"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A trained model with its tokenizer."""

    folder: Path
    config: TrainConfig
    data: dict[str, Any]
    """What dataset.json said when training began, and in `folder` where it lay."""
    model: GPT
    tokenizer: Tokenizer
    checkpoint: Path
    """The model's file."""

    def packed(self) -> "Run":
        """The same run with weights made ready to generate fast, where this machine can; see ml.packed."""
        return replace(self, model=pack(self.model))

    def encode_question(self, question: str) -> tuple[int, ...]:
        """A prompt that the model continues with its answer; what the question says forges no marker.

        Raises: ml.generation.PromptInvalid.
        """
        template = ChatTemplate(self.tokenizer)
        return template.question(require_unicode(question)) + template.opening()

    def generate(self, prompt: str | Sequence[int], **params: Any) -> Completion:
        """Continue a prompt; `params` as in SamplingParams, and max_tokens up to the end of the context by default.

        Raises: ml.generation.PromptInvalid, ml.sampling.SamplingInvalid.
        """
        continuation = self.stream(prompt, **params)
        for _ in continuation:
            pass
        return continuation.completion

    def stream(self, prompt: str | Sequence[int], **params: Any) -> Continuation:
        """As `generate`, piece by piece.

        Raises: ml.generation.PromptInvalid, ml.sampling.SamplingInvalid.
        """
        tokens, max_tokens = self._read_prompt(prompt)
        sampling = SamplingParams(**{"max_tokens": max_tokens} | params)
        check_prompt(self.model, tokens, max_tokens=sampling.max_tokens)
        return Continuation(self.model, self.tokenizer, tokens, sampling)

    def search(self, prompt: str | Sequence[int], **params: Any) -> Completion:
        """Continue a prompt with the likeliest text of a beam search; `params` as in BeamParams.

        Raises: ml.generation.PromptInvalid, ml.beam_search.BeamsInvalid.
        """
        tokens, max_tokens = self._read_prompt(prompt)
        return beam_search.search(self.model, self.tokenizer, tokens, BeamParams(**{"max_tokens": max_tokens} | params))

    def chat(self, **params: Any) -> Chat:
        """A talk that remembers its turns; `params` as in SamplingParams, an answer half of the context by default.

        Raises: ml.sampling.SamplingInvalid.
        """
        half = max(1, self.model.config.block_size // 2)
        return Chat(self.model, self.tokenizer, SamplingParams(**{"max_tokens": half} | params))

    def evaluate(
        self, data: Path | str | None = None, *, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Evaluation:
        """The model's score on the validation documents of a dataset, by default of the one it was trained on.

        `on_progress` hears how many tokens are done, and of how many.
        Raises: ml.dataset.DatasetInvalid.
        """
        dataset = self._open_dataset(data)
        done = 0

        def count(num_tokens: int) -> None:
            nonlocal done
            done += num_tokens
            on_progress(done, len(dataset.val))

        return evaluate(
            self.model, dataset.val, dataset.groups, end_of_text=end_of_text(self.tokenizer), on_progress=count
        )

    def analyze(self, text: str, *, top: int = 5, gradients: bool = False) -> Analysis:
        """What happens in the model while it reads the text.

        Raises: ml.inspection.TextInvalid.
        """
        return inspection.analyze(self.model, self.read_text(text), top=top, gradients=gradients)

    def attention(self, text: str) -> Tensor:
        """What each token of END_OF_TEXT and the text attends to.

        Shapes: (layers, heads, T, T), a row for the token that attends.
        Raises: ml.inspection.TextInvalid.
        """
        return attention_maps(self.model, self.read_text(text))

    def read_text(self, text: str) -> list[int]:
        """The tokens that `analyze` and `attention` show.

        Raises: ml.inspection.TextInvalid.
        """
        return inspection.read_text(self.model, self.tokenizer, text)

    def bench(self, **options: Any) -> Speed:
        """How fast the model generates here; `options` as in ml.speed.measure_speed.

        Raises: ml.speed.SpeedInvalid.
        """
        return measure_speed(self.model, **options)

    def _read_prompt(self, prompt: str | Sequence[int]) -> tuple[Sequence[int], int]:
        block_size = self.model.config.block_size
        tokens = encode_prompt(self.tokenizer, prompt, block_size=block_size) if isinstance(prompt, str) else prompt
        return tokens, room_after(self.model, tokens)

    def _open_dataset(self, data: Path | str | None) -> Dataset:
        if data is None and "folder" not in self.data:
            raise DatasetInvalid(f"{self.folder / CONFIG_FILE} names no dataset: say which with `--data DATA`.")
        dataset = open_dataset(Path(data or self.data["folder"]))
        if dataset.record["tokenizer_sha256"] != sha256_file(self.folder / TOKENIZER_FILE):
            raise DatasetInvalid(
                f"{dataset.folder} was made with another tokenizer than {self.folder / TOKENIZER_FILE}: "
                f"copy that one there and make the dataset anew with `fai dataset {dataset.folder} --force`."
            )
        return dataset


def open_run(folder: Path | str, *, checkpoint: str = "best", device: str = "cpu") -> Run:
    """The run's model: `best`, or `last`, the newest checkpoint.

    Raises: RunInvalid, ml.tokenizer.TokenizerInvalid, ml.config.ConfigInvalid.
    """
    folder = Path(folder)
    config, data = read_config(folder)
    path = find_checkpoint(folder, checkpoint)
    tokenizer = _load_tokenizer(folder, data)
    try:
        model = load_model(path)
    except (CheckpointInvalid, OSError) as error:
        raise RunInvalid(f"{path} cannot be used ({error}): {_mend_checkpoint(folder, checkpoint)}.") from error
    if model.config != config.model:
        raise RunInvalid(
            f"{path} holds a model of another shape than {folder / CONFIG_FILE} says "
            f"({_differences(model.config, config.model)}): put back the file of this run, or train anew."
        )
    if tokenizer.get_vocab_size() > config.model.vocab_size:
        raise RunInvalid(
            f"{folder / TOKENIZER_FILE} has {tokenizer.get_vocab_size()} tokens and the model knows "
            f"{config.model.vocab_size}: copy the tokenizer.json of the dataset that the run was trained on."
        )
    return Run(
        folder=folder,
        config=config,
        data=data,
        model=model.to(device),
        tokenizer=tokenizer,
        checkpoint=path,
    )


def read_config(folder: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """What the run trains, and on which dataset.

    Raises: RunInvalid, ml.config.ConfigInvalid.
    """
    path = folder / CONFIG_FILE
    anew = f"train anew with `fai train DATA --out {folder} --force`"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        config, data = stored["config"], stored["data"]
    except (FileNotFoundError, NotADirectoryError):
        raise RunInvalid(f"{folder} holds no run: make one with `fai train DATA --out {folder}`.") from None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise RunInvalid(f"{path} is damaged ({error}): {anew}.") from error
    if not isinstance(config, dict) or not isinstance(data, dict):
        raise RunInvalid(f"{path} is damaged (config and data must be objects): {anew}.")
    return TrainConfig.from_dict(config), data


def write_config(folder: Path, *, config: TrainConfig, data: dict[str, Any]) -> None:
    """Write what `read_config` reads."""
    with replacing(folder / CONFIG_FILE) as partial:
        text = json.dumps({"config": config.to_dict(), "data": data}, ensure_ascii=False, indent=2)
        partial.write_text(text + "\n", encoding="utf-8")


def find_checkpoint(folder: Path, name: str = "best") -> Path:
    """The model file of `best` or `last`; `best` is `last` where nothing was evaluated yet.

    Raises: RunInvalid.
    """
    best = folder / BEST_FOLDER / MODEL_FILE
    if name == "best" and best.exists():
        return best
    found = sorted((folder / CHECKPOINTS_FOLDER).glob(f"*/{MODEL_FILE}"))
    if not found:
        raise RunInvalid(f"{folder} holds no checkpoint yet: go on with `fai train DATA --out {folder} --resume`.")
    return found[-1]


def _load_tokenizer(folder: Path, data: dict[str, Any]) -> Tokenizer:
    path = folder / TOKENIZER_FILE
    source = Path(data.get("folder", "DATA")) / TOKENIZER_FILE
    if not path.exists():
        raise tokenizers.TokenizerInvalid(f"There is no {path}: copy {source} there, which the run was trained with.")
    tokenizer = tokenizers.load(path, mend=f"copy {source} there, which the run was trained with")
    if data.get("tokenizer_sha256") not in (None, sha256_file(path)):
        raise tokenizers.TokenizerInvalid(
            f"{path} is not the tokenizer that the run was trained with: copy {source} there."
        )
    return tokenizer


def _mend_checkpoint(folder: Path, checkpoint: str) -> str:
    if checkpoint == "best":
        return "take the newest one with `--checkpoint last`"
    return f"remove its folder and go on with `fai train DATA --out {folder} --resume`"


def _differences(found: ModelConfig, wanted: ModelConfig) -> str:
    values = wanted.to_dict()
    return ", ".join(
        f"{name} {value}, not {values[name]}" for name, value in found.to_dict().items() if value != values[name]
    )
