# mmhatnet on GPUs: docker build -f docker/cuda.Dockerfile -t mmhatnet:cuda .
# and then docker run --gpus all --ipc host -it mmhatnet:cuda
# The toolkit has the CUDA version of the torch that setup_env.sh installs. It
# stays in the image, since extensions use it.
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        g++ libgl1 libglib2.0-0 python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/mmhatnet
COPY . .
# No GPU is there while an image is built.
ENV FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="7.5 8.0 8.6 8.9 9.0 12.0+PTX"
ENV MMHATNET_VENV=/opt/venv PATH=/opt/venv/bin:$PATH
RUN PIP_NO_CACHE_DIR=1 tools/setup_env.sh && rm -rf ~/.cache
CMD ["bash"]
