/*
 * What SQL names and does not know: secrets of the operator's files, values
 * that are sealed in the database, signatures over the bytes that leave.
 *
 *   {secret:NAME}            the line of commerce_secret's file, to its origin only
 *   {sealed:CONTEXT|TEXT}    TEXT opened; the second word of CONTEXT is the tenant,
 *                            a word "for=NAME,DEFAULT" the only place it is sent to
 *   {url:NAME|DEFAULT}       commerce_fetch_url, at the beginning of a URL
 */

#include "ngx_commerce_fetch_internal.h"
#include "ngx_commerce_auth.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/crypto.h>


#define NGX_COMMERCE_FETCH_WHSEC  "whsec_"


static ngx_str_t *ngx_commerce_fetch_named(ngx_array_t *list,
    ngx_str_t *name, ngx_str_t **origin);
static ngx_int_t ngx_commerce_fetch_placeholder(ngx_commerce_fetch_t *f,
    ngx_str_t *tenant, ngx_str_t *text, ngx_uint_t sign, ngx_str_t *value);
static ngx_int_t ngx_commerce_fetch_open(ngx_commerce_fetch_t *f,
    ngx_str_t *tenant, ngx_str_t *text, ngx_uint_t sign, ngx_str_t *value);
static ngx_uint_t ngx_commerce_fetch_bound(ngx_commerce_fetch_t *f,
    ngx_str_t *context);
static ngx_uint_t ngx_commerce_fetch_goes_to(ngx_commerce_fetch_t *f,
    ngx_str_t *origin);
static size_t ngx_commerce_fetch_escaped(u_char *dst, ngx_str_t *value,
    ngx_commerce_fetch_escape_e escape);
static ngx_int_t ngx_commerce_fetch_sign_one(ngx_commerce_fetch_t *f,
    ngx_str_t *tenant, const ngx_commerce_json_t *secret,
    const ngx_str_t *parts, ngx_uint_t count, u_char digest[32]);
static ngx_str_t ngx_commerce_fetch_member(const ngx_commerce_json_t *object,
    const char *name);


ngx_str_t *
ngx_commerce_fetch_secret(const ngx_cycle_t *cycle, ngx_str_t *name)
{
    ngx_commerce_fetch_conf_t  *conf;

    conf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_commerce_fetch_module);

    return conf ? ngx_commerce_fetch_named(conf->secrets, name, NULL) : NULL;
}


static ngx_str_t *
ngx_commerce_fetch_named(ngx_array_t *list, ngx_str_t *name,
    ngx_str_t **origin)
{
    ngx_uint_t                   i;
    ngx_commerce_fetch_named_t  *named;

    if (list == NULL) {
        return NULL;
    }

    named = list->elts;

    for (i = 0; i < list->nelts; i++) {
        if (named[i].name.len == name->len
            && ngx_memcmp(named[i].name.data, name->data, name->len) == 0)
        {
            if (origin) {
                *origin = &named[i].origin;
            }

            return &named[i].value;
        }
    }

    return NULL;
}


ngx_int_t
ngx_commerce_fetch_base(ngx_commerce_fetch_t *f, ngx_str_t *in, ngx_str_t *out)
{
    u_char     *p, *bar, *brace;
    ngx_int_t   rc;
    ngx_str_t   name, base, rest, *value;

    rc = NGX_DECLINED;
    rest = *in;
    ngx_str_null(&base);

    if (in->len > 5 && ngx_memcmp(in->data, "{url:", 5) == 0) {

        brace = ngx_strlchr(in->data, in->data + in->len, '}');

        if (brace) {
            bar = ngx_strlchr(in->data, brace, '|');

            name.data = in->data + 5;
            name.len = (bar ? bar : brace) - name.data;

            rest.data = brace + 1;
            rest.len = in->data + in->len - rest.data;

            value = ngx_commerce_fetch_named(ngx_commerce_fetch_pool.conf->urls,
                                             &name, NULL);
            if (value) {
                base = *value;
                rc = NGX_OK;

            } else if (bar) {
                base.data = bar + 1;
                base.len = brace - base.data;
            }
        }
    }

    out->data = ngx_pnalloc(f->pool, base.len + rest.len + 1);
    if (out->data == NULL) {
        return NGX_ERROR;
    }

    p = out->data;

    if (base.len) {
        p = ngx_cpymem(p, base.data, base.len);
    }

    p = ngx_cpymem(p, rest.data, rest.len);
    *p = '\0';
    out->len = p - out->data;

    return rc;
}


