/*
 * Which members of an operation's body and reply are sealed: those whose
 * schema says x-encrypt, by their paths.
 */

#include "ngx_commerce_contract_internal.h"

#include <string.h>


#define NGX_COMMERCE_SEALED_DEPTH  16       /* of schemas within each other: ends recursive ones */
#define NGX_COMMERCE_SEALED_MAX    256      /* members of one body or reply */


typedef struct {
    ngx_commerce_building_t     *building;
    const ngx_commerce_place_t  *place;
    ngx_commerce_sealed_t       *found;
    uint32_t                     count;
    ngx_commerce_str_t           path[NGX_COMMERCE_SEALED_DEPTH];
    uint32_t                     depth;
} ngx_commerce_sealed_walk_t;


static ngx_commerce_rc_t ngx_commerce_sealed_content(
    ngx_commerce_sealed_walk_t *w, const ngx_commerce_json_t *holder,
    ngx_commerce_sealed_t **list, uint32_t *count);
static ngx_commerce_rc_t ngx_commerce_sealed_walk(
    ngx_commerce_sealed_walk_t *w, const ngx_commerce_json_t *schema,
    uint32_t nesting);
static ngx_commerce_rc_t ngx_commerce_sealed_below(
    ngx_commerce_sealed_walk_t *w, const ngx_commerce_json_t *schema,
    ngx_commerce_str_t name, uint32_t nesting);
static ngx_commerce_rc_t ngx_commerce_sealed_add(
    ngx_commerce_sealed_walk_t *w, const ngx_commerce_json_t *purpose);


