#!/bin/bash
# What the layers of the image are made of: `steps.sh STEP` makes one. `Dockerfile` calls them, each with the files
# that it needs below /build, and the builder of the tests does what `Dockerfile` says.
set -euo pipefail
cd /build
export UV_PYTHON=/usr/bin/python3.11 UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/medallion/.venv
export UV_CACHE_DIR=/build/cache UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_NO_PROGRESS=1 PIP_NO_CACHE_DIR=1
# The certificates of a network that reads along: only for what a step fetches, in no layer.
if [[ -s certificates.pem ]]; then
  export SSL_CERT_FILE=/build/certificates.pem PIP_CERT=/build/certificates.pem
fi

install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  apt-get -qq install -y --no-install-recommends "$@" >/dev/null
  apt-get -qq clean
  rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
}

# Debian with its fixes of this day, Python, tini, and a user who owns /data alone.
base() {
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq upgrade -y >/dev/null
  install_packages ca-certificates python3.11 'tini=0.19.*'
  find / -xdev -type f -perm /6000 -exec chmod a-s {} + # nothing in it needs the rights of another user
  useradd --uid 10001 --user-group --no-log-init --no-create-home --home-dir /tmp medallion
  install -d -o medallion -g medallion /data
}

# uv, for the steps after it; the image does not have it.
tools() {
  install_packages python3-pip
  python3.11 -m pip install --quiet --require-hashes --target /opt/tools --requirement image/uv.txt
}

# What uv.lock names, for all extras, compiled.
dependencies() {
  # Of mypy, which Feast wants for a plug-in of a type checker, nothing is ever imported.
  tools/bin/uv sync --quiet --locked --all-extras --no-dev --no-install-project --no-install-package mypy
  python3.11 image/trim.py /opt/medallion/.venv/lib/python3.11/site-packages
}

# The jars, also those for topics and buckets, because the image does not know where its lake is, and what Java
# records while Spark and Delta write a table: without a table there is no image.
java() {
  PYTHONPATH=/build /opt/medallion/.venv/bin/python image/java.py
}

# The platform, and the sample as the project in the image.
code() {
  tools/bin/uv build --quiet --wheel --out-dir /tmp/wheel
  UV_COMPILE_BYTECODE=0 tools/bin/uv pip install --quiet --no-deps --python /opt/medallion/.venv /tmp/wheel/*.whl
  /opt/medallion/.venv/bin/python -m compileall -q /opt/medallion/.venv/lib/python3.11/site-packages/medallion_*
  install image/executor image/decommission /usr/local/bin
  install -D -m 644 pyproject.toml /project/pyproject.toml
}

"$1"
find /tmp -mindepth 1 -delete
