/*
 * What a schema adds to a value that it allows: defaults, and one form for
 * texts that have several spellings.
 */

#include "ngx_commerce_schema_internal.h"
#include "ngx_commerce_text.h"

#include <string.h>


typedef struct {
    const ngx_commerce_alloc_t  *alloc;
    bool                         nomem;
} ngx_commerce_completing_t;


static bool ngx_commerce_complete(ngx_commerce_completing_t *c,
    const ngx_commerce_schema_t *s, ngx_commerce_json_t *value);


/* Schemas may lead to themselves: marks spread until none is new. */

static bool
ngx_commerce_completing_list(const ngx_commerce_schemas_t *schemas)
{
    uint32_t  i;

    for (i = 0; i < schemas->count; i++) {
        if (schemas->list[i]->completes) {
            return true;
        }
    }

    return false;
}


static bool
ngx_commerce_completing_one(const ngx_commerce_schema_t *s)
{
    uint32_t  i;

    for (i = 0; i < s->properties.count; i++) {
        if (s->property[i] != NULL
            && (s->property[i]->completes
                || ngx_commerce_schema_default(s->property[i]) != NULL))
        {
            return true;
        }
    }

    for (i = 0; i < s->patterns_count; i++) {
        if (s->patterns[i].schema->completes) {
            return true;
        }
    }

    return s->canon != NGX_COMMERCE_CANON_NONE
           || (s->additional != NULL && s->additional->completes)
           || (s->items != NULL && s->items->completes)
           || (s->ref != NULL && s->ref->completes)
           || ngx_commerce_completing_list(&s->prefix)
           || ngx_commerce_completing_list(&s->all)
           || ngx_commerce_completing_list(&s->any)
           || ngx_commerce_completing_list(&s->one);
}


void
ngx_commerce_schema_completing(ngx_commerce_schema_t *schemas)
{
    bool                    more;
    ngx_commerce_schema_t  *s;

    do {
        more = false;

        for (s = schemas; s != NULL; s = s->next) {
            if (!s->completes && ngx_commerce_completing_one(s)) {
                s->completes = more = true;
            }
        }
    } while (more);
}


static uint8_t *
ngx_commerce_complete_alloc(ngx_commerce_completing_t *c, size_t size)
{
    uint8_t  *p;

    p = c->alloc->alloc(c->alloc->ctx, size ? size : 1);
    c->nomem |= p == NULL;

    return p;
}


/* A string's new text and its raw bytes. */

static bool
ngx_commerce_complete_text(ngx_commerce_completing_t *c,
    ngx_commerce_json_t *value, const uint8_t *text, size_t len)
{
    uint8_t  *p, *raw;
    size_t    size;

    if (len == value->text.len && memcmp(text, value->text.data, len) == 0) {
        return false;
    }

    size = (size_t) (uintptr_t) ngx_commerce_json_quote(NULL, text, len);

    p = ngx_commerce_complete_alloc(c, len);
    raw = ngx_commerce_complete_alloc(c, size);

    if (p == NULL || raw == NULL) {
        return false;
    }

    memcpy(p, text, len);
    ngx_commerce_json_quote(raw, text, len);

    value->text.data = p;
    value->text.len = len;
    value->raw.data = raw;
    value->raw.len = size;

    return true;
}


static bool
ngx_commerce_complete_canon(ngx_commerce_completing_t *c,
    ngx_commerce_canon_t canon, ngx_commerce_json_t *value)
{
    size_t      local;
    uint8_t    *at, *copy, text[64 + 1 + NGX_COMMERCE_HOST_MAX];
    ptrdiff_t   n;

    if (canon == NGX_COMMERCE_CANON_PASSWORD) {
        copy = ngx_commerce_complete_alloc(c, value->text.len);
        if (copy == NULL) {
            return false;
        }

        memcpy(copy, value->text.data, value->text.len);

        return ngx_commerce_complete_text(c, value, copy,
                   ngx_commerce_text_spaces(copy, value->text.len));
    }

    local = 0;

    if (canon == NGX_COMMERCE_CANON_EMAIL) {
        at = memchr(value->text.data, '@', value->text.len);

        if (at == NULL || at - value->text.data > 64) {
            return false;
        }

        local = (size_t) (at + 1 - value->text.data);
        memcpy(text, value->text.data, local);
    }

    n = ngx_commerce_text_host(text + local, value->text.data + local,
                               value->text.len - local);

    return n >= 0 && ngx_commerce_complete_text(c, value, text,
                                                local + (size_t) n);
}


/* Members that are absent and have a default; true: one was added. */

static bool
ngx_commerce_complete_defaults(ngx_commerce_completing_t *c,
    const ngx_commerce_schema_t *s, ngx_commerce_json_t *object)
{
    bool                        added;
    uint32_t                    i;
    ngx_commerce_str_t         *name;
    ngx_commerce_json_t        *member, **tail;
    const ngx_commerce_json_t  *fallback;

    added = false;

    for (i = 0; i < s->properties.count; i++) {
        fallback = s->property[i] != NULL
                   ? ngx_commerce_schema_default(s->property[i]) : NULL;
        name = &s->properties.names[i];

        if (fallback == NULL
            || ngx_commerce_json_get_n(object, name->data, name->len) != NULL)
        {
            continue;
        }

        member = (ngx_commerce_json_t *)
                 ngx_commerce_complete_alloc(c, sizeof(ngx_commerce_json_t));
        if (member == NULL) {
            return false;
        }

        *member = *fallback;
        member->key = *name;
        member->next = NULL;

        for (tail = &object->child; *tail != NULL; tail = &(*tail)->next) {
            /* void */
        }

        *tail = member;
        object->count++;
        added = true;
    }

    return added;
}


