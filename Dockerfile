# Two stages: the builder has pip and the build backend, the image has neither.
# Every package comes from a lock file with hashes; none is compiled here.
FROM python:3.13-slim AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /src

# The dependencies first: this layer stays cached until a lock file changes.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /tools \
    && /tools/bin/python -m pip install --require-hashes --only-binary :all: -r requirements-build.lock
RUN python -m venv --without-pip /venv \
    && python -m pip --python /venv/bin/python install --no-compile \
        --require-hashes --only-binary :all: -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY fastrouter ./fastrouter
RUN /tools/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /tools/wheels . \
    && python -m pip --python /venv/bin/python install --no-compile --no-deps /tools/wheels/*.whl

# Bytecode that is trusted as it is: the file system is read-only, and a copied layer may change times.
RUN /venv/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /venv/lib

FROM python:3.13-slim

LABEL org.opencontainers.image.title="fastrouter" \
      org.opencontainers.image.description="A reverse proxy that puts thousands of short-lived sandboxes behind one address" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=builder /venv /venv

ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# By number: Kubernetes can prove that a number is not root, a name it cannot.
USER 1000:1000
# HTTP, HTTPS (with a certificate), health, metrics.
EXPOSE 8080 8443 8081 9090
STOPSIGNAL SIGTERM

# The exec form makes the router process 1, which gets the signal; SIGTERM drains.
ENTRYPOINT ["fastrouter"]
CMD ["serve"]
