/*
 * The checker: runs a compiled schema over a value.
 *
 * What fits costs no allocation.  Violations are written only where they are
 * wanted: alternatives of anyOf, oneOf and not are tried in silence.
 */

#include "ngx_commerce_schema_checking.h"

#include <stdio.h>


/* Schemas tried for one document: alternatives within alternatives multiply. */

#define NGX_COMMERCE_CHECK_BUDGET  200000


static bool ngx_commerce_check(ngx_commerce_checking_t *c,
    const ngx_commerce_schema_t *schema, const ngx_commerce_json_t *value,
    const ngx_commerce_spot_t *spot);


static bool
ngx_commerce_check_array(ngx_commerce_checking_t *c,
    const ngx_commerce_schema_t *s, const ngx_commerce_json_t *value,
    const ngx_commerce_spot_t *up)
{
    bool                          ok;
    ngx_commerce_spot_t           spot;
    const ngx_commerce_json_t    *item;
    const ngx_commerce_schema_t  *schema;

    if (value->count < s->min_items) {
        return ngx_commerce_check_fail(c, up, "min-items",
                   "must have at least %u element%s", s->min_items,
                   ngx_commerce_plural(s->min_items));
    }

    if (value->count > s->max_items) {
        return ngx_commerce_check_fail(c, up, "max-items",
                   "must have at most %u element%s", s->max_items,
                   ngx_commerce_plural(s->max_items));
    }

    ok = true;
    spot.up = up;
    spot.key = NULL;
    spot.index = 0;

    for (item = value->child; item != NULL; item = item->next, spot.index++) {
        schema = spot.index < s->prefix.count ? s->prefix.list[spot.index]
                                              : s->items;

        if (schema != NULL && !ngx_commerce_check(c, schema, item, &spot)) {
            ok = false;

            if (c->violations == NULL) {
                return false;
            }
        }
    }

    if (ok && s->unique && value->count > 1) {
        ok = ngx_commerce_check_unique(c, value, up);
    }

    return ok;
}


/* True when a patternProperties of the schema or of one of its parts fits. */

static bool
ngx_commerce_check_patterned(const ngx_commerce_schema_t *s,
    const ngx_commerce_str_t *key)
{
    uint32_t                       i, k;
    const ngx_commerce_schemas_t  *lists[3];

    for (i = 0; i < s->patterns_count; i++) {
        if (ngx_commerce_pattern_match(s->patterns[i].pattern, key->data,
                                       key->len))
        {
            return true;
        }
    }

    if (s->ref != NULL && ngx_commerce_check_patterned(s->ref, key)) {
        return true;
    }

    lists[0] = &s->all;
    lists[1] = &s->any;
    lists[2] = &s->one;

    for (k = 0; k < 3; k++) {
        for (i = 0; i < lists[k]->count; i++) {
            if (ngx_commerce_check_patterned(lists[k]->list[i], key)) {
                return true;
            }
        }
    }

    return false;
}


static bool
ngx_commerce_check_unknown(ngx_commerce_checking_t *c,
    const ngx_commerce_schema_t *s, const ngx_commerce_spot_t *spot)
{
    char       text[180];
    size_t     n;
    uint32_t   i;

    if (c->violations == NULL) {
        return false;
    }

    for (i = 0, n = 0; i < s->known.count; i++) {
        /* several parts, or one by "properties" and "required", name a member */
        if (ngx_commerce_names_find(&s->known, s->known.names[i].data,
                                    s->known.names[i].len)
            != (int32_t) i)
        {
            continue;
        }

        if (n + s->known.names[i].len + 8 > sizeof(text)) {
            n += (size_t) snprintf(text + n, sizeof(text) - n, ", …");
            break;
        }

        n += (size_t) snprintf(text + n, sizeof(text) - n, "%s%.*s",
                               n ? ", " : "", (int) s->known.names[i].len,
                               (char *) s->known.names[i].data);
    }

    if (n == 0) {
        return ngx_commerce_check_fail(c, spot, "unknown-member",
                   "is not known here; the object has no members");
    }

    return ngx_commerce_check_fail(c, spot, "unknown-member",
               "is not known here; members are %s", text);
}