static bool
ngx_commerce_complete_members(ngx_commerce_completing_t *c,
    const ngx_commerce_schema_t *s, ngx_commerce_json_t *object)
{
    bool                  changed, known;
    int32_t               n;
    uint32_t              i;
    ngx_commerce_json_t  *member;

    changed = false;

    for (member = object->child; member != NULL; member = member->next) {
        n = ngx_commerce_names_find(&s->properties, member->key.data,
                                    member->key.len);
        known = n >= 0 && s->property[n] != NULL;

        if (known) {
            changed |= ngx_commerce_complete(c, s->property[n], member);
        }

        for (i = 0; i < s->patterns_count; i++) {
            if (ngx_commerce_pattern_match(s->patterns[i].pattern,
                                           member->key.data, member->key.len))
            {
                known = true;
                changed |= ngx_commerce_complete(c, s->patterns[i].schema,
                                                 member);
            }
        }

        if (!known && s->additional != NULL) {
            changed |= ngx_commerce_complete(c, s->additional, member);
        }
    }

    return ngx_commerce_complete_defaults(c, s, object) || changed;
}


static bool
ngx_commerce_complete_items(ngx_commerce_completing_t *c,
    const ngx_commerce_schema_t *s, ngx_commerce_json_t *array)
{
    bool                          changed;
    uint32_t                      i;
    ngx_commerce_json_t          *item;
    const ngx_commerce_schema_t  *schema;

    changed = false;

    for (item = array->child, i = 0; item != NULL; item = item->next, i++) {
        schema = i < s->prefix.count ? s->prefix.list[i] : s->items;

        if (schema != NULL) {
            changed |= ngx_commerce_complete(c, schema, item);
        }
    }

    return changed;
}


/* Of alternatives those count that the value fits. */

static bool
ngx_commerce_complete_fitting(ngx_commerce_completing_t *c,
    const ngx_commerce_schemas_t *schemas, ngx_commerce_json_t *value)
{
    bool                       changed;
    uint32_t                   i;
    ngx_commerce_violations_t  violations;

    changed = false;

    for (i = 0; i < schemas->count; i++) {
        if (!schemas->list[i]->completes) {
            continue;
        }

        violations.alloc = c->alloc;
        violations.count = NGX_COMMERCE_VIOLATIONS_MAX;

        if (ngx_commerce_schema_check(schemas->list[i], value, &violations)
            == NGX_COMMERCE_OK)
        {
            changed |= ngx_commerce_complete(c, schemas->list[i], value);
        }
    }

    return changed;
}


static void
ngx_commerce_complete_raw(ngx_commerce_completing_t *c,
    ngx_commerce_json_t *value)
{
    bool                        object;
    size_t                      len;
    uint8_t                    *p;
    const ngx_commerce_json_t  *child;

    object = value->type == NGX_COMMERCE_JSON_OBJECT;
    len = 2;

    for (child = value->child; child != NULL; child = child->next) {
        len += child->raw.len + 2;

        if (object) {
            len += (size_t) (uintptr_t)
                   ngx_commerce_json_quote(NULL, child->key.data,
                                           child->key.len);
        }
    }

    p = ngx_commerce_complete_alloc(c, len);
    if (p == NULL) {
        return;
    }

    value->raw.data = p;
    *p++ = object ? '{' : '[';

    for (child = value->child; child != NULL; child = child->next) {
        if (object) {
            p = ngx_commerce_json_quote(p, child->key.data, child->key.len);
            *p++ = ':';
        }

        memcpy(p, child->raw.data, child->raw.len);
        p += child->raw.len;

        if (child->next != NULL) {
            *p++ = ',';
        }
    }

    *p++ = object ? '}' : ']';
    value->raw.len = (size_t) (p - value->raw.data);
}


static bool
ngx_commerce_complete(ngx_commerce_completing_t *c,
    const ngx_commerce_schema_t *s, ngx_commerce_json_t *value)
{
    bool      changed;
    uint32_t  i;

    if (!s->completes || c->nomem) {
        return false;
    }

    changed = false;

    if (value->type == NGX_COMMERCE_JSON_STRING
        && s->canon != NGX_COMMERCE_CANON_NONE)
    {
        changed = ngx_commerce_complete_canon(c, s->canon, value);

    } else if (value->type == NGX_COMMERCE_JSON_OBJECT) {
        changed = ngx_commerce_complete_members(c, s, value);

    } else if (value->type == NGX_COMMERCE_JSON_ARRAY) {
        changed = ngx_commerce_complete_items(c, s, value);
    }

    if (changed && value->type >= NGX_COMMERCE_JSON_ARRAY) {
        ngx_commerce_complete_raw(c, value);
    }

    if (s->ref != NULL) {
        changed |= ngx_commerce_complete(c, s->ref, value);
    }

    for (i = 0; i < s->all.count; i++) {
        changed |= ngx_commerce_complete(c, s->all.list[i], value);
    }

    changed |= ngx_commerce_complete_fitting(c, &s->any, value);
    changed |= ngx_commerce_complete_fitting(c, &s->one, value);

    return changed;
}


ngx_commerce_rc_t
ngx_commerce_schema_complete(const ngx_commerce_schema_t *schema,
    ngx_commerce_json_t *value, const ngx_commerce_alloc_t *alloc)
{
    ngx_commerce_completing_t  c;

    c.alloc = alloc;
    c.nomem = false;

    ngx_commerce_complete(&c, schema, value);

    return c.nomem ? NGX_COMMERCE_NOMEM : NGX_COMMERCE_OK;
}
