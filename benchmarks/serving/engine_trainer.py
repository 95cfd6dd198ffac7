"""A volunteer's training, as fai does it: modest, on the cores that it leaves itself. Runs until killed.

python -m benchmarks.serving.engine_trainer; the first line of standard output says that it trains.
"""

import numpy as np

from fai.machine import be_modest
from ml.config import PRESETS, InnerConfig
from ml.model import initial_model
from ml.trainer import Trainer

ROWS = 4


def main() -> None:
    be_modest(None)
    config = PRESETS["m4"]
    inner = InnerConfig(batch_tokens=ROWS * config.block_size)
    trainer = Trainer(initial_model(config, 0), inner=inner, precision="bf16", micro_batch=ROWS)
    random = np.random.default_rng(0)
    while True:
        batch = random.integers(config.vocab_size, size=(ROWS, config.block_size + 1))
        trainer.step(batch, learning_rate=1e-3)
        print("trained", flush=True)


if __name__ == "__main__":
    main()
