# syntax=docker/dockerfile:1
# One image for all roles: code server, web server, daemon, run worker. The root file system may be
# read-only: what is written goes to /data (a volume) and /tmp (an emptyDir).

FROM python:3.11.14-slim-bookworm AS build
RUN pip install --no-cache-dir uv==0.13.8
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never \
    MEDALLION_CACHE=/opt/medallion/cache
WORKDIR /opt/medallion
# Dependencies change seldom: a layer of their own.
COPY pyproject.toml uv.lock README.md ./
RUN uv sync --locked --all-extras --no-dev --no-install-project
COPY medallion_platform medallion_platform
COPY medallion_sample medallion_sample
# Includes the jars for a lake in a bucket, because the image does not know where the lake will be.
RUN uv sync --locked --all-extras --no-dev --no-editable \
    && MEDALLION_LAKE=s3://any/lake .venv/bin/python -m medallion_platform.installation.local_spark \
    && .venv/bin/python -m medallion_platform.installation.recording

FROM python:3.11.14-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini=0.19.* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp medallion \
    && install -d -o medallion -g medallion /data
COPY --from=build /opt/medallion/.venv /opt/medallion/.venv
COPY --from=build /opt/medallion/cache /opt/medallion/cache
COPY workspace.yaml /opt/medallion/
ENV PATH=/opt/medallion/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    SPARK_LOCAL_DIRS=/tmp \
    DAGSTER_HOME=/data/dagster \
    MEDALLION_CACHE=/opt/medallion/cache \
    MEDALLION_HOME=/data \
    MEDALLION_MODULE=medallion_sample.catalog
WORKDIR /opt/medallion
USER 10001:10001
VOLUME ["/data"]
EXPOSE 3000
ENTRYPOINT ["tini", "--", "medallion"]
CMD ["--help"]
