# syntax=docker/dockerfile:1
# Two images from one file (docs/deploy.md):
#   docker build --target label -t expert-labels:label .
#   docker build --target train -t expert-labels:train .
# CUDA's libraries come with torch's wheels; the machine brings the driver. Name the base by its digest in a registry of yours.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# ---- what every stage shares: an unprivileged user, what wheels expect of a system, what KubeRay's probes call (wget)
FROM ${PYTHON_IMAGE} AS system
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libgomp1 wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home labels
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1

# ---- the packages of requirements.lock that setup.cfg asks for; built anew only when one of the two changes
FROM system AS packages
ARG UV_VERSION=0.13.8
COPY requirements.lock setup.cfg pyproject.toml /src/
WORKDIR /src
RUN python -m venv /opt/venv \
 && pip install --no-cache-dir "uv==${UV_VERSION}" \
 && uv pip install --no-cache --compile-bytecode --python /opt/venv/bin/python \
      --requirements setup.cfg --constraints requirements.lock

# ---- detectron2, in no package index: compiled against this torch with NVIDIA's own compiler wheels, which stay in this stage
FROM packages AS detectron2
ARG DETECTRON2=git+https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833
ARG CUDA=13.2.86
ARG TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0"
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ git \
 && rm -rf /var/lib/apt/lists/*
RUN uv pip install --no-cache --python /opt/venv/bin/python --no-deps \
      "nvidia-cuda-nvcc==${CUDA}" "nvidia-cuda-crt==${CUDA}" "nvidia-nvvm==${CUDA}" \
 && CUDA_HOME=/opt/venv/lib/python3.11/site-packages/nvidia/cu13 \
 && ln -s lib "$CUDA_HOME/lib64" \
 && ln -s libcudart.so.13 "$CUDA_HOME/lib/libcudart.so" \
 && CUDA_HOME=$CUDA_HOME FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=$TORCH_CUDA_ARCH_LIST \
    /opt/venv/bin/pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /wheels "$DETECTRON2"

# ---- this package as a wheel
FROM packages AS wheel
COPY . /src
RUN /opt/venv/bin/pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /wheels .

# ---- weights to bake in, for machines without a network. Empty unless WEIGHTS says what: the arguments of `weights fetch`,
# as in --build-arg WEIGHTS="--experts depth,edge". A folder that was fetched before takes the stage's place:
#   docker build --build-context weights=DIR ...
FROM wheel AS fetched
ARG WEIGHTS=""
RUN uv pip install --no-cache --python /opt/venv/bin/python --no-deps /wheels/*.whl
# The words of WEIGHTS are arguments; the token is there for this one command and in no layer.
# hadolint ignore=SC2086
RUN --mount=type=secret,id=hf_token,env=HF_TOKEN \
    mkdir /weights \
 && if [ -n "$WEIGHTS" ]; then expert-labels weights fetch $WEIGHTS --weights /weights; fi
FROM scratch AS weights
COPY --from=fetched /weights /

# ---- training: Java is for the tokenizer of COCO's caption scores and METEOR, the compiler for torch.compile
FROM system AS train
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev openjdk-17-jre-headless \
 && rm -rf /var/lib/apt/lists/*
COPY --from=packages /opt/venv /opt/venv
COPY --from=weights / /opt/weights/
ENV EXPERT_LABELS_WEIGHTS=/opt/weights
# A bind mount and no COPY: the wheel itself is in no layer.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/venv/bin/pip install --no-cache-dir --no-deps /wheels/*.whl
USER 1000:1000
WORKDIR /home/labels
CMD ["expert-labels", "--help"]

# ---- labelling, and the default target: every expert, detectron2's too
FROM system AS label
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY --from=packages /opt/venv /opt/venv
COPY --from=weights / /opt/weights/
ENV EXPERT_LABELS_WEIGHTS=/opt/weights
RUN --mount=type=bind,from=detectron2,source=/wheels,target=/wheels \
    --mount=type=bind,source=requirements.lock,target=/locks/requirements.lock \
    --mount=type=bind,source=requirements-detection.lock,target=/locks/requirements-detection.lock \
    /opt/venv/bin/pip install --no-cache-dir --constraint /locks/requirements.lock \
      --requirement /locks/requirements-detection.lock /wheels/*.whl
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/venv/bin/pip install --no-cache-dir --no-deps /wheels/*.whl
USER 1000:1000
WORKDIR /home/labels
CMD ["expert-labels", "--help"]
