# One image for every role. The base is a build argument, so that it can be any Debian 12 or newer:
#   docker build --build-arg BASE=debian:12-slim -t headrace .
ARG BASE=debian:12-slim

FROM ${BASE} AS base
# A JRE is for the statistics (Spark) alone; everything else is Python.
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 ca-certificates openjdk-17-jre-headless \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log

FROM base AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
WORKDIR /src
# The base may trust certificates of its own (a company proxy): uv shall too.
ENV HEADRACE_CACHE=/opt/headrace/cache UV_LINK_MODE=copy UV_SYSTEM_CERTS=1
COPY requirements-image.lock pyproject.toml README.md topics.yaml ./
COPY infra/__init__.py infra/setup.py infra/image.py infra/requirements-uv.lock infra/
RUN python3 -m venv /opt/headrace && python3 -m infra.image packages /opt/headrace
COPY headrace headrace
COPY agents agents
COPY gateway gateway
COPY spark_analytics spark_analytics
COPY infra infra
COPY examples examples
# The package itself, then Spark's Kafka connector into the image's cache: nothing is fetched at run time.
RUN python3 -m infra.image headrace /opt/headrace \
 && /opt/headrace/bin/python -c "from infra.local.artifacts import artifact; artifact('spark-kafka')" \
 && rm -rf /opt/headrace/cache/ivy /opt/headrace/cache/uv /opt/headrace/cache/tools \
 && find /opt/headrace -name __pycache__ -prune -exec rm -rf {} +

FROM base
COPY --from=build /opt/headrace /opt/headrace
RUN useradd --system --uid 10001 --no-create-home --home-dir /var/lib/headrace headrace \
 && install -d -o headrace -g headrace /var/lib/headrace /tasks
ENV PATH=/opt/headrace/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HEADRACE_CACHE=/opt/headrace/cache HEADRACE_DATA=/var/lib/headrace
USER 10001
WORKDIR /tasks
VOLUME ["/var/lib/headrace"]
# The role is named by the command; each answers on its own address.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["headrace", "health"]
ENTRYPOINT ["headrace"]
CMD ["--help"]
