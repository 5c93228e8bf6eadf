/*
 * The gate before a call: what SQL refused for want of something a moment ago is
 * refused without asking it.  A gate may refuse, it never grants: whoever
 * passes is judged by SQL.
 *
 * An attempt that was let through once is let through for ever: the call may
 * have succeeded, and its repetition is to get that answer, not a refusal.
 */

#include "ngx_commerce_http.h"


#define NGX_COMMERCE_GATE_LINES  32     /* longer lists have no gate */
#define NGX_COMMERCE_GATE_KEPT   86400  /* as long as an Idempotency-Key counts */


/* One thing that is asked for, in one line or several. */

typedef struct {
    ngx_str_t                     key;
    ngx_commerce_json_t          *by[NGX_COMMERCE_GATE_BY];     /* or NULL */
    int64_t                       want;
    uint32_t                      left;         /* when short_of */
    ngx_commerce_cache_ticket_t   ticket;
    unsigned                      short_of:1;
} ngx_commerce_gate_line_t;


struct ngx_commerce_gate_state_s {
    ngx_commerce_gate_line_t      lines[NGX_COMMERCE_GATE_LINES];
    ngx_uint_t                    count;
    ngx_commerce_cache_ticket_t   marks[2];     /* of the attempt */
    ngx_uint_t                    marks_count;
    unsigned                      known:1;      /* it was let through before */
};


static ngx_commerce_gate_state_t *ngx_commerce_gate_lines(
    ngx_commerce_request_t *c, const ngx_commerce_gate_t *rule);
static ngx_int_t ngx_commerce_gate_line(ngx_commerce_request_t *c,
    const ngx_commerce_gate_t *rule, const ngx_commerce_json_t *element,
    ngx_commerce_gate_state_t *g);
static ngx_str_t ngx_commerce_gate_text(const ngx_commerce_json_t *value);
static void ngx_commerce_gate_look(ngx_commerce_request_t *c,
    const ngx_commerce_gate_t *rule, ngx_commerce_gate_line_t *line);
static ngx_int_t ngx_commerce_gate_attempt(ngx_commerce_request_t *c,
    const ngx_commerce_gate_t *rule, ngx_commerce_gate_state_t *g);
static ngx_int_t ngx_commerce_gate_mark(ngx_commerce_request_t *c, u_char kind,
    ngx_str_t *what, ngx_commerce_gate_state_t *g);
static ngx_int_t ngx_commerce_gate_refuse(ngx_commerce_request_t *c,
    const ngx_commerce_gate_t *rule, ngx_commerce_gate_state_t *g);
static ngx_commerce_json_t *ngx_commerce_gate_matching(
    const ngx_commerce_gate_t *rule, const ngx_commerce_gate_line_t *line,
    const ngx_commerce_json_t *lines);


/* NGX_OK: the call may be made.  NGX_ERROR: refused, the problem is set. */

ngx_int_t
ngx_commerce_gate_enter(ngx_commerce_request_t *c,
    const ngx_commerce_gate_t *rule)
{
    ngx_uint_t                  i, closed;
    ngx_commerce_gate_state_t  *g;

    if (!ngx_commerce_gate_configured()) {
        return NGX_OK;
    }

    g = ngx_commerce_gate_lines(c, rule);
    if (g == NULL) {
        return NGX_OK;
    }

    closed = 0;

    for (i = 0; i < g->count; i++) {
        ngx_commerce_gate_look(c, rule, &g->lines[i]);
        closed |= g->lines[i].short_of;
    }

    if (ngx_commerce_gate_attempt(c, rule, g) != NGX_OK) {
        return NGX_OK;
    }

    if (closed && !g->known) {
        return ngx_commerce_gate_refuse(c, rule, g);
    }

    for (i = 0; i < g->marks_count; i++) {
        ngx_commerce_gate_keep(&g->marks[i], 1, NGX_COMMERCE_GATE_KEPT);
    }

    c->gate = g;

    return NGX_OK;
}


