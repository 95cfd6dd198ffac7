"""What the web process counts for Prometheus. docs/operating.md has the table; page.py the page."""

from prometheus_client import Counter, Histogram

WAITS = (0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 10.0, 30.0, 100.0)

HTTP_REQUESTS = Counter("fai_http_requests", "Requests by status.", ["method", "route", "status"])
HTTP_SECONDS = Histogram("fai_http_seconds", "Time to an answer's first byte.", ["route"], buckets=WAITS)
COMPLETIONS = Counter("fai_completions", "Completions that are over: done, disconnected, failed.", ["model", "state"])
PROMPT_TOKENS = Counter("fai_prompt_tokens", "Tokens of prompts, of completions that are over.", ["model"])
COMPLETION_TOKENS = Counter("fai_completion_tokens", "Tokens sent to clients.", ["model"])
FIRST_TOKEN_SECONDS = Histogram(
    "fai_first_token_seconds", "Time to a completion's first token, waiting included.", ["model"], buckets=WAITS
)
TOKEN_SECONDS = Histogram(
    "fai_token_seconds",
    "Time between tokens of one choice.",
    ["model"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
)
