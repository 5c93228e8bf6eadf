/*
 * Native steps for what must not reach the database in the clear: random
 * tokens and their hashes, secrets of which the end is shown, sealed fields,
 * one-time passwords.
 *
 * None of them knows what it is for: names come with "args", the place of a
 * sealed field with "key".
 */

#include "ngx_commerce_http.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>


#define NGX_COMMERCE_TOKEN_BYTES  32
#define NGX_COMMERCE_TOKEN_LEN    43        /* of them in base64url */

#define NGX_COMMERCE_SECRET_SHOWN  4        /* characters of one, from its end */
#define NGX_COMMERCE_SECRET_LEAST  12       /* of one that may show them */

/* of a member, beside its name */
#define NGX_COMMERCE_HASH_ROOM                                                \
    (sizeof(",\"_hash\":\"\"") + 2 * SHA256_DIGEST_LENGTH)
#define NGX_COMMERCE_LAST4_ROOM                                               \
    (sizeof(",\"_last4\":\"\"") + 6 * NGX_COMMERCE_SECRET_SHOWN)


/* Writes a member of the reply, or nothing. */
typedef u_char *(*ngx_commerce_member_pt)(u_char *p,
    const ngx_commerce_arg_t *arg, ngx_str_t *value);

typedef ngx_int_t (*ngx_commerce_field_pt)(ngx_pool_t *pool,
    ngx_str_t *context, ngx_str_t *in, ngx_str_t *out);


