/*
 * Headers that every answer carries: those that OWASP names, and CORS from the tenant's list.  A header filter, so
 * that nginx's own errors, redirects, 304 and files have them too; it runs before nginx's and sees what was set.
 */

#include "ngx_commerce_tenant_internal.h"


typedef struct {
    ngx_str_t   name;
    ngx_str_t   value;
    ngx_uint_t  tls;            /* means nothing without */
} ngx_commerce_tenant_standard_t;


static ngx_int_t ngx_commerce_tenant_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_commerce_tenant_security(ngx_http_request_t *r,
    ngx_array_t *headers);
static ngx_int_t ngx_commerce_tenant_cors(ngx_http_request_t *r);
static ngx_int_t ngx_commerce_tenant_preflight(ngx_http_request_t *r);
static ngx_uint_t ngx_commerce_tenant_origin_allowed(ngx_http_request_t *r,
    ngx_str_t *origin, ngx_uint_t preflight, ngx_uint_t *credentials);
static ngx_table_elt_t *ngx_commerce_tenant_in(ngx_http_request_t *r,
    ngx_str_t *name);
static ngx_table_elt_t *ngx_commerce_tenant_out(ngx_http_request_t *r,
    ngx_str_t *name);
static uint64_t ngx_commerce_tenant_lengths(ngx_http_request_t *r);
static ngx_int_t ngx_commerce_tenant_header_put(ngx_array_t *headers,
    ngx_commerce_tenant_header_t *header);


static ngx_commerce_tenant_standard_t  ngx_commerce_tenant_standard[] = {

    { ngx_string("X-Content-Type-Options"), ngx_string("nosniff"), 0 },
    { ngx_string("X-Frame-Options"), ngx_string("DENY"), 0 },
    { ngx_string("Referrer-Policy"), ngx_string("no-referrer"), 0 },
    { ngx_string("Cross-Origin-Resource-Policy"), ngx_string("same-site"), 0 },
    { ngx_string("Permissions-Policy"), ngx_string("interest-cohort=()"), 0 },
    { ngx_string("Content-Security-Policy"),
      ngx_string("default-src 'none'; frame-ancestors 'none'"), 0 },
    { ngx_string("Strict-Transport-Security"),
      ngx_string("max-age=31536000; includeSubDomains"), 1 },
    { ngx_null_string, ngx_null_string, 0 }
};


static ngx_str_t  ngx_commerce_cors_origin = ngx_string("origin");
static ngx_str_t  ngx_commerce_cors_method =
    ngx_string("access-control-request-method");

/* what a client of the API sends, and what it wants to read */

static ngx_str_t  ngx_commerce_cors_takes = ngx_string(
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, "
    "Prefer, X-API-Key, X-Cart-Token, X-Correlation-ID, traceparent, "
    "tracestate");
static ngx_str_t  ngx_commerce_cors_shows = ngx_string(
    "Deprecation, ETag, Idempotent-Replayed, Link, Location, "
    "Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, Sunset, "
    "X-Cart-Token, X-Correlation-ID");


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;


ngx_int_t
ngx_commerce_tenant_headers_init(ngx_conf_t *cf)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_commerce_tenant_header_filter;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_tenant_header_filter(ngx_http_request_t *r)
{
    ngx_commerce_tenant_loc_conf_t  *tlcf;

    if (r != r->main) {
        return ngx_http_next_header_filter(r);
    }

    tlcf = ngx_http_get_module_loc_conf(r, ngx_commerce_tenant_module);

    if ((tlcf->effective
         && ngx_commerce_tenant_security(r, tlcf->effective) != NGX_OK)
        || (tlcf->cors && ngx_commerce_tenant_cors(r) != NGX_OK))
    {
        return NGX_ERROR;
    }

    return ngx_http_next_header_filter(r);
}


/* What an application behind the edge has said itself stays. */

