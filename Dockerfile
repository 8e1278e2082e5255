# One image for every role: `docker build --target worker .`, or see docker-compose.yml.
FROM python:3.12-slim AS client
WORKDIR /app
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 UNROLL_HOME=/home/unroll/data
RUN useradd --create-home --uid 1000 unroll && install -d -o unroll /home/unroll/data
COPY pyproject.toml README.md LICENSE ./
COPY jobs jobs
COPY lightning_modules lightning_modules
COPY datamodules datamodules
COPY worker worker
RUN pip install .
USER unroll
ENTRYPOINT ["unroll"]

FROM client AS worker
USER root
# What to install as torch, and from where: the default is the CUDA build that PyPI serves.
# For a small CPU image give TORCH_ARGS="--index-url <PyTorch's CPU index>".
ARG TORCH="torch>=2.6"
ARG TORCH_ARGS=""
RUN pip install ${TORCH_ARGS} "${TORCH}" && pip install '.[worker]'
USER unroll
VOLUME /home/unroll/data
WORKDIR /home/unroll
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s \
    CMD ["sh", "-c", "unroll workers --json | grep -q \"$(hostname)\""]
ENTRYPOINT ["unroll", "worker"]
