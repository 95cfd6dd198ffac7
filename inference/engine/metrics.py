"""What an engine's --metrics-port tells Prometheus. docs/operating.md has the table."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()
WAITS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SLOTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

REQUESTS = Counter(
    "fai_engine_requests",
    "Requests that are over: done, cancelled, refused, failed, given_back.",
    ["model", "outcome"],
    registry=REGISTRY,
)
PROMPT_TOKENS = Counter("fai_engine_prompt_tokens", "Tokens of prompts taken.", ["model"], registry=REGISTRY)
COMPLETION_TOKENS = Counter("fai_engine_completion_tokens", "Tokens generated.", ["model"], registry=REGISTRY)
QUEUE_SECONDS = Histogram(
    "fai_engine_queue_seconds", "Time from the queue to the engine.", ["model"], buckets=WAITS, registry=REGISTRY
)
STEP_SECONDS = Histogram(
    "fai_engine_step_seconds",
    "Duration of a decoding step.",
    ["model"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    registry=REGISTRY,
)
BATCH_TEXTS = Histogram(
    "fai_engine_batch_texts", "Texts that got a token in a step.", ["model"], buckets=SLOTS, registry=REGISTRY
)
PREFIX_TOKENS = Counter(
    "fai_engine_prefix_tokens", "Tokens of prompts that the prefix cache had.", ["model"], registry=REGISTRY
)
RUNNING = Gauge("fai_engine_running_requests", "Requests under way.", registry=REGISTRY)
SLOT_COUNT = Gauge("fai_engine_slots", "Places for texts, of all loaded models.", registry=REGISTRY)
MODELS = Gauge("fai_engine_models", "Models loaded and served.", registry=REGISTRY)
LOAD_FAILURES = Counter(
    "fai_engine_load_failures", "Checkpoints that could not be loaded.", ["checkpoint"], registry=REGISTRY
)
PROBLEMS = Gauge("fai_engine_problems", "What is wrong and lasts.", registry=REGISTRY)