/* NULL: the list is none of those that a gate can judge; SQL will. */

static ngx_commerce_gate_state_t *
ngx_commerce_gate_lines(ngx_commerce_request_t *c,
    const ngx_commerce_gate_t *rule)
{
    ngx_commerce_json_t        *list, *element;
    ngx_commerce_value_t       *value;
    ngx_commerce_alloc_t        alloc;
    ngx_commerce_json_error_t   error;
    ngx_commerce_gate_state_t  *g;

    value = &c->slots[rule->each];

    if (!value->set || value->type != NGX_COMMERCE_JSON_ARRAY) {
        return NULL;
    }

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    if (ngx_commerce_json_parse(&alloc, value->text.data, value->text.len,
                                NULL, &list, &error)
        != NGX_COMMERCE_OK
        || list->type != NGX_COMMERCE_JSON_ARRAY
        || list->count == 0 || list->count > NGX_COMMERCE_GATE_LINES)
    {
        return NULL;
    }

    g = ngx_pcalloc(c->request->pool, sizeof(ngx_commerce_gate_state_t));
    if (g == NULL) {
        return NULL;
    }

    for (element = list->child; element; element = element->next) {
        if (ngx_commerce_gate_line(c, rule, element, g) != NGX_OK) {
            return NULL;
        }
    }

    return g;
}


/* Lines of the same thing are one: what counts is their sum. */