ngx_int_t
ngx_commerce_fetch_expand(ngx_commerce_fetch_t *f, ngx_str_t *tenant,
    ngx_commerce_fetch_escape_e escape, ngx_str_t *in, ngx_str_t *out)
{
    size_t        len, room;
    u_char       *p, *s, *end, *brace, *next;
    ngx_int_t     rc;
    ngx_str_t     text, value;

    end = in->data + in->len;
    room = in->len + 1;

    p = ngx_pnalloc(f->pool, room);
    if (p == NULL) {
        return NGX_ERROR;
    }

    out->data = p;

    for (s = in->data; s < end; /* void */) {

        brace = ngx_strlchr(s, end, '{');

        if (brace == NULL) {
            brace = end;
        }

        p = ngx_cpymem(p, s, brace - s);
        s = brace;

        if (s == end) {
            break;
        }

        if (end - s < 9 || (ngx_memcmp(s, "{secret:", 8) != 0
                            && ngx_memcmp(s, "{sealed:", 8) != 0))
        {
            *p++ = *s++;
            continue;
        }

        brace = ngx_strlchr(s, end, '}');

        if (brace == NULL) {
            *p++ = *s++;
            continue;
        }

        text.data = s;
        text.len = brace + 1 - s;

        rc = ngx_commerce_fetch_placeholder(f, tenant, &text, 0, &value);
        if (rc != NGX_OK) {
            return rc;
        }

        /* what is written, the value, and all that is left of the text */

        len = ngx_commerce_fetch_escaped(NULL, &value, escape);
        room = (p - out->data) + len + (end - brace) + 1;

        next = ngx_pnalloc(f->pool, room);
        if (next == NULL) {
            return NGX_ERROR;
        }

        p = ngx_cpymem(next, out->data, p - out->data);
        out->data = next;

        p += ngx_commerce_fetch_escaped(p, &value, escape);
        s = brace + 1;
    }

    *p = '\0';
    out->len = p - out->data;

    return NGX_OK;
}


/* "{secret:NAME}" or "{sealed:CONTEXT|TEXT}".  sign: the value does not leave, only what is made with it. */

