/*
 * The formats of strings.
 */

#include "ngx_commerce_schema_internal.h"
#include "ngx_commerce_codec.h"
#include "ngx_commerce_text.h"

#include <stdio.h>
#include <string.h>
#include <time.h>


static inline bool
ngx_commerce_is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}


static inline bool
ngx_commerce_is_alnum(uint8_t c)
{
    return ngx_commerce_is_digit(c)
           || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}


/* n digits at p as a number, or -1. */

static int
ngx_commerce_digits(const uint8_t *p, size_t n)
{
    int  value = 0;

    while (n--) {
        if (!ngx_commerce_is_digit(*p)) {
            return -1;
        }

        value = value * 10 + (*p++ - '0');
    }

    return value;
}


static const char *
ngx_commerce_format_date(const uint8_t *p, size_t len)
{
    int                   y, m, d, last;
    static const uint8_t  days[12] = { 31, 28, 31, 30, 31, 30,
                                       31, 31, 30, 31, 30, 31 };
    static const char     message[] = "must be a date like 2026-01-31";

    if (len != 10 || p[4] != '-' || p[7] != '-') {
        return message;
    }

    y = ngx_commerce_digits(p, 4);
    m = ngx_commerce_digits(p + 5, 2);
    d = ngx_commerce_digits(p + 8, 2);

    if (y < 1 || m < 1 || m > 12 || d < 1) {
        return message;
    }

    last = days[m - 1];

    if (m == 2 && y % 4 == 0 && (y % 100 != 0 || y % 400 == 0)) {
        last = 29;
    }

    return d <= last ? NULL : message;
}


/* A day that is not to come, wherever on earth it is today already. */

static const char *
ngx_commerce_format_past_date(const uint8_t *p, size_t len)
{
    char         today[sizeof("9999-12-31")];
    time_t       now;
    const char  *why;
    struct tm    tm;

    why = ngx_commerce_format_date(p, len);
    if (why != NULL) {
        return why;
    }

    now = time(NULL) + 14 * 3600;

    if (gmtime_r(&now, &tm) == NULL
        || strftime(today, sizeof(today), "%Y-%m-%d", &tm) == 0)
    {
        return NULL;
    }

    return memcmp(p, today, len) <= 0 ? NULL : "must not lie in the future";
}


static const char *
ngx_commerce_format_date_time(const uint8_t *p, size_t len)
{
    size_t             i;
    static const char  message[] =
        "must be a time like 2026-01-31T12:00:00Z (RFC 3339)";

    if (len < 20 || ngx_commerce_format_date(p, 10) != NULL
        || (p[10] != 'T' && p[10] != 't') || p[13] != ':' || p[16] != ':')
    {
        return message;
    }

    if ((unsigned) ngx_commerce_digits(p + 11, 2) > 23
        || (unsigned) ngx_commerce_digits(p + 14, 2) > 59
        || (unsigned) ngx_commerce_digits(p + 17, 2) > 60)
    {
        return message;
    }

    i = 19;

    if (p[i] == '.') {
        do {
            i++;
        } while (i < len && ngx_commerce_is_digit(p[i]));

        if (i == 20 || i > 29) {
            return message;
        }
    }

    if (i + 1 == len && (p[i] == 'Z' || p[i] == 'z')) {
        return NULL;
    }

    if (i + 6 == len && (p[i] == '+' || p[i] == '-') && p[i + 3] == ':'
        && (unsigned) ngx_commerce_digits(p + i + 1, 2) <= 23
        && (unsigned) ngx_commerce_digits(p + i + 4, 2) <= 59)
    {
        return NULL;
    }

    return message;
}


/* Names of hosts, spelled as people do; what IDNA makes of them is told by text_host(). */

static const char *
ngx_commerce_format_labels(const uint8_t *p, size_t len)
{
    size_t             i, label;
    static const char  message[] = "must be the name of a host";

    if (len == 0 || len > 253) {
        return message;
    }

    for (i = 0, label = 0; i < len; i++) {
        if (p[i] == '.') {
            if (label == 0 || p[i - 1] == '-' || i + 1 == len) {
                return message;
            }

            label = 0;
            continue;
        }

        if (!(ngx_commerce_is_alnum(p[i]) || p[i] >= 0x80
              || (p[i] == '-' && label != 0))
            || ++label > 63)
        {
            return message;
        }
    }

    return p[len - 1] != '-' ? NULL : message;
}


