"""Without a GPU: what is recorded runs as it is, on the same fixed memory as a graph's."""

import torch

from ml.inference_model import InferenceModel
from ml.slot_cache import Span
from ml.static_decoding import StaticDecoding, Work
from tests.ml.make import make_tokens
from tests.ml.make_inference import make_trained

TEXTS = torch.from_numpy(make_tokens(3 * 20, seed=3).astype("int64")).view(3, 20)


@torch.inference_mode()
def test_batches_of_any_size_are_padded_to_few_and_get_the_same_logits() -> None:
    model = make_trained()
    made = InferenceModel(model, weight_format="fp32")
    cache = made.make_cache(8)
    recorded = []

    def record(work: Work) -> Work:
        recorded.append(work)
        work()
        return work

    static = StaticDecoding(made, cache, num_slots=6, record=record)
    lengths = [4, 9, 2]
    made.prefill(
        torch.cat([text[:length] for text, length in zip(TEXTS, lengths, strict=True)]),
        [Span(slot, 0, length) for slot, length in enumerate(lengths)],
        cache,
    )
    whole = model(TEXTS)
    for step, num_rows in enumerate([3, 3, 2, 1, 1]):
        places = torch.tensor(lengths[:num_rows]) + step
        rows = torch.arange(num_rows)
        logits = static.decode(TEXTS[rows, places], places)
        torch.testing.assert_close(logits, whole[rows, places], rtol=0, atol=1e-4)
    assert len(recorded) == 3
