# The application with Ray, for every pod of the cluster. Versions come from requirements.lock.
#   docker build -t braid-serve:0.1.0-ray2.60.0 .
#   docker build -t braid-serve:0.1.0-ray2.60.0-cuda --build-arg TORCH=default --build-arg BRAID_MODEL= .
FROM python:3.11-slim AS build

# cpu: PyTorch's small CPU build, from its own index. default: what pip's index has, with CUDA.
ARG TORCH=cpu
# A mirror of pip's index; unset, pip's default serves.
ARG PIP_INDEX_URL

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH VIRTUAL_ENV=/opt/venv

WORKDIR /src
COPY pyproject.toml README.md LICENSE requirements.lock ./
# torch first and alone, so that nothing else comes from its index; then what the project depends
# on. The lock file constrains: the development tools stay out, as do CUDA's libraries beside a CPU
# build.
RUN torch=$(grep -o '^torch==[^ ;]*' requirements.lock) \
    && pip install --constraint requirements.lock setuptools uv \
    && if [ "$TORCH" = cpu ]; then \
         uv pip install --no-cache --no-deps --torch-backend cpu "$torch"; \
       else \
         pip install --constraint requirements.lock "$torch"; \
       fi \
    && pip uninstall --yes uv \
    && pip install --constraint requirements.lock --no-build-isolation .

COPY kernels/ kernels/
COPY cluster/ cluster/
COPY router_service/ router_service/
COPY training/ training/
COPY deployments/ deployments/
COPY plugins/ plugins/
COPY setup.py ./
RUN pip install --no-deps --no-build-isolation --force-reinstall .

# The base model of the CPU overlay; empty leaves it out (GPU images read models from a claim).
ARG BRAID_MODEL=HuggingFaceTB/SmolLM2-135M-Instruct
ENV BRAID_CACHE_DIR=/opt/braid/models
RUN mkdir -p "$BRAID_CACHE_DIR" \
    && if [ -n "$BRAID_MODEL" ]; then braid model fetch "$BRAID_MODEL"; fi

FROM python:3.11-slim

# Triton compiles its launchers when a GPU kernel is first used; Python's headers are in the image.
ARG TORCH=cpu
RUN if [ "$TORCH" != cpu ]; then \
      apt-get update \
      && apt-get install --yes --no-install-recommends gcc libc6-dev \
      && rm -rf /var/lib/apt/lists/*; \
    fi

RUN groupadd --gid 1000 braid && useradd --uid 1000 --gid 1000 --create-home braid
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/braid/models /opt/braid/models
COPY demo/adapters/ /opt/braid/demo/adapters/
COPY demo/router/ /opt/braid/demo/router/

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