static const char *
ngx_commerce_format_hostname(const uint8_t *p, size_t len)
{
    uint8_t      ascii[NGX_COMMERCE_HOST_MAX];
    ptrdiff_t    n;
    const char  *wrong;

    wrong = ngx_commerce_format_labels(p, len);
    if (wrong != NULL) {
        return wrong;
    }

    n = ngx_commerce_text_host(ascii, p, len);

    return n < 0 ? "must be the name of a host (IDNA 2008)"
                 : ngx_commerce_format_labels(ascii, (size_t) n);
}


static const char *
ngx_commerce_format_email(const uint8_t *p, size_t len)
{
    size_t             i;
    uint8_t            ascii[NGX_COMMERCE_HOST_MAX];
    ptrdiff_t          n;
    const uint8_t     *at;
    static const char  message[] = "must be an e-mail address";

    if (len > 254) {
        return message;
    }

    at = memchr(p, '@', len);
    if (at == NULL || at == p || at - p > 64) {
        return message;
    }

    for (i = 0; p + i < at; i++) {
        if (!ngx_commerce_is_alnum(p[i]) && p[i] < 0x80
            && (p[i] == 0 || strchr("!#$%&'*+-/=?^_`{|}~.", p[i]) == NULL))
        {
            return message;
        }

        if (p[i] == '.' && (i == 0 || p + i + 1 == at || p[i + 1] == '.')) {
            return message;
        }
    }

    len -= (size_t) (at + 1 - p);

    if (memchr(at + 1, '.', len) == NULL
        || ngx_commerce_format_labels(at + 1, len) != NULL)
    {
        return message;
    }

    /* what is kept is the ASCII form: that must be an address too */

    n = ngx_commerce_text_host(ascii, at + 1, len);

    if (n < 0 || at + 1 - p + n > 254
        || ngx_commerce_format_labels(ascii, (size_t) n) != NULL)
    {
        return message;
    }

    return NULL;
}


static const char *
ngx_commerce_format_uuid(const uint8_t *p, size_t len)
{
    return ngx_commerce_uuid_valid(p, len)
           ? NULL : "must be a UUID like 0190163d-8694-739b-aea5-966c26f8ad91";
}


static const char *
ngx_commerce_format_uri(const uint8_t *p, size_t len)
{
    size_t             i;
    static const char  message[] =
        "must be an absolute URI like https://example.com/a";

    for (i = 0; i < len && p[i] != ':'; i++) {
        if (!ngx_commerce_is_alnum(p[i])
            && (i == 0 || (p[i] != '+' && p[i] != '-' && p[i] != '.')))
        {
            return message;
        }
    }

    if (i < 1 || i + 1 >= len || ngx_commerce_is_digit(p[0])) {
        return message;
    }

    for ( /* void */ ; i < len; i++) {
        if (p[i] <= ' ' || p[i] >= 0x7F || strchr("\"<>\\^`{|}", p[i])) {
            return message;
        }

        if (p[i] == '%') {
            uint8_t  decoded;

            if (len - i < 3
                || ngx_commerce_percent_decode(&decoded, p + i, 3, false) != 1)
            {
                return message;
            }
        }
    }

    return NULL;
}


static const char *
ngx_commerce_format_ipv4(const uint8_t *p, size_t len)
{
    int                value;
    size_t             i, n, parts;
    static const char  message[] = "must be an IPv4 address";

    for (i = 0, parts = 0; parts < 4; parts++) {
        for (n = 0; i + n < len && n < 4
                    && ngx_commerce_is_digit(p[i + n]); n++)
        {
            /* void */
        }

        value = n > 0 && n < 4 ? ngx_commerce_digits(p + i, n) : -1;

        if (value < 0 || value > 255 || (n > 1 && p[i] == '0')) {
            return message;
        }

        i += n;

        if (parts < 3) {
            if (i >= len || p[i] != '.') {
                return message;
            }

            i++;
        }
    }

    return i == len ? NULL : message;
}


