# One image for every role. BASE may be any Debian 12 or newer:
#   docker build --build-arg BASE=debian:12-slim -t headrace .
# With a package index of your own: --secret id=pip,src=$HOME/.config/pip/pip.conf
ARG BASE=debian:12-slim

FROM ${BASE} AS base
# Only the statistics (Spark) need the JRE; everything else is Python.
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 ca-certificates openjdk-17-jre-headless \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log

FROM base AS packages
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
WORKDIR /src
# The base may trust certificates of its own (a company proxy); uv must trust them too.
ENV HEADRACE_CACHE=/cache UV_SYSTEM_CERTS=1
COPY requirements-image.lock ./
COPY infra/__init__.py infra/setup.py infra/requirements-uv.lock infra/
COPY infra/image/__init__.py infra/image/steps.py infra/image/
RUN --mount=type=cache,target=/cache --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/headrace && python3 -m infra.image.steps packages
# Spark's Kafka connector, so that nothing is downloaded at run time. Its download needs only these files of Headrace.
COPY headrace/errors.py headrace/installation.py headrace/settings.py headrace/
COPY infra/local/__init__.py infra/local/artifacts.py infra/local/artifacts.lock infra/local/java.py infra/local/process.py infra/local/trust.py infra/local/
RUN --mount=type=cache,target=/cache /opt/headrace/bin/python -m infra.image.steps connector

# Headrace itself is a layer apart from its packages, so that a new version is a small layer.
FROM packages AS project
COPY . ./
RUN --mount=type=cache,target=/cache --mount=type=secret,id=pip,target=/etc/pip.conf python3 -m infra.image.steps project

FROM packages AS stripped
RUN --mount=type=cache,target=/cache --mount=type=secret,id=pip,target=/etc/pip.conf python3 -m infra.image.steps strip

FROM base
# Roles write only to directories of their user; a new volume takes over the owner.
RUN groupadd --gid 10001 headrace \
 && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /var/lib/headrace headrace \
 && install -d -o headrace -g headrace /var/lib/headrace /results /tasks
ENV PATH=/opt/headrace/project/bin:/opt/headrace/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HEADRACE_DATA=/var/lib/headrace HEADRACE_SPARK_JARS=/opt/headrace/spark-jars/*.jar
USER 10001:10001
WORKDIR /tasks
VOLUME ["/var/lib/headrace"]
# The command names the role; `headrace health` asks that role's address.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["headrace", "health"]
ENTRYPOINT ["headrace"]
CMD ["--help"]
COPY --from=stripped /opt/headrace /opt/headrace
COPY --from=project /opt/project /opt/headrace/project
