/*
 * Native steps of identity: passwords and access tokens.  The
 * work is auth/'s; here are only its arguments and answers.
 */

#include "ngx_commerce_http.h"


/* In the request's pool: alive as long as the operation is not detached. */

typedef struct {
    ngx_commerce_request_t      *c;
    ngx_commerce_password_op_t  *op;
} ngx_commerce_password_wait_t;


static ngx_int_t ngx_commerce_native_password_room(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static void ngx_commerce_native_password_leave(void *data);
static ngx_int_t ngx_commerce_native_password_refuse(ngx_commerce_request_t *c,
    ngx_int_t rc);
static ngx_int_t ngx_commerce_native_password_verify(
    ngx_commerce_request_t *c, const ngx_commerce_step_t *step);
static void ngx_commerce_native_password_verified(void *data, ngx_uint_t ok,
    ngx_str_t *hash);
static ngx_int_t ngx_commerce_native_password_hash(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static void ngx_commerce_native_password_hashed(void *data, ngx_uint_t ok,
    ngx_str_t *hash);
static ngx_int_t ngx_commerce_native_password_wait(ngx_commerce_request_t *c,
    ngx_int_t rc, ngx_commerce_password_wait_t *wait);
static void ngx_commerce_native_password_cancel(void *data);
static ngx_int_t ngx_commerce_native_password_reply(ngx_commerce_request_t *c,
    const char *name, ngx_str_t *hash);
static ngx_int_t ngx_commerce_native_token_issue(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_token_reply(ngx_commerce_request_t *c,
    ngx_str_t *token, ngx_uint_t expires_in);


const ngx_commerce_native_t  ngx_commerce_natives_auth[] = {

    { ngx_string("password_room"), ngx_commerce_native_password_room, NULL },
    { ngx_string("password_verify"), ngx_commerce_native_password_verify, NULL },
    { ngx_string("password_hash"), ngx_commerce_native_password_hash, NULL },
    { ngx_string("token_issue"), ngx_commerce_native_token_issue, NULL },
    { ngx_null_string, NULL, NULL }
};


/*
 * A place in the queue of passwords, kept until the password comes; 503 when
 * there is none, before anything is done or counted: a flood costs the database
 * nothing.
 */

static ngx_int_t
ngx_commerce_native_password_room(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    ngx_int_t            rc;
    ngx_pool_cleanup_t  *cleanup;

    cleanup = ngx_pool_cleanup_add(c->request->pool, 0);
    if (cleanup == NULL) {
        return ngx_commerce_problem(c, NGX_HTTP_INTERNAL_SERVER_ERROR,
                                    "internal", "Out of memory.");
    }

    cleanup->handler = ngx_commerce_native_password_leave;
    cleanup->data = c;

    rc = ngx_commerce_password_enter(&c->password,
                                     c->request->connection->log);
    if (rc != NGX_OK) {
        return ngx_commerce_native_password_refuse(c, rc);
    }

    ngx_commerce_step_reply(c, NGX_HTTP_OK, NULL);

    return NGX_OK;
}


static void
ngx_commerce_native_password_leave(void *data)
{
    ngx_commerce_request_t  *c = data;

    ngx_commerce_password_leave(&c->password);
}


/* What became of an operation that was not begun. */

static ngx_int_t
ngx_commerce_native_password_refuse(ngx_commerce_request_t *c, ngx_int_t rc)
{
    switch (rc) {

    case NGX_BUSY:
        return ngx_commerce_problem_retry(c, NGX_HTTP_SERVICE_UNAVAILABLE,
                    "busy", c->password.retry,
                    "Too many passwords are being checked at this moment.");

    case NGX_DECLINED:
        return ngx_commerce_problem(c, 422, "password-too-long",
                    "A password has at most 72 bytes and no NUL character.");

    default:
        return ngx_commerce_problem(c, NGX_HTTP_INTERNAL_SERVER_ERROR,
                    "internal", "Passwords cannot be checked.");
    }
}


/*
 * password, password_hash → {"password_rehash"} when the hash is to be renewed.
 * 401 with one text, after one time, whether the user exists or not.
 */

static ngx_int_t
ngx_commerce_native_password_verify(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    ngx_int_t                      rc;
    ngx_str_t                     *password, *hash, none;
    ngx_commerce_password_wait_t  *wait;

    ngx_str_null(&none);

    password = ngx_commerce_scope_input(c, step, "password");
    hash = ngx_commerce_scope_input(c, step, "password_hash");

    wait = ngx_palloc(c->request->pool, sizeof(ngx_commerce_password_wait_t));
    if (wait == NULL) {
        return NGX_ERROR;
    }

    wait->c = c;

    rc = ngx_commerce_password_verify(&c->password, password ? password : &none,
                                      hash ? hash : &none,
                                      ngx_commerce_native_password_verified,
                                      wait, &wait->op,
                                      c->request->connection->log);

    return ngx_commerce_native_password_wait(c, rc, wait);
}


static void
ngx_commerce_native_password_verified(void *data, ngx_uint_t ok,
    ngx_str_t *hash)
{
    ngx_commerce_password_wait_t *wait = data;

    ngx_commerce_request_t  *c;

    c = wait->c;

    if (!ok) {
        ngx_commerce_problem(c, NGX_HTTP_UNAUTHORIZED, "invalid-credentials",
                             "E-mail or password is wrong.");

    } else {
        (void) ngx_commerce_native_password_reply(c, "password_rehash", hash);
    }

    ngx_commerce_step_done(c);
}


/* password → {"password_hash"} */

static ngx_int_t
ngx_commerce_native_password_hash(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    ngx_int_t                      rc;
    ngx_str_t                     *password;
    ngx_commerce_password_wait_t  *wait;

    password = ngx_commerce_scope_input(c, step, "password");

    if (password == NULL || password->len == 0) {
        return ngx_commerce_problem(c, 422, "password-missing",
                                    "A password is needed.");
    }

    wait = ngx_palloc(c->request->pool, sizeof(ngx_commerce_password_wait_t));
    if (wait == NULL) {
        return NGX_ERROR;
    }

    wait->c = c;

    rc = ngx_commerce_password_hash(&c->password, password,
                                    ngx_commerce_native_password_hashed, wait,
                                    &wait->op, c->request->connection->log);

    return ngx_commerce_native_password_wait(c, rc, wait);
}


static void
ngx_commerce_native_password_hashed(void *data, ngx_uint_t ok,
    ngx_str_t *hash)
{
    ngx_commerce_password_wait_t *wait = data;

    ngx_commerce_request_t  *c;

    c = wait->c;

    if (!ok) {
        ngx_commerce_problem(c, NGX_HTTP_INTERNAL_SERVER_ERROR, "internal",
                             "The password could not be stored.");

    } else {
        (void) ngx_commerce_native_password_reply(c, "password_hash", hash);
    }

    ngx_commerce_step_done(c);
}


static ngx_int_t
ngx_commerce_native_password_wait(ngx_commerce_request_t *c, ngx_int_t rc,
    ngx_commerce_password_wait_t *wait)
{
    if (rc != NGX_OK) {
        return ngx_commerce_native_password_refuse(c, rc);
    }

    c->cancel = ngx_commerce_native_password_cancel;
    c->cancel_data = wait;
    c->idle = 1;

    return NGX_AGAIN;
}


static void
ngx_commerce_native_password_cancel(void *data)
{
    ngx_commerce_password_wait_t *wait = data;

    ngx_commerce_password_detach(wait->op);
}


/* A bcrypt hash needs no escaping in JSON. */

static ngx_int_t
ngx_commerce_native_password_reply(ngx_commerce_request_t *c,
    const char *name, ngx_str_t *hash)
{
    u_char     *p;
    ngx_str_t   body;

    if (hash->len == 0) {
        ngx_str_set(&body, "{}");
        ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);
        return NGX_OK;
    }

    body.data = ngx_pnalloc(c->request->pool,
                            sizeof("{\"\":\"\"}") + ngx_strlen(name)
                            + hash->len);
    if (body.data == NULL) {
        return ngx_commerce_problem(c, NGX_HTTP_INTERNAL_SERVER_ERROR,
                                    "internal", "Out of memory.");
    }

    p = ngx_sprintf(body.data, "{\"%s\":\"%V\"}", name, hash);
    body.len = p - body.data;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}


/*
 * user_id, session_id, roles; refresh_token and user if there are →
 * {"token","refresh_token","expires_in","user"}.  From here on the request is
 * the user's: later steps see it as $principal and $cart_owner.
 */

static ngx_int_t
ngx_commerce_native_token_issue(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    ngx_str_t              *user, *session, *roles, token;
    ngx_uint_t              expires_in;
    ngx_commerce_claims_t   claims;

    user = ngx_commerce_scope_get(c, "user_id");
    session = ngx_commerce_scope_get(c, "session_id");
    roles = ngx_commerce_scope_get(c, "roles");

    if (user == NULL || roles == NULL) {
        return ngx_commerce_problem(c, NGX_HTTP_INTERNAL_SERVER_ERROR,
                    "internal", "The access token could not be issued.");
    }

    ngx_memzero(&claims, sizeof(ngx_commerce_claims_t));

    claims.subject = *user;
    claims.tenant_id = c->tenant.id;
    claims.roles = *roles;

    if (session != NULL) {
        claims.session = *session;
    }

    if (ngx_commerce_auth_issue(c->request, &claims, &token, &expires_in)
        != NGX_OK)
    {
        return ngx_commerce_problem(c, NGX_HTTP_INTERNAL_SERVER_ERROR,
                    "internal", "The access token could not be issued.");
    }

    c->principal.subject = claims.subject;
    c->principal.tenant_id = claims.tenant_id;
    c->principal.session = claims.session;
    c->principal.roles = claims.roles;
    ngx_str_null(&c->cart_owner);

    return ngx_commerce_native_token_reply(c, &token, expires_in);
}


static ngx_int_t
ngx_commerce_native_token_reply(ngx_commerce_request_t *c, ngx_str_t *token,
    ngx_uint_t expires_in)
{
    u_char     *p;
    ngx_str_t  *refresh, *user, body;

    refresh = ngx_commerce_scope_get(c, "refresh_token");
    user = ngx_commerce_scope_get(c, "user");

    body.data = ngx_pnalloc(c->request->pool,
                            sizeof("{\"token\":\"\",\"refresh_token\":\"\","
                                   "\"expires_in\":,\"user\":}")
                            + token->len + NGX_INT_T_LEN
                            + (refresh ? refresh->len : 0)
                            + (user ? user->len : 0));
    if (body.data == NULL) {
        return NGX_ERROR;
    }

    p = ngx_sprintf(body.data, "{\"token\":\"%V\"", token);

    if (refresh != NULL) {
        p = ngx_sprintf(p, ",\"refresh_token\":\"%V\"", refresh);
    }

    p = ngx_sprintf(p, ",\"expires_in\":%ui", expires_in);

    if (user != NULL) {
        p = ngx_sprintf(p, ",\"user\":%V", user);
    }

    *p++ = '}';
    body.len = p - body.data;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}
