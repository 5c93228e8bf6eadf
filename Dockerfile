# The same steps as on a machine: packages, scripts/build, scripts/contract, scripts/up.
#
#   docker build -t nginx-commerce .
#   docker run --rm -p 8080:8080 -v shop:/var/lib/nginx-commerce nginx-commerce

FROM debian:12 AS build
WORKDIR /opt/nginx-commerce
COPY scripts/install-packages scripts/install-packages
COPY scripts/packages scripts/packages
RUN scripts/install-packages --list run build && rm -rf /var/lib/apt/lists/*
COPY . .
RUN scripts/build && scripts/contract bundle > objs/openapi.json \
    && strip --strip-debug objs/ngx_http_commerce_module.so objs/commerce-train \
    && find objs -mindepth 1 ! -name ngx_http_commerce_module.so ! -name commerce-train ! -name openapi.json -delete

FROM debian:12
WORKDIR /opt/nginx-commerce
COPY scripts/install-packages scripts/install-packages
COPY scripts/packages scripts/packages
RUN scripts/install-packages --list run && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/nginx-commerce .
ENV COMMERCE_RUN=/var/lib/nginx-commerce/run
VOLUME /var/lib/nginx-commerce
EXPOSE 8080
HEALTHCHECK --start-period=60s --interval=10s --timeout=3s CMD ["curl", "-sf", "http://127.0.0.1:8080/health/live"]
STOPSIGNAL SIGTERM
CMD ["scripts/up", "--prebuilt", "--listen", "0.0.0.0", "--port", "8080", "--foreground"]
