# syntax=docker/dockerfile:1
#
# One image for every command: `docker run IMAGE start`, `docker run IMAGE stratumd`, `docker exec … headframe ledger audit`.
#
#   docker build -t headframe:0.1.0 .
#
# It runs as user 10001, writes to DATA_DIR (/data) and /tmp only, so the root may be read-only, and has no shell script, compiler
# or package manager of ours between the signal and the program: SIGTERM reaches Node, which drains and ends within ten seconds.
# With the private PostgreSQL (no DATABASE_URL) run it with an init (`docker run --init`), which reaps what a killed server leaves.

# The Node that package.json pins; a test holds both together.
ARG NODE_VERSION=26.10.0

FROM node:${NODE_VERSION}-bookworm-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
# No install script of any package is run. The pinned Node of the dependencies is left out: the image has that very version.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund \
 && rm -rf node_modules/node-linux-* node_modules/node-bin-* node_modules/.bin
# The private PostgreSQL has symbolic links, which npm packages can not hold. At run time there is nowhere to lay them.
COPY deploy/image/lay-links.mjs /tmp/
RUN node /tmp/lay-links.mjs /app/node_modules

FROM node:${NODE_VERSION}-bookworm-slim
RUN groupadd --gid 10001 headframe \
 && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin headframe \
 && mkdir /data \
 && chown 10001:10001 /data \
 && chmod 0700 /data \
 && rm -rf /usr/local/lib/node_modules /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack /opt/yarn-* \
 && printf '#!/bin/sh\nexec node /app/src/main.ts "$@"\n' > /usr/local/bin/headframe \
 && chmod 0755 /usr/local/bin/headframe
WORKDIR /app
COPY --from=dependencies /app/node_modules node_modules
COPY package.json ./
COPY sql sql
COPY src src
COPY deploy/image/ready.mjs deploy/image/
ENV NODE_ENV=production \
    DATA_DIR=/data
USER 10001:10001
EXPOSE 3333 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["node", "/app/deploy/image/ready.mjs"]
ENTRYPOINT ["headframe"]
CMD ["start"]
