/*
 * The body: is it of a kind that is taken here, strict JSON, what the schema
 * says; and the fingerprint of what was asked under an Idempotency-Key.
 */

#include "ngx_commerce_http.h"
#include "ngx_commerce_text.h"

#include <openssl/evp.h>


#define NGX_COMMERCE_KEY_MAX  255


static ngx_int_t ngx_commerce_body_type(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_body_json(ngx_commerce_request_t *c,
    ngx_str_t *body, ngx_commerce_json_t **root);
static ngx_int_t ngx_commerce_body_text(ngx_commerce_request_t *c,
    ngx_str_t *body);
static ngx_int_t ngx_commerce_body_scope(ngx_commerce_request_t *c,
    ngx_commerce_json_t *root);
static ngx_int_t ngx_commerce_body_absent(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_body_key(ngx_commerce_request_t *c,
    ngx_commerce_json_t *root, ngx_str_t *body);


/* Before the body is read: is it of a kind and size that is taken here? */

ngx_int_t
ngx_commerce_body_media(ngx_commerce_request_t *c)
{
    ngx_http_request_t  *r;

    r = c->request;

    if (r->headers_in.content_length_n > (off_t) c->op->body_limit) {
        return ngx_commerce_problem(c, 413, "body-too-large",
            "The body may have %uz bytes at most.", c->op->body_limit);
    }

    if (c->h_content_encoding) {
        return ngx_commerce_problem(c, 415, "content-encoding",
            "Send the body without a Content-Encoding.");
    }

    /* HTTP/2 need not tell: then the type is judged when there is a body */

    return (r->headers_in.content_length_n > 0 || r->headers_in.chunked)
           ? ngx_commerce_body_type(c) : NGX_OK;
}


static ngx_int_t
ngx_commerce_body_type(ngx_commerce_request_t *c)
{
    u_char              *p, *end;
    size_t               len;
    ngx_str_t           *type;
    ngx_uint_t           i;
    ngx_http_request_t  *r;

    r = c->request;

    if (r->headers_in.content_type == NULL) {
        return ngx_commerce_problem(c, 415, "unsupported-media-type",
            "Send the body with Content-Type: %*s.", c->op->media[0].len,
            c->op->media[0].data);
    }

    type = &r->headers_in.content_type->value;
    end = type->data + type->len;

    p = ngx_strlchr(type->data, end, ';');
    len = (p ? p : end) - type->data;

    while (len && (type->data[len - 1] == ' ' || type->data[len - 1] == '\t')) {
        len--;
    }

    /* a parameter is of no weight, unless it names another charset */

    if (p && ngx_strlcasestrn(p, end, (u_char *) "charset", 7 - 1)
        && ngx_strlcasestrn(p, end, (u_char *) "utf-8", 5 - 1) == NULL)
    {
        return ngx_commerce_problem(c, 415, "unsupported-charset",
                                    "The body must be UTF-8.");
    }

    for (i = 0; i < c->op->media_count; i++) {

        if (c->op->media[i].len == len
            && ngx_strncasecmp(c->op->media[i].data, type->data, len) == 0)
        {
            return NGX_OK;
        }
    }

    return ngx_commerce_problem(c, 415, "unsupported-media-type",
        "Send the body with Content-Type: %*s.", c->op->media[0].len,
        c->op->media[0].data);
}


ngx_int_t
ngx_commerce_body_accept(ngx_commerce_request_t *c)
{
    ngx_str_t             body;
    ngx_commerce_json_t  *root;

    root = NULL;

    if (ngx_commerce_body_read(c, &body) != NGX_OK) {
        return NGX_ERROR;
    }

    if (c->op->body == NULL && !c->op->body_raw) {

        if (body.len) {
            return ngx_commerce_problem(c, 400, "unexpected-body",
                                        "This operation takes no body.");
        }

        return ngx_commerce_body_key(c, NULL, &body);
    }

    if (body.len == 0) {

        if (c->op->body_required) {
            return ngx_commerce_problem(c, 400, "body-required",
                "The request needs a body of type %*s.",
                c->op->media[0].len, c->op->media[0].data);
        }

        return ngx_commerce_body_key(c, NULL, &body) == NGX_OK
               ? ngx_commerce_body_absent(c) : NGX_ERROR;
    }

    if (ngx_commerce_body_type(c) != NGX_OK) {
        return NGX_ERROR;
    }

    if (c->op->body_raw) {

        if (ngx_strlchr(body.data, body.data + body.len, '\0')
            || !ngx_commerce_utf8_valid(body.data, body.len))
        {
            return ngx_commerce_problem(c, 400, "invalid-utf8",
                "The body must be UTF-8 text without NUL characters.");
        }

        if (ngx_commerce_body_text(c, &body) != NGX_OK) {
            return NGX_ERROR;
        }

        return ngx_commerce_body_key(c, NULL, &body);
    }

    /* the fingerprint is of what was sent: a default may change between two tries */

    if (ngx_commerce_body_json(c, &body, &root) != NGX_OK
        || ngx_commerce_body_key(c, root, &body) != NGX_OK
        || ngx_commerce_sealed_body(c, root) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_commerce_body_scope(c, root);
}


/* Text that is no JSON: CSV. */

static ngx_int_t
ngx_commerce_body_text(ngx_commerce_request_t *c, ngx_str_t *body)
{
    ngx_commerce_rc_t      rc;
    ngx_commerce_str_t     text;
    ngx_commerce_alloc_t   alloc;
    ngx_commerce_value_t  *v;

    alloc = ngx_commerce_pool_alloc(c->request->pool);
    text = ngx_commerce_to_core(body);

    rc = ngx_commerce_text_nfc(&alloc, &text);

    if (rc == NGX_COMMERCE_INVALID) {
        return ngx_commerce_problem(c, 400, "too-many-marks",
            "A character must not bear more than %d combining marks.",
            NGX_COMMERCE_TEXT_MARKS);
    }

    if (rc != NGX_COMMERCE_OK) {
        return NGX_ERROR;
    }

    v = &c->slots[c->op->body_slot];
    v->set = 1;
    v->type = NGX_COMMERCE_JSON_STRING;
    v->text = ngx_commerce_from_core(&text);

    return NGX_OK;
}


/* The body with its defaults, as one value or member by member. */

static ngx_int_t
ngx_commerce_body_scope(ngx_commerce_request_t *c, ngx_commerce_json_t *root)
{
    ngx_uint_t             i;
    ngx_commerce_json_t   *value;
    ngx_commerce_alloc_t   alloc;

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    if (ngx_commerce_schema_complete(c->op->body, root, &alloc)
        != NGX_COMMERCE_OK)
    {
        return NGX_ERROR;
    }

    if (c->op->body_name.len) {
        ngx_commerce_scope_set(c, c->op->body_slot, root);
        return NGX_OK;
    }

    for (i = 0; i < c->op->members_count; i++) {
        value = ngx_commerce_json_get_n(root, c->op->members[i].name.data,
                                        c->op->members[i].name.len);
        if (value) {
            ngx_commerce_scope_set(c, c->op->members[i].slot, value);
        }
    }

    return NGX_OK;
}


/* No body where one is not required: its members' defaults count all the same. */

static ngx_int_t
ngx_commerce_body_absent(ngx_commerce_request_t *c)
{
    ngx_commerce_json_t  *root;

    if (c->op->body == NULL || c->op->body_name.len) {
        return NGX_OK;
    }

    root = ngx_pcalloc(c->request->pool, sizeof(ngx_commerce_json_t));
    if (root == NULL) {
        return NGX_ERROR;
    }

    root->type = NGX_COMMERCE_JSON_OBJECT;

    return ngx_commerce_body_scope(c, root);
}


/* The body as one string.  It is in a file when it outgrew the buffer. */

ngx_int_t
ngx_commerce_body_read(ngx_commerce_request_t *c, ngx_str_t *body)
{
    off_t                size;
    u_char              *p;
    ssize_t              n;
    ngx_buf_t           *b;
    ngx_chain_t         *cl;
    ngx_http_request_t  *r;

    r = c->request;
    ngx_str_null(body);

    if (r->request_body == NULL || r->request_body->bufs == NULL) {
        return NGX_OK;
    }

    size = 0;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        size += ngx_buf_size(cl->buf);
    }

    if (size > (off_t) c->op->body_limit) {
        return ngx_commerce_problem(c, 413, "body-too-large",
            "The body may have %uz bytes at most.", c->op->body_limit);
    }

    b = r->request_body->bufs->buf;
    body->len = size;

    if (r->request_body->bufs->next == NULL && !b->in_file) {
        body->data = b->pos;
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, size + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body->data = p;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        b = cl->buf;

        if (b->in_file) {
            n = ngx_read_file(b->file, p, b->file_last - b->file_pos,
                              b->file_pos);

            if (n != b->file_last - b->file_pos) {
                return NGX_ERROR;
            }

            p += n;

        } else if (b->last != b->pos) {
            /* the last buffer of a chunked body has neither bytes nor memory */
            p = ngx_cpymem(p, b->pos, b->last - b->pos);
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_body_json(ngx_commerce_request_t *c, ngx_str_t *body,
    ngx_commerce_json_t **root)
{
    ngx_str_t                  code, detail, extension;
    ngx_commerce_rc_t          rc;
    ngx_commerce_alloc_t       alloc;
    ngx_commerce_json_error_t  error;
    ngx_commerce_violations_t  violations;

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    rc = ngx_commerce_json_parse(&alloc, body->data, body->len,
                                 &c->op->body_limits, root, &error);

    if (rc == NGX_COMMERCE_NOMEM) {
        return NGX_ERROR;
    }

    if (rc != NGX_COMMERCE_OK) {

        code.data = (u_char *) error.code;
        code.len = ngx_strlen(error.code);
        detail.data = (u_char *) error.message;
        detail.len = ngx_strlen(error.message);

        extension.data = ngx_pnalloc(c->request->pool,
                                     sizeof("{\"offset\":,\"pointer\":}")
                                     + NGX_SIZE_T_LEN
                                     + 6 * sizeof(error.pointer));
        if (extension.data == NULL) {
            return NGX_ERROR;
        }

        extension.len = ngx_sprintf(extension.data,
                                    "{\"offset\":%uz,\"pointer\":",
                                    error.offset)
                        - extension.data;
        extension.len = ngx_commerce_json_quote(
                            extension.data + extension.len,
                            (u_char *) error.pointer,
                            ngx_strlen(error.pointer))
                        - extension.data;
        extension.data[extension.len++] = '}';

        return ngx_commerce_problem_extended(c, 400, &code, &detail,
                                             &extension);
    }

    violations.alloc = &alloc;
    violations.count = 0;

    rc = ngx_commerce_schema_check(c->op->body, *root, &violations);

    if (rc == NGX_COMMERCE_NOMEM) {
        return NGX_ERROR;
    }

    if (rc != NGX_COMMERCE_OK) {
        return ngx_commerce_problem_violations(c, 422, "validation-failed",
                                               &violations);
    }

    return NGX_OK;
}


/*
 * Idempotency-Key and its fingerprint: SHA-256 over method, route with its
 * parameters, and the canonical body.
 */

static ngx_int_t
ngx_commerce_body_key(ngx_commerce_request_t *c, ngx_commerce_json_t *root,
    ngx_str_t *body)
{
    size_t        i, len;
    u_char       *canonical;
    ngx_str_t    *key, binding;
    EVP_MD_CTX   *md;

    if (c->op->idempotency == NGX_COMMERCE_IDEMPOTENCY_NONE) {
        return NGX_OK;
    }

    if (c->h_idempotency_key == NULL) {

        if (c->op->idempotency == NGX_COMMERCE_IDEMPOTENCY_REQUIRED) {
            return ngx_commerce_problem(c, 400, "idempotency-key-missing",
                "Send an Idempotency-Key: a value of your own, the same for "
                "each retry of this request.");
        }

        return NGX_OK;
    }

    key = &c->h_idempotency_key->value;

    for (i = 0; i < key->len; i++) {
        if (key->data[i] <= ' ' || key->data[i] > '~') {
            break;
        }
    }

    if (key->len == 0 || key->len > NGX_COMMERCE_KEY_MAX || i < key->len) {
        return ngx_commerce_problem(c, 400, "idempotency-key-invalid",
            "Idempotency-Key must have 1 to 255 visible ASCII characters.");
    }

    canonical = body->len ? body->data : (u_char *) "";
    len = body->len;

    if (root) {
        len = (size_t) (uintptr_t) ngx_commerce_json_canonical(NULL, root);

        canonical = ngx_pnalloc(c->request->pool, len + 1);
        if (canonical == NULL) {
            return NGX_ERROR;
        }

        ngx_commerce_json_canonical(canonical, root);
    }

    ngx_commerce_input_binding(c, &binding);

    md = EVP_MD_CTX_new();

    if (binding.data == NULL || md == NULL) {
        EVP_MD_CTX_free(md);
        return NGX_ERROR;
    }

    /*
     * No hash is stored that guesses can be compared with: of passwords, codes,
     * and what is sealed
     */

    i = EVP_DigestInit_ex(md, EVP_sha256(), NULL)
        && EVP_DigestUpdate(md, c->conf->cursor_key,
                            sizeof(c->conf->cursor_key))
        && EVP_DigestUpdate(md, &c->op->method, sizeof(c->op->method))
        && EVP_DigestUpdate(md, binding.data, binding.len)
        && EVP_DigestUpdate(md, "", 1)
        && EVP_DigestUpdate(md, canonical, len)
        && EVP_DigestFinal_ex(md, c->fingerprint, NULL);

    EVP_MD_CTX_free(md);

    c->idempotency_key = *key;

    return i ? NGX_OK : NGX_ERROR;
}
