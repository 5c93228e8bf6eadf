/*
 * Small things of the engine: randomness, identifiers of a trace.
 */

#include "ngx_commerce_http.h"

#include <openssl/rand.h>


#define NGX_COMMERCE_RANDOM_BATCH  4096


static ngx_uint_t ngx_commerce_traceparent_valid(ngx_str_t *s);


/*
 * Random bytes from OpenSSL's generator, asked for in batches: a request needs
 * ten for its correlation id, and a call of RAND_bytes() costs half a
 * microsecond.  Used bytes are wiped, since tokens are made of them too.
 */

void
ngx_commerce_random(u_char *dst, size_t len)
{
    static u_char  batch[NGX_COMMERCE_RANDOM_BATCH];
    static size_t  used = NGX_COMMERCE_RANDOM_BATCH;
    static pid_t   owner;

    if (owner != ngx_pid || used + len > NGX_COMMERCE_RANDOM_BATCH) {

        if (RAND_bytes(batch, NGX_COMMERCE_RANDOM_BATCH) != 1) {
            ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0,
                          "commerce: RAND_bytes() failed");
            ngx_abort();
        }

        owner = ngx_pid;
        used = 0;
    }

    ngx_memcpy(dst, batch + used, len);
    ngx_explicit_memzero(batch + used, len);
    used += len;
}


void
ngx_commerce_uuid7_now(u_char dst[NGX_COMMERCE_UUID_LEN])
{
    u_char       random[10];
    ngx_time_t  *tp;

    tp = ngx_timeofday();

    ngx_commerce_random(random, sizeof(random));
    ngx_commerce_uuid7(dst, (uint64_t) tp->sec * 1000 + tp->msec, random);
}


/*
 * W3C Trace Context: our span within the caller's trace, or a trace of our own.
 * https://www.w3.org/TR/trace-context/
 */

ngx_int_t
ngx_commerce_traceparent(ngx_commerce_request_t *c)
{
    u_char     *p, random[24];
    ngx_str_t  *in;

    if (c->traceparent.len) {
        return NGX_OK;
    }

    p = ngx_pnalloc(c->request->pool, 55);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_commerce_random(random, sizeof(random));

    ngx_memcpy(p, "00-", 3);
    p[35] = '-';
    ngx_commerce_hex(p + 36, random + 16, 8);
    p[52] = '-';

    in = c->h_traceparent ? &c->h_traceparent->value : NULL;

    if (in && ngx_commerce_traceparent_valid(in)) {
        ngx_memcpy(p + 3, in->data + 3, 32);
        ngx_memcpy(p + 53, in->data + 53, 2);

    } else {
        ngx_commerce_hex(p + 3, random, 16);
        ngx_memcpy(p + 53, "01", 2);
    }

    c->traceparent.data = p;
    c->traceparent.len = 55;

    return NGX_OK;
}


static ngx_uint_t
ngx_commerce_traceparent_valid(ngx_str_t *s)
{
    size_t      i;
    u_char      ch;
    ngx_uint_t  trace, span;

    if (s->len < 55 || s->data[2] != '-' || s->data[35] != '-'
        || s->data[52] != '-' || (s->len > 55 && s->data[55] != '-')
        || ngx_strncmp(s->data, "ff", 2) == 0
        || (s->len > 55 && ngx_strncmp(s->data, "00", 2) == 0))
    {
        return 0;
    }

    trace = 0;
    span = 0;

    for (i = 0; i < 55; i++) {

        if (i == 2 || i == 35 || i == 52) {
            continue;
        }

        ch = s->data[i];

        if (!((ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'f'))) {
            return 0;
        }

        if (ch != '0') {
            trace |= (i > 2 && i < 35);
            span |= (i > 35 && i < 52);
        }
    }

    return trace && span;
}
