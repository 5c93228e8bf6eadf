/*
 * A part of a reply: of each object the members that were asked for.
 */

#include "ngx_commerce_json.h"

#include <string.h>


#define NGX_COMMERCE_SELECT_MEMBERS  200000
#define NGX_COMMERCE_SELECT_DEPTH    64


typedef struct {
    const ngx_commerce_json_t  *names;
    uint8_t                    *p;
} ngx_commerce_selecting_t;


static bool
ngx_commerce_select_wanted(const ngx_commerce_json_t *names,
    const ngx_commerce_str_t *key)
{
    const ngx_commerce_json_t  *name;

    for (name = names->child; name != NULL; name = name->next) {
        if (name->text.len == key->len
            && memcmp(name->text.data, key->data, key->len) == 0)
        {
            return true;
        }
    }

    return false;
}


static void
ngx_commerce_select_raw(ngx_commerce_selecting_t *s,
    const ngx_commerce_str_t *raw)
{
    memcpy(s->p, raw->data, raw->len);
    s->p += raw->len;
}


/* What a member may need in the result is never more than it has in the source. */

static void
ngx_commerce_select_member(ngx_commerce_selecting_t *s,
    const ngx_commerce_json_t *member)
{
    if (s->p[-1] != '{') {
        *s->p++ = ',';
    }

    s->p = ngx_commerce_json_quote(s->p, member->key.data, member->key.len);
    *s->p++ = ':';
}


static void
ngx_commerce_select_value(ngx_commerce_selecting_t *s,
    const ngx_commerce_json_t *value)
{
    const ngx_commerce_json_t  *member;

    if (value->type == NGX_COMMERCE_JSON_ARRAY) {
        *s->p++ = '[';

        for (member = value->child; member != NULL; member = member->next) {
            ngx_commerce_select_value(s, member);

            if (member->next != NULL) {
                *s->p++ = ',';
            }
        }

        *s->p++ = ']';
        return;
    }

    if (value->type != NGX_COMMERCE_JSON_OBJECT) {
        ngx_commerce_select_raw(s, &value->raw);
        return;
    }

    *s->p++ = '{';

    for (member = value->child; member != NULL; member = member->next) {
        if (ngx_commerce_select_wanted(s->names, &member->key)) {
            ngx_commerce_select_member(s, member);
            ngx_commerce_select_raw(s, &member->raw);
        }
    }

    *s->p++ = '}';
}


ngx_commerce_rc_t
ngx_commerce_json_select(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_str_t *body, const ngx_commerce_str_t *names)
{
    uint8_t                     *start;
    ngx_commerce_rc_t            rc;
    ngx_commerce_json_t         *root, *list;
    const ngx_commerce_json_t   *data, *member;
    ngx_commerce_selecting_t     s;
    ngx_commerce_json_error_t    error;
    ngx_commerce_json_limits_t   limits = { NGX_COMMERCE_SELECT_DEPTH,
                                            NGX_COMMERCE_SELECT_MEMBERS,
                                            false };

    rc = ngx_commerce_json_parse(alloc, names->data, names->len, NULL, &list,
                                 &error);

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_json_parse(alloc, body->data, body->len, &limits,
                                     &root, &error);
    }

    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    /* never longer than the body: what is written again has the fewest escapes there are */

    start = alloc->alloc(alloc->ctx, body->len);
    if (start == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    s.names = list;
    s.p = start;

    data = ngx_commerce_json_get(root, "data");

    if (data == NULL) {
        ngx_commerce_select_value(&s, root);

    } else {
        *s.p++ = '{';

        for (member = root->child; member != NULL; member = member->next) {
            ngx_commerce_select_member(&s, member);

            if (member == data) {
                ngx_commerce_select_value(&s, member);

            } else {
                ngx_commerce_select_raw(&s, &member->raw);
            }
        }

        *s.p++ = '}';
    }

    body->data = start;
    body->len = (size_t) (s.p - start);

    return NGX_COMMERCE_OK;
}
