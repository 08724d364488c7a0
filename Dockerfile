# A knnex worker: takes events from the log, encodes them, writes them to the engine. Any other command runs in it, too.
#
#   docker build -t knnex-worker .
#   docker run --rm -e KNNEX_URL=... -e KNNEX_REDIS_URL=... knnex-worker
#   docker run --rm -e KNNEX_URL=... -e KNNEX_REDIS_URL=... knnex-worker doctor
#   docker run --rm -e KNNEX_URL=... -e KNNEX_REDIS_URL=... -e KNNEX_TOKEN=... -p 8088:8088 knnex-worker serve --host 0.0.0.0
#
# On x86-64 the torch of the Python package index runs on CPU and on NVIDIA GPUs alike, and brings some gigabytes of CUDA.
# For an image without them pass PyTorch's index of CPU builds (its address is on PyTorch's "Get started" page):
#
#   docker build --build-arg TORCH_INDEX=... -t knnex-worker:cpu .

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

# The largest layer comes first and changes least: the code above it can change without fetching torch again.
COPY constraints.txt /opt/knnex/
RUN pip install --constraint /opt/knnex/constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch

COPY --from=build /wheels /opt/knnex/wheels
RUN pip install --constraint /opt/knnex/constraints.txt "$(echo /opt/knnex/wheels/*.whl)[text,parquet,minilm,http,metrics,sql]"

# A worker needs no rights: it listens on no port, and writes to its cache alone.
RUN useradd --create-home --uid 10001 knnex && install --directory --owner=knnex --group=knnex /var/cache/knnex
USER knnex
WORKDIR /home/knnex
ENV KNNEX_CACHE_DIR=/var/cache/knnex \
    HF_HOME=/var/cache/knnex/models
VOLUME /var/cache/knnex

# Healthy while this container's worker is announced in the log; a long batch does not make it ill.
HEALTHCHECK --interval=30s --timeout=15s --start-period=120s --retries=3 \
    CMD ["python", "-m", "knnex.workers.alive", "--announced"]

ENTRYPOINT ["knnex"]
CMD ["worker"]
