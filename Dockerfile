# Build: docker build -t byok .
# The root file system may be read-only: the service writes to /data and /tmp alone.

FROM python:3.11-slim-bookworm AS build
ARG UV_VERSION=0.13.9
RUN pip install --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}"
WORKDIR /srv/byok
RUN python -m venv --without-pip .venv
COPY requirements.lock ./
RUN uv pip install --no-cache --compile-bytecode --link-mode copy --python .venv/bin/python \
    --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE alembic.ini ./
COPY app app
COPY migrations migrations
COPY docs/vault docs/vault
# Editable: migrations and alembic.ini stay beside the code, where `byok migrate` looks for them.
RUN uv pip install --no-cache --no-deps --no-build-isolation --python .venv/bin/python --editable . \
    && python -m compileall -q app migrations

FROM python:3.11-slim-bookworm
RUN groupadd --system --gid 10001 byok \
    && useradd --system --uid 10001 --gid byok --home-dir /data --no-create-home --shell /usr/sbin/nologin byok \
    && install --directory --owner byok --group byok --mode 0700 /data
COPY --from=build /srv/byok /srv/byok
ENV PATH=/srv/byok/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BYOK_HOST=0.0.0.0 \
    BYOK_DATA_DIR=/data
WORKDIR /srv/byok
USER 10001:10001
VOLUME /data
EXPOSE 8000
# SIGTERM: requests under way are answered (20 s at most), checks under way end (20 s at most).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('BYOK_PORT', '8000')), timeout=2); c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["byok"]
CMD ["serve"]