static ngx_int_t
ngx_commerce_fetch_placeholder(ngx_commerce_fetch_t *f, ngx_str_t *tenant,
    ngx_str_t *text, ngx_uint_t sign, ngx_str_t *value)
{
    ngx_str_t   name, *found, *origin;

    name.data = text->data + 8;
    name.len = text->len - 9;

    if (ngx_memcmp(text->data, "{sealed:", 8) == 0) {
        return ngx_commerce_fetch_open(f, tenant, &name, sign, value);
    }

    found = ngx_commerce_fetch_named(ngx_commerce_fetch_pool.conf->secrets,
                                     &name, &origin);

    if (found == NULL) {
        ngx_log_error(NGX_LOG_ERR, f->pool->log, 0,
                      "commerce: there is no \"commerce_secret %V file=…\", "
                      "which is needed", &name);
        f->error = "config";
        return NGX_DECLINED;
    }

    if (!sign && !ngx_commerce_fetch_goes_to(f, origin)) {
        ngx_log_error(NGX_LOG_ERR, f->pool->log, 0,
                      "commerce: the secret \"%V\" may not be sent to the "
                      "host of this call: name it in \"for=\" of "
                      "commerce_secret", &name);
        f->error = "refused";
        return NGX_DECLINED;
    }

    *value = *found;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_fetch_open(ngx_commerce_fetch_t *f, ngx_str_t *tenant,
    ngx_str_t *text, ngx_uint_t sign, ngx_str_t *value)
{
    u_char     *bar, *word, *end;
    ngx_str_t   context, sealed;

    end = text->data + text->len;
    bar = ngx_strlchr(text->data, end, '|');

    if (bar == NULL) {
        goto wrong;
    }

    context.data = text->data;
    context.len = bar - text->data;
    sealed.data = bar + 1;
    sealed.len = end - sealed.data;

    /* domain.sealed() appends whose it is; here the context says so */

    word = ngx_strlchr(sealed.data, end, '@');
    if (word) {
        sealed.len = word - sealed.data;
    }

    word = ngx_strlchr(context.data, bar, ' ');

    if (word == NULL || tenant->len == 0
        || (size_t) (bar - (word + 1)) < tenant->len
        || ngx_memcmp(word + 1, tenant->data, tenant->len) != 0
        || (word + 1 + tenant->len != bar && word[1 + tenant->len] != ' '))
    {
        goto wrong;
    }

    if (!sign && !ngx_commerce_fetch_bound(f, &context)) {
        ngx_log_error(NGX_LOG_ERR, f->pool->log, 0,
                      "commerce: what is sealed for \"%V\" may not be sent "
                      "to the host of this call", &context);
        f->error = "refused";
        return NGX_DECLINED;
    }

    if (ngx_commerce_field_decrypt(f->pool, &context, &sealed, value)
        == NGX_OK)
    {
        return NGX_OK;
    }

wrong:

    ngx_log_error(NGX_LOG_ERR, f->pool->log, 0,
                  "commerce: a sealed secret or part of a call does not "
                  "open: it was changed, is of another place, or its "
                  "commerce_field_key is gone");

    f->error = "config";

    return NGX_DECLINED;
}


/*
 * May it be sent where this call goes?  A context is part of what was sealed,
 * so nobody can take a "for=" out of it: NAME is a commerce_fetch_url, DEFAULT
 * counts where the operator has set none.
 */

static ngx_uint_t
ngx_commerce_fetch_bound(ngx_commerce_fetch_t *f, ngx_str_t *context)
{
    u_char     *p, *end, *comma;
    ngx_str_t   word, name, *url;

    p = context->data;
    end = p + context->len;

    for ( ;; ) {

        word.data = p;
        p = ngx_strlchr(p, end, ' ');
        word.len = (p ? p : end) - word.data;

        if (word.len >= 4 && ngx_memcmp(word.data, "for=", 4) == 0) {
            break;
        }

        if (p == NULL) {
            return 1;
        }

        p++;
    }

    word.data += 4;
    word.len -= 4;

    comma = ngx_strlchr(word.data, word.data + word.len, ',');

    name.data = word.data;
    name.len = (comma ? comma : word.data + word.len) - word.data;

    url = ngx_commerce_fetch_named(ngx_commerce_fetch_pool.conf->urls, &name,
                                   NULL);
    if (url) {
        return ngx_commerce_fetch_goes_to(f, url);
    }

    if (comma == NULL) {
        return 0;
    }

    word.len -= comma + 1 - word.data;
    word.data = comma + 1;

    return ngx_commerce_fetch_goes_to(f, &word);
}


/* scheme://host[:port] of the URL is the origin, byte for byte but for case. */

static ngx_uint_t
ngx_commerce_fetch_goes_to(ngx_commerce_fetch_t *f, ngx_str_t *origin)
{
    u_char  next;

    if (f->mail || origin->len == 0 || f->url.len < origin->len
        || ngx_strncasecmp(f->url.data, origin->data, origin->len) != 0)
    {
        return 0;
    }

    next = f->url.data[origin->len];

    return next == '\0' || next == '/' || next == '?' || next == '#';
}


static size_t
ngx_commerce_fetch_escaped(u_char *dst, ngx_str_t *value,
    ngx_commerce_fetch_escape_e escape)
{
    u_char  *p;
    size_t   len;

    switch (escape) {

    case NGX_COMMERCE_FETCH_IN_JSON:

        len = (size_t) (uintptr_t) ngx_commerce_json_quote(NULL, value->data,
                                                           value->len);
        if (dst == NULL) {
            return len;
        }

        /* inside a string: without the quotes */

        p = ngx_commerce_json_quote(dst, value->data, value->len);
        ngx_memmove(dst, dst + 1, p - dst - 2);

        return p - dst - 2;

    case NGX_COMMERCE_FETCH_IN_FORM:

        if (dst == NULL) {
            return value->len
                   + 2 * ngx_escape_uri(NULL, value->data, value->len,
                                        NGX_ESCAPE_URI_COMPONENT);
        }

        return (u_char *) ngx_escape_uri(dst, value->data, value->len,
                                         NGX_ESCAPE_URI_COMPONENT)
               - dst;

    default:

        if (dst) {
            ngx_memcpy(dst, value->data, value->len);
        }

        return value->len;
    }
}


ngx_int_t
ngx_commerce_fetch_header(ngx_commerce_fetch_t *f, ngx_str_t *name,
    ngx_str_t *value)
{
    u_char     *p;
    size_t      i;
    ngx_str_t  *line;

    if (name->len == 0) {
        return NGX_DECLINED;
    }

    for (i = 0; i < name->len; i++) {
        p = &name->data[i];

        if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z')
              || (*p >= '0' && *p <= '9') || *p == '-' || *p == '_'))
        {
            return NGX_DECLINED;
        }
    }

    for (i = 0; i < value->len; i++) {
        if ((value->data[i] < ' ' && value->data[i] != '\t')
            || value->data[i] == 0x7f)
        {
            return NGX_DECLINED;
        }
    }

    line = ngx_array_push(&f->headers);
    if (line == NULL) {
        return NGX_ERROR;
    }

    line->data = ngx_pnalloc(f->pool, name->len + value->len + 3);
    if (line->data == NULL) {
        return NGX_ERROR;
    }

    /* curl's way to send a header without a value ends with a semicolon */

    p = ngx_sprintf(line->data, value->len ? "%V: %V" : "%V;%V", name, value);
    *p = '\0';
    line->len = p - line->data;

    return NGX_OK;
}


