# A Midge aggregator. Build it from the top folder of the repository:
#     docker build -t midge-aggregator -f deploy/aggregator.Dockerfile .
# Any base will do for amd64 and arm64 that has Python 3.11 and its module venv.
# node.Dockerfile differs only at its end: the large layers are built, stored and pulled once for both.
ARG BASE=python:3.11-slim-bookworm

FROM $BASE AS packages
# Where amd64 finds a torch without CUDA; on arm64 the pinned wheel has none anyway. Empty: do not ask there.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# The tool stays outside, so that the image has no pip.
RUN python3 -m venv pip && python3 -m venv --without-pip /opt/midge
COPY pyproject.toml constraints.txt ./
# What Midge needs, and not Midge: a change of code leaves this layer, and its hundreds of MB, as they are.
RUN python3 -c "import tomllib; it = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        print(*it['dependencies'], *it['optional-dependencies']['torch'], sep='\n')" > needs.txt \
    && if [ "$(uname -m)" = x86_64 ] && [ -n "$TORCH_INDEX" ]; then index="--extra-index-url $TORCH_INDEX"; fi \
    && pip/bin/pip --python /opt/midge install -r needs.txt -c constraints.txt $index \
    && if pip/bin/pip --python /opt/midge list | grep -i ^nvidia; then \
        echo "CUDA came in, gigabytes that nobody uses here: give --build-arg TORCH_INDEX=... with a CPU build" >&2; \
        exit 1; fi \
    # What torch brings for tests of itself and for compilers: a fifth of the image.
    && cd /opt/midge/lib/python3*/site-packages/torch && rm -rf test include \
    && find bin -type f ! -name torch_shm_manager -delete

FROM packages AS code
COPY README.md LICENSE ./
COPY aggregator aggregator
COPY edge_node edge_node
COPY midge midge
# Linked from midge/.
COPY mosquitto mosquitto
COPY shared shared
RUN pip/bin/pip --python /opt/midge install --no-deps --prefix /code .

FROM $BASE
# A number that stays, for who mounts folders: they must let it in.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin midge \
    && install -d -o midge -g midge -m 0700 /var/lib/midge /var/cache/midge \
    && install -d /etc/midge
COPY --from=packages /opt/midge /opt/midge
COPY --from=code /code /opt/midge
# From here on the two images differ.
LABEL org.opencontainers.image.title="Midge aggregator" \
      org.opencontainers.image.description="Federated learning over MQTT" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/midge/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    XDG_CACHE_HOME=/var/cache \
    MIDGE_HEALTH_FILE=/tmp/midge-alive \
    MIDGE_AGGREGATOR_STATE_DIR=/var/lib/midge
USER 10001:10001
# A folder of `midge certs`, mounted here, works as it is: --config aggregator.toml, and its paths are relative.
WORKDIR /etc/midge
# What must outlive the container, and data that built-in tasks download.
VOLUME ["/var/lib/midge", "/var/cache/midge"]
# The service's own loop touches the file as long as the broker is connected; hung or cut off, it grows old.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=2 \
    CMD find "$MIDGE_HEALTH_FILE" -newermt "-30 seconds" | grep -q .
STOPSIGNAL SIGTERM
# Not through a shell, which would keep the signal to itself.
ENTRYPOINT ["/opt/midge/bin/python", "-m", "aggregator"]
