/*
 * The keywords of schemas, one function each, and the table that knows them.
 */

#include "ngx_commerce_schema_compile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>


static ngx_commerce_rc_t
ngx_commerce_keyword_type(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    size_t                        i;
    const ngx_commerce_json_t    *item;
    static const struct {
        const char               *name;
        uint32_t                  type;
    }  types[] = {
        { "null", NGX_COMMERCE_T_NULL },
        { "boolean", NGX_COMMERCE_T_BOOLEAN },
        { "integer", NGX_COMMERCE_T_INTEGER },
        { "number", NGX_COMMERCE_T_NUMBER | NGX_COMMERCE_T_INTEGER },
        { "string", NGX_COMMERCE_T_STRING },
        { "array", NGX_COMMERCE_T_ARRAY },
        { "object", NGX_COMMERCE_T_OBJECT },
    };

    (void) offset;

    c->schema->types = 0;

    item = value->type == NGX_COMMERCE_JSON_ARRAY ? value->child : value;

    for ( /* void */ ; item != NULL; item = item == value ? NULL : item->next) {

        for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
            if (item->type == NGX_COMMERCE_JSON_STRING
                && ngx_commerce_str_is(item->text, types[i].name))
            {
                c->schema->types |= types[i].type;
                break;
            }
        }

        if (i == sizeof(types) / sizeof(types[0])) {
            return ngx_commerce_schema_fault(c, item,
                       "%.*s is no type; types are null, boolean, integer, "
                       "number, string, array and object",
                       (int) item->raw.len, (char *) item->raw.data);
        }
    }

    if (c->schema->types == 0) {
        return ngx_commerce_schema_fault(c, value, "the list is empty");
    }

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_keyword_value(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    const ngx_commerce_json_t  **field;

    field = (const ngx_commerce_json_t **) ((char *) c->schema + offset);
    *field = value;

    if (offset == offsetof(ngx_commerce_schema_t, enumeration)
        && (value->type != NGX_COMMERCE_JSON_ARRAY || value->count == 0))
    {
        return ngx_commerce_schema_fault(c, value,
                   "must be a list of at least one value");
    }

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_keyword_bound(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    char                   buf[72];
    ngx_commerce_bound_t  *bound;

    if (value->type != NGX_COMMERCE_JSON_NUMBER) {
        return ngx_commerce_schema_fault(c, value, "must be a number");
    }

    bound = (ngx_commerce_bound_t *) ((char *) c->schema + offset);
    snprintf(buf, sizeof(buf), "%.*s", (int) value->raw.len,
             (char *) value->raw.data);

    bound->value = value;
    bound->real = strtod(buf, NULL);

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_keyword_multiple(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    (void) offset;

    if (value->type != NGX_COMMERCE_JSON_NUMBER || !value->integer
        || value->number < 1)
    {
        return ngx_commerce_schema_fault(c, value,
                   "must be a positive integer (fractions are not supported)");
    }

    c->schema->multiple = value->number;

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_keyword_count(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    if (value->type != NGX_COMMERCE_JSON_NUMBER || !value->integer
        || value->number < 0 || value->number >= NGX_COMMERCE_UNLIMITED)
    {
        return ngx_commerce_schema_fault(c, value,
                                         "must be an integer from 0 up");
    }

    *(uint32_t *) ((char *) c->schema + offset) = (uint32_t) value->number;

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_keyword_flag(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    if (value->type != NGX_COMMERCE_JSON_TRUE
        && value->type != NGX_COMMERCE_JSON_FALSE)
    {
        return ngx_commerce_schema_fault(c, value, "must be true or false");
    }

    *(bool *) ((char *) c->schema + offset) =
        value->type == NGX_COMMERCE_JSON_TRUE;

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_keyword_pattern(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    char  error[128];

    (void) offset;

    if (value->type != NGX_COMMERCE_JSON_STRING) {
        return ngx_commerce_schema_fault(c, value, "must be a string");
    }

    c->schema->pattern_text = value->text;
    c->schema->pattern = ngx_commerce_pattern_get(value->text.data,
                                                  value->text.len, error,
                                                  sizeof(error));
    if (c->schema->pattern == NULL) {
        return ngx_commerce_schema_fault(c, value,
                   "the pattern does not compile: %s", error);
    }

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_keyword_format(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    bool                     annotation;
    const char              *name;
    ngx_commerce_format_pt   format;

    (void) offset;

    format = value->type == NGX_COMMERCE_JSON_STRING
             ? ngx_commerce_format_find(value->text, &name, &annotation) : NULL;

    if (format == NULL) {
        return ngx_commerce_schema_fault(c, value,
                   "%.*s is no format that is checked; use date, date-time, "
                   "email, uuid, uri, hostname, ipv4, ipv6, int32, int64, "
                   "cursor, slug, currency, password, or a pattern",
                   (int) value->raw.len, (char *) value->raw.data);
    }

    if (annotation) {
        return NGX_COMMERCE_OK;
    }

    if (strcmp(name, "int32") == 0) {
        c->schema->int32 = true;

    } else if (strcmp(name, "int64") != 0) {
        c->schema->format = format;
        c->schema->format_name = name;
        c->schema->cursor = strcmp(name, "cursor") == 0;

        if (strcmp(name, "email") == 0) {
            c->schema->canon = NGX_COMMERCE_CANON_EMAIL;

        } else if (strcmp(name, "hostname") == 0) {
            c->schema->canon = NGX_COMMERCE_CANON_HOST;

        } else if (strcmp(name, "password") == 0) {
            c->schema->canon = NGX_COMMERCE_CANON_PASSWORD;
        }
    }

    return NGX_COMMERCE_OK;
}


/* properties and required make one table: a name may stand in either. */

static ngx_commerce_rc_t
ngx_commerce_keyword_properties(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    int32_t                      n;
    uint32_t                     i, total;
    ngx_commerce_rc_t            rc;
    ngx_commerce_str_t          *names;
    ngx_commerce_place_t         place, *up;
    ngx_commerce_schema_t       *schema;
    const ngx_commerce_alloc_t  *alloc;
    const ngx_commerce_json_t   *properties, *required, *item;

    (void) value;
    (void) offset;

    schema = c->schema;
    alloc = c->compiler->alloc;

    if (schema->property != NULL) {
        return NGX_COMMERCE_OK;
    }

    properties = ngx_commerce_json_get(c->object, "properties");
    required = ngx_commerce_json_get(c->object, "required");

    if (properties && properties->type != NGX_COMMERCE_JSON_OBJECT) {
        return ngx_commerce_schema_fault(c, properties,
                                         "properties must be an object");
    }

    if (required && required->type != NGX_COMMERCE_JSON_ARRAY) {
        return ngx_commerce_schema_fault(c, required,
                                         "required must be a list of names");
    }

    total = (properties ? properties->count : 0)
            + (required ? required->count : 0);

    names = ngx_commerce_zalloc(alloc, total * sizeof(ngx_commerce_str_t));
    schema->property = ngx_commerce_zalloc(alloc,
                                  total * sizeof(ngx_commerce_schema_t *));
    schema->property_required = ngx_commerce_zalloc(alloc,
                                                    total * sizeof(bool));
    if (names == NULL || schema->property == NULL
        || schema->property_required == NULL)
    {
        return NGX_COMMERCE_NOMEM;
    }

    schema->named = properties != NULL;
    i = 0;

    for (item = properties ? properties->child : NULL; item; item = item->next) {
        names[i++] = item->key;
    }

    for (item = required ? required->child : NULL; item; item = item->next) {
        if (item->type != NGX_COMMERCE_JSON_STRING) {
            return ngx_commerce_schema_fault(c, item,
                                             "required must list strings");
        }

        names[i++] = item->text;
    }

    rc = ngx_commerce_names_build(&schema->properties, alloc, names, total);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    for (item = required ? required->child : NULL; item; item = item->next) {
        n = ngx_commerce_names_find(&schema->properties, item->text.data,
                                    item->text.len);
        schema->required_count += !schema->property_required[n];
        schema->property_required[n] = true;
    }

    up = &(ngx_commerce_place_t) { c->place->up,
                                   ngx_commerce_str("properties") };
    i = 0;

    for (item = properties ? properties->child : NULL; item; item = item->next) {
        place.up = up;
        place.name = item->key;

        rc = ngx_commerce_schema_one(c->compiler, item, false, &place, NULL,
                                     &schema->property[i++]);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_keyword_patterns(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    char                              error[128];
    ngx_commerce_rc_t                 rc;
    ngx_commerce_place_t              place;
    const ngx_commerce_json_t        *item;
    ngx_commerce_pattern_property_t  *p;

    (void) offset;

    if (value->type != NGX_COMMERCE_JSON_OBJECT) {
        return ngx_commerce_schema_fault(c, value, "must be an object");
    }

    p = ngx_commerce_zalloc(c->compiler->alloc,
                    value->count * sizeof(ngx_commerce_pattern_property_t));
    if (p == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    c->schema->patterns = p;
    c->schema->patterns_count = value->count;

    for (item = value->child; item != NULL; item = item->next, p++) {
        p->text = item->key;
        p->pattern = ngx_commerce_pattern_get(item->key.data, item->key.len,
                                              error, sizeof(error));
        if (p->pattern == NULL) {
            return ngx_commerce_schema_fault(c, item,
                       "the pattern \"%.*s\" does not compile: %s",
                       (int) item->key.len, (char *) item->key.data, error);
        }

        place.up = c->place;
        place.name = item->key;

        rc = ngx_commerce_schema_one(c->compiler, item, false, &place, NULL,
                                     &p->schema);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_keyword_additional(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    (void) offset;

    c->schema->stated = true;

    if (value->type == NGX_COMMERCE_JSON_FALSE) {
        c->schema->members = NGX_COMMERCE_MEMBERS_CLOSED;
        return NGX_COMMERCE_OK;
    }

    if (value->type == NGX_COMMERCE_JSON_TRUE) {
        return NGX_COMMERCE_OK;
    }

    c->schema->members = NGX_COMMERCE_MEMBERS_SCHEMA;

    return ngx_commerce_schema_one(c->compiler, value, false, c->place, NULL,
                                   &c->schema->additional);
}


/* items: the schema of other values.  not, $ref: of the same value. */

static ngx_commerce_rc_t
ngx_commerce_keyword_items(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    (void) offset;

    return ngx_commerce_schema_one(c->compiler, value, false, c->place, NULL,
                                   &c->schema->items);
}


static ngx_commerce_rc_t
ngx_commerce_keyword_not(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    (void) offset;

    return ngx_commerce_schema_one(c->compiler, value, true, c->place,
                                   c->chain, &c->schema->not);
}


static ngx_commerce_rc_t
ngx_commerce_keyword_ref(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    ngx_commerce_str_t           name;
    ngx_commerce_place_t         place;
    const ngx_commerce_json_t   *target;

    (void) offset;

    target = value->type == NGX_COMMERCE_JSON_STRING
             ? ngx_commerce_json_resolve(c->compiler->root, value->text) : NULL;

    if (target == NULL) {
        return ngx_commerce_schema_fault(c, value,
                   "there is nothing at %.*s", (int) value->raw.len,
                   (char *) value->raw.data);
    }

    /* places within the target are told from the document's root */

    name = value->text;
    name.data += name.len > 1 ? 2 : 1;
    name.len -= name.len > 1 ? 2 : 1;

    place.up = NULL;
    place.name = name;

    return ngx_commerce_schema_one(c->compiler, target, true, &place,
                                   c->chain, &c->schema->ref);
}


static ngx_commerce_rc_t
ngx_commerce_keyword_list(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *value, size_t offset)
{
    bool                          in_place, same;
    char                          digits[12];
    uint32_t                      i;
    ngx_commerce_rc_t             rc;
    ngx_commerce_place_t          place;
    ngx_commerce_schemas_t       *schemas;
    const ngx_commerce_json_t    *item;

    if (value->type != NGX_COMMERCE_JSON_ARRAY || value->count == 0) {
        return ngx_commerce_schema_fault(c, value,
                   "must be a list of at least one schema");
    }

    schemas = (ngx_commerce_schemas_t *) ((char *) c->schema + offset);
    schemas->list = ngx_commerce_zalloc(c->compiler->alloc,
                              value->count * sizeof(ngx_commerce_schema_t *));
    if (schemas->list == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    schemas->count = value->count;

    same = offset != offsetof(ngx_commerce_schema_t, prefix);
    in_place = same;

    /* alternatives of an object that has no members of its own close themselves */

    if (same && offset != offsetof(ngx_commerce_schema_t, all)
        && !c->schema->in_place
        && ngx_commerce_json_get(c->object, "properties") == NULL
        && ngx_commerce_json_get(c->object, "allOf") == NULL
        && ngx_commerce_json_get(c->object, "$ref") == NULL)
    {
        in_place = false;
    }

    for (i = 0, item = value->child; item != NULL; item = item->next, i++) {
        snprintf(digits, sizeof(digits), "%u", i);
        place.up = c->place;
        place.name.data = (uint8_t *) digits;
        place.name.len = strlen(digits);

        rc = ngx_commerce_schema_one(c->compiler, item, in_place, &place,
                                     same ? c->chain : NULL,
                                     &schemas->list[i]);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    return NGX_COMMERCE_OK;
}


#define ngx_commerce_keyword(name, handler, field)                            \
    { name, ngx_commerce_keyword_##handler,                                   \
      offsetof(ngx_commerce_schema_t, field) }

static const ngx_commerce_keyword_t  ngx_commerce_keywords[] = {
    ngx_commerce_keyword("type", type, types),
    ngx_commerce_keyword("enum", value, enumeration),
    ngx_commerce_keyword("const", value, constant),
    ngx_commerce_keyword("default", value, fallback),
    ngx_commerce_keyword("minimum", bound, minimum),
    ngx_commerce_keyword("maximum", bound, maximum),
    ngx_commerce_keyword("exclusiveMinimum", bound, above),
    ngx_commerce_keyword("exclusiveMaximum", bound, below),
    ngx_commerce_keyword("multipleOf", multiple, multiple),
    ngx_commerce_keyword("minLength", count, min_length),
    ngx_commerce_keyword("maxLength", count, max_length),
    ngx_commerce_keyword("pattern", pattern, pattern),
    ngx_commerce_keyword("format", format, format),
    ngx_commerce_keyword("properties", properties, properties),
    ngx_commerce_keyword("required", properties, properties),
    ngx_commerce_keyword("patternProperties", patterns, patterns),
    ngx_commerce_keyword("additionalProperties", additional, additional),
    ngx_commerce_keyword("minProperties", count, min_members),
    ngx_commerce_keyword("maxProperties", count, max_members),
    ngx_commerce_keyword("items", items, items),
    ngx_commerce_keyword("prefixItems", list, prefix),
    ngx_commerce_keyword("minItems", count, min_items),
    ngx_commerce_keyword("maxItems", count, max_items),
    ngx_commerce_keyword("uniqueItems", flag, unique),
    ngx_commerce_keyword("allOf", list, all),
    ngx_commerce_keyword("anyOf", list, any),
    ngx_commerce_keyword("oneOf", list, one),
    ngx_commerce_keyword("not", not, not),
    ngx_commerce_keyword("$ref", ref, ref),
    { "title", NULL, 0 },
    { "description", NULL, 0 },
    { "example", NULL, 0 },
    { "examples", NULL, 0 },
    { "deprecated", NULL, 0 },
    { "readOnly", NULL, 0 },
    { "writeOnly", NULL, 0 },
    { "externalDocs", NULL, 0 },
    { "discriminator", NULL, 0 },
    { "$comment", NULL, 0 },
};


ngx_commerce_rc_t
ngx_commerce_schema_keyword(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *member)
{
    size_t                      i;
    const char                 *cure;
    ngx_commerce_place_t        place;
    ngx_commerce_compiling_t    inner;

    place.up = c->place;
    place.name = member->key;

    inner = *c;
    inner.place = &place;

    for (i = 0; i < sizeof(ngx_commerce_keywords)
                    / sizeof(ngx_commerce_keywords[0]); i++)
    {
        if (!ngx_commerce_str_is(member->key, ngx_commerce_keywords[i].name)) {
            continue;
        }

        return ngx_commerce_keywords[i].handler == NULL
               ? NGX_COMMERCE_OK
               : ngx_commerce_keywords[i].handler(&inner, member,
                                              ngx_commerce_keywords[i].offset);
    }

    if (member->key.len > 2 && memcmp(member->key.data, "x-", 2) == 0) {
        return NGX_COMMERCE_OK;
    }

    cure = ngx_commerce_str_is(member->key, "nullable")
           ? "write type: [string, \"null\"]"
           : "remove it, or begin its name with x- if it is a remark";

    return ngx_commerce_schema_fault(&inner, member,
               "the keyword \"%.*s\" is not supported; %s",
               (int) member->key.len, (char *) member->key.data, cure);
}


/* True when nothing but remarks stands beside "$ref". */

bool
ngx_commerce_schema_alias(const ngx_commerce_json_t *source)
{
    size_t                      i;
    const ngx_commerce_json_t  *item;

    for (item = source->child; item != NULL; item = item->next) {
        if (ngx_commerce_str_is(item->key, "$ref")) {
            continue;
        }

        for (i = 0; i < sizeof(ngx_commerce_keywords)
                        / sizeof(ngx_commerce_keywords[0]); i++)
        {
            if (ngx_commerce_keywords[i].handler != NULL
                && ngx_commerce_str_is(item->key,
                                       ngx_commerce_keywords[i].name))
            {
                return false;
            }
        }
    }

    return ngx_commerce_json_get(source, "$ref") != NULL;
}
