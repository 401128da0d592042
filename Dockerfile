# docker build -t aquifer .
# docker run -p 8080:8080 -v aquifer:/var/lib/aquifer -v ./tokens:/etc/aquifer/tokens:ro \
#     -e AQUIFER_STORE=s3://bucket/prefix -e AWS_ACCESS_KEY_ID -e AWS_SECRET_ACCESS_KEY aquifer
FROM rust:1.95-slim-bookworm AS build
# SQLite and zstd are compiled from source.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p aquifer

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/aquifer --create-home aquifer
COPY --from=build /src/target/release/aquifer /usr/local/bin/aquifer
USER aquifer
WORKDIR /var/lib/aquifer
VOLUME /var/lib/aquifer
EXPOSE 8080
# SIGTERM ships what is committed, and ends.
STOPSIGNAL SIGTERM
ENTRYPOINT ["aquifer"]
CMD ["serve", "--listen", "0.0.0.0:8080", "--data-dir", "/var/lib/aquifer", "--auth-tokens", "/etc/aquifer/tokens"]
