# hippo-nnunet in a container, for CPUs or for NVIDIA GPUs (the host needs the NVIDIA container toolkit):
#   docker build --build-arg DEVICE=cpu -t hippo-nnunet:cpu .
#   docker build --build-arg DEVICE=cuda -t hippo-nnunet:cuda .
# The current folder is the container's; files belong to you:
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" hippo-nnunet:cpu data synth --output demo --cases 20
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" --gpus all --shm-size 8g hippo-nnunet:cuda run ...
FROM python:3.12-slim-bookworm

ARG DEVICE=cpu

# caches where any user may write; a name for users that the container does not know; torch compiles with g++
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOME=/tmp \
    USER=hippo \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/cache/matplotlib

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --no-create-home hippo

# torch alone first: the layer is large, and stays while our code changes
# hadolint ignore=DL3013
RUN case "$DEVICE" in \
        cpu) index=https://download.pytorch.org/whl/cpu ;; \
        cuda) index=https://pypi.org/simple ;; \
        *) echo "DEVICE=$DEVICE is unknown; take cpu or cuda" >&2; exit 1 ;; \
    esac \
    && pip install --index-url "$index" "torch>=2.4,!=2.9.*" torchvision

WORKDIR /opt/hippo_nnunet
COPY pyproject.toml README.md LICENSE ./
COPY hippo_nnunet hippo_nnunet
COPY trainers trainers
COPY planners planners
RUN pip install -e '.[openvino]' \
    && hippo-nnunet register \
    && hippo-nnunet list --json > /dev/null \
    && rm -rf /tmp/cache

USER 1000
WORKDIR /work
ENTRYPOINT ["hippo-nnunet"]
CMD ["--help"]