/*
 * {"kind": "standard-webhooks", "id", "timestamp", "secret": one or a list}
 *     webhook-id, webhook-timestamp, webhook-signature: v1,<base64> …
 * {"kind": "hmac-sha256", "timestamp", "secret", "header": "X-Signature"}
 *     X-Signature: t=<timestamp>,v1=<hex> …
 *
 * A secret is a placeholder; one that begins with "whsec_" is base64 after it.
 */

ngx_int_t
ngx_commerce_fetch_sign(ngx_commerce_fetch_t *f, ngx_str_t *tenant,
    const ngx_commerce_json_t *spec)
{
    u_char                      digest[32], *p, buf[NGX_INT64_LEN];
    ngx_int_t                   rc;
    ngx_str_t                   kind, id, stamp, header, value, raw, b64;
    ngx_str_t                   parts[5];
    ngx_uint_t                  standard, n;
    const ngx_commerce_json_t  *secret, *s;

    kind = ngx_commerce_fetch_member(spec, "kind");
    id = ngx_commerce_fetch_member(spec, "id");
    stamp = ngx_commerce_fetch_member(spec, "timestamp");
    header = ngx_commerce_fetch_member(spec, "header");
    secret = ngx_commerce_json_get(spec, "secret");

    standard = (kind.len == sizeof("standard-webhooks") - 1
                && ngx_memcmp(kind.data, "standard-webhooks", kind.len) == 0);

    if ((!standard && (kind.len != sizeof("hmac-sha256") - 1
                       || ngx_memcmp(kind.data, "hmac-sha256", kind.len)))
        || (standard && id.len == 0) || secret == NULL
        || f->headers.nelts > 64)
    {
        f->error = "config";
        ngx_log_error(NGX_LOG_ERR, f->pool->log, 0,
                      "commerce: an outbound call cannot be signed: \"sign\" "
                      "needs kind (standard-webhooks, hmac-sha256), secret, "
                      "and an id for the former");
        return NGX_DECLINED;
    }

    if (stamp.len == 0) {
        stamp.data = buf;
        stamp.len = ngx_sprintf(buf, "%T", ngx_time()) - buf;
    }

    if (header.len == 0) {
        ngx_str_set(&header, "X-Signature");
    }

    n = 0;

    if (standard) {
        parts[n++] = id;
        ngx_str_set(&parts[n], ".");
        n++;
    }

    parts[n++] = stamp;
    ngx_str_set(&parts[n], ".");
    n++;
    parts[n++] = f->body;

    /* up to eight secrets at once, while they are exchanged */

    value.data = ngx_pnalloc(f->pool, 32 + stamp.len + 8 * 80);
    if (value.data == NULL) {
        return NGX_ERROR;
    }

    p = value.data;

    if (!standard) {
        p = ngx_sprintf(p, "t=%V", &stamp);
    }

    s = (secret->type == NGX_COMMERCE_JSON_ARRAY) ? secret->child : secret;

    for ( ; s && p < value.data + 32 + stamp.len + 7 * 80;
         s = (s == secret) ? NULL : s->next)
    {
        rc = ngx_commerce_fetch_sign_one(f, tenant, s, parts, n, digest);
        if (rc != NGX_OK) {
            return rc;
        }

        if (standard) {
            p = ngx_cpymem(p, p == value.data ? "v1," : " v1,",
                           p == value.data ? 3 : 4);
            raw.data = digest;
            raw.len = sizeof(digest);
            b64.data = p;
            ngx_encode_base64(&b64, &raw);
            p += b64.len;

        } else {
            p = ngx_cpymem(p, ",v1=", 4);
            p = ngx_hex_dump(p, digest, sizeof(digest));
        }
    }

    value.len = p - value.data;

    if (!standard) {
        rc = ngx_commerce_fetch_header(f, &header, &value);

    } else {
        ngx_str_set(&header, "webhook-id");
        rc = ngx_commerce_fetch_header(f, &header, &id);

        if (rc == NGX_OK) {
            ngx_str_set(&header, "webhook-timestamp");
            rc = ngx_commerce_fetch_header(f, &header, &stamp);
        }

        if (rc == NGX_OK) {
            ngx_str_set(&header, "webhook-signature");
            rc = ngx_commerce_fetch_header(f, &header, &value);
        }
    }

    if (rc == NGX_DECLINED) {
        f->error = "config";
    }

    return rc;
}


