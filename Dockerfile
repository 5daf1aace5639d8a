# An image with vt_fairseq and all of its commands.
#   docker build -t vt_fairseq .
#   docker run --gpus all --ipc host -v "$PWD:/work" vt_fairseq fairseq-train DATA --user-dir user_dir ...
# For CPUs alone, with torch's small build:
#   docker build -t vt_fairseq --build-arg BASE=ubuntu:24.04 \
#     --build-arg PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu" .
# For V100s, which torch's builds for CUDA 12.6 alone carry: the same address with cu126.
# --ipc host, or --shm-size 8g: data workers hand over frames through shared memory.
ARG BASE=nvidia/cuda:12.6.3-base-ubuntu24.04
FROM ${BASE}
ARG PIP_OPTIONS=""

# g++: DeepSpeed compiles its Adam for --offload-optimizer. git and ffmpeg are not needed.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-dev python3-venv g++ \
    && rm -rf /var/lib/apt/lists/*

ENV VIRTUAL_ENV=/opt/vt_fairseq
ENV PATH=${VIRTUAL_ENV}/bin:${PATH}
WORKDIR /usr/src/vt_fairseq
COPY constraints.txt setup.py pyproject.toml README.md LICENSE ./
COPY vt_fairseq vt_fairseq
COPY user_dir user_dir

# torchaudio: see examples/environment.sh.
RUN python3 -m venv "${VIRTUAL_ENV}" \
    && python -m pip install --no-cache-dir --constraint constraints.txt ${PIP_OPTIONS} . \
    && python -m pip uninstall --yes torchaudio
RUN vt-caption --version && python -c "import vt_fairseq.plugin"

RUN useradd --create-home user
USER user
WORKDIR /work
CMD ["vt-caption", "--help"]
