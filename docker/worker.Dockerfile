# syntax=docker/dockerfile:1
# A volunteer's machine: ml and fai, no server code. Build from the repository's root:
#   docker build --file docker/worker.Dockerfile --tag fai-worker .
# and for an NVIDIA GPU with the index of your CUDA version, run with --gpus all:
#   docker build --file docker/worker.Dockerfile --tag fai-worker --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .

FROM python:3.12-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PATH=/opt/fai/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/fai
RUN --mount=type=cache,target=/root/.cache/pip pip install --index-url "$TORCH_INDEX" "torch>=2.13,<2.14"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY ml ml
COPY fai fai
RUN --mount=type=cache,target=/root/.cache/pip pip install .

FROM python:3.12-slim
RUN groupadd --gid 10001 fai \
    && useradd --uid 10001 --gid fai --no-create-home --home-dir /volunteer fai \
    # A volume that is mounted here for the first time takes over the folder's owner.
    && install --directory --owner fai --group fai /volunteer
COPY --from=build /opt/fai /opt/fai
WORKDIR /volunteer
ENV PATH=/opt/fai/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FAI_CONFIG_DIR=/volunteer/config \
    FAI_CACHE_DIR=/volunteer/cache
USER 10001:10001
# As Ctrl+C: finish the step, hand in what is done, leave.
STOPSIGNAL SIGINT
CMD ["celery", "-A", "fai", "worker"]