static ngx_int_t
ngx_commerce_fetch_sign_one(ngx_commerce_fetch_t *f, ngx_str_t *tenant,
    const ngx_commerce_json_t *secret, const ngx_str_t *parts,
    ngx_uint_t count, u_char digest[32])
{
    ngx_int_t  rc;
    ngx_str_t  text, key, raw;

    rc = ngx_commerce_fetch_key(f->pool, tenant, secret, &key);

    if (rc != NGX_OK) {
        f->error = "config";
        return rc;
    }

    if (key.len > 6
        && ngx_memcmp(key.data, NGX_COMMERCE_FETCH_WHSEC, 6) == 0)
    {
        text.data = key.data + 6;
        text.len = key.len - 6;

        raw.data = ngx_pnalloc(f->pool, ngx_base64_decoded_length(text.len));
        if (raw.data == NULL) {
            return NGX_ERROR;
        }

        if (ngx_decode_base64(&raw, &text) != NGX_OK) {
            f->error = "config";
            ngx_log_error(NGX_LOG_ERR, f->pool->log, 0,
                          "commerce: an outbound call cannot be signed: what "
                          "follows whsec_ is not base64");
            return NGX_DECLINED;
        }

        key = raw;
    }

    return ngx_commerce_fetch_hmac(&key, parts, count, digest);
}


ngx_int_t
ngx_commerce_fetch_key(ngx_pool_t *pool, ngx_str_t *tenant,
    const ngx_commerce_json_t *placeholder, ngx_str_t *key)
{
    ngx_str_t             text;
    ngx_commerce_fetch_t  f;

    ngx_str_null(&text);

    if (placeholder->type == NGX_COMMERCE_JSON_STRING) {
        text.data = placeholder->text.data;
        text.len = placeholder->text.len;
    }

    if (text.len < 10 || text.data[text.len - 1] != '}'
        || (ngx_memcmp(text.data, "{secret:", 8) != 0
            && ngx_memcmp(text.data, "{sealed:", 8) != 0))
    {
        ngx_log_error(NGX_LOG_ERR, pool->log, 0,
                      "commerce: nothing can be signed: the secret is neither "
                      "{secret:…} nor {sealed:…}");
        return NGX_DECLINED;
    }

    ngx_memzero(&f, sizeof(ngx_commerce_fetch_t));
    f.pool = pool;

    return ngx_commerce_fetch_placeholder(&f, tenant, &text, 1, key);
}


static ngx_str_t
ngx_commerce_fetch_member(const ngx_commerce_json_t *object, const char *name)
{
    ngx_str_t                   text;
    const ngx_commerce_json_t  *value;

    ngx_str_null(&text);

    value = ngx_commerce_json_get(object, name);

    if (value && value->type == NGX_COMMERCE_JSON_STRING) {
        text.data = value->text.data;
        text.len = value->text.len;

    } else if (value && value->type == NGX_COMMERCE_JSON_NUMBER) {
        text.data = value->raw.data;
        text.len = value->raw.len;
    }

    return text;
}


ngx_int_t
ngx_commerce_fetch_hmac(ngx_str_t *key, const ngx_str_t *parts,
    ngx_uint_t count, u_char digest[32])
{
    size_t       len;
    EVP_PKEY    *pkey;
    ngx_int_t    rc;
    ngx_uint_t   i;
    EVP_MD_CTX  *ctx;

    rc = NGX_ERROR;
    len = 32;

    pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_HMAC, NULL, key->data,
                                        key->len);
    ctx = EVP_MD_CTX_new();

    if (pkey == NULL || ctx == NULL
        || EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, pkey) != 1)
    {
        goto done;
    }

    for (i = 0; i < count; i++) {
        if (EVP_DigestSignUpdate(ctx, parts[i].data, parts[i].len) != 1) {
            goto done;
        }
    }

    if (EVP_DigestSignFinal(ctx, digest, &len) == 1 && len == 32) {
        rc = NGX_OK;
    }

done:

    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(pkey);

    return rc;
}
