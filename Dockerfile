# Build: docker build -t byok .
# The root file system may be read-only: the service writes only to /data and /tmp.
#
# The base image is named by tag. Before a release, scripts/pin-images pins it by digest. Repeat it for each release, because
# a digest gets no security updates. To try another one: --build-arg PYTHON_IMAGE=...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
# Every tool is pinned by version and hash: the installer, the build backend, and what runs.
COPY requirements-installer.lock requirements-build.lock requirements-production.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement requirements-installer.lock
RUN python -m venv --without-pip /tools \
    && uv pip install --no-cache --python /tools/bin/python --require-hashes --requirement requirements-build.lock \
    && python -m venv --without-pip /srv/byok \
    && uv pip install --no-cache --compile-bytecode --link-mode copy --python /srv/byok/bin/python \
        --require-hashes --requirement requirements-production.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY migrations migrations
# The wheel contains the migrations and all other files that the commands need.
RUN /tools/bin/python -c "import os; from hatchling.build import build_wheel; os.makedirs('/wheels'); build_wheel('/wheels')" \
    && uv pip install --no-cache --no-deps --compile-bytecode --link-mode copy --python /srv/byok/bin/python /wheels/*.whl

FROM ${PYTHON_IMAGE}
RUN groupadd --system --gid 10001 byok \
    && useradd --system --uid 10001 --gid byok --home-dir /data --no-create-home --shell /usr/sbin/nologin byok \
    && install --directory --owner byok --group byok --mode 0700 /data
COPY --from=build /srv/byok /srv/byok
ENV PATH=/srv/byok/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BYOK_ENVIRONMENT=production \
    BYOK_HOST=0.0.0.0 \
    BYOK_DATA_DIR=/data
WORKDIR /srv/byok
USER 10001:10001
VOLUME /data
EXPOSE 8000
# After SIGTERM the service finishes requests (20 s at most) and validations (20 s at most) that are in progress.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('BYOK_PORT', '8000')), timeout=2); c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["byok"]
CMD ["serve"]
