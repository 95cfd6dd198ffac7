# syntax=docker/dockerfile:1
# The coordinator. Web, control plane and engine are this one image with different commands; the web process loads no torch.
# Build from the repository's root: docker build --file docker/server.Dockerfile --tag fai-server .

FROM python:3.12-slim AS build
ENV PATH=/opt/fai/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/fai
# In a layer of its own, since it is the largest part and changes the least.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --index-url https://download.pytorch.org/whl/cpu "torch>=2.13,<2.14"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY ml ml
COPY contributors contributors
COPY training training
COPY inference inference
COPY fai_project fai_project
RUN --mount=type=cache,target=/root/.cache/pip pip install ".[server]"

FROM python:3.12-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssl \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 fai \
    && useradd --uid 10001 --gid fai --no-create-home --home-dir /app fai \
    # A volume that is mounted here for the first time takes over these folders' owner.
    && install --directory --owner fai --group fai /state /redis /broker-ca /authority
COPY --from=build /opt/fai /opt/fai
WORKDIR /app
COPY manage.py ./
COPY docker/prepare_redis.py docker/prepare_storage.py docker/
COPY data/sample data/sample
ENV PATH=/opt/fai/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DJANGO_SETTINGS_MODULE=fai_project.settings \
    FAI_STATE_DIR=/state
USER 10001:10001
EXPOSE 8000
CMD ["uvicorn", "fai_project.asgi:application", "--host", "0.0.0.0", "--port", "8000"]
