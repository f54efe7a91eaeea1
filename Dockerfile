# The application with Ray, for every pod of the cluster. Versions come from requirements.lock.
#   docker build -t braid-serve:0.1.0-ray2.60.0 .
#   docker build -t braid-serve:0.1.0-ray2.60.0-cuda \
#     --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 --build-arg BRAID_MODEL= .
FROM python:3.11-slim AS build

# Where torch's wheels come from: CPU here; an index of CUDA wheels for GPU images.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

WORKDIR /src
COPY pyproject.toml README.md LICENSE requirements.lock ./
# torch alone first, so that nothing else can be resolved from its index; then what the project
# depends on, without the development tools, at the versions of the lock file.
RUN torch=$(grep '^torch==' requirements.lock) \
    && pip install --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple "$torch" \
    && pip install --constraint requirements.lock .

COPY kernels/ kernels/
COPY cluster/ cluster/
COPY router_service/ router_service/
COPY deployments/ deployments/
RUN pip install --no-deps --force-reinstall .

# The base model of the CPU overlay; empty leaves it out (GPU images read models from a claim).
ARG BRAID_MODEL=HuggingFaceTB/SmolLM2-135M-Instruct
ENV BRAID_CACHE_DIR=/opt/braid/models
RUN mkdir -p "$BRAID_CACHE_DIR" \
    && if [ -n "$BRAID_MODEL" ]; then braid model fetch "$BRAID_MODEL"; fi

FROM python:3.11-slim

RUN groupadd --gid 1000 braid && useradd --uid 1000 --gid 1000 --create-home braid
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/braid/models /opt/braid/models
COPY demo/ /opt/braid/demo/

# ray, python and bash must be found by the commands that the operator writes into the pods.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    NUMBA_CACHE_DIR=/home/braid/.cache/numba

USER 1000:1000
WORKDIR /home/braid
EXPOSE 8000
CMD ["braid", "--help"]