static bool
ngx_commerce_check_member(ngx_commerce_checking_t *c,
    const ngx_commerce_schema_t *s, const ngx_commerce_json_t *member,
    uint32_t *required, const ngx_commerce_spot_t *spot)
{
    bool      ok, known;
    int32_t   n;
    uint32_t  i;

    ok = true;
    known = false;

    n = ngx_commerce_names_find(&s->properties, member->key.data,
                                member->key.len);
    if (n >= 0) {
        *required += s->property_required[n];

        if (s->property[n] != NULL) {
            known = true;
            ok = ngx_commerce_check(c, s->property[n], member, spot);
        }
    }

    for (i = 0; i < s->patterns_count; i++) {
        if (ngx_commerce_pattern_match(s->patterns[i].pattern,
                                       member->key.data, member->key.len))
        {
            known = true;
            ok &= ngx_commerce_check(c, s->patterns[i].schema, member, spot);
        }
    }

    if (known || s->members == NGX_COMMERCE_MEMBERS_OPEN
        || ngx_commerce_names_find(&s->known, member->key.data,
                                   member->key.len) >= 0
        || ngx_commerce_check_patterned(s, &member->key))
    {
        return ok;
    }

    if (s->members == NGX_COMMERCE_MEMBERS_SCHEMA) {
        return ngx_commerce_check(c, s->additional, member, spot) && ok;
    }

    return ngx_commerce_check_unknown(c, s, spot);
}


static bool
ngx_commerce_check_object(ngx_commerce_checking_t *c,
    const ngx_commerce_schema_t *s, const ngx_commerce_json_t *value,
    const ngx_commerce_spot_t *up)
{
    bool                          ok;
    uint32_t                      i, required;
    ngx_commerce_str_t           *name;
    ngx_commerce_spot_t           spot;
    const ngx_commerce_json_t    *member;

    ok = true;
    required = 0;

    spot.up = up;
    spot.index = 0;

    for (member = value->child; member != NULL; member = member->next) {
        spot.key = &member->key;

        if (!ngx_commerce_check_member(c, s, member, &required, &spot)) {
            ok = false;

            if (c->violations == NULL) {
                return false;
            }
        }
    }

    for (i = 0; required < s->required_count && i < s->properties.count; i++) {
        name = &s->properties.names[i];

        if (s->property_required[i]
            && ngx_commerce_json_get_n(value, name->data, name->len) == NULL)
        {
            spot.key = name;
            required++;
            ok = ngx_commerce_check_fail(c, &spot, "required", "is required");
        }
    }

    if (value->count < s->min_members) {
        return ngx_commerce_check_fail(c, up, "min-properties",
                   "must have at least %u member%s", s->min_members,
                   ngx_commerce_plural(s->min_members));
    }

    if (value->count > s->max_members) {
        return ngx_commerce_check_fail(c, up, "max-properties",
                   "must have at most %u member%s", s->max_members,
                   ngx_commerce_plural(s->max_members));
    }

    return ok;
}


/* How many of the schemas fit; stops at "enough". */

static uint32_t
ngx_commerce_check_fitting(ngx_commerce_checking_t *c,
    const ngx_commerce_schemas_t *schemas, const ngx_commerce_json_t *value,
    uint32_t enough)
{
    uint32_t                    i, n;
    ngx_commerce_violations_t  *violations;

    violations = c->violations;
    c->violations = NULL;

    for (i = 0, n = 0; i < schemas->count && n < enough; i++) {
        n += ngx_commerce_check(c, schemas->list[i], value, NULL);
    }

    c->violations = violations;

    return n;
}


/*
 * Nothing fits.  When just one alternative is of the value's type (the other
 * one is null, mostly), what is wrong by it is the better message.
 */

static bool
ngx_commerce_check_none(ngx_commerce_checking_t *c,
    const ngx_commerce_schemas_t *schemas, const ngx_commerce_json_t *value,
    const ngx_commerce_spot_t *spot, const char *code)
{
    uint32_t                      i, types;
    const ngx_commerce_schema_t  *only;

    if (c->violations == NULL) {
        return false;
    }

    for (i = 0, only = NULL; i < schemas->count; i++) {
        types = ngx_commerce_schema_types(schemas->list[i]);

        if (types & ngx_commerce_json_type(value)) {
            if (only != NULL) {
                only = NULL;
                break;
            }

            only = schemas->list[i];
        }
    }

    if (only != NULL) {
        return ngx_commerce_check(c, only, value, spot);
    }

    return ngx_commerce_check_fail(c, spot, code,
                                   "must have one of the %u allowed forms",
                                   schemas->count);
}