static ngx_int_t
ngx_commerce_gate_line(ngx_commerce_request_t *c,
    const ngx_commerce_gate_t *rule, const ngx_commerce_json_t *element,
    ngx_commerce_gate_state_t *g)
{
    size_t                     len;
    u_char                    *p;
    uint32_t                   i;
    ngx_str_t                  text;
    ngx_uint_t                 n;
    ngx_commerce_json_t       *want;
    ngx_commerce_gate_line_t  *line;

    want = ngx_commerce_json_get_n(element, rule->want.data, rule->want.len);

    if (want == NULL || !want->integer || want->number < 1
        || want->number > NGX_MAX_INT32_VALUE)
    {
        return NGX_DECLINED;
    }

    line = &g->lines[g->count];
    line->want = want->number;
    len = 2 + c->tenant.id.len + rule->refusal.len;

    for (i = 0; i < rule->by_count; i++) {
        line->by[i] = ngx_commerce_json_get_n(element, rule->by[i].data,
                                              rule->by[i].len);
        len += 1 + ngx_commerce_gate_text(line->by[i]).len;
    }

    p = ngx_pnalloc(c->request->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    line->key.data = p;

    *p++ = 'g';
    p = ngx_cpymem(p, c->tenant.id.data, c->tenant.id.len);
    *p++ = '\0';
    p = ngx_cpymem(p, rule->refusal.data, rule->refusal.len);

    for (i = 0; i < rule->by_count; i++) {
        text = ngx_commerce_gate_text(line->by[i]);
        *p++ = '\0';
        p = ngx_cpymem(p, text.data, text.len);
    }

    line->key.len = p - line->key.data;

    for (n = 0; n < g->count; n++) {
        if (g->lines[n].key.len == line->key.len
            && ngx_memcmp(g->lines[n].key.data, line->key.data, line->key.len)
               == 0)
        {
            g->lines[n].want += line->want;
            return NGX_OK;
        }
    }

    g->count++;

    return NGX_OK;
}


/* A string is what it says, so 7 and "7" are one thing; null and nothing are none. */

static ngx_str_t
ngx_commerce_gate_text(const ngx_commerce_json_t *value)
{
    if (value == NULL || value->type == NGX_COMMERCE_JSON_NULL) {
        return (ngx_str_t) ngx_string("");
    }

    return value->type == NGX_COMMERCE_JSON_STRING
           ? ngx_commerce_from_core(&value->text)
           : ngx_commerce_from_core(&value->raw);
}


static void
ngx_commerce_gate_look(ngx_commerce_request_t *c,
    const ngx_commerce_gate_t *rule, ngx_commerce_gate_line_t *line)
{
    u_char     *p;
    ngx_str_t   tag, first;

    first = ngx_commerce_gate_text(line->by[0]);

    tag.data = ngx_pnalloc(c->request->pool, c->tenant.id.len + rule->tag.len
                                             + first.len + 2);
    if (tag.data == NULL) {
        line->ticket.usable = false;
        return;
    }

    p = ngx_cpymem(tag.data, c->tenant.id.data, c->tenant.id.len);
    *p++ = ':';
    p = ngx_cpymem(p, rule->tag.data, rule->tag.len);
    *p++ = ':';
    p = ngx_cpymem(p, first.data, first.len);
    tag.len = p - tag.data;

    line->short_of = ngx_commerce_gate_find(&line->key, &tag, &line->ticket,
                                            &line->left)
                     && line->want > line->left;
}


/* What this request is an attempt of: its key, and what the rule names. */

static ngx_int_t
ngx_commerce_gate_attempt(ngx_commerce_request_t *c,
    const ngx_commerce_gate_t *rule, ngx_commerce_gate_state_t *g)
{
    ngx_int_t              rc;
    ngx_commerce_value_t  *value;

    rc = NGX_OK;

    if (c->idempotency_key.len) {
        rc = ngx_commerce_gate_mark(c, 'k', &c->idempotency_key, g);
    }

    if (rc == NGX_OK && rule->attempt >= 0) {
        value = &c->slots[rule->attempt];

        if (value->set && value->type != NGX_COMMERCE_JSON_NULL) {
            rc = ngx_commerce_gate_mark(c, 'a', &value->text, g);
        }
    }

    return rc;
}


/*
 * The fingerprint says whose key it is as far as that matters: who sends the
 * same key with the same body is let through, to SQL, which knows better.
 */

static ngx_int_t
ngx_commerce_gate_mark(ngx_commerce_request_t *c, u_char kind, ngx_str_t *what,
    ngx_commerce_gate_state_t *g)
{
    u_char     *p;
    uint32_t    known;
    ngx_str_t   key;

    key.data = ngx_pnalloc(c->request->pool, c->tenant.id.len + c->op->id.len
                                    + sizeof(c->fingerprint) + what->len + 3);
    if (key.data == NULL) {
        return NGX_ERROR;
    }

    p = key.data;
    *p++ = kind;
    p = ngx_cpymem(p, c->tenant.id.data, c->tenant.id.len);
    *p++ = '\0';

    if (kind == 'k') {
        p = ngx_cpymem(p, c->op->id.data, c->op->id.len);
        *p++ = '\0';
        p = ngx_cpymem(p, c->fingerprint, sizeof(c->fingerprint));
    }

    p = ngx_cpymem(p, what->data, what->len);
    key.len = p - key.data;

    if (ngx_commerce_gate_find(&key, NULL, &g->marks[g->marks_count++],
                               &known)
        && known)
    {
        g->known = 1;
    }

    return NGX_OK;
}


/* The same document that SQL's refusal makes, of what is known of it. */

static ngx_int_t
ngx_commerce_gate_refuse(ngx_commerce_request_t *c,
    const ngx_commerce_gate_t *rule, ngx_commerce_gate_state_t *g)
{
    size_t                     len;
    u_char                    *p;
    uint32_t                   n;
    ngx_str_t                  extension, code, detail;
    ngx_uint_t                 i, count;
    ngx_commerce_gate_line_t  *line;

    len = sizeof("{\"available\":,\"lines\":[]}") + NGX_INT_T_LEN;

    for (i = 0; i < g->count; i++) {
        len += sizeof("{\"requested\":,\"available\":},") + 2 * NGX_INT64_LEN;

        for (n = 0; n < rule->by_count; n++) {
            len += sizeof("\"\":,") + rule->by[n].len
                   + (g->lines[i].by[n] ? g->lines[i].by[n]->raw.len : 0);
        }
    }

    p = ngx_pnalloc(c->request->pool, len);
    if (p == NULL) {
        return NGX_OK;
    }

    extension.data = p;
    count = 0;

    for (i = 0; i < g->count; i++) {
        line = &g->lines[i];

        if (!line->short_of) {
            continue;
        }

        p = count++ ? ngx_cpymem(p, ",{", 2)
                    : ngx_sprintf(p, "{\"available\":%uD,\"lines\":[{",
                                  line->left);

        for (n = 0; n < rule->by_count; n++) {
            if (line->by[n]) {
                p = ngx_sprintf(p, "\"%*s\":%*s,", rule->by[n].len,
                                rule->by[n].data, line->by[n]->raw.len,
                                line->by[n]->raw.data);
            }
        }

        p = ngx_sprintf(p, "\"requested\":%L,\"available\":%uD}", line->want,
                        line->left);
    }

    p = ngx_cpymem(p, "]}", 2);
    extension.len = p - extension.data;

    code = ngx_commerce_from_core(&rule->refusal);
    ngx_str_set(&detail, "There is not so much left; lines says how much.");

    c->cache_hit = 1;

    return ngx_commerce_problem_extended(c, NGX_HTTP_CONFLICT, &code, &detail,
                                         &extension);
}


/* What came of the call: a refusal closes the gate for what was short. */

void
ngx_commerce_gate_learn(ngx_commerce_request_t *c,
    const ngx_commerce_gate_t *rule, const PGresult *result)
{
    char                       *state, *detail;
    ngx_uint_t                  i;
    ngx_commerce_json_t        *root, *found, *left, *lines;
    ngx_commerce_alloc_t        alloc;
    ngx_commerce_json_error_t   error;
    ngx_commerce_gate_state_t  *g;

    g = c->gate;
    c->gate = NULL;

    state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);

    if (state == NULL || detail == NULL || ngx_strcmp(state, "SH409") != 0) {
        return;
    }

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    if (ngx_commerce_json_parse(&alloc, (u_char *) detail, ngx_strlen(detail),
                                NULL, &root, &error)
        != NGX_COMMERCE_OK)
    {
        return;
    }

    found = ngx_commerce_json_get(root, "code");

    if (found == NULL || found->text.len != rule->refusal.len
        || ngx_memcmp(found->text.data, rule->refusal.data, found->text.len)
           != 0)
    {
        return;
    }

    lines = ngx_commerce_json_get(root, "lines");

    for (i = 0; i < g->count; i++) {
        found = ngx_commerce_gate_matching(rule, &g->lines[i], lines);
        left = ngx_commerce_json_get(found, "available");

        if (left && left->integer && left->number >= 0
            && left->number < NGX_MAX_INT32_VALUE)
        {
            ngx_commerce_gate_keep(&g->lines[i].ticket,
                                   (uint32_t) left->number, rule->ttl);
        }
    }

    /* nothing was made, so this attempt is like a new one */

    for (i = 0; !g->known && i < g->marks_count; i++) {
        ngx_commerce_gate_keep(&g->marks[i], 0, 1);
    }
}


/* The refusal's line of what this one is of; what this one does not say may be anything. */

static ngx_commerce_json_t *
ngx_commerce_gate_matching(const ngx_commerce_gate_t *rule,
    const ngx_commerce_gate_line_t *line, const ngx_commerce_json_t *lines)
{
    uint32_t              i;
    ngx_str_t             mine, its;
    ngx_commerce_json_t  *found;

    for (found = lines ? lines->child : NULL; found; found = found->next) {

        for (i = 0; i < rule->by_count; i++) {
            mine = ngx_commerce_gate_text(line->by[i]);
            its = ngx_commerce_gate_text(ngx_commerce_json_get_n(found,
                                          rule->by[i].data, rule->by[i].len));

            if (mine.len && (mine.len != its.len
                             || ngx_memcmp(mine.data, its.data, mine.len)))
            {
                break;
            }
        }

        if (i == rule->by_count) {
            return found;
        }
    }

    return NULL;
}
