/*
 * The scope of a request: named values, from the client's parameters, from
 * earlier steps and from the context ("$…").  Names are slots, numbered when
 * the contract is loaded, so that nothing is looked up by name per request
 * but the members of a step's result.
 */

#include "ngx_commerce_http.h"
#include "ngx_commerce_sha256.h"


#define NGX_COMMERCE_CART_TOKEN_LEN  43     /* base64url of 256 bits */
#define NGX_COMMERCE_GUEST_LEN       (2 + 2 * 32)
#define NGX_COMMERCE_GUESTS          4096   /* in pairs */

#define NGX_COMMERCE_RESULT_MEMBERS  200000
#define NGX_COMMERCE_RESULT_DEPTH    64


static ngx_int_t ngx_commerce_scope_context(ngx_commerce_request_t *c,
    ngx_commerce_str_t name, ngx_str_t *text);
static ngx_int_t ngx_commerce_scope_owner(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_scope_guest_text(ngx_commerce_request_t *c,
    ngx_str_t *token, ngx_str_t *owner);
static ngx_int_t ngx_commerce_scope_mint(ngx_commerce_request_t *c);
static ngx_commerce_guest_t *ngx_commerce_scope_known(ngx_str_t *token,
    uint64_t hash[2]);


static ngx_commerce_guest_t  ngx_commerce_guests[NGX_COMMERCE_GUESTS];


void
ngx_commerce_scope_set(ngx_commerce_request_t *c, int32_t slot,
    const ngx_commerce_json_t *value)
{
    ngx_commerce_value_t  *v;

    if (slot < 0) {
        return;
    }

    v = &c->slots[slot];

    v->set = 1;
    v->type = value->type;
    v->text = (value->type == NGX_COMMERCE_JSON_STRING)
              ? ngx_commerce_from_core(&value->text)
              : ngx_commerce_from_core(&value->raw);
}


ngx_int_t
ngx_commerce_scope_bind(ngx_commerce_request_t *c, ngx_str_t *object)
{
    ngx_commerce_rc_t           rc;
    ngx_commerce_json_t        *root, *member;
    ngx_commerce_alloc_t        alloc;
    ngx_commerce_json_error_t   error;
    ngx_commerce_json_limits_t  limits;

    if (object->len == 0) {
        return NGX_OK;
    }

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    limits.max_members = NGX_COMMERCE_RESULT_MEMBERS;
    limits.max_depth = NGX_COMMERCE_RESULT_DEPTH;
    limits.nfc = false;

    rc = ngx_commerce_json_parse(&alloc, object->data, object->len, &limits,
                                 &root, &error);

    if (rc == NGX_COMMERCE_NOMEM) {
        return NGX_ERROR;
    }

    if (rc != NGX_COMMERCE_OK) {
        ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                      "commerce: a step of \"%*s\" answered bad JSON: %s "
                      "at offset %uz", c->op->id.len, c->op->id.data,
                      error.message, error.offset);
        return NGX_ERROR;
    }

    if (root->type != NGX_COMMERCE_JSON_OBJECT) {
        return NGX_OK;
    }

    for (member = root->child; member; member = member->next) {
        ngx_commerce_scope_set(c,
            ngx_commerce_operation_slot(c->op, member->key.data,
                                        member->key.len),
            member);
    }

    return NGX_OK;
}


ngx_str_t *
ngx_commerce_scope_get(ngx_commerce_request_t *c, const char *name)
{
    int32_t  slot;

    slot = ngx_commerce_operation_slot(c->op, (const uint8_t *) name,
                                       ngx_strlen(name));

    if (slot < 0 || !c->slots[slot].set
        || c->slots[slot].type == NGX_COMMERCE_JSON_NULL)
    {
        return NULL;
    }

    return &c->slots[slot].text;
}


ngx_str_t *
ngx_commerce_scope_input(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, const char *name)
{
    size_t               len;
    uint32_t             i;
    ngx_str_t           *value;
    ngx_commerce_arg_t  *arg;

    len = ngx_strlen(name);

    for (i = 0; i < step->args_count; i++) {
        arg = &step->args[i];

        if (arg->parameter.len != len
            || ngx_memcmp(arg->parameter.data, name, len) != 0)
        {
            continue;
        }

        value = ngx_palloc(c->request->pool, sizeof(ngx_str_t));

        if (value == NULL || ngx_commerce_scope_arg(c, arg, value) != NGX_OK) {
            return NULL;
        }

        return value->data ? value : NULL;
    }

    return ngx_commerce_scope_get(c, name);
}


ngx_int_t
ngx_commerce_scope_arg(ngx_commerce_request_t *c,
    const ngx_commerce_arg_t *arg, ngx_str_t *text)
{
    ngx_commerce_value_t  *v;

    if (arg->slot < 0) {
        return ngx_commerce_scope_context(c, arg->name, text);
    }

    v = &c->slots[arg->slot];

    if (!v->set || v->type == NGX_COMMERCE_JSON_NULL) {
        ngx_str_null(text);
        return NGX_OK;
    }

    *text = v->text;

    if (text->data == NULL) {
        text->data = (u_char *) "";
    }

    return NGX_OK;
}