static ngx_int_t
ngx_commerce_tenant_security(ngx_http_request_t *r, ngx_array_t *headers)
{
    ngx_str_t                      value;
    uint64_t                       lengths;
    ngx_uint_t                     i;
    ngx_commerce_tenant_header_t  *header;

    header = headers->elts;
    lengths = ngx_commerce_tenant_lengths(r);

    for (i = 0; i < headers->nelts; i++) {

        if ((lengths >> header[i].name.len % 64 & 1)
            && ngx_commerce_tenant_out(r, &header[i].name))
        {
            continue;
        }

        /* mostly without variables */

        value = header[i].value.value;

        if (header[i].value.lengths
            && ngx_http_complex_value(r, &header[i].value, &value) != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (value.len == 0) {
            continue;
        }

#if (NGX_HTTP_SSL)
        if (header[i].tls && r->connection->ssl == NULL) {
            continue;
        }
#else
        if (header[i].tls) {
            continue;
        }
#endif

        if (ngx_commerce_header_push(r, &header[i].name, &value) == NULL) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* Fetch standard, 3.2. Never "*": an origin is on the list or it is not. */

static ngx_int_t
ngx_commerce_tenant_cors(ngx_http_request_t *r)
{
    ngx_str_t         value;
    ngx_uint_t        preflight, credentials;
    ngx_table_elt_t  *origin;

    ngx_str_set(&value, "Origin");

    if (ngx_commerce_header_add(r, "Vary", &value) != NGX_OK) {
        return NGX_ERROR;
    }

    origin = ngx_commerce_tenant_in(r, &ngx_commerce_cors_origin);

    if (origin == NULL) {
        return NGX_OK;
    }

    preflight = r->method == NGX_HTTP_OPTIONS
                && ngx_commerce_tenant_in(r, &ngx_commerce_cors_method);

    if (!ngx_commerce_tenant_origin_allowed(r, &origin->value, preflight,
                                            &credentials))
    {
        return NGX_OK;
    }

    if (ngx_commerce_header_add(r, "Access-Control-Allow-Origin",
                                &origin->value)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (credentials) {
        ngx_str_set(&value, "true");

        if (ngx_commerce_header_add(r, "Access-Control-Allow-Credentials",
                                    &value)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return preflight ? ngx_commerce_tenant_preflight(r)
           : ngx_commerce_header_add(r, "Access-Control-Expose-Headers",
                                     &ngx_commerce_cors_shows);
}


/* The methods are those of the address: the answer to OPTIONS names them. */

static ngx_int_t
ngx_commerce_tenant_preflight(ngx_http_request_t *r)
{
    ngx_str_t         value;
    ngx_table_elt_t  *allow;

    static ngx_str_t  name = ngx_string("Allow");

    allow = ngx_commerce_tenant_out(r, &name);

    if (allow == NULL) {
        return NGX_OK;
    }

    if (ngx_commerce_header_add(r, "Access-Control-Allow-Methods",
                                &allow->value)
        != NGX_OK
        || ngx_commerce_header_add(r, "Access-Control-Allow-Headers",
                                   &ngx_commerce_cors_takes)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_str_set(&value, "600");

    return ngx_commerce_header_add(r, "Access-Control-Max-Age", &value);
}


/*
 * A preflight brings no key and no token.  Where these may tell the tenant,
 * because the host does not, it is enough that some tenant has the origin: the
 * answer to the request itself is its tenant's, and says who may read it.
 */

static ngx_uint_t
ngx_commerce_tenant_origin_allowed(ngx_http_request_t *r, ngx_str_t *origin,
    ngx_uint_t preflight, ngx_uint_t *credentials)
{
    ngx_int_t               rc;
    ngx_str_t               value;
    ngx_commerce_tenant_t   tenant;

    static ngx_str_t  name = ngx_string("cors_credentials");

    *credentials = 0;

    rc = ngx_commerce_tenancy_tenant(r, &tenant);

    if (rc != NGX_OK || !ngx_commerce_tenant_allows(&tenant, origin)) {
        return preflight
               && ngx_commerce_tenancy_host(r, &tenant) == NGX_DECLINED
               && ngx_commerce_tenant_any_origin(r->pool, origin) == NGX_OK;
    }

    *credentials = ngx_commerce_tenant_setting(&tenant, &name, &value)
                   == NGX_OK
                   && value.len == 4 && ngx_memcmp(value.data, "true", 4) == 0;
    return 1;
}


static ngx_table_elt_t *
ngx_commerce_tenant_in(ngx_http_request_t *r, ngx_str_t *name)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    for (part = &r->headers_in.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].key.len == name->len
                && ngx_memcmp(h[i].lowcase_key, name->data, name->len) == 0)
            {
                return &h[i];
            }
        }
    }

    return NULL;
}


static ngx_table_elt_t *
ngx_commerce_tenant_out(ngx_http_request_t *r, ngx_str_t *name)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    for (part = &r->headers_out.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].key.len == name->len && h[i].hash
                && ngx_strncasecmp(h[i].key.data, name->data, name->len) == 0)
            {
                return &h[i];
            }
        }
    }

    return NULL;
}


