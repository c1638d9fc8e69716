# syntax=docker/dockerfile:1
# One image for all roles: code server, web server, daemon, run worker, stream worker, and Spark's executors. The root
# file system may be read-only: what is written goes to /data (a volume) and /tmp (an emptyDir).
#
# A layer is made again when a file changes that its line names; what makes it is in image/steps.sh.

FROM debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171 AS base
RUN --mount=type=bind,source=image/steps.sh,target=/build/image/steps.sh \
    /build/image/steps.sh base

FROM base AS tools
RUN --mount=type=bind,source=image/steps.sh,target=/build/image/steps.sh \
    --mount=type=bind,source=image/uv.txt,target=/build/image/uv.txt \
    --mount=type=secret,id=certificates,target=/build/certificates.pem \
    /build/image/steps.sh tools

FROM base
ENV PATH=/opt/medallion/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/project \
    HOME=/tmp \
    SPARK_LOCAL_DIRS=/tmp \
    DAGSTER_HOME=/data/dagster \
    MEDALLION_CACHE=/opt/medallion/cache \
    MEDALLION_HOME=/data
RUN --mount=type=bind,source=image/steps.sh,target=/build/image/steps.sh \
    --mount=type=bind,source=image/trim.py,target=/build/image/trim.py \
    --mount=type=bind,source=pyproject.toml,target=/build/pyproject.toml \
    --mount=type=bind,source=uv.lock,target=/build/uv.lock \
    --mount=type=bind,from=tools,source=/opt/tools,target=/build/tools \
    --mount=type=cache,id=uv,target=/build/cache \
    --mount=type=secret,id=certificates,target=/build/certificates.pem \
    /build/image/steps.sh dependencies
RUN --mount=type=bind,source=image/steps.sh,target=/build/image/steps.sh \
    --mount=type=bind,source=image/java.py,target=/build/image/java.py \
    --mount=type=bind,source=medallion_platform/__init__.py,target=/build/medallion_platform/__init__.py \
    --mount=type=bind,source=medallion_platform/certificates.py,target=/build/medallion_platform/certificates.py \
    --mount=type=bind,source=medallion_platform/container.py,target=/build/medallion_platform/container.py \
    --mount=type=bind,source=medallion_platform/errors.py,target=/build/medallion_platform/errors.py \
    --mount=type=bind,source=medallion_platform/spark,target=/build/medallion_platform/spark \
    --mount=type=secret,id=certificates,target=/build/certificates.pem \
    /build/image/steps.sh java
RUN --mount=type=bind,source=image/steps.sh,target=/build/image/steps.sh \
    --mount=type=bind,source=image/executor,target=/build/image/executor \
    --mount=type=bind,source=image/decommission,target=/build/image/decommission \
    --mount=type=bind,source=pyproject.toml,target=/build/pyproject.toml \
    --mount=type=bind,source=README.md,target=/build/README.md \
    --mount=type=bind,source=medallion_platform,target=/build/medallion_platform \
    --mount=type=bind,source=medallion_sample,target=/build/medallion_sample \
    --mount=type=bind,from=tools,source=/opt/tools,target=/build/tools \
    --mount=type=cache,id=uv,target=/build/cache \
    --mount=type=secret,id=certificates,target=/build/certificates.pem \
    /build/image/steps.sh code
WORKDIR /project
USER 10001:10001
VOLUME ["/data"]
EXPOSE 3000
ENTRYPOINT ["tini", "--"]
CMD ["medallion", "--help"]