ngx_int_t
ngx_commerce_scope_render(ngx_commerce_request_t *c,
    const ngx_commerce_template_t *t, ngx_str_t *text)
{
    size_t               len;
    u_char              *p;
    uint32_t             i;
    ngx_str_t           *values;
    ngx_commerce_arg_t   arg;

    if (t->count == 1 && !t->parts[0].name) {
        *text = ngx_commerce_from_core(&t->parts[0].text);
        return NGX_OK;
    }

    values = ngx_palloc(c->request->pool, t->count * sizeof(ngx_str_t));
    if (values == NULL) {
        return NGX_ERROR;
    }

    len = 0;

    for (i = 0; i < t->count; i++) {

        if (!t->parts[i].name) {
            values[i] = ngx_commerce_from_core(&t->parts[i].text);

        } else {
            arg.name = t->parts[i].text;
            arg.slot = (arg.name.len && arg.name.data[0] == '$') ? -1
                       : ngx_commerce_operation_slot(c->op, arg.name.data,
                                                     arg.name.len);

            if (ngx_commerce_scope_arg(c, &arg, &values[i]) != NGX_OK) {
                return NGX_ERROR;
            }
        }

        len += values[i].len;
    }

    p = ngx_pnalloc(c->request->pool, len + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    text->data = p;
    text->len = len;

    for (i = 0; i < t->count; i++) {
        if (values[i].len) {
            p = ngx_cpymem(p, values[i].data, values[i].len);
        }
    }

    return NGX_OK;
}


ngx_int_t
ngx_commerce_scope_json(ngx_commerce_request_t *c,
    const ngx_commerce_arg_t *args, ngx_uint_t count, ngx_str_t *json)
{
    size_t                 len;
    u_char                *p;
    ngx_uint_t             i;
    ngx_str_t             *values;
    ngx_commerce_value_t  *v;

    values = ngx_palloc(c->request->pool, (count + 1) * sizeof(ngx_str_t));
    if (values == NULL) {
        return NGX_ERROR;
    }

    len = sizeof("{}");

    for (i = 0; i < count; i++) {

        if (ngx_commerce_scope_arg(c, &args[i], &values[i]) != NGX_OK) {
            return NGX_ERROR;
        }

        /* a quoted string is at most six times as long */
        len += args[i].parameter.len + sizeof("\"\":\"\",") + 6 * values[i].len
               + sizeof("null");
    }

    p = ngx_pnalloc(c->request->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    json->data = p;
    *p++ = '{';

    for (i = 0; i < count; i++) {

        if (values[i].data == NULL) {
            continue;
        }

        if (p[-1] != '{') {
            *p++ = ',';
        }

        p = ngx_commerce_json_quote(p, args[i].parameter.data,
                                    args[i].parameter.len);
        *p++ = ':';

        v = (args[i].slot < 0) ? NULL : &c->slots[args[i].slot];

        if (v == NULL || v->type == NGX_COMMERCE_JSON_STRING) {
            p = ngx_commerce_json_quote(p, values[i].data, values[i].len);

        } else {
            p = ngx_cpymem(p, values[i].data, values[i].len);
        }
    }

    *p++ = '}';
    json->len = p - json->data;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_scope_context(ngx_commerce_request_t *c, ngx_commerce_str_t name,
    ngx_str_t *text)
{
    ngx_http_request_t  *r;

    r = c->request;

#define ngx_commerce_is(s)                                                    \
    (name.len == sizeof(s) - 1 && ngx_memcmp(name.data, s, sizeof(s) - 1) == 0)

    if (ngx_commerce_is("$tenant_id")) {
        *text = c->tenant.id;

    } else if (ngx_commerce_is("$cart_owner")) {

        if (ngx_commerce_scope_owner(c) != NGX_OK) {
            return NGX_ERROR;
        }

        *text = c->cart_owner;

    } else if (ngx_commerce_is("$guest_cart")) {

        if (c->guest_cart.len == 0 && c->h_cart_token
            && ngx_commerce_scope_guest_text(c, &c->h_cart_token->value,
                                             &c->guest_cart)
               != NGX_OK)
        {
            return NGX_ERROR;
        }

        *text = c->guest_cart;

    } else if (ngx_commerce_is("$principal")) {
        *text = c->principal.subject;

    } else if (ngx_commerce_is("$session")) {
        *text = c->principal.session;

    } else if (ngx_commerce_is("$address")) {
        *text = r->connection->addr_text;

    } else if (ngx_commerce_is("$user_agent")) {
        ngx_str_null(text);

        if (r->headers_in.user_agent
            && ngx_commerce_utf8_valid(r->headers_in.user_agent->value.data,
                                       r->headers_in.user_agent->value.len))
        {
            *text = r->headers_in.user_agent->value;
        }

    } else if (ngx_commerce_is("$tenant_slug")) {
        *text = c->tenant.slug;

    } else if (ngx_commerce_is("$correlation_id")) {
        *text = c->correlation_id;

    } else if (ngx_commerce_is("$reply")) {
        *text = c->reply.body;

    } else if (ngx_commerce_is("$method")) {
        *text = r->method_name;

    } else if (ngx_commerce_is("$path")) {
        *text = r->uri;

    } else {
        ngx_str_null(text);
        return NGX_OK;
    }

    /* nobody, no token: SQL NULL, and no member for a script */
    if (text->len == 0) {
        ngx_str_null(text);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_scope_owner(ngx_commerce_request_t *c)
{
    u_char  *p;

    if (c->cart_owner.len) {
        return NGX_OK;
    }

    if (c->principal.subject.len) {

        p = ngx_pnalloc(c->request->pool, c->principal.subject.len + 2);
        if (p == NULL) {
            return NGX_ERROR;
        }

        c->cart_owner.data = p;
        c->cart_owner.len = c->principal.subject.len + 2;

        p = ngx_cpymem(p, "u:", 2);
        ngx_memcpy(p, c->principal.subject.data, c->principal.subject.len);

        return NGX_OK;
    }

    if (c->h_cart_token) {
        return ngx_commerce_scope_guest_text(c, &c->h_cart_token->value,
                                             &c->cart_owner);
    }

    if (ngx_commerce_scope_mint(c) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_commerce_scope_guest_text(c, &c->cart_token, &c->cart_owner);
}


/* The token is a bearer secret: what is stored and logged is its hash. */

static ngx_int_t
ngx_commerce_scope_guest_text(ngx_commerce_request_t *c, ngx_str_t *token,
    ngx_str_t *owner)
{
    u_char                *p;
    ngx_commerce_guest_t  *guest;

    guest = ngx_commerce_scope_guest(c, token);
    p = guest ? ngx_pnalloc(c->request->pool, NGX_COMMERCE_GUEST_LEN) : NULL;

    if (p == NULL) {
        return NGX_ERROR;
    }

    owner->data = p;
    owner->len = NGX_COMMERCE_GUEST_LEN;

    p = ngx_cpymem(p, "g:", 2);
    ngx_commerce_hex(p, guest->digest, 32);

    return NGX_OK;
}


ngx_commerce_guest_t *
ngx_commerce_scope_guest(ngx_commerce_request_t *c, ngx_str_t *token)
{
    u_char                 raw[48];
    uint64_t               hash[2];
    ngx_uint_t             i;
    ngx_commerce_guest_t  *known;

    known = ngx_commerce_scope_known(token, hash);

    for (i = 0; known && i < 2; i++) {
        if (known[i].token[0] == hash[0] && known[i].token[1] == hash[1]) {
            return &known[i];
        }
    }

    if (known == NULL
        || ngx_commerce_base64url_decode(raw, token->data, token->len) != 32)
    {
        (void) ngx_commerce_problem(c, NGX_HTTP_BAD_REQUEST,
            "cart-token-invalid",
            "X-Cart-Token must be a token that this shop has issued; leave "
            "the header out to get a new one.");
        return NULL;
    }

    /* the older one of the two goes */
    known[1] = known[0];

    ngx_commerce_sha256(token->data, token->len, known->digest);

    known->token[0] = hash[0];
    known->token[1] = hash[1];
    known->who = 0;

    return known;
}


/* The token's two places, which may be others'; NULL: it is no token.  Nobody can choose tokens that share a place. */

static ngx_commerce_guest_t *
ngx_commerce_scope_known(ngx_str_t *token, uint64_t hash[2])
{
    static pid_t     owner;
    static uint64_t  secret[2];

    if (token->len != NGX_COMMERCE_CART_TOKEN_LEN) {
        return NULL;
    }

    if (owner != ngx_pid) {
        ngx_commerce_random((u_char *) secret, sizeof(secret));
        owner = ngx_pid;
    }

    ngx_commerce_store_siphash(secret, token->data, token->len, hash);

    return &ngx_commerce_guests[hash[0] % NGX_COMMERCE_GUESTS & ~1U];
}


static ngx_int_t
ngx_commerce_scope_mint(ngx_commerce_request_t *c)
{
    u_char  random[32];

    c->cart_token.data = ngx_pnalloc(c->request->pool,
                                     NGX_COMMERCE_CART_TOKEN_LEN);
    if (c->cart_token.data == NULL) {
        return NGX_ERROR;
    }

    ngx_commerce_random(random, sizeof(random));

    c->cart_token.len = ngx_commerce_base64url_encode(c->cart_token.data,
                                                      random, sizeof(random));
    ngx_explicit_memzero(random, sizeof(random));

    return NGX_OK;
}
