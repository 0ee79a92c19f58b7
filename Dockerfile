# The daemon, its interpreter and what its tools call; nothing else. docs/container.md says how to use it.
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${BASE_IMAGE} AS build
# requirements-otel.lock instead adds what traces need.
ARG REQUIREMENTS=requirements.lock
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY requirements*.lock pyproject.toml README.md LICENSE ./
# A wheelhouse in docker/wheelhouse makes the build independent of any package index.
COPY docker ./docker
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/kheish
RUN set -eu; \
    if [ -d docker/wheelhouse ]; then set -- --no-index --find-links docker/wheelhouse; else set --; fi; \
    install="install --no-cache-dir --disable-pip-version-check --only-binary :all: --require-hashes"; \
    /opt/build/bin/pip $install "$@" -r requirements-build.lock; \
    /opt/build/bin/pip --python /opt/kheish/bin/python $install "$@" -r "${REQUIREMENTS}"
COPY src ./src
RUN /opt/build/bin/pip wheel --no-cache-dir --no-index --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
    && /opt/build/bin/pip --python /opt/kheish/bin/python install --no-cache-dir --no-index --no-deps /tmp/wheel/*.whl \
    && find /opt/kheish -name '*.pyi' -delete \
    && /opt/kheish/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/kheish/lib

FROM ${BASE_IMAGE}
# HOME and /run/kheish are open like /tmp: an engine that lays a tmpfs over them takes their mode, but not their owner.
# The slim base leaves out manuals and translations; so does what is added, whatever the base was told.
RUN printf 'path-exclude=/usr/share/%s/*\n' doc info locale man > /etc/dpkg/dpkg.cfg.d/slim \
    && echo 'path-include=/usr/share/doc/*/copyright' >> /etc/dpkg/dpkg.cfg.d/slim \
    && apt-get update \
    && apt-get install -y --no-install-recommends \
        bash ca-certificates curl git procps python3 ripgrep tini \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old \
    && groupadd --system --gid 10001 kheish \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/kheish/home --no-create-home \
        --shell /usr/sbin/nologin kheish \
    && install -d -o kheish -g kheish -m 0755 /var/lib/kheish /etc/kheish /workspace \
    && install -d -o kheish -g kheish -m 0750 /var/lib/kheish/state \
    && install -d -o kheish -g kheish -m 1777 /var/lib/kheish/home /run/kheish
COPY --from=build /opt/kheish /opt/kheish
COPY --chmod=0755 docker/entrypoint.sh /usr/local/bin/kheish-entrypoint
COPY --chmod=0755 docker/healthcheck.sh /usr/local/bin/kheish-healthcheck
COPY --chmod=0644 docker/routes.example.toml /usr/share/kheish/routes.default.toml
RUN ln -s /opt/kheish/bin/kheish-daemon /usr/local/bin/kheish-daemon
ENV HOME=/var/lib/kheish/home \
    KHEISH_BIND=0.0.0.0:4000 \
    KHEISH_STATE_ROOT=/var/lib/kheish/state \
    KHEISH_WORKSPACE_ROOT=/workspace \
    KHEISH_HTTP_AUTH_MODE=bearer \
    KHEISH_MCP_DISCOVERY=disabled \
    KHEISH_LOG_LEVEL=info \
    KHEISH_BOUND_ADDRESS_FILE=/run/kheish/address
WORKDIR /workspace
USER kheish:kheish
EXPOSE 4000
VOLUME ["/var/lib/kheish/state", "/workspace"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["/usr/local/bin/kheish-healthcheck"]
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/kheish-entrypoint"]
CMD ["serve"]
