/*
 * A record as JSON for api.event_consume().  What is no strict JSON, no UTF-8
 * or too large goes as bytes, with the reason: SQL buries it.
 */

#include "ngx_commerce_kafka_internal.h"
#include "ngx_commerce_json.h"
#include "ngx_commerce_utf8.h"


#define NGX_COMMERCE_KAFKA_RAW      (48 * 1024)     /* of a record that is buried, so much is kept */
#define NGX_COMMERCE_KAFKA_HEADER   1024            /* of a header's value, so much is read */
#define NGX_COMMERCE_KAFKA_HEADERS  32


static const char *ngx_commerce_kafka_record_fault(
    const rd_kafka_message_t *message, ngx_pool_t *pool, ngx_uint_t broken,
    const char **reason);
static u_char *ngx_commerce_kafka_record_headers(u_char *p,
    const rd_kafka_message_t *message);
static u_char *ngx_commerce_kafka_record_text(u_char *p, const void *text,
    size_t len);
static ngx_uint_t ngx_commerce_kafka_record_readable(const void *text,
    size_t len);
static void *ngx_commerce_kafka_record_alloc(void *ctx, size_t size);


size_t
ngx_commerce_kafka_record_size(const rd_kafka_message_t *message)
{
    size_t              size, len;
    ngx_uint_t          i;
    const char         *name;
    const void         *value;
    rd_kafka_headers_t *headers;

    /* a quoted byte takes six at most, base64 a third more than the bytes */

    size = 512 + 6 * ngx_strlen(rd_kafka_topic_name(message->rkt))
           + ngx_max(message->len, 2 * NGX_COMMERCE_KAFKA_RAW);

    if (rd_kafka_message_headers(message, &headers)
        == RD_KAFKA_RESP_ERR_NO_ERROR)
    {
        for (i = 0; i < NGX_COMMERCE_KAFKA_HEADERS
                    && rd_kafka_header_get_all(headers, i, &name, &value, &len)
                       == RD_KAFKA_RESP_ERR_NO_ERROR;
             i++)
        {
            size += 6 * (ngx_min(ngx_strlen(name), NGX_COMMERCE_KAFKA_HEADER)
                         + ngx_min(len, NGX_COMMERCE_KAFKA_HEADER)) + 8;
        }
    }

    return size;
}


u_char *
ngx_commerce_kafka_record_write(u_char *p, const rd_kafka_message_t *message,
    ngx_pool_t *pool, ngx_uint_t broken)
{
    ngx_str_t    raw, base64;
    const char  *fault, *reason, *topic;

    topic = rd_kafka_topic_name(message->rkt);

    p = ngx_cpymem(p, "{\"topic\":", sizeof("{\"topic\":") - 1);
    p = ngx_commerce_kafka_record_text(p, topic, ngx_strlen(topic));
    p = ngx_sprintf(p, ",\"partition\":%D,\"offset\":%L,\"headers\":{",
                    message->partition, message->offset);
    p = ngx_commerce_kafka_record_headers(p, message);
    *p++ = '}';

    fault = ngx_commerce_kafka_record_fault(message, pool, broken, &reason);

    if (fault == NULL) {
        p = ngx_cpymem(p, ",\"payload\":", sizeof(",\"payload\":") - 1);
        p = ngx_cpymem(p, message->payload, message->len);
        *p++ = '}';

        return p;
    }

    raw.data = message->payload;
    raw.len = ngx_min(message->len, NGX_COMMERCE_KAFKA_RAW);

    p = ngx_sprintf(p, ",\"fault\":\"%s\",\"error\":\"%s\",\"raw\":\"", fault,
                    reason);
    base64.data = p;

    if (raw.len) {
        ngx_encode_base64(&base64, &raw);
        p += base64.len;
    }

    *p++ = '"';
    *p++ = '}';

    return p;
}


static const char *
ngx_commerce_kafka_record_fault(const rd_kafka_message_t *message,
    ngx_pool_t *pool, ngx_uint_t broken, const char **reason)
{
    ngx_commerce_json_t        *root;
    ngx_commerce_alloc_t        alloc;
    ngx_commerce_json_error_t   error;
    ngx_commerce_json_limits_t  limits;

    if (message->len > ngx_commerce_kafka_conf->max_record) {
        *reason = "the record is larger than max_record";
        return "oversized";
    }

    if (broken) {
        *reason = "PostgreSQL cannot read the record";
        return "malformed";
    }

    if (message->payload == NULL || message->len == 0) {
        *reason = "the record has no value";
        return "malformed";
    }

    alloc.alloc = ngx_commerce_kafka_record_alloc;
    alloc.ctx = pool;

    limits.max_depth = 64;
    limits.max_members = 100000;
    limits.nfc = 0;

    if (ngx_commerce_json_parse(&alloc, message->payload, message->len,
                                &limits, &root, &error)
        != NGX_COMMERCE_OK)
    {
        *reason = error.message ? error.message : "the value is no JSON";
        return "malformed";
    }

    if (root->type != NGX_COMMERCE_JSON_OBJECT) {
        *reason = "the value is no JSON object";
        return "malformed";
    }

    return NULL;
}


/* Those of CloudEvents and the trace; what is no UTF-8 is left out, and missed by SQL. */

static u_char *
ngx_commerce_kafka_record_headers(u_char *p, const rd_kafka_message_t *message)
{
    size_t               len, name_len;
    ngx_uint_t           i, n;
    const char          *name;
    const void          *value;
    rd_kafka_headers_t  *headers;

    if (rd_kafka_message_headers(message, &headers)
        != RD_KAFKA_RESP_ERR_NO_ERROR)
    {
        return p;
    }

    for (i = 0, n = 0; i < NGX_COMMERCE_KAFKA_HEADERS
                && rd_kafka_header_get_all(headers, i, &name, &value, &len)
                   == RD_KAFKA_RESP_ERR_NO_ERROR;
         i++)
    {
        name_len = ngx_strlen(name);

        if ((ngx_strncmp(name, "ce_", 3) != 0
             && ngx_strcmp(name, "traceparent") != 0)
            || value == NULL || name_len > NGX_COMMERCE_KAFKA_HEADER
            || len > NGX_COMMERCE_KAFKA_HEADER
            || !ngx_commerce_kafka_record_readable(name, name_len)
            || !ngx_commerce_kafka_record_readable(value, len))
        {
            continue;
        }

        if (n++) {
            *p++ = ',';
        }

        p = ngx_commerce_kafka_record_text(p, name, name_len);
        *p++ = ':';
        p = ngx_commerce_kafka_record_text(p, value, len);
    }

    return p;
}


static u_char *
ngx_commerce_kafka_record_text(u_char *p, const void *text, size_t len)
{
    return ngx_commerce_json_quote(p, text, len);
}


/* UTF-8 without a zero byte. */

static ngx_uint_t
ngx_commerce_kafka_record_readable(const void *text, size_t len)
{
    size_t          n;
    const uint8_t  *p, *end;

    for (p = text, end = p + len; p < end; p += n) {

        n = (*p < 0x80) ? *p != '\0' : ngx_commerce_utf8_sequence(p, end);

        if (n == 0) {
            return 0;
        }
    }

    return 1;
}


static void *
ngx_commerce_kafka_record_alloc(void *ctx, size_t size)
{
    return ngx_palloc(ctx, size);
}