/* Which lengths the names have that were said so far: mostly that is enough to know that another was not. */

static uint64_t
ngx_commerce_tenant_lengths(ngx_http_request_t *r)
{
    uint64_t          lengths;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    lengths = 0;

    for (part = &r->headers_out.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {
            lengths |= UINT64_C(1) << h[i].key.len % 64;
        }
    }

    return lengths;
}


/* commerce_security_header name value */

char *
ngx_commerce_tenant_header(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_tenant_loc_conf_t *tlcf = conf;

    ngx_str_t                         *value;
    ngx_commerce_tenant_header_t      *header;
    ngx_http_compile_complex_value_t   ccv;

    value = cf->args->elts;

    if (tlcf->headers == NULL) {
        tlcf->headers = ngx_array_create(cf->pool, 4,
                                         sizeof(ngx_commerce_tenant_header_t));
        if (tlcf->headers == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    header = ngx_array_push(tlcf->headers);
    if (header == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(header, sizeof(ngx_commerce_tenant_header_t));
    header->name = value[1];

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));
    ccv.cf = cf;
    ccv.value = &value[2];
    ccv.complex_value = &header->value;

    return (ngx_http_compile_complex_value(&ccv) == NGX_OK)
           ? NGX_CONF_OK : NGX_CONF_ERROR;
}


/* Unlike add_header: what a location says is said on top of what its server says. */

char *
ngx_commerce_tenant_headers_merge(ngx_conf_t *cf,
    ngx_commerce_tenant_loc_conf_t *prev, ngx_commerce_tenant_loc_conf_t *conf)
{
    ngx_uint_t                       i;
    ngx_array_t                     *own;
    ngx_commerce_tenant_header_t     header, *h;
    ngx_commerce_tenant_standard_t  *standard;

    ngx_conf_merge_value(conf->security_headers, prev->security_headers, 0);

    own = conf->headers;

    if (own == NULL && prev->effective
        && conf->security_headers == prev->security_headers)
    {
        conf->headers = prev->headers;
        conf->effective = prev->effective;
        return NGX_CONF_OK;
    }

    conf->headers = ngx_array_create(cf->pool, 4, sizeof(header));
    conf->effective = ngx_array_create(cf->pool, 8, sizeof(header));

    if (conf->headers == NULL || conf->effective == NULL) {
        return NGX_CONF_ERROR;
    }

    /* what the levels above and this one say, the last word for each name */

    h = prev->headers ? prev->headers->elts : NULL;

    for (i = 0; h && i < prev->headers->nelts; i++) {
        if (ngx_commerce_tenant_header_put(conf->headers, &h[i]) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    h = own ? own->elts : NULL;

    for (i = 0; h && i < own->nelts; i++) {
        if (ngx_commerce_tenant_header_put(conf->headers, &h[i]) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    if (!conf->security_headers) {
        conf->effective = NULL;
        return NGX_CONF_OK;
    }

    for (standard = ngx_commerce_tenant_standard; standard->name.len;
         standard++)
    {
        ngx_memzero(&header, sizeof(header));
        header.name = standard->name;
        header.value.value = standard->value;
        header.tls = standard->tls;

        if (ngx_commerce_tenant_header_put(conf->effective, &header)
            != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    h = conf->headers->elts;

    for (i = 0; i < conf->headers->nelts; i++) {
        if (ngx_commerce_tenant_header_put(conf->effective, &h[i]) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_commerce_tenant_header_put(ngx_array_t *headers,
    ngx_commerce_tenant_header_t *header)
{
    ngx_uint_t                     i;
    ngx_commerce_tenant_header_t  *h;

    h = headers->elts;

    for (i = 0; i < headers->nelts; i++) {
        if (h[i].name.len == header->name.len
            && ngx_strncasecmp(h[i].name.data, header->name.data,
                               header->name.len)
               == 0)
        {
            h[i] = *header;
            return NGX_OK;
        }
    }

    h = ngx_array_push(headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = *header;

    return NGX_OK;
}
