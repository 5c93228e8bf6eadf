/*
 * Strict JSON reader.
 *
 * One pass over the source builds the tree; strings that hold no escape are
 * not copied.  Nodes come in blocks, so a document of n members costs n nodes
 * plus the unescaped strings, both bounded by the limits.
 */

#include "ngx_commerce_json_internal.h"
#include "ngx_commerce_utf8.h"

#include <stdlib.h>
#include <sys/random.h>
#include <time.h>


#define NGX_COMMERCE_JSON_DEPTH        32
#define NGX_COMMERCE_JSON_DEPTH_MAX    256
#define NGX_COMMERCE_JSON_MEMBERS      1000
#define NGX_COMMERCE_JSON_BLOCK        32
#define NGX_COMMERCE_JSON_PAIRWISE     12
#define NGX_COMMERCE_JSON_NUMBER_MAX   64
#define NGX_COMMERCE_JSON_EXPONENT     308
#define NGX_COMMERCE_JSON_SAFE         9007199254740991LL


static ngx_commerce_rc_t ngx_commerce_json_again(
    ngx_commerce_json_reader_t *rd, ngx_commerce_json_t **root);
static ngx_commerce_rc_t ngx_commerce_json_value(ngx_commerce_json_reader_t *rd,
    ngx_commerce_json_t *node, uint32_t depth);
static ngx_commerce_rc_t ngx_commerce_json_container(
    ngx_commerce_json_reader_t *rd, ngx_commerce_json_t *node, uint32_t depth);
static ngx_commerce_rc_t ngx_commerce_json_members(
    ngx_commerce_json_reader_t *rd, ngx_commerce_json_t *node,
    ngx_commerce_json_scope_t *scope, uint32_t depth);
static ngx_commerce_rc_t ngx_commerce_json_name(ngx_commerce_json_reader_t *rd,
    ngx_commerce_json_t *member);
static ngx_commerce_rc_t ngx_commerce_json_number(
    ngx_commerce_json_reader_t *rd, ngx_commerce_json_t *node);
static ngx_commerce_rc_t ngx_commerce_json_word(ngx_commerce_json_reader_t *rd,
    const char *word, size_t len);
static ngx_commerce_rc_t ngx_commerce_json_duplicates(
    ngx_commerce_json_reader_t *rd, const ngx_commerce_json_t *object);


static inline void
ngx_commerce_json_space(ngx_commerce_json_reader_t *rd)
{
    while (rd->p < rd->end
           && (*rd->p == ' ' || *rd->p == '\n' || *rd->p == '\r'
               || *rd->p == '\t'))
    {
        rd->p++;
    }
}


