/*
 * Sealing anew: after each round of maintenance the worker asks for fields
 * that are not sealed with the key that encrypts (they are older than the key,
 * or than any key), seals them and writes them back, until none is left.
 */

#include "ngx_commerce_http.h"

#include <openssl/crypto.h>


#define NGX_COMMERCE_RENEWAL_PAUSE    20        /* between two batches: others have their turn */
#define NGX_COMMERCE_RENEWAL_NESTING  8
#define NGX_COMMERCE_RENEWAL_MEMBERS  100000


static void ngx_commerce_renewal_handler(ngx_event_t *ev);
static void ngx_commerce_renewal_found(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static ngx_int_t ngx_commerce_renewal_seal(ngx_pool_t *pool,
    ngx_commerce_json_t *root, ngx_str_t *done);
static ngx_int_t ngx_commerce_renewal_field(ngx_pool_t *pool,
    ngx_str_t *tenant, ngx_str_t *owner, ngx_commerce_json_t *field,
    ngx_str_t *sealed);
static void ngx_commerce_renewal_done(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static void ngx_commerce_renewal_failed(const char *function,
    const PGresult *result);


static ngx_event_t  ngx_commerce_renewal_timer;


ngx_int_t
ngx_commerce_renewal_register(ngx_conf_t *cf, ngx_commerce_main_conf_t *mcf)
{
    ngx_str_t  text;

    if (mcf->maintenance == 0 || !ngx_commerce_field_ready(cf)) {
        return NGX_OK;
    }

    ngx_str_set(&text, "SELECT r.status, r.body FROM api.sealed_stale($1, "
                       "keys => $2) r");
    mcf->sealed_stale = ngx_commerce_pg_statement(cf, &text, 2);

    ngx_str_set(&text, "SELECT r.status, r.body FROM api.sealed_renew($1) r");
    mcf->sealed_renew = ngx_commerce_pg_statement(cf, &text, 1);

    return (mcf->sealed_stale && mcf->sealed_renew) ? NGX_OK : NGX_ERROR;
}


/* A round of maintenance has ended. */

void
ngx_commerce_renewal_start(ngx_commerce_main_conf_t *mcf)
{
    if (mcf->sealed_renew == NULL || ngx_commerce_renewal_timer.timer_set) {
        return;
    }

    ngx_commerce_renewal_timer.handler = ngx_commerce_renewal_handler;
    ngx_commerce_renewal_timer.data = mcf;
    ngx_commerce_renewal_timer.log = ngx_cycle->log;
    ngx_commerce_renewal_timer.cancelable = 1;

    ngx_add_timer(&ngx_commerce_renewal_timer, NGX_COMMERCE_RENEWAL_PAUSE);
}


static void
ngx_commerce_renewal_handler(ngx_event_t *ev)
{
    ngx_str_t                  values[2];
    ngx_commerce_pg_op_t      *op;
    ngx_commerce_main_conf_t  *mcf;

    mcf = ev->data;

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    op = ngx_commerce_pg_alloc();
    if (op == NULL) {
        return;
    }

    ngx_commerce_field_kid(&values[0]);
    ngx_commerce_field_kids(&values[1]);

    op->lane = NGX_COMMERCE_PG_SLOW;
    op->query.stmt = mcf->sealed_stale;
    op->query.values = values;
    op->handler = ngx_commerce_renewal_found;
    op->data = mcf;

    /* busy or away: after the next round */
    (void) ngx_commerce_pg_submit(op);
}


static void
ngx_commerce_renewal_found(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    ngx_str_t                    done;
    ngx_pool_t                  *pool;
    ngx_commerce_json_t         *root;
    ngx_commerce_pg_op_t        *next;
    ngx_commerce_alloc_t         alloc;
    ngx_commerce_json_error_t    error;
    ngx_commerce_json_limits_t   limits;
    ngx_commerce_main_conf_t    *mcf;

    mcf = op->data;

    if (status == NGX_COMMERCE_PG_FAILED) {
        ngx_commerce_renewal_failed("api.sealed_stale", result);
        return;
    }

    if (status != NGX_COMMERCE_PG_OK || PQntuples(result) != 1
        || PQgetisnull(result, 0, 1))
    {
        return;                     /* nothing is left */
    }

    pool = ngx_create_pool(16384, ngx_cycle->log);
    if (pool == NULL) {
        return;
    }

    alloc = ngx_commerce_pool_alloc(pool);

    ngx_memzero(&limits, sizeof(limits));
    limits.max_members = NGX_COMMERCE_RENEWAL_MEMBERS;
    limits.max_depth = NGX_COMMERCE_RENEWAL_NESTING;

    if (ngx_commerce_json_parse(&alloc, (u_char *) PQgetvalue(result, 0, 1),
                                PQgetlength(result, 0, 1), &limits, &root,
                                &error)
        != NGX_COMMERCE_OK
        || ngx_commerce_renewal_seal(pool, root, &done) != NGX_OK)
    {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "commerce: fields could not be sealed anew");
        ngx_destroy_pool(pool);
        return;
    }

    next = ngx_commerce_pg_alloc();

    if (next) {
        next->lane = NGX_COMMERCE_PG_SLOW;
        next->query.stmt = mcf->sealed_renew;
        next->query.values = &done;         /* copied */
        next->handler = ngx_commerce_renewal_done;
        next->data = mcf;

        (void) ngx_commerce_pg_submit(next);
    }

    ngx_destroy_pool(pool);
}


/* The same document with "sealed" in each field that could be sealed; what does not open is left as it is. */

static ngx_int_t
ngx_commerce_renewal_seal(ngx_pool_t *pool, ngx_commerce_json_t *root,
    ngx_str_t *done)
{
    size_t                len;
    u_char               *p;
    ngx_str_t             tenant, owner, sealed;
    ngx_commerce_json_t  *rows, *row, *field, *text;

    text = ngx_commerce_json_get(root, "tenant_id");
    rows = ngx_commerce_json_get(root, "rows");

    if (text == NULL || rows == NULL) {
        return NGX_ERROR;
    }

    tenant = ngx_commerce_from_core(&text->raw);

    for (row = rows->child; row; row = row->next) {
        text = ngx_commerce_json_get(row, "owner");

        if (text == NULL) {
            return NGX_ERROR;
        }

        owner = ngx_commerce_from_core(&text->text);
        field = ngx_commerce_json_get(row, "fields");

        for (field = field ? field->child : NULL; field; field = field->next) {

            if (ngx_commerce_renewal_field(pool, &tenant, &owner, field,
                                           &sealed)
                != NGX_OK)
            {
                continue;
            }

            /* {…} → {…,"sealed":"…"}; a sealed text needs no escapes */

            len = field->raw.len + sizeof(",\"sealed\":\"\"}") + sealed.len;

            p = ngx_pnalloc(pool, len);
            if (p == NULL) {
                return NGX_ERROR;
            }

            len = ngx_sprintf(p, "%*s,\"sealed\":\"%V\"}",
                              field->raw.len - 1, field->raw.data, &sealed)
                  - p;

            field->raw.data = p;
            field->raw.len = len;
        }

        field = ngx_commerce_json_get(row, "fields");

        if (field && ngx_commerce_sealed_write(pool, field) != NGX_OK) {
            return NGX_ERROR;
        }

        if (ngx_commerce_sealed_write(pool, row) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ngx_commerce_sealed_write(pool, rows) != NGX_OK
        || ngx_commerce_sealed_write(pool, root) != NGX_OK)
    {
        return NGX_ERROR;
    }

    *done = ngx_commerce_from_core(&root->raw);

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_renewal_field(ngx_pool_t *pool, ngx_str_t *tenant,
    ngx_str_t *owner, ngx_commerce_json_t *field, ngx_str_t *sealed)
{
    ngx_int_t             rc;
    ngx_str_t             plain, context, name;
    ngx_uint_t            opened;
    ngx_commerce_json_t  *value, *purpose;

    value = ngx_commerce_json_get(field, "value");
    purpose = ngx_commerce_json_get(field, "purpose");

    if (value == NULL || value->type != NGX_COMMERCE_JSON_STRING
        || purpose == NULL)
    {
        return NGX_DECLINED;
    }

    name = ngx_commerce_from_core(&purpose->text);
    plain = ngx_commerce_from_core(&value->text);

    if (ngx_commerce_sealed_place(pool, &name, tenant, owner, &context)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    opened = 0;

    if (plain.len > 3 && ngx_memcmp(plain.data, "v1:", 3) == 0) {
        *sealed = plain;

        /* SQL counts these, and the answer to the batch is logged */

        if (!ngx_commerce_field_known(sealed)) {
            return NGX_DECLINED;
        }

        rc = ngx_commerce_field_decrypt(pool, &context, sealed, &plain);

        if (rc != NGX_OK) {
            return rc;
        }

        opened = 1;
    }

    rc = ngx_commerce_field_encrypt(pool, &context, &plain, sealed);

    if (opened) {
        OPENSSL_cleanse(plain.data, plain.len);
    }

    return rc;
}


static void
ngx_commerce_renewal_done(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    if (status == NGX_COMMERCE_PG_FAILED) {
        ngx_commerce_renewal_failed("api.sealed_renew", result);
        return;
    }

    if (status != NGX_COMMERCE_PG_OK || PQntuples(result) != 1) {
        return;
    }

    if (!PQgetisnull(result, 0, 1)) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "commerce: not all fields could be sealed with the new "
                      "key, %s: commerce_field_key has to name the keys that "
                      "they were sealed with", PQgetvalue(result, 0, 1));
    }

    ngx_commerce_renewal_start(op->data);
}


static void
ngx_commerce_renewal_failed(const char *function, const PGresult *result)
{
    const char  *state;

    state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "commerce: %s() failed: SQLSTATE %s: %s", function,
                  state ? state : "?",
                  PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
}
