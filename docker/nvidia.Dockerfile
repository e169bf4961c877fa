# `ntre serve` on an NVIDIA GPU. In a clone: docker build -f docker/nvidia.Dockerfile -t ntre-serve:nvidia .
# The image brings TensorRT and CUDA; plans are built on the device that runs them: docker/README.md.
# Every path of the steps is under NTRE_HOME, so that they run as a script elsewhere too (tests/docker).
ARG IMAGE=nvcr.io/nvidia/tensorrt:25.08-py3

FROM ${IMAGE}
ENV NTRE_HOME=/opt/ntre
ENV NTRE_PORT=8000
WORKDIR ${NTRE_HOME}/source
COPY pyproject.toml README.md LICENSE ./
COPY ntre_deploy ntre_deploy
COPY export export
COPY kernels kernels
COPY runtimes/web/src runtimes/web/src
# not the extra `trt`: it would fetch a second TensorRT
RUN python3 -m venv --system-site-packages ${NTRE_HOME}/venv \
    && ${NTRE_HOME}/venv/bin/pip install --no-cache-dir --disable-pip-version-check --quiet \
        ".[serve]" "cuda-bindings>=12.8,<14" "filelock>=3.16,<5" \
    && rm -rf ${NTRE_HOME}/source/*
ENV PATH=${NTRE_HOME}/venv/bin:${PATH}
RUN mkdir -m 0777 ${NTRE_HOME}/memories
WORKDIR ${NTRE_HOME}
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD python3 -c "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"NTRE_PORT\"]}/readyz', timeout=3)"
ENTRYPOINT ["ntre", "serve", "--memories", "memories"]
CMD ["--host", "0.0.0.0", "--port", "8000", "/bundles/model.ntre"]