ngx_commerce_rc_t
ngx_commerce_json_parse(const ngx_commerce_alloc_t *alloc, const uint8_t *data,
    size_t len, const ngx_commerce_json_limits_t *limits,
    ngx_commerce_json_t **root, ngx_commerce_json_error_t *error)
{
    ngx_commerce_rc_t            rc;
    ngx_commerce_json_t         *node;
    ngx_commerce_json_reader_t   rd;

    memset(&rd, 0, sizeof(rd));

    rd.alloc = alloc;
    rd.start = data;
    rd.p = data;
    rd.end = data + len;
    rd.error = error;
    rd.max_depth = NGX_COMMERCE_JSON_DEPTH;
    rd.max_members = NGX_COMMERCE_JSON_MEMBERS;

    if (limits != NULL && limits->max_depth != 0) {
        rd.max_depth = limits->max_depth < NGX_COMMERCE_JSON_DEPTH_MAX
                       ? limits->max_depth : NGX_COMMERCE_JSON_DEPTH_MAX;
    }

    if (limits != NULL && limits->max_members != 0) {
        rd.max_members = limits->max_members;
    }

    rd.nfc = limits != NULL && limits->nfc;

    if (len >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0) {
        return ngx_commerce_json_fail(&rd, rd.p, "byte-order-mark",
                             "The document must not begin with a byte order "
                             "mark.");
    }

    ngx_commerce_json_space(&rd);

    if (rd.p == rd.end) {
        return ngx_commerce_json_fail(&rd, rd.p, "empty",
                             "There is no JSON value.");
    }

    node = alloc->alloc(alloc->ctx, sizeof(ngx_commerce_json_t));
    if (node == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    memset(node, 0, sizeof(ngx_commerce_json_t));

    rc = ngx_commerce_json_value(&rd, node, 0);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    ngx_commerce_json_space(&rd);

    if (rd.p != rd.end) {
        return ngx_commerce_json_fail(&rd, rd.p, "trailing-bytes",
                             "Nothing may follow the JSON value.");
    }

    *root = node;

    return rd.changed ? ngx_commerce_json_again(&rd, root) : NGX_COMMERCE_OK;
}


/*
 * Text was not NFC: the raw bytes of what holds it are none either.  So the
 * tree is written down and read again, which nobody pays for whose text is.
 */

static ngx_commerce_rc_t
ngx_commerce_json_again(ngx_commerce_json_reader_t *rd,
    ngx_commerce_json_t **root)
{
    size_t                       len;
    uint8_t                     *text;
    ngx_commerce_json_limits_t   limits;

    len = (size_t) (uintptr_t) ngx_commerce_json_canonical(NULL, *root);

    text = rd->alloc->alloc(rd->alloc->ctx, len);

    if (text == NULL || ngx_commerce_json_canonical(text, *root) == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    limits.max_depth = rd->max_depth;
    limits.max_members = rd->max_members;
    limits.nfc = false;

    return ngx_commerce_json_parse(rd->alloc, text, len, &limits, root,
                                   rd->error);
}


static ngx_commerce_rc_t
ngx_commerce_json_value(ngx_commerce_json_reader_t *rd,
    ngx_commerce_json_t *node, uint32_t depth)
{
    ngx_commerce_rc_t   rc;
    const uint8_t      *start;

    start = rd->p;

    if (start == rd->end) {
        return ngx_commerce_json_fail(rd, start, "syntax",
                                      "A value is missing at the end.");
    }

    switch (*start) {

    case '{':
        node->type = NGX_COMMERCE_JSON_OBJECT;
        rc = ngx_commerce_json_container(rd, node, depth);
        break;

    case '[':
        node->type = NGX_COMMERCE_JSON_ARRAY;
        rc = ngx_commerce_json_container(rd, node, depth);
        break;

    case '"':
        node->type = NGX_COMMERCE_JSON_STRING;
        rc = ngx_commerce_json_string(rd, &node->text);
        break;

    case 't':
        node->type = NGX_COMMERCE_JSON_TRUE;
        rc = ngx_commerce_json_word(rd, "true", 4);
        break;

    case 'f':
        node->type = NGX_COMMERCE_JSON_FALSE;
        rc = ngx_commerce_json_word(rd, "false", 5);
        break;

    case 'n':
        node->type = NGX_COMMERCE_JSON_NULL;
        rc = ngx_commerce_json_word(rd, "null", 4);
        break;

    default:
        node->type = NGX_COMMERCE_JSON_NUMBER;
        rc = ngx_commerce_json_number(rd, node);
    }

    node->raw.data = (uint8_t *) start;
    node->raw.len = (size_t) (rd->p - start);

    return rc;
}


static ngx_commerce_rc_t
ngx_commerce_json_container(ngx_commerce_json_reader_t *rd,
    ngx_commerce_json_t *node, uint32_t depth)
{
    ngx_commerce_rc_t          rc;
    ngx_commerce_json_scope_t  scope;

    if (depth >= rd->max_depth) {
        return ngx_commerce_json_fail(rd, rd->p, "too-deep",
                          "Arrays and objects are nested too deep.");
    }

    scope.up = rd->scope;
    scope.container = node;
    scope.last = NULL;

    rd->scope = &scope;

    rc = ngx_commerce_json_members(rd, node, &scope, depth + 1);

    if (rc == NGX_COMMERCE_OK && node->type == NGX_COMMERCE_JSON_OBJECT) {
        scope.last = NULL;
        rc = ngx_commerce_json_duplicates(rd, node);
    }

    rd->scope = scope.up;

    return rc;
}


static ngx_commerce_json_t *
ngx_commerce_json_node(ngx_commerce_json_reader_t *rd)
{
    size_t  n;

    if (rd->block_left == 0) {
        n = (size_t) (rd->end - rd->p) / 2 + 1;
        n = n < NGX_COMMERCE_JSON_BLOCK ? n : NGX_COMMERCE_JSON_BLOCK;

        rd->block = rd->alloc->alloc(rd->alloc->ctx,
                                     n * sizeof(ngx_commerce_json_t));
        if (rd->block == NULL) {
            return NULL;
        }

        memset(rd->block, 0, n * sizeof(ngx_commerce_json_t));
        rd->block_left = (uint32_t) n;
    }

    rd->block_left--;

    return rd->block++;
}


static ngx_commerce_rc_t
ngx_commerce_json_members(ngx_commerce_json_reader_t *rd,
    ngx_commerce_json_t *node, ngx_commerce_json_scope_t *scope,
    uint32_t depth)
{
    uint8_t                close;
    ngx_commerce_rc_t      rc;
    ngx_commerce_json_t   *member, **tail;

    close = node->type == NGX_COMMERCE_JSON_OBJECT ? '}' : ']';
    tail = &node->child;

    rd->p++;
    ngx_commerce_json_space(rd);

    if (rd->p < rd->end && *rd->p == close) {
        rd->p++;
        return NGX_COMMERCE_OK;
    }

    for ( ;; ) {
        if (++rd->members > rd->max_members) {
            return ngx_commerce_json_fail(rd, rd->p, "too-many-members",
                          "The document has too many members and elements.");
        }

        member = ngx_commerce_json_node(rd);
        if (member == NULL) {
            return NGX_COMMERCE_NOMEM;
        }

        if (node->type == NGX_COMMERCE_JSON_OBJECT) {
            rc = ngx_commerce_json_name(rd, member);
            if (rc != NGX_COMMERCE_OK) {
                return rc;
            }
        }

        scope->last = member;
        node->count++;

        rc = ngx_commerce_json_value(rd, member, depth);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }

        *tail = member;
        tail = &member->next;

        ngx_commerce_json_space(rd);

        if (rd->p < rd->end && *rd->p == close) {
            rd->p++;
            return NGX_COMMERCE_OK;
        }

        if (rd->p == rd->end || *rd->p != ',') {
            return ngx_commerce_json_fail(rd, rd->p, "syntax",
                             close == '}' ? "A comma or } is missing."
                                          : "A comma or ] is missing.");
        }

        rd->p++;
        ngx_commerce_json_space(rd);
    }
}


static ngx_commerce_rc_t
ngx_commerce_json_name(ngx_commerce_json_reader_t *rd,
    ngx_commerce_json_t *member)
{
    ngx_commerce_rc_t  rc;

    if (rd->p == rd->end || *rd->p != '"') {
        return ngx_commerce_json_fail(rd, rd->p, "syntax",
                          "A member's name in double quotes is missing.");
    }

    rc = ngx_commerce_json_string(rd, &member->key);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    ngx_commerce_json_space(rd);

    if (rd->p == rd->end || *rd->p != ':') {
        return ngx_commerce_json_fail(rd, rd->p, "syntax",
                          "A colon is missing after the member's name.");
    }

    rd->p++;
    ngx_commerce_json_space(rd);

    return NGX_COMMERCE_OK;
}


static inline bool
ngx_commerce_json_digit(const uint8_t *p, const uint8_t *end)
{
    return p < end && *p >= '0' && *p <= '9';
}


/*
 * A number that no double can hold is refused: PostgreSQL would make 131,072
 * digits of 1e131071.
 */

static ngx_commerce_rc_t
ngx_commerce_json_number(ngx_commerce_json_reader_t *rd,
    ngx_commerce_json_t *node)
{
    bool            negative, down, integer;
    int64_t         value;
    int32_t         digits, exponent;
    const uint8_t  *p, *start;

    start = p = rd->p;

    negative = *p == '-';
    p += negative;

    if (!ngx_commerce_json_digit(p, rd->end)) {
        return ngx_commerce_json_fail(rd, start, "syntax",
                                      "A value was expected here.");
    }

    if (*p == '0' && ngx_commerce_json_digit(p + 1, rd->end)) {
        return ngx_commerce_json_fail(rd, start, "syntax",
                          "A number must not have a leading zero.");
    }

    value = 0;
    digits = 0;
    exponent = 0;
    integer = true;

    for ( /* void */ ; ngx_commerce_json_digit(p, rd->end); p++) {
        if (digits++ < 17) {
            value = value * 10 + (*p - '0');
        }
    }

    if (p < rd->end && *p == '.') {
        integer = false;
        p++;

        if (!ngx_commerce_json_digit(p, rd->end)) {
            return ngx_commerce_json_fail(rd, start, "syntax",
                          "A digit is missing after the decimal point.");
        }

        while (ngx_commerce_json_digit(p, rd->end)) {
            p++;
        }
    }

    if (p < rd->end && (*p == 'e' || *p == 'E')) {
        integer = false;
        p++;

        down = p < rd->end && *p == '-';
        p += p < rd->end && (*p == '-' || *p == '+');

        if (!ngx_commerce_json_digit(p, rd->end)) {
            return ngx_commerce_json_fail(rd, start, "syntax",
                          "A digit is missing in the exponent.");
        }

        for ( /* void */ ; ngx_commerce_json_digit(p, rd->end); p++) {
            if (exponent < 10000) {
                exponent = exponent * 10 + (*p - '0');
            }
        }

        if (down) {
            exponent = -exponent;
        }
    }

    if (p - start > NGX_COMMERCE_JSON_NUMBER_MAX
        || digits + exponent > NGX_COMMERCE_JSON_EXPONENT
        || exponent < -NGX_COMMERCE_JSON_EXPONENT)
    {
        return ngx_commerce_json_fail(rd, start, "number-range",
                          "A number must have at most 64 characters and lie "
                          "within 1e-308 and 1e308.");
    }

    if (integer && digits <= 16 && value <= NGX_COMMERCE_JSON_SAFE) {
        node->integer = 1;
        node->number = negative ? -value : value;
    }

    rd->p = p;

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_json_word(ngx_commerce_json_reader_t *rd, const char *word,
    size_t len)
{
    if ((size_t) (rd->end - rd->p) < len || memcmp(rd->p, word, len) != 0) {
        return ngx_commerce_json_fail(rd, rd->p, "syntax",
                                      "A value was expected here.");
    }

    rd->p += len;

    return NGX_COMMERCE_OK;
}


/*
 * Keyed, so that nobody outside can prepare names that collide: an object of
 * n members must not cost n * n.
 */

static uint32_t
ngx_commerce_json_hash(const uint8_t *p, size_t len)
{
    uint64_t            w;
    __uint128_t         m;
    static uint64_t     seed;

    if (seed == 0) {
        if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != sizeof(seed)) {
            seed = (uint64_t) time(NULL) * 0x9E3779B97F4A7C15ULL;
        }

        seed |= 1;
    }

    w = seed ^ (len * 0x9E3779B97F4A7C15ULL);

    for ( ;; ) {
        uint64_t  part = 0;
        size_t    n = len < 8 ? len : 8;

        memcpy(&part, p, n);
        m = (__uint128_t) (w ^ part) * (seed ^ 0xD6E8FEB86659FD93ULL);
        w = (uint64_t) m ^ (uint64_t) (m >> 64) ^ seed;

        if (len <= 8) {
            break;
        }

        p += 8;
        len -= 8;
    }

    return (uint32_t) (w ^ (w >> 32));
}


static inline bool
ngx_commerce_json_same(const ngx_commerce_str_t *a, const ngx_commerce_str_t *b)
{
    return a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
}


static ngx_commerce_rc_t
ngx_commerce_json_duplicate(ngx_commerce_json_reader_t *rd,
    const ngx_commerce_json_t *member)
{
    rd->scope->last = member;

    return ngx_commerce_json_fail(rd, member->raw.data, "duplicate-key",
                                  "An object has two members of one name.");
}


static ngx_commerce_rc_t
ngx_commerce_json_duplicates(ngx_commerce_json_reader_t *rd,
    const ngx_commerce_json_t *object)
{
    size_t                      i, size;
    uint32_t                    hash;
    const ngx_commerce_json_t  *a, *b;

    if (object->count <= NGX_COMMERCE_JSON_PAIRWISE) {
        for (a = object->child; a != NULL; a = a->next) {
            for (b = object->child; b != a; b = b->next) {
                if (ngx_commerce_json_same(&a->key, &b->key)) {
                    return ngx_commerce_json_duplicate(rd, a);
                }
            }
        }

        return NGX_COMMERCE_OK;
    }

    for (size = 32; size < (size_t) object->count * 2; size *= 2) {
        /* void */
    }

    if (rd->table_size < size) {
        rd->table = rd->alloc->alloc(rd->alloc->ctx,
                                     size * sizeof(ngx_commerce_json_entry_t));
        if (rd->table == NULL) {
            return NGX_COMMERCE_NOMEM;
        }

        rd->table_size = size;
    }

    memset(rd->table, 0, size * sizeof(ngx_commerce_json_entry_t));

    for (a = object->child; a != NULL; a = a->next) {
        hash = ngx_commerce_json_hash(a->key.data, a->key.len);

        for (i = hash & (size - 1); rd->table[i].node != NULL;
             i = (i + 1) & (size - 1))
        {
            if (rd->table[i].hash == hash
                && ngx_commerce_json_same(&rd->table[i].node->key, &a->key))
            {
                return ngx_commerce_json_duplicate(rd, a);
            }
        }

        rd->table[i].hash = hash;
        rd->table[i].node = a;
    }

    return NGX_COMMERCE_OK;
}


/* Writes the pointer's steps from the root down; what does not fit is cut. */

static char *
ngx_commerce_json_pointer(const ngx_commerce_json_scope_t *scope, char *p,
    const char *last)
{
    char                 digits[12];
    size_t               i, n;
    uint32_t             index;
    const uint8_t       *key;

    if (scope == NULL) {
        return p;
    }

    p = ngx_commerce_json_pointer(scope->up, p, last);

    if (scope->last == NULL || p == last) {
        return p;
    }

    *p++ = '/';

    if (scope->container->type == NGX_COMMERCE_JSON_ARRAY) {
        index = scope->container->count - 1;
        n = sizeof(digits);

        do {
            digits[--n] = (char) ('0' + index % 10);
            index /= 10;
        } while (index != 0);

        while (n < sizeof(digits) && p < last) {
            *p++ = digits[n++];
        }

        return p;
    }

    key = scope->last->key.data;

    for (i = 0; i < scope->last->key.len && last - p >= 2; i++) {
        if (key[i] == '~' || key[i] == '/') {
            *p++ = '~';
            *p++ = key[i] == '~' ? '0' : '1';

        } else {
            *p++ = (char) key[i];
        }
    }

    /* a name that was cut must not end within a sequence */
    if (i < scope->last->key.len) {
        while ((p[-1] & 0xC0) == 0x80) {
            p--;
        }

        if (p[-1] & 0x80) {
            p--;
        }
    }

    return p;
}


ngx_commerce_rc_t
ngx_commerce_json_fail(ngx_commerce_json_reader_t *rd, const uint8_t *at,
    const char *code, const char *message)
{
    char  *p;

    rd->error->offset = (size_t) (at - rd->start);
    rd->error->code = code;
    rd->error->message = message;

    p = ngx_commerce_json_pointer(rd->scope, rd->error->pointer,
                rd->error->pointer + sizeof(rd->error->pointer) - 1);
    *p = '\0';

    return NGX_COMMERCE_INVALID;
}


ngx_commerce_json_t *
ngx_commerce_json_get_n(const ngx_commerce_json_t *object, const uint8_t *key,
    size_t len)
{
    ngx_commerce_json_t  *member;

    if (object == NULL || object->type != NGX_COMMERCE_JSON_OBJECT) {
        return NULL;
    }

    for (member = object->child; member != NULL; member = member->next) {
        if (member->key.len == len && memcmp(member->key.data, key, len) == 0) {
            return member;
        }
    }

    return NULL;
}


ngx_commerce_json_t *
ngx_commerce_json_get(const ngx_commerce_json_t *object, const char *key)
{
    return ngx_commerce_json_get_n(object, (const uint8_t *) key, strlen(key));
}
