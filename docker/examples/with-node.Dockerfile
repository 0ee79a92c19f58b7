# The daemon with one sidecar runtime more, for child_process connectors and stdio MCP servers written for Node.
ARG KHEISH_IMAGE=kheish-daemon:local
FROM ${KHEISH_IMAGE}
USER root
RUN apt-get update \
    && apt-get install -y --no-install-recommends nodejs \
    && rm -rf /var/lib/apt/lists/*
USER kheish:kheish
