# One image for every role. The base is a build argument, so that it can be any Debian 12 or newer:
#   docker build --build-arg BASE=debian:12-slim -t headrace .
# Behind an index of your own: --secret id=pip,src=$HOME/.config/pip/pip.conf
ARG BASE=debian:12-slim

FROM ${BASE} AS base
# A JRE is for the statistics (Spark) alone; everything else is Python.
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 ca-certificates openjdk-17-jre-headless \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log

FROM base AS packages
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
WORKDIR /src
# The base may trust certificates of its own (a company proxy): uv shall too.
ENV HEADRACE_CACHE=/cache UV_SYSTEM_CERTS=1
COPY requirements-image.lock ./
COPY infra/__init__.py infra/setup.py infra/image.py infra/requirements-uv.lock infra/
RUN --mount=type=cache,target=/cache --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/headrace && python3 -m infra.image packages
# Spark's Kafka connector: nothing is fetched at run time. What fetches it needs no more of Headrace than this.
COPY headrace/errors.py headrace/
COPY infra/local/__init__.py infra/local/artifacts.py infra/local/artifacts.lock infra/local/java.py infra/local/trust.py infra/local/
RUN --mount=type=cache,target=/cache /opt/headrace/bin/python -m infra.image connector

# Headrace itself lies beside its packages, so that a new version of it is a small new layer.
FROM packages AS project
COPY . ./
RUN --mount=type=cache,target=/cache --mount=type=secret,id=pip,target=/etc/pip.conf python3 -m infra.image project

FROM packages AS stripped
RUN --mount=type=cache,target=/cache --mount=type=secret,id=pip,target=/etc/pip.conf python3 -m infra.image strip

FROM base
# What a role writes is owned by its user, and a new volume there takes that over.
RUN groupadd --gid 10001 headrace \
 && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /var/lib/headrace headrace \
 && install -d -o headrace -g headrace /var/lib/headrace /results /tasks
ENV PATH=/opt/headrace/project/bin:/opt/headrace/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HEADRACE_DATA=/var/lib/headrace HEADRACE_SPARK_JARS=/opt/headrace/spark-jars/*.jar
USER 10001:10001
WORKDIR /tasks
VOLUME ["/var/lib/headrace"]
# The role is named by the command; each answers on its own address.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["headrace", "health"]
ENTRYPOINT ["headrace"]
CMD ["--help"]
COPY --from=stripped /opt/headrace /opt/headrace
COPY --from=project /opt/project /opt/headrace/project
