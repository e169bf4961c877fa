# `ntre serve` on a CPU. In a clone: docker build -f docker/cpu.Dockerfile -t ntre-serve .
# Every path of the steps is under NTRE_HOME, so that they run as a script elsewhere too (tests/docker).
ARG IMAGE=python:3.12-slim-bookworm

FROM ${IMAGE} AS build
ENV NTRE_HOME=/opt/ntre
WORKDIR ${NTRE_HOME}/source
COPY pyproject.toml README.md LICENSE ./
COPY ntre_deploy ntre_deploy
COPY export export
COPY kernels kernels
COPY runtimes/web/src runtimes/web/src
RUN python3 -m venv ${NTRE_HOME}/venv \
    && ${NTRE_HOME}/venv/bin/pip install --no-cache-dir --disable-pip-version-check --quiet ".[cpu,serve]"

FROM ${IMAGE}
ENV NTRE_HOME=/opt/ntre
ENV NTRE_PORT=8000
COPY --from=build ${NTRE_HOME}/venv ${NTRE_HOME}/venv
ENV PATH=${NTRE_HOME}/venv/bin:${PATH}
# memories survive where a volume is mounted here; whoever runs the image may write
RUN mkdir -m 0777 ${NTRE_HOME}/memories
WORKDIR ${NTRE_HOME}
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD python3 -c "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"NTRE_PORT\"]}/readyz', timeout=3)"
# the key comes as NTRE_API_KEY or by --api-key-file: without one, only loopback is served
ENTRYPOINT ["ntre", "serve", "--memories", "memories"]
CMD ["--host", "0.0.0.0", "--port", "8000", "/bundles/model.ntre"]
