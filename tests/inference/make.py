"""Models that are served, and requests to them."""

from pathlib import Path
from typing import Any

from inference.engine.runner import Choice, Runner
from inference.wire import GenerationRequest
from ml.checkpoint import save_model
from ml.config import ModelConfig
from ml.inference_model import InferenceModel
from ml.model import GPT
from ml.sampling import SamplingParams
from tests.ml.make import make_config, make_model, make_tokenizer
from tests.training.make import NOW, make_experiment
from training import blobs
from training.models import Blob, Checkpoint, Experiment

CONFIG = make_config(block_size=64)


def make_served_experiment(folder: Path, *, config: ModelConfig = CONFIG, **fields: Any) -> Experiment:
    """A running experiment with a tokenizer and a published checkpoint in storage."""
    path = folder / "tokenizer.json"
    make_tokenizer(vocab_size=config.vocab_size).save(str(path))
    tokenizer = blobs.put(path=path, kind=Blob.Kind.TOKENIZER, now=NOW)
    experiment = make_experiment(model=config.to_dict(), tokenizer=tokenizer, **{"slug": "study", **fields})
    make_stored_checkpoint(folder, experiment=experiment, number=0)
    return experiment


def make_stored_checkpoint(folder: Path, *, experiment: Experiment, number: int) -> Checkpoint:
    path = folder / "checkpoint"
    save_model(make_model(experiment.model_config, seed=number, scale=4), path)
    blob = blobs.put(path=path, kind=Blob.Kind.CHECKPOINT, now=NOW)
    return experiment.checkpoints.create(number=number, blob=blob, created_at=NOW, published_at=NOW)


def make_gpt(*, seed: int = 0) -> GPT:
    return make_model(CONFIG, seed=seed, scale=4)


def make_runner(*, num_slots: int = 3, seed: int = 0) -> Runner:
    # Exact, so that what is drawn at random is what the model itself would draw.
    model = InferenceModel(make_gpt(seed=seed), weight_format="fp32")
    return Runner(model, checkpoint_id=seed, sha256=f"{seed:064d}", num_slots=num_slots)


def make_choice(
    prompt: list[int],
    *,
    index: int = 0,
    stop_tokens: frozenset[int] = frozenset(),
    num_logprobs: int | None = None,
    has_prompt_logprobs: bool = False,
    **params: Any,
) -> Choice:
    return Choice(
        request_id="one",
        index=index,
        text=prompt,
        params=SamplingParams(**{"temperature": 0.8, "max_tokens": 8, "seed": index, **params}),
        stop_tokens=stop_tokens,
        num_logprobs=num_logprobs,
        has_prompt_logprobs=has_prompt_logprobs,
    )


def make_request(request_id: str = "one", **fields: Any) -> GenerationRequest:
    defaults: dict[str, Any] = {
        "model": "study",
        "prompts": ((70, 71, 72),),
        "n": 1,
        "max_tokens": 8,
        "stop_tokens": (),
        "seed": 5,
    }
    return GenerationRequest(request_id=request_id, **{**defaults, **fields})
