/*
 * The compiler of schemas.
 *
 * A schema is compiled at most twice per call: as the schema of a value
 * ("closed": members that nobody names are refused) and in place, below
 * $ref, allOf, anyOf, oneOf or not beside other keywords, where the schema
 * around it closes the object over the names of all its parts.
 */

#include "ngx_commerce_schema_compile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>


static ngx_commerce_rc_t ngx_commerce_schema_known(ngx_commerce_compiler_t *cc,
    ngx_commerce_schema_t *schema);


ngx_commerce_rc_t
ngx_commerce_schema_one(ngx_commerce_compiler_t *cc,
    const ngx_commerce_json_t *source, bool in_place,
    const ngx_commerce_place_t *place, const ngx_commerce_chain_t *chain,
    ngx_commerce_schema_t **compiled)
{
    ngx_commerce_rc_t            rc;
    ngx_commerce_chain_t         link;
    ngx_commerce_schema_t       *schema;
    ngx_commerce_compiling_t     c;
    const ngx_commerce_json_t   *member, *target;
    const ngx_commerce_chain_t  *up;

    for (up = chain; up != NULL; up = up->up) {
        if (up->source == source) {
            return ngx_commerce_fault(cc->fault, cc->root, source, place,
                       "the schema refers to itself for the same value");
        }
    }

    link.up = chain;
    link.source = source;

    if (source->type == NGX_COMMERCE_JSON_OBJECT
        && ngx_commerce_schema_alias(source))
    {
        member = ngx_commerce_json_get(source, "$ref");
        target = member->type == NGX_COMMERCE_JSON_STRING
                 ? ngx_commerce_json_resolve(cc->root, member->text) : NULL;

        if (target != NULL) {
            ngx_commerce_place_t  there = { NULL, member->text };

            there.name.data += there.name.len > 1 ? 2 : 1;
            there.name.len -= there.name.len > 1 ? 2 : 1;

            return ngx_commerce_schema_one(cc, target, in_place, &there, &link,
                                           compiled);
        }
    }

    for (schema = cc->done; schema != NULL; schema = schema->next) {
        if (schema->source == source && schema->in_place == in_place) {
            *compiled = schema;
            return NGX_COMMERCE_OK;
        }
    }

    schema = ngx_commerce_zalloc(cc->alloc, sizeof(ngx_commerce_schema_t));
    if (schema == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    schema->types = NGX_COMMERCE_T_ANY;
    schema->max_length = NGX_COMMERCE_UNLIMITED;
    schema->max_members = NGX_COMMERCE_UNLIMITED;
    schema->max_items = NGX_COMMERCE_UNLIMITED;
    schema->source = source;
    schema->in_place = in_place;
    schema->next = cc->done;
    cc->done = schema;

    *compiled = schema;

    if (source->type == NGX_COMMERCE_JSON_TRUE) {
        return NGX_COMMERCE_OK;
    }

    if (source->type == NGX_COMMERCE_JSON_FALSE) {
        schema->never = true;
        return NGX_COMMERCE_OK;
    }

    if (source->type != NGX_COMMERCE_JSON_OBJECT) {
        return ngx_commerce_fault(cc->fault, cc->root, source, place,
                                  "a schema must be an object");
    }

    c.compiler = cc;
    c.schema = schema;
    c.object = source;
    c.place = place;
    c.chain = &link;

    for (member = source->child; member != NULL; member = member->next) {
        rc = ngx_commerce_schema_keyword(&c, member);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    if (schema->int32 && !(schema->types & NGX_COMMERCE_T_INTEGER)) {
        return ngx_commerce_fault(cc->fault, cc->root, source, place,
                                  "the format int32 needs type integer");
    }

    return NGX_COMMERCE_OK;
}


ngx_commerce_rc_t
ngx_commerce_schema_compile(const ngx_commerce_alloc_t *alloc,
    const ngx_commerce_json_t *source, const ngx_commerce_json_t *root,
    const char *where, ngx_commerce_schema_t **compiled,
    ngx_commerce_fault_t *fault)
{
    ngx_commerce_rc_t            rc;
    ngx_commerce_place_t         place;
    ngx_commerce_schema_t       *schema;
    ngx_commerce_compiler_t      cc;
    ngx_commerce_violations_t    violations;

    place.up = NULL;
    place.name.data = (uint8_t *) where;
    place.name.len = strlen(where);

    cc.alloc = alloc;
    cc.root = root;
    cc.fault = fault;
    cc.done = NULL;

    rc = ngx_commerce_schema_one(&cc, source, false, &place, NULL, compiled);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    /* names are known when all parts are: schemas may refer to each other */

    for (schema = cc.done; schema != NULL; schema = schema->next) {
        rc = ngx_commerce_schema_known(&cc, schema);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    ngx_commerce_schema_completing(cc.done);

    for (schema = cc.done; schema != NULL; schema = schema->next) {
        if (schema->fallback == NULL) {
            continue;
        }

        violations.alloc = alloc;
        violations.count = 0;

        rc = ngx_commerce_schema_check(schema, schema->fallback, &violations);

        if (rc == NGX_COMMERCE_INVALID) {
            return ngx_commerce_fault(fault, root, schema->fallback, &place,
                       "the default %.*s is not what the schema allows: "
                       "%.*s", (int) schema->fallback->raw.len,
                       (char *) schema->fallback->raw.data,
                       (int) violations.list[0].message.len,
                       (char *) violations.list[0].message.data);
        }

        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    return NGX_COMMERCE_OK;
}


/* True when a part of the schema that applies to the same value says so. */

static bool
ngx_commerce_schema_any(const ngx_commerce_schema_t *schema, bool *named)
{
    bool                           stated;
    uint32_t                       i, k;
    const ngx_commerce_schemas_t  *lists[3];

    *named |= schema->named || schema->patterns_count != 0
              || (schema->stated
                  && schema->members == NGX_COMMERCE_MEMBERS_CLOSED);
    stated = schema->stated && schema->members != NGX_COMMERCE_MEMBERS_CLOSED;

    if (schema->ref != NULL) {
        stated |= ngx_commerce_schema_any(schema->ref, named);
    }

    lists[0] = &schema->all;
    lists[1] = &schema->any;
    lists[2] = &schema->one;

    for (k = 0; k < 3; k++) {
        for (i = 0; i < lists[k]->count; i++) {
            /* what closes itself closes nothing here */
            if (lists[k]->list[i]->in_place) {
                stated |= ngx_commerce_schema_any(lists[k]->list[i], named);
            }
        }
    }

    return stated;
}


/*
 * Closes an object over the names of all its parts.  One that names no member
 * at all (type: object) is left open, as is one that a part opens by
 * additionalProperties.
 */

static ngx_commerce_rc_t
ngx_commerce_schema_known(ngx_commerce_compiler_t *cc,
    ngx_commerce_schema_t *schema)
{
    bool                 named, stated;
    uint32_t             count;
    ngx_commerce_str_t  *names;

    named = false;
    stated = ngx_commerce_schema_any(schema, &named);

    if (schema->in_place && schema->members == NGX_COMMERCE_MEMBERS_CLOSED) {
        schema->members = NGX_COMMERCE_MEMBERS_OPEN;
    }

    if (!schema->stated && (schema->in_place || stated || !named)) {
        return NGX_COMMERCE_OK;
    }

    if (schema->stated && schema->members == NGX_COMMERCE_MEMBERS_OPEN) {
        return NGX_COMMERCE_OK;
    }

    if (!schema->stated) {
        schema->members = NGX_COMMERCE_MEMBERS_CLOSED;
    }

    count = ngx_commerce_schema_names(schema, NULL, 0);

    names = ngx_commerce_zalloc(cc->alloc, count * sizeof(ngx_commerce_str_t));
    if (names == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    ngx_commerce_schema_names(schema, names, count);

    return ngx_commerce_names_build(&schema->known, cc->alloc, names, count);
}
