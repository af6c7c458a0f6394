# Both roles in one image: `docker run … gateway --config /etc/opencmg/gateway.toml`.
#
# Port 443 needs no privilege inside a container (net.ipv4.ip_unprivileged_port_start is 0 there).

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
# make and perl build the OpenSSL of the backend leg, llvm-tools are for the profile that deploy/release builds by.
RUN apt-get update && apt-get install -y --no-install-recommends build-essential perl && rm -rf /var/lib/apt/lists/*
RUN rustup component add llvm-tools
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY src src
COPY deploy/by-profile deploy/release deploy/train deploy/
RUN deploy/release

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/opencmg --create-home --shell /usr/sbin/nologin opencmg
COPY --from=build /src/target/trained/release/opencmg /usr/local/bin/opencmg
COPY LICENSE /usr/share/doc/opencmg/LICENSE
COPY config /usr/share/doc/opencmg/config
USER 10001
WORKDIR /var/lib/opencmg
EXPOSE 443 8080
# SIGTERM drains; give `docker stop --time` more than the drain deadline.
STOPSIGNAL SIGTERM
# The health port of the sample; the image holds no HTTP client, and bash can speak enough.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${OPENCMG_HEALTH_PORT:-8080} && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && head -1 <&3 | grep -q ' 200 '"]
ENTRYPOINT ["opencmg"]
CMD ["--help"]
