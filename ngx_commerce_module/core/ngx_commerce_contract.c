/*
 * Loads bundles: paths, their operations, and the routes to them.
 */

#include "ngx_commerce_contract_internal.h"

#include <stdio.h>
#include <string.h>


#define NGX_COMMERCE_CONTRACT_DEPTH    128
#define NGX_COMMERCE_CONTRACT_MEMBERS  4000000


static ngx_commerce_rc_t ngx_commerce_contract_path(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *item, const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_contract_method(
    ngx_commerce_loader_t *l, const ngx_commerce_json_t *item,
    const ngx_commerce_json_t *object, ngx_commerce_method_t method, const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_contract_aliases(
    ngx_commerce_loader_t *l, ngx_commerce_operation_t *op,
    const ngx_commerce_json_t *object, const ngx_commerce_place_t *place);


static const char *const  ngx_commerce_contract_methods[] = {
    "get", "post", "put", "patch", "delete", NULL
};


ngx_commerce_contract_t *
ngx_commerce_contract_create(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_native_known_pt known)
{
    ngx_commerce_contract_t  *contract;

    contract = ngx_commerce_zalloc(alloc, sizeof(ngx_commerce_contract_t));
    if (contract == NULL) {
        return NULL;
    }

    contract->alloc = *alloc;
    contract->known = known;
    contract->routes = ngx_commerce_route_root(alloc);

    return contract->routes ? contract : NULL;
}


uint32_t
ngx_commerce_contract_count(const ngx_commerce_contract_t *contract)
{
    return contract->count;
}


ngx_commerce_operation_t *
ngx_commerce_contract_operation(const ngx_commerce_contract_t *contract,
    uint32_t index)
{
    return index < contract->count ? contract->operations[index] : NULL;
}


ngx_commerce_rc_t
ngx_commerce_contract_add(ngx_commerce_contract_t *contract, const char *file,
    const uint8_t *text, size_t len, ngx_commerce_fault_t *fault)
{
    ngx_commerce_rc_t           rc;
    ngx_commerce_json_t        *root, *paths, *item;
    ngx_commerce_place_t        place;
    ngx_commerce_loader_t       l;
    ngx_commerce_json_error_t   error;
    ngx_commerce_json_limits_t  limits;

    limits.max_depth = NGX_COMMERCE_CONTRACT_DEPTH;
    limits.max_members = NGX_COMMERCE_CONTRACT_MEMBERS;
    limits.nfc = false;

    rc = ngx_commerce_json_parse(&contract->alloc, text, len, &limits, &root,
                                 &error);
    if (rc == NGX_COMMERCE_INVALID) {
        ngx_commerce_fault(fault, NULL, NULL, NULL,
                           "not JSON (%s): %s Is it the output of "
                           "scripts/contract bundle?",
                           error.code, error.message);
        ngx_commerce_fault_position(fault, text, text + error.offset);
        memcpy(fault->place, error.pointer, sizeof(fault->place));
    }

    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    l.contract = contract;
    l.alloc = &contract->alloc;
    l.file = file;
    l.root = root;
    l.fault = fault;

    paths = ngx_commerce_json_get(root, "paths");

    if (paths == NULL || paths->type != NGX_COMMERCE_JSON_OBJECT) {
        return ngx_commerce_loader_fault(&l, root, NULL,
                   "there is no object \"paths\": this is no OpenAPI document");
    }

    for (item = paths->child; item != NULL; item = item->next) {
        if (item->key.len >= 2 && memcmp(item->key.data, "x-", 2) == 0) {
            continue;
        }

        place.up = ngx_commerce_place(NULL, "paths");
        place.name = item->key;

        rc = ngx_commerce_contract_path(&l, item, &place);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_contract_path(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *item, const ngx_commerce_place_t *place)
{
    uint32_t                    i;
    const char                 *why;
    ngx_commerce_rc_t           rc;
    ngx_commerce_str_t          names[NGX_COMMERCE_PATH_PARAMS_MAX];
    ngx_commerce_place_t        inner;
    const ngx_commerce_json_t  *object;
    static const char *const    known[] = {
        "get", "post", "put", "patch", "delete", "parameters", "summary",
        "description", "servers", NULL
    };

    if (item->type != NGX_COMMERCE_JSON_OBJECT) {
        return ngx_commerce_loader_fault(l, item, place,
                                         "a path item must be an object");
    }

    if (ngx_commerce_route_params(item->key, names, &why) < 0) {
        return ngx_commerce_loader_fault(l, item, place, "%s", why);
    }

    for (object = item->child; object != NULL; object = object->next) {
        if (ngx_commerce_str_is(object->key, "head")
            || ngx_commerce_str_is(object->key, "options")
            || ngx_commerce_str_is(object->key, "trace"))
        {
            return ngx_commerce_loader_fault(l, object, place,
                       "%.*s is not declared: HEAD is served by get, OPTIONS "
                       "by the route", (int) object->key.len,
                       (char *) object->key.data);
        }
    }

    rc = ngx_commerce_loader_keys(l, item, place, true, known);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    for (i = 0; i < NGX_COMMERCE_METHODS; i++) {
        object = ngx_commerce_json_get(item, ngx_commerce_contract_methods[i]);
        if (object == NULL) {
            continue;
        }

        inner.up = place;
        inner.name = object->key;

        rc = ngx_commerce_contract_method(l, item, object,
                                          (ngx_commerce_method_t) i, &inner);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_contract_keep(ngx_commerce_contract_t *contract,
    ngx_commerce_operation_t *op)
{
    uint32_t                    room;
    ngx_commerce_operation_t  **operations;

    if (contract->count == contract->room) {
        room = contract->room ? contract->room * 2 : 64;

        operations = ngx_commerce_zalloc(&contract->alloc,
                                  room * sizeof(ngx_commerce_operation_t *));
        if (operations == NULL) {
            return NGX_COMMERCE_NOMEM;
        }

        if (contract->count != 0) {
            memcpy(operations, contract->operations, contract->count
                                          * sizeof(ngx_commerce_operation_t *));
        }

        contract->operations = operations;
        contract->room = room;
    }

    op->index = contract->count;
    contract->operations[contract->count++] = op;

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_contract_method(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *item, const ngx_commerce_json_t *object,
    ngx_commerce_method_t method, const ngx_commerce_place_t *place)
{
    uint32_t                   i;
    ngx_commerce_rc_t          rc;
    ngx_commerce_operation_t  *op, *other;

    op = ngx_commerce_zalloc(l->alloc, sizeof(ngx_commerce_operation_t));
    if (op == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    op->method = method;
    op->path = item->key;
    op->file = l->file;

    rc = ngx_commerce_operation_load(l, op, item, object, place);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    for (i = 0; i < l->contract->count; i++) {
        other = l->contract->operations[i];

        if (other->id.len == op->id.len
            && memcmp(other->id.data, op->id.data, op->id.len) == 0)
        {
            return ngx_commerce_loader_fault(l, object, place,
                       "operationId %.*s is taken by %.*s of %s",
                       (int) op->id.len, (char *) op->id.data,
                       (int) other->path.len, (char *) other->path.data,
                       other->file);
        }
    }

    rc = ngx_commerce_contract_keep(l->contract, op);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    rc = ngx_commerce_route_add(l, op, object, op->path,
                                NGX_COMMERCE_ROUTE_DECLARED, place);

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_contract_aliases(l, op, item, place);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_contract_aliases(l, op, object, place);
    }

    return rc;
}


/* /api/v1/a is served as /api/a too, unless that is something else. */

static ngx_commerce_rc_t
ngx_commerce_contract_derived(ngx_commerce_loader_t *l,
    ngx_commerce_operation_t *op, ngx_commerce_str_t path,
    const ngx_commerce_place_t *place)
{
    ngx_commerce_str_t  shorter;

    if (path.len <= 8 || memcmp(path.data, "/api/v1/", 8) != 0) {
        return NGX_COMMERCE_OK;
    }

    shorter.len = path.len - 3;
    shorter.data = l->alloc->alloc(l->alloc->ctx, shorter.len);
    if (shorter.data == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    memcpy(shorter.data, "/api", 4);
    memcpy(shorter.data + 4, path.data + 7, path.len - 7);

    return ngx_commerce_route_add(l, op, NULL, shorter,
                                  NGX_COMMERCE_ROUTE_DERIVED, place);
}


static ngx_commerce_rc_t
ngx_commerce_contract_aliases(ngx_commerce_loader_t *l,
    ngx_commerce_operation_t *op, const ngx_commerce_json_t *object,
    const ngx_commerce_place_t *up)
{
    ngx_commerce_rc_t           rc;
    ngx_commerce_place_t        place;
    const ngx_commerce_json_t  *aliases, *item;

    place.up = up;
    place.name = ngx_commerce_str("x-aliases");

    rc = ngx_commerce_contract_derived(l, op, op->path, up);

    aliases = ngx_commerce_json_get(object, "x-aliases");

    if (rc != NGX_COMMERCE_OK || aliases == NULL) {
        return rc;
    }

    if (aliases->type != NGX_COMMERCE_JSON_ARRAY) {
        return ngx_commerce_loader_fault(l, aliases, &place,
                                         "must be a list of paths");
    }

    for (item = aliases->child; item != NULL; item = item->next) {
        if (item->type != NGX_COMMERCE_JSON_STRING) {
            return ngx_commerce_loader_fault(l, item, &place,
                                             "must be a list of paths");
        }

        rc = ngx_commerce_route_add(l, op, item, item->text,
                                    NGX_COMMERCE_ROUTE_ALIAS, &place);

        if (rc == NGX_COMMERCE_OK) {
            rc = ngx_commerce_contract_derived(l, op, item->text, &place);
        }

        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    return NGX_COMMERCE_OK;
}
