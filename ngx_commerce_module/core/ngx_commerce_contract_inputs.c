/*
 * What an operation takes: parameters and body.
 */

#include "ngx_commerce_contract_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>


static ngx_commerce_rc_t ngx_commerce_inputs_list(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *list, const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_inputs_param(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *source, const ngx_commerce_place_t *place);
static bool ngx_commerce_inputs_is_key(const ngx_commerce_operation_t *op,
    const ngx_commerce_param_t *param);
static ngx_commerce_rc_t ngx_commerce_inputs_path(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_inputs_body(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_inputs_media(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *content, const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_inputs_members(
    ngx_commerce_building_t *b, const ngx_commerce_json_t *at,
    const ngx_commerce_place_t *place);


static const char *const  ngx_commerce_inputs_lists[] = {
    "none", "sort", "fields", "expand", NULL
};

static const char *const  ngx_commerce_inputs_in[] = {
    "path", "query", "header", NULL
};


ngx_commerce_rc_t
ngx_commerce_inputs_load(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *item, const ngx_commerce_place_t *place)
{
    uint32_t                    room;
    ngx_commerce_rc_t           rc;
    const ngx_commerce_json_t  *shared, *own;

    shared = ngx_commerce_json_get(item, "parameters");
    own = ngx_commerce_json_get(b->object, "parameters");

    room = (shared ? shared->count : 0) + (own ? own->count : 0);

    b->op->params = ngx_commerce_zalloc(b->loader->alloc,
                                        room * sizeof(ngx_commerce_param_t));
    if (b->op->params == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    /* an operation's parameter replaces the path's of the same name */

    rc = ngx_commerce_inputs_list(b, own, place);

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_inputs_list(b, shared, place->up);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_inputs_path(b, place);
    }

    return rc == NGX_COMMERCE_OK ? ngx_commerce_inputs_body(b, place) : rc;
}


static ngx_commerce_rc_t
ngx_commerce_inputs_list(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *list, const ngx_commerce_place_t *up)
{
    char                        digits[12];
    uint32_t                    i;
    ngx_commerce_rc_t           rc;
    ngx_commerce_place_t        place, parameters;
    const ngx_commerce_json_t  *source;

    if (list == NULL) {
        return NGX_COMMERCE_OK;
    }

    parameters.up = up;
    parameters.name = ngx_commerce_str("parameters");

    if (list->type != NGX_COMMERCE_JSON_ARRAY) {
        return ngx_commerce_loader_fault(b->loader, list, &parameters,
                                         "must be a list");
    }

    for (source = list->child, i = 0; source; source = source->next, i++) {
        snprintf(digits, sizeof(digits), "%u", i);

        place.up = &parameters;
        place.name.data = (uint8_t *) digits;
        place.name.len = strlen(digits);

        rc = ngx_commerce_inputs_param(b, source, &place);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    return NGX_COMMERCE_OK;
}


/* The name in lower case for headers: that is how nginx keeps them. */

static ngx_commerce_rc_t
ngx_commerce_inputs_wire(ngx_commerce_building_t *b,
    ngx_commerce_param_t *param, ngx_commerce_str_t name)
{
    size_t  i;

    param->wire = name;

    if (param->in != NGX_COMMERCE_IN_HEADER) {
        return NGX_COMMERCE_OK;
    }

    param->wire.data = b->loader->alloc->alloc(b->loader->alloc->ctx,
                                               name.len + 1);
    if (param->wire.data == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    for (i = 0; i < name.len; i++) {
        param->wire.data[i] = (name.data[i] >= 'A' && name.data[i] <= 'Z')
                              ? name.data[i] | 0x20 : name.data[i];
    }

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_inputs_param(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *source, const ngx_commerce_place_t *place)
{
    uint32_t                    i, in, list;
    ngx_commerce_rc_t           rc;
    ngx_commerce_str_t          name;
    ngx_commerce_param_t       *param;
    ngx_commerce_loader_t      *l;
    ngx_commerce_operation_t   *op;
    const ngx_commerce_json_t  *object, *schema;
    static const char *const    known[] = {
        "name", "in", "required", "schema", "description", "deprecated",
        "example", "examples", "style", "explode", "allowEmptyValue", NULL
    };

    l = b->loader;
    op = b->op;
    in = NGX_COMMERCE_METHODS;

    object = ngx_commerce_loader_deref(l, source, place);
    if (object == NULL) {
        return NGX_COMMERCE_INVALID;
    }

    param = &op->params[op->params_count];

    rc = ngx_commerce_loader_keys(l, object, place, true, known);

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_word(l, object, "in", place,
                                      ngx_commerce_inputs_in, &in);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_text(l, object, "name", place, &name);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_text(l, object, "x-name", place, &param->name);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_bool(l, object, "required", place,
                                      &param->required);
    }

    list = NGX_COMMERCE_LIST_NONE;

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_word(l, object, "x-list", place,
                                      ngx_commerce_inputs_lists, &list);
    }

    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    schema = ngx_commerce_json_get(object, "schema");

    if (in == NGX_COMMERCE_METHODS || name.len == 0 || schema == NULL) {
        return ngx_commerce_loader_fault(l, object, place,
                   "a parameter needs name, in (path, query, header) and "
                   "schema");
    }

    param->in = (ngx_commerce_in_t) in;
    param->list = (ngx_commerce_list_t) list;

    rc = ngx_commerce_inputs_wire(b, param, name);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    if (ngx_commerce_inputs_is_key(op, param)) {

        if (param->required
            != (op->idempotency == NGX_COMMERCE_IDEMPOTENCY_REQUIRED))
        {
            return ngx_commerce_loader_fault(l, object, place,
                       "says otherwise than x-commerce whether an "
                       "Idempotency-Key is required");
        }

        memset(param, 0, sizeof(ngx_commerce_param_t));
        return NGX_COMMERCE_OK;
    }

    if (param->name.len == 0) {
        param->name = name;
    }

    for (i = 0; i < op->params_count; i++) {
        if (op->params[i].in == param->in
            && op->params[i].wire.len == param->wire.len
            && memcmp(op->params[i].wire.data, param->wire.data,
                      param->wire.len) == 0)
        {
            memset(param, 0, sizeof(ngx_commerce_param_t));
            return NGX_COMMERCE_OK;
        }
    }

    if (!ngx_commerce_is_identifier(param->name)) {
        return ngx_commerce_loader_fault(l, object, place,
                   "\"%.*s\" cannot be the name of a SQL parameter; give it "
                   "one of a-z, 0-9 and _ by x-name",
                   (int) param->name.len, (char *) param->name.data);
    }

    if (param->in == NGX_COMMERCE_IN_PATH && !param->required) {
        return ngx_commerce_loader_fault(l, object, place,
                   "a path parameter must say required: true");
    }

    i = op->slots_count;
    param->slot = ngx_commerce_building_slot(b, param->name);

    if (param->slot < 0) {
        return NGX_COMMERCE_NOMEM;
    }

    if (op->slots_count == i) {
        return ngx_commerce_loader_fault(l, object, place,
                   "\"%.*s\" is another parameter's name already; give it "
                   "another one by x-name",
                   (int) param->name.len, (char *) param->name.data);
    }

    rc = ngx_commerce_loader_schema(l, schema,
                                    ngx_commerce_place(place, "schema"),
                                    &param->schema);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    if (!(ngx_commerce_schema_types(param->schema) & ~NGX_COMMERCE_T_OBJECT)) {
        return ngx_commerce_loader_fault(l, schema, place,
                                         "a parameter cannot be an object");
    }

    if (param->list != NGX_COMMERCE_LIST_NONE
        && (param->in != NGX_COMMERCE_IN_QUERY
            || ngx_commerce_schema_types(param->schema)
               != NGX_COMMERCE_T_ARRAY))
    {
        return ngx_commerce_loader_fault(l, object, place,
                   "x-list is for a query parameter of type array");
    }

    if (param->list == NGX_COMMERCE_LIST_FIELDS) {
        op->fields = param->slot;
    }

    op->params_count++;

    return NGX_COMMERCE_OK;
}


/*
 * Declared for clients only: x-commerce says whether a key is taken, the edge
 * reads it, and no step gets it unless it has a name for it.
 */

static bool
ngx_commerce_inputs_is_key(const ngx_commerce_operation_t *op,
    const ngx_commerce_param_t *param)
{
    return op->idempotency != NGX_COMMERCE_IDEMPOTENCY_NONE
           && param->in == NGX_COMMERCE_IN_HEADER
           && param->name.len == 0
           && ngx_commerce_str_is(param->wire, "idempotency-key");
}


/* Path parameters are first and in the order of the template: the match's order. */

static ngx_commerce_rc_t
ngx_commerce_inputs_path(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place)
{
    int32_t                    i, n;
    uint32_t                   k;
    const char                *why;
    ngx_commerce_str_t         names[NGX_COMMERCE_PATH_PARAMS_MAX];
    ngx_commerce_param_t       swap;
    ngx_commerce_operation_t  *op;

    op = b->op;
    n = ngx_commerce_route_params(op->path, names, &why);

    for (i = 0; i < n; i++) {
        for (k = (uint32_t) i; k < op->params_count; k++) {
            if (op->params[k].in == NGX_COMMERCE_IN_PATH
                && op->params[k].wire.len == names[i].len
                && memcmp(op->params[k].wire.data, names[i].data,
                          names[i].len) == 0)
            {
                break;
            }
        }

        if (k == op->params_count) {
            return ngx_commerce_loader_fault(b->loader, b->object, place,
                       "the path parameter {%.*s} is not declared under "
                       "parameters", (int) names[i].len,
                       (char *) names[i].data);
        }

        swap = op->params[i];
        op->params[i] = op->params[k];
        op->params[k] = swap;
    }

    for (k = (uint32_t) n; k < op->params_count; k++) {
        if (op->params[k].in == NGX_COMMERCE_IN_PATH) {
            return ngx_commerce_loader_fault(b->loader, b->object, place,
                       "there is no {%.*s} in the path",
                       (int) op->params[k].wire.len,
                       (char *) op->params[k].wire.data);
        }
    }

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_inputs_body(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *up)
{
    ngx_commerce_rc_t           rc;
    ngx_commerce_str_t          name;
    ngx_commerce_place_t        place;
    ngx_commerce_loader_t      *l;
    ngx_commerce_operation_t   *op;
    const ngx_commerce_json_t  *body, *content;
    static const char *const    known[] = {
        "description", "required", "content", NULL
    };

    l = b->loader;
    op = b->op;
    op->body_slot = -1;

    place.up = up;
    place.name = ngx_commerce_str("requestBody");

    rc = ngx_commerce_loader_text(l, b->commerce, "body",
                                  ngx_commerce_place(up, "x-commerce"), &name);

    body = ngx_commerce_json_get(b->object, "requestBody");

    if (rc != NGX_COMMERCE_OK || body == NULL) {
        return rc;
    }

    body = ngx_commerce_loader_deref(l, body, &place);
    if (body == NULL) {
        return NGX_COMMERCE_INVALID;
    }

    if (op->method == NGX_COMMERCE_GET) {
        return ngx_commerce_loader_fault(l, body, &place, "GET has no body");
    }

    rc = ngx_commerce_loader_keys(l, body, &place, true, known);

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_bool(l, body, "required", &place,
                                      &op->body_required);
    }

    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    content = ngx_commerce_json_get(body, "content");

    if (content == NULL || content->type != NGX_COMMERCE_JSON_OBJECT
        || content->count == 0)
    {
        return ngx_commerce_loader_fault(l, body, &place,
                   "needs content with at least one media type");
    }

    rc = ngx_commerce_inputs_media(b, content,
                                   ngx_commerce_place(&place, "content"));
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    if (name.len == 0 || ngx_commerce_str_is(name, "spread")) {
        if (op->body_raw) {
            return ngx_commerce_loader_fault(l, body, &place,
                       "a body that is no JSON needs x-commerce.body: NAME");
        }

        return ngx_commerce_inputs_members(b, body, &place);
    }

    if (!ngx_commerce_is_identifier(name)) {
        return ngx_commerce_loader_fault(l, b->commerce,
                   ngx_commerce_place(up, "x-commerce.body"),
                   "must be spread or a name of a-z, 0-9 and _");
    }

    op->body_name = name;
    op->body_slot = ngx_commerce_building_slot_new(b, name);

    if (op->body_slot == -1) {
        return NGX_COMMERCE_NOMEM;
    }

    if (op->body_slot == -2) {
        return ngx_commerce_loader_fault(l, b->commerce,
                   ngx_commerce_place(up, "x-commerce.body"),
                   "\"%.*s\" is a parameter's name already", (int) name.len,
                   (char *) name.data);
    }

    return NGX_COMMERCE_OK;
}


static bool
ngx_commerce_inputs_is_json(ngx_commerce_str_t type)
{
    return ngx_commerce_str_is(type, "application/json")
           || (type.len > 5
               && memcmp(type.data + type.len - 5, "+json", 5) == 0);
}


static ngx_commerce_rc_t
ngx_commerce_inputs_media(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *content, const ngx_commerce_place_t *place)
{
    size_t                      i;
    bool                        raw;
    ngx_commerce_place_t        inner;
    ngx_commerce_operation_t   *op;
    const ngx_commerce_json_t  *type, *schema, *first;

    op = b->op;
    first = NULL;

    op->media = ngx_commerce_zalloc(b->loader->alloc,
                               content->count * sizeof(ngx_commerce_str_t));
    if (op->media == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    for (type = content->child; type != NULL; type = type->next) {
        inner.up = place;
        inner.name = type->key;

        for (i = 0; i < type->key.len; i++) {
            if (type->key.data[i] == ';'
                || (type->key.data[i] >= 'A' && type->key.data[i] <= 'Z'))
            {
                return ngx_commerce_loader_fault(b->loader, type, &inner,
                           "a media type is written in lower case and without "
                           "parameters");
            }
        }

        raw = !ngx_commerce_inputs_is_json(type->key);

        if (op->media_count != 0 && raw != op->body_raw) {
            return ngx_commerce_loader_fault(b->loader, type, &inner,
                       "JSON and other media types cannot be mixed in one "
                       "operation");
        }

        op->body_raw = raw;
        op->media[op->media_count++] = type->key;

        if (raw) {
            continue;
        }

        schema = ngx_commerce_json_get(type, "schema");

        if (schema == NULL) {
            return ngx_commerce_loader_fault(b->loader, type, &inner,
                                             "needs a schema");
        }

        if (first == NULL) {
            ngx_commerce_rc_t  rc;

            first = schema;
            rc = ngx_commerce_loader_schema(b->loader, schema,
                                       ngx_commerce_place(&inner, "schema"),
                                       &op->body);
            if (rc != NGX_COMMERCE_OK) {
                return rc;
            }

        } else if (schema->raw.len != first->raw.len
                   || memcmp(schema->raw.data, first->raw.data,
                             first->raw.len) != 0)
        {
            return ngx_commerce_loader_fault(b->loader, type, &inner,
                       "all media types of an operation share one schema");
        }
    }

    return NGX_COMMERCE_OK;
}


static int
ngx_commerce_inputs_order(const void *one, const void *two)
{
    int                        rc;
    size_t                     len;
    const ngx_commerce_str_t  *a = one, *b = two;

    len = a->len < b->len ? a->len : b->len;
    rc = memcmp(a->data, b->data, len);

    return rc ? rc : (a->len > b->len) - (a->len < b->len);
}


/* The members of a body that is spread, sorted by name, each with its slot. */

static ngx_commerce_rc_t
ngx_commerce_inputs_members(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *at, const ngx_commerce_place_t *place)
{
    uint32_t                   i, count;
    ngx_commerce_arg_t        *member;
    ngx_commerce_str_t        *names;
    ngx_commerce_operation_t  *op;

    op = b->op;

    if (ngx_commerce_schema_types(op->body) != NGX_COMMERCE_T_OBJECT) {
        return ngx_commerce_loader_fault(b->loader, at, place,
                   "a body that is spread must have type: object; for another "
                   "one write x-commerce.body: NAME");
    }

    count = ngx_commerce_schema_names(op->body, NULL, 0);

    names = ngx_commerce_zalloc(b->loader->alloc,
                                count * sizeof(ngx_commerce_str_t));
    op->members = ngx_commerce_zalloc(b->loader->alloc,
                                      count * sizeof(ngx_commerce_arg_t));

    if (names == NULL || op->members == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    ngx_commerce_schema_names(op->body, names, count);

    if (count > 1) {
        qsort(names, count, sizeof(ngx_commerce_str_t),
              ngx_commerce_inputs_order);
    }

    for (i = 0; i < count; i++) {
        if (i > 0 && ngx_commerce_inputs_order(&names[i - 1], &names[i]) == 0) {
            continue;
        }

        if (!ngx_commerce_is_identifier(names[i])) {
            return ngx_commerce_loader_fault(b->loader, at, place,
                       "the member \"%.*s\" cannot be a SQL parameter; take "
                       "the body as a whole by x-commerce.body: NAME",
                       (int) names[i].len, (char *) names[i].data);
        }

        member = &op->members[op->members_count++];
        member->parameter = names[i];
        member->name = names[i];
        member->slot = ngx_commerce_building_slot_new(b, names[i]);

        if (member->slot == -1) {
            return NGX_COMMERCE_NOMEM;
        }

        if (member->slot == -2) {
            return ngx_commerce_loader_fault(b->loader, at, place,
                       "\"%.*s\" is both a parameter and a member of the body; "
                       "rename the parameter by x-name", (int) names[i].len,
                       (char *) names[i].data);
        }
    }

    return NGX_COMMERCE_OK;
}