ngx_commerce_rc_t
ngx_commerce_sealed_load(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place)
{
    ngx_commerce_rc_t            rc;
    const ngx_commerce_json_t   *holder, *responses;
    ngx_commerce_sealed_walk_t   w;

    memset(&w, 0, sizeof(w));

    w.building = b;
    w.place = ngx_commerce_place(place, "requestBody");

    holder = ngx_commerce_json_get(b->object, "requestBody");

    if (holder != NULL) {
        rc = ngx_commerce_sealed_content(&w, holder, &b->op->sealed,
                                         &b->op->sealed_count);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    w.place = ngx_commerce_place(place, "responses");
    w.found = NULL;
    w.count = 0;

    responses = ngx_commerce_json_get(b->object, "responses");

    for (holder = responses ? responses->child : NULL; holder != NULL;
         holder = holder->next)
    {
        if (holder->key.len == 0 || holder->key.data[0] != '2') {
            continue;
        }

        rc = ngx_commerce_sealed_content(&w, holder, &b->op->revealed,
                                         &b->op->revealed_count);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    if (b->op->revealed_count != 0 && b->op->cache.ttl != 0) {
        return ngx_commerce_loader_fault(b->loader, b->commerce, place,
                   "a reply with members that x-encrypt seals is somebody's "
                   "own: it cannot be cached");
    }

    return NGX_COMMERCE_OK;
}


/* A request's body or one of the responses. */

static ngx_commerce_rc_t
ngx_commerce_sealed_content(ngx_commerce_sealed_walk_t *w,
    const ngx_commerce_json_t *holder, ngx_commerce_sealed_t **list,
    uint32_t *count)
{
    ngx_commerce_rc_t           rc;
    const ngx_commerce_json_t  *media;

    holder = ngx_commerce_loader_deref(w->building->loader, holder, w->place);
    if (holder == NULL) {
        return NGX_COMMERCE_INVALID;
    }

    media = ngx_commerce_json_get(holder, "content");

    for (media = media ? media->child : NULL; media != NULL;
         media = media->next)
    {
        rc = ngx_commerce_sealed_walk(w, ngx_commerce_json_get(media, "schema"),
                                      0);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    *list = w->found;
    *count = w->count;

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_sealed_walk(ngx_commerce_sealed_walk_t *w,
    const ngx_commerce_json_t *schema, uint32_t nesting)
{
    size_t                      i;
    ngx_commerce_rc_t           rc;
    const ngx_commerce_json_t  *part, *member;
    static const char *const    same[] = { "allOf", "anyOf", "oneOf" };

    if (schema == NULL || schema->type != NGX_COMMERCE_JSON_OBJECT
        || nesting == NGX_COMMERCE_SEALED_DEPTH)
    {
        return NGX_COMMERCE_OK;
    }

    part = ngx_commerce_json_get(schema, "x-encrypt");

    if (part != NULL) {
        rc = ngx_commerce_sealed_add(w, part);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    if (ngx_commerce_json_get(schema, "$ref") != NULL) {
        part = ngx_commerce_loader_deref(w->building->loader, schema,
                                         w->place);
        if (part == NULL) {
            return NGX_COMMERCE_INVALID;
        }

        rc = ngx_commerce_sealed_walk(w, part, nesting + 1);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    for (i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        part = ngx_commerce_json_get(schema, same[i]);

        for (member = part ? part->child : NULL; member != NULL;
             member = member->next)
        {
            rc = ngx_commerce_sealed_walk(w, member, nesting + 1);
            if (rc != NGX_COMMERCE_OK) {
                return rc;
            }
        }
    }

    part = ngx_commerce_json_get(schema, "properties");

    for (member = part ? part->child : NULL; member != NULL;
         member = member->next)
    {
        rc = ngx_commerce_sealed_below(w, member, member->key, nesting);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    part = ngx_commerce_json_get(schema, "items");

    return part == NULL ? NGX_COMMERCE_OK
           : ngx_commerce_sealed_below(w, part, ngx_commerce_str(""), nesting);
}


static ngx_commerce_rc_t
ngx_commerce_sealed_below(ngx_commerce_sealed_walk_t *w,
    const ngx_commerce_json_t *schema, ngx_commerce_str_t name,
    uint32_t nesting)
{
    ngx_commerce_rc_t  rc;

    if (w->depth == NGX_COMMERCE_SEALED_DEPTH) {
        return NGX_COMMERCE_OK;
    }

    w->path[w->depth++] = name;
    rc = ngx_commerce_sealed_walk(w, schema, nesting + 1);
    w->depth--;

    return rc;
}


/* The path that the walk is at, unless it was found before (two responses, two alternatives). */

static ngx_commerce_rc_t
ngx_commerce_sealed_add(ngx_commerce_sealed_walk_t *w,
    const ngx_commerce_json_t *purpose)
{
    uint32_t                     i, k;
    ngx_commerce_sealed_t       *s;
    const ngx_commerce_alloc_t  *alloc;

    alloc = w->building->loader->alloc;

    if (purpose->type != NGX_COMMERCE_JSON_STRING
        || !ngx_commerce_is_identifier(purpose->text))
    {
        return ngx_commerce_loader_fault(w->building->loader, purpose,
                   w->place, "x-encrypt must be a name of a-z, 0-9 and _: "
                   "what is sealed for one purpose does not open for another");
    }

    if (w->depth == 0) {
        return ngx_commerce_loader_fault(w->building->loader, purpose,
                   w->place, "x-encrypt is for members, not for the whole");
    }

    for (i = 0; i < w->count; i++) {
        s = &w->found[i];

        for (k = 0; s->depth == w->depth && k < s->depth; k++) {
            if (s->path[k].len != w->path[k].len
                || memcmp(s->path[k].data, w->path[k].data, s->path[k].len)
                   != 0)
            {
                break;
            }
        }

        if (s->depth == w->depth && k == s->depth) {
            return NGX_COMMERCE_OK;
        }
    }

    if (w->count == NGX_COMMERCE_SEALED_MAX) {
        return ngx_commerce_loader_fault(w->building->loader, purpose,
                   w->place, "more than %d members that x-encrypt seals",
                   NGX_COMMERCE_SEALED_MAX);
    }

    if (w->found == NULL) {
        w->found = ngx_commerce_zalloc(alloc, NGX_COMMERCE_SEALED_MAX
                                              * sizeof(ngx_commerce_sealed_t));
        if (w->found == NULL) {
            return NGX_COMMERCE_NOMEM;
        }
    }

    s = &w->found[w->count];

    s->path = ngx_commerce_zalloc(alloc,
                                  w->depth * sizeof(ngx_commerce_str_t));
    if (s->path == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    memcpy(s->path, w->path, w->depth * sizeof(ngx_commerce_str_t));
    s->depth = w->depth;
    s->purpose = purpose->text;
    w->count++;

    return NGX_COMMERCE_OK;
}