static const char *
ngx_commerce_format_ipv6(const uint8_t *p, size_t len)
{
    bool               gap;
    size_t             i, n, groups;
    static const char  message[] = "must be an IPv6 address";

    gap = false;
    groups = 0;
    i = 0;

    if (len >= 2 && p[0] == ':' && p[1] == ':') {
        gap = true;
        i = 2;
    }

    while (i < len) {
        for (n = 0; i + n < len && (ngx_commerce_is_digit(p[i + n])
                    || ((p[i + n] | 0x20) >= 'a' && (p[i + n] | 0x20) <= 'f'));
             n++)
        {
            /* void */
        }

        if (n > 0 && i + n < len && p[i + n] == '.') {
            if (ngx_commerce_format_ipv4(p + i, len - i) != NULL) {
                return message;
            }

            groups += 2;
            break;
        }

        if (n == 0 || n > 4) {
            return message;
        }

        groups++;
        i += n;

        if (i == len) {
            break;
        }

        if (p[i++] != ':' || i == len) {
            return message;
        }

        if (p[i] == ':') {
            if (gap) {
                return message;
            }

            gap = true;
            i++;
        }
    }

    return (gap ? groups < 8 : groups == 8) ? NULL : message;
}


static const char *
ngx_commerce_format_slug(const uint8_t *p, size_t len)
{
    size_t             i;
    static const char  message[] =
        "must be made of a-z, 0-9 and single hyphens, like red-shoes";

    for (i = 0; i < len; i++) {
        if (p[i] == '-') {
            if (i == 0 || i + 1 == len || p[i + 1] == '-') {
                return message;
            }

        } else if (!ngx_commerce_is_digit(p[i])
                   && (p[i] < 'a' || p[i] > 'z'))
        {
            return message;
        }
    }

    return len > 0 ? NULL : message;
}


static const char *
ngx_commerce_format_currency(const uint8_t *p, size_t len)
{
    size_t  i;

    for (i = 0; i < len && p[i] >= 'A' && p[i] <= 'Z'; i++) {
        /* void */
    }

    return (len == 3 && i == 3) ? NULL
           : "must be a currency code like EUR (ISO 4217)";
}


/* The module checks a cursor's signature; here only its letters. */

static const char *
ngx_commerce_format_cursor(const uint8_t *p, size_t len)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        if (!ngx_commerce_is_alnum(p[i]) && p[i] != '-' && p[i] != '_') {
            return "must be a cursor that a reply of this route gave";
        }
    }

    return NULL;
}


/* RFC 8265, OpaqueString: any text without control characters. */

static const char *
ngx_commerce_format_password(const uint8_t *p, size_t len)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        if (p[i] < 0x20 || p[i] == 0x7F
            || (p[i] == 0xC2 && p[i + 1] < 0xA0))
        {
            return "must not hold control characters";
        }
    }

    return NULL;
}


static const char *
ngx_commerce_format_free(const uint8_t *p, size_t len)
{
    (void) p;
    (void) len;

    return NULL;
}


ngx_commerce_format_pt
ngx_commerce_format_find(ngx_commerce_str_t name, const char **known,
    bool *annotation)
{
    size_t                         i;
    static const struct {
        const char                *name;
        ngx_commerce_format_pt     check;
    }  formats[] = {
        { "date",      ngx_commerce_format_date },
        { "date-time", ngx_commerce_format_date_time },
        { "past-date", ngx_commerce_format_past_date },
        { "email",     ngx_commerce_format_email },
        { "uuid",      ngx_commerce_format_uuid },
        { "uri",       ngx_commerce_format_uri },
        { "hostname",  ngx_commerce_format_hostname },
        { "ipv4",      ngx_commerce_format_ipv4 },
        { "ipv6",      ngx_commerce_format_ipv6 },
        { "slug",      ngx_commerce_format_slug },
        { "currency",  ngx_commerce_format_currency },
        { "cursor",    ngx_commerce_format_cursor },
        { "password",  ngx_commerce_format_password },
        { "int32",     ngx_commerce_format_free },
        { "int64",     ngx_commerce_format_free },
    };
    static const char             *annotations[] = {
        "binary", "byte", "float", "double", "html", "markdown",
    };

    *annotation = false;

    for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (ngx_commerce_str_is(name, formats[i].name)) {
            *known = formats[i].name;
            return formats[i].check;
        }
    }

    for (i = 0; i < sizeof(annotations) / sizeof(annotations[0]); i++) {
        if (ngx_commerce_str_is(name, annotations[i])) {
            *annotation = true;
            return ngx_commerce_format_free;
        }
    }

    return NULL;
}