static ngx_int_t ngx_commerce_native_token_mint(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_token_hash(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_secret_last4(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_members(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, size_t room, ngx_commerce_member_pt member);
static u_char *ngx_commerce_native_hash(u_char *p,
    const ngx_commerce_arg_t *arg, ngx_str_t *token);
static u_char *ngx_commerce_native_last4(u_char *p,
    const ngx_commerce_arg_t *arg, ngx_str_t *secret);
static ngx_int_t ngx_commerce_native_field_bind(ngx_conf_t *cf,
    const ngx_commerce_operation_t *op, const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_field_encrypt(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_field_decrypt(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_fields(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, ngx_commerce_field_pt work);
static ngx_int_t ngx_commerce_native_field(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, const ngx_commerce_arg_t *arg,
    ngx_commerce_field_pt work, ngx_str_t *out);
static ngx_int_t ngx_commerce_native_totp_mint(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_totp_verify(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_answer(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);


const ngx_commerce_native_t  ngx_commerce_natives_secret[] = {

    { ngx_string("token_mint"), ngx_commerce_native_token_mint, NULL },
    { ngx_string("token_hash"), ngx_commerce_native_token_hash, NULL },
    { ngx_string("secret_last4"), ngx_commerce_native_secret_last4, NULL },
    { ngx_string("field_encrypt"), ngx_commerce_native_field_encrypt,
      ngx_commerce_native_field_bind },
    { ngx_string("field_decrypt"), ngx_commerce_native_field_decrypt,
      ngx_commerce_native_field_bind },
    { ngx_string("totp_mint"), ngx_commerce_native_totp_mint, NULL },
    { ngx_string("totp_verify"), ngx_commerce_native_totp_verify, NULL },
    { ngx_string("answer"), ngx_commerce_native_answer, NULL },
    { ngx_null_string, NULL, NULL }
};


/* For each name: 256 random bits as <name>, and what is stored of them as <name>_hash. */

static ngx_int_t
ngx_commerce_native_token_mint(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    size_t               len;
    u_char              *p, random[NGX_COMMERCE_TOKEN_BYTES];
    uint32_t             i;
    ngx_str_t            body, token;
    ngx_commerce_arg_t  *arg;

    len = sizeof("{}");

    for (i = 0; i < step->args_count; i++) {
        arg = &step->args[i];
        len += sizeof(",\"\":\"\"") + arg->parameter.len
               + NGX_COMMERCE_TOKEN_LEN + arg->parameter.len
               + NGX_COMMERCE_HASH_ROOM;
    }

    p = ngx_pnalloc(c->request->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body.data = p;
    *p = '{';

    for (i = 0; i < step->args_count; i++) {
        arg = &step->args[i];

        ngx_commerce_random(random, sizeof(random));

        p = ngx_sprintf(p, "%s\"%*s\":\"", i ? "," : "{", arg->parameter.len,
                        arg->parameter.data);
        token.data = p;
        token.len = ngx_commerce_base64url_encode(p, random, sizeof(random));
        p += token.len;
        *p++ = '"';
        *p++ = ',';

        p = ngx_commerce_native_hash(p, arg, &token);
    }

    OPENSSL_cleanse(random, sizeof(random));

    *p++ = '}';
    body.len = p - body.data;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}


/* For each name that has a value: its SHA-256 in hex as <name>_hash. */

static ngx_int_t
ngx_commerce_native_token_hash(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    return ngx_commerce_native_members(c, step, NGX_COMMERCE_HASH_ROOM,
                                       ngx_commerce_native_hash);
}


/* For each name that has a value: its last four characters as <name>_last4. */

static ngx_int_t
ngx_commerce_native_secret_last4(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    return ngx_commerce_native_members(c, step, NGX_COMMERCE_LAST4_ROOM,
                                       ngx_commerce_native_last4);
}


/* The reply: an object of what "member" makes of each value, "room" bytes beside its name at most. */

static ngx_int_t
ngx_commerce_native_members(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, size_t room, ngx_commerce_member_pt member)
{
    size_t               len;
    u_char              *p, *start;
    uint32_t             i;
    ngx_str_t            body, value;
    ngx_commerce_arg_t  *arg;

    len = sizeof("{}");

    for (i = 0; i < step->args_count; i++) {
        len += step->args[i].parameter.len + room;
    }

    p = ngx_pnalloc(c->request->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body.data = p;
    *p++ = '{';

    for (i = 0; i < step->args_count; i++) {
        arg = &step->args[i];

        if (ngx_commerce_scope_arg(c, arg, &value) != NGX_OK) {
            return NGX_ERROR;
        }

        if (value.data == NULL) {
            continue;
        }

        start = p;
        p = member(p, arg, &value);

        if (p != start) {
            *p++ = ',';
        }
    }

    if (p[-1] == ',') {
        p--;
    }

    *p++ = '}';
    body.len = p - body.data;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}


/* "<name>_hash":"…" */

static u_char *
ngx_commerce_native_hash(u_char *p, const ngx_commerce_arg_t *arg,
    ngx_str_t *token)
{
    u_char  digest[SHA256_DIGEST_LENGTH];

    SHA256(token->data, token->len, digest);

    p = ngx_sprintf(p, "\"%*s_hash\":\"", arg->parameter.len,
                    arg->parameter.data);
    ngx_commerce_hex(p, digest, sizeof(digest));
    p += 2 * sizeof(digest);
    *p++ = '"';

    return p;
}


/* The schema asks for more than LEAST and for ASCII, or characters would be cut up. */

static u_char *
ngx_commerce_native_last4(u_char *p, const ngx_commerce_arg_t *arg,
    ngx_str_t *secret)
{
    if (secret->len < NGX_COMMERCE_SECRET_LEAST) {
        return p;
    }

    p = ngx_sprintf(p, "\"%*s_last4\":", arg->parameter.len,
                    arg->parameter.data);

    return ngx_commerce_json_quote(p, secret->data + secret->len
                                      - NGX_COMMERCE_SECRET_SHOWN,
                                   NGX_COMMERCE_SECRET_SHOWN);
}


static ngx_int_t
ngx_commerce_native_field_bind(ngx_conf_t *cf,
    const ngx_commerce_operation_t *op, const ngx_commerce_step_t *step)
{
    if (step->key.count == 0) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "commerce_contract: operation \"%*s\": %*s needs the "
                      "place of its fields, like key: \"shop.app_user "
                      "$tenant_id $principal\"", op->id.len, op->id.data,
                      step->name.len, step->name.data);
        return NGX_ERROR;
    }

    if (!ngx_commerce_field_ready(cf)) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "commerce_contract: operation \"%*s\" seals fields: "
                      "make a key with \"openssl rand -hex 32\", mode 0400, "
                      "and write \"commerce_field_key f1 FILE encrypt;\"",
                      op->id.len, op->id.data);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * For each name that has a value: the value, sealed for this place; the place
 * is the step's key and the name (that before the "=", if there is one).
 */

static ngx_int_t
ngx_commerce_native_field_encrypt(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    return ngx_commerce_native_fields(c, step, ngx_commerce_field_encrypt);
}


/* The way back. */

static ngx_int_t
ngx_commerce_native_field_decrypt(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    return ngx_commerce_native_fields(c, step, ngx_commerce_field_decrypt);
}


static ngx_int_t
ngx_commerce_native_fields(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, ngx_commerce_field_pt work)
{
    size_t               len;
    u_char              *p;
    uint32_t             i;
    ngx_str_t            body, *values;
    ngx_commerce_arg_t  *arg;

    values = ngx_palloc(c->request->pool,
                        (step->args_count + 1) * sizeof(ngx_str_t));
    if (values == NULL) {
        return NGX_ERROR;
    }

    len = sizeof("{}");

    for (i = 0; i < step->args_count; i++) {
        arg = &step->args[i];

        if (ngx_commerce_native_field(c, step, arg, work, &values[i])
            != NGX_OK)
        {
            return ngx_commerce_problem_internal(c);
        }

        /* a quoted string is at most six times as long */
        len += sizeof(",\"\":\"\"") + arg->parameter.len + 6 * values[i].len;
    }

    p = ngx_pnalloc(c->request->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body.data = p;
    *p++ = '{';

    for (i = 0; i < step->args_count; i++) {
        arg = &step->args[i];

        if (values[i].data == NULL) {
            continue;
        }

        if (p[-1] != '{') {
            *p++ = ',';
        }

        p = ngx_sprintf(p, "\"%*s\":", arg->parameter.len,
                        arg->parameter.data);
        p = ngx_commerce_json_quote(p, values[i].data, values[i].len);
    }

    *p++ = '}';
    body.len = p - body.data;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}


/* out: data == NULL when there is no value. */

static ngx_int_t
ngx_commerce_native_field(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, const ngx_commerce_arg_t *arg,
    ngx_commerce_field_pt work, ngx_str_t *out)
{
    u_char     *p;
    ngx_str_t   place, context, in;

    ngx_str_null(out);

    if (ngx_commerce_scope_arg(c, arg, &in) != NGX_OK) {
        return NGX_ERROR;
    }

    if (in.data == NULL) {
        return NGX_OK;
    }

    if (ngx_commerce_scope_render(c, &step->key, &place) != NGX_OK) {
        return NGX_ERROR;
    }

    p = ngx_pnalloc(c->request->pool, place.len + 1 + arg->parameter.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    context.data = p;
    context.len = ngx_sprintf(p, "%V %*s", &place, arg->parameter.len,
                              arg->parameter.data)
                  - p;

    return work(c->request->pool, &context, &in, out);
}


/* issuer, account → {"totp_secret", "otpauth_uri"}: a new secret, and as an authenticator app scans it */

static ngx_int_t
ngx_commerce_native_totp_mint(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    u_char     *p, secret[NGX_COMMERCE_TOTP_SECRET];
    ngx_str_t  *issuer, *account, body, name, label;

    issuer = ngx_commerce_scope_input(c, step, "issuer");
    account = ngx_commerce_scope_input(c, step, "account");

    if (issuer == NULL || account == NULL
        || ngx_commerce_totp_mint(secret) != NGX_OK)
    {
        return ngx_commerce_problem_internal(c);
    }

    name.len = issuer->len + 2 * ngx_escape_uri(NULL, issuer->data,
                                   issuer->len, NGX_ESCAPE_URI_COMPONENT);
    label.len = account->len + 2 * ngx_escape_uri(NULL, account->data,
                                   account->len, NGX_ESCAPE_URI_COMPONENT);

    p = ngx_pnalloc(c->request->pool,
                    sizeof("{\"totp_secret\":\"\",\"otpauth_uri\":\""
                           "otpauth://totp/:?secret=&issuer=&algorithm=SHA1"
                           "&digits=6&period=30\"}")
                    + 3 * name.len + 2 * label.len + 2 * sizeof(secret));
    if (p == NULL) {
        return NGX_ERROR;
    }

    name.data = p;
    p = (u_char *) ngx_escape_uri(p, issuer->data, issuer->len,
                                  NGX_ESCAPE_URI_COMPONENT);
    label.data = p;
    p = (u_char *) ngx_escape_uri(p, account->data, account->len,
                                  NGX_ESCAPE_URI_COMPONENT);

    body.data = p;
    p = ngx_sprintf(p, "{\"totp_secret\":\"%*s\",\"otpauth_uri\":\""
                    "otpauth://totp/%V:%V?secret=%*s&issuer=%V"
                    "&algorithm=SHA1&digits=6&period=30\"}",
                    sizeof(secret), secret, &name, &label, sizeof(secret),
                    secret, &name);
    body.len = p - body.data;

    OPENSSL_cleanse(secret, sizeof(secret));

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}


/*
 * secret, totp → {"totp_step": n} when the code fits, {} when it does not or
 * none came.  What that means, and that no step is taken twice, is SQL's.
 */

static ngx_int_t
ngx_commerce_native_totp_verify(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    u_char     *p;
    uint64_t    number;
    ngx_str_t  *secret, *code, body;

    secret = ngx_commerce_scope_input(c, step, "secret");
    code = ngx_commerce_scope_input(c, step, "totp");

    ngx_str_set(&body, "{}");

    if (secret == NULL || code == NULL) {
        ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);
        return NGX_OK;
    }

    switch (ngx_commerce_totp_verify(secret, code, ngx_time(), &number)) {

    case NGX_OK:
        p = ngx_pnalloc(c->request->pool,
                        sizeof("{\"totp_step\":}") + NGX_INT64_LEN);
        if (p == NULL) {
            return NGX_ERROR;
        }

        body.data = p;
        body.len = ngx_sprintf(p, "{\"totp_step\":%uL}", number) - p;
        break;

    case NGX_DECLINED:
        break;

    default:
        return ngx_commerce_problem_internal(c);
    }

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}


/* The names in args as the answer: what natives have made and SQL must not see. */

static ngx_int_t
ngx_commerce_native_answer(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    ngx_str_t  body;

    if (ngx_commerce_scope_json(c, step->args, step->args_count, &body)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}