static bool
ngx_commerce_check_parts(ngx_commerce_checking_t *c,
    const ngx_commerce_schema_t *s, const ngx_commerce_json_t *value,
    const ngx_commerce_spot_t *spot)
{
    bool                    ok;
    uint32_t                i, n;
    ngx_commerce_schemas_t  not;

    ok = s->ref == NULL || ngx_commerce_check(c, s->ref, value, spot);

    for (i = 0; i < s->all.count; i++) {
        ok &= ngx_commerce_check(c, s->all.list[i], value, spot);
    }

    if (s->any.count != 0
        && ngx_commerce_check_fitting(c, &s->any, value, 1) == 0)
    {
        ok = ngx_commerce_check_none(c, &s->any, value, spot, "any-of");
    }

    if (s->one.count != 0) {
        n = ngx_commerce_check_fitting(c, &s->one, value, 2);

        if (n == 0) {
            ok = ngx_commerce_check_none(c, &s->one, value, spot, "one-of");

        } else if (n > 1) {
            ok = ngx_commerce_check_fail(c, spot, "one-of",
                       "must have only one of the %u allowed forms",
                       s->one.count);
        }
    }

    if (s->not != NULL) {
        not.list = (ngx_commerce_schema_t **) &s->not;
        not.count = 1;

        if (ngx_commerce_check_fitting(c, &not, value, 1) != 0) {
            ok = ngx_commerce_check_fail(c, spot, "not",
                                         "must not have this form");
        }
    }

    return ok;
}


static bool
ngx_commerce_check(ngx_commerce_checking_t *c, const ngx_commerce_schema_t *s,
    const ngx_commerce_json_t *value, const ngx_commerce_spot_t *spot)
{
    bool  ok;

    if (c->budget == 0) {
        return ngx_commerce_check_fail(c, spot, "too-complex",
                                       "takes too long to check");
    }

    c->budget--;

    if (s->never) {
        return ngx_commerce_check_fail(c, spot, "unknown-member",
                                       "must be absent");
    }

    if (!(s->types & ngx_commerce_json_type(value))) {
        return ngx_commerce_check_type(c, s->types, value, spot);
    }

    if (s->enumeration != NULL
        && !ngx_commerce_check_enum(c, s->enumeration, value, spot))
    {
        return false;
    }

    if (s->constant != NULL && !ngx_commerce_json_equal(s->constant, value)) {
        return ngx_commerce_check_fail(c, spot, "const", "must be %.*s",
                   (int) s->constant->raw.len, (char *) s->constant->raw.data);
    }

    switch (value->type) {

    case NGX_COMMERCE_JSON_NUMBER:
        ok = ngx_commerce_check_number(c, s, value, spot);
        break;

    case NGX_COMMERCE_JSON_STRING:
        ok = ngx_commerce_check_string(c, s, &value->text, spot);
        break;

    case NGX_COMMERCE_JSON_ARRAY:
        ok = ngx_commerce_check_array(c, s, value, spot);
        break;

    case NGX_COMMERCE_JSON_OBJECT:
        ok = ngx_commerce_check_object(c, s, value, spot);
        break;

    default:
        ok = true;
    }

    if (s->ref != NULL || s->all.count != 0 || s->any.count != 0
        || s->one.count != 0 || s->not != NULL)
    {
        ok = ngx_commerce_check_parts(c, s, value, spot) && ok;
    }

    return ok;
}


ngx_commerce_rc_t
ngx_commerce_schema_check(const ngx_commerce_schema_t *schema,
    const ngx_commerce_json_t *value, ngx_commerce_violations_t *violations)
{
    bool                     ok;
    ngx_commerce_checking_t  c;

    c.violations = violations;
    c.budget = NGX_COMMERCE_CHECK_BUDGET;
    c.nomem = false;

    ok = ngx_commerce_check(&c, schema, value, NULL);

    if (c.nomem) {
        return NGX_COMMERCE_NOMEM;
    }

    return ok ? NGX_COMMERCE_OK : NGX_COMMERCE_INVALID;
}
