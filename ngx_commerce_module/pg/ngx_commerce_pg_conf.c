/*
 * commerce_postgres: directives into the const configuration of the lanes.
 * Names are resolved here; no backend is contacted.
 */

#include "ngx_commerce_pg_internal.h"


typedef enum {
    NGX_COMMERCE_PG_TEXT = 0,
    NGX_COMMERCE_PG_NUMBER,
    NGX_COMMERCE_PG_MSEC,
    NGX_COMMERCE_PG_SECRET,             /* a file's first line */
    NGX_COMMERCE_PG_PATH
} ngx_commerce_pg_type_e;

typedef struct {
    ngx_str_t                name;
    ngx_commerce_pg_type_e   type;
    size_t                   offset;
    ngx_int_t                min;
    ngx_int_t                max;
} ngx_commerce_pg_parameter_t;


static char *ngx_commerce_pg_conf_address(ngx_conf_t *cf,
    ngx_commerce_pg_lane_conf_t *lane, ngx_str_t *value);
static char *ngx_commerce_pg_conf_unix(ngx_conf_t *cf,
    ngx_commerce_pg_lane_conf_t *lane, ngx_str_t *value);
static char *ngx_commerce_pg_conf_resolve(ngx_conf_t *cf,
    ngx_commerce_pg_lane_conf_t *lane, ngx_url_t *u);
static char *ngx_commerce_pg_conf_parameter(ngx_conf_t *cf,
    ngx_commerce_pg_lane_conf_t *lane, ngx_str_t *value);
static void ngx_commerce_pg_conf_inherit(ngx_commerce_pg_lane_conf_t *lane,
    ngx_commerce_pg_lane_conf_t *from);
static char *ngx_commerce_pg_conf_check(ngx_conf_t *cf,
    ngx_commerce_pg_lane_conf_t *lane);
static char *ngx_commerce_pg_conf_keywords(ngx_conf_t *cf,
    ngx_commerce_pg_lane_conf_t *lane);
static ngx_uint_t ngx_commerce_pg_conf_local(
    ngx_commerce_pg_lane_conf_t *lane);


#define ngx_commerce_pg_parameter(name, type, field, min, max)                \
    { ngx_string(name), NGX_COMMERCE_PG_##type,                               \
      offsetof(ngx_commerce_pg_lane_conf_t, field), min, max }

static ngx_commerce_pg_parameter_t  ngx_commerce_pg_parameters[] = {
    ngx_commerce_pg_parameter("dbname", TEXT, dbname, 0, 0),
    ngx_commerce_pg_parameter("user", TEXT, user, 0, 0),
    ngx_commerce_pg_parameter("password_file", SECRET, password, 0, 0),
    ngx_commerce_pg_parameter("connections", NUMBER, connections, 1, 64),
    ngx_commerce_pg_parameter("depth", NUMBER, depth, 1, 1024),
    ngx_commerce_pg_parameter("queue", NUMBER, queue, 0, 65536),
    ngx_commerce_pg_parameter("wait", MSEC, wait, 1, 600000),
    ngx_commerce_pg_parameter("timeout", MSEC, timeout, 50, 600000),
    ngx_commerce_pg_parameter("connect_timeout", MSEC, connect_timeout, 50,
                              60000),
    ngx_commerce_pg_parameter("grace", MSEC, grace, 0, 60000),
    ngx_commerce_pg_parameter("statement_timeout", MSEC, statement_timeout, 10,
                              600000),
    ngx_commerce_pg_parameter("lock_timeout", MSEC, lock_timeout, 10, 600000),
    ngx_commerce_pg_parameter("sslmode", TEXT, sslmode, 0, 0),
    ngx_commerce_pg_parameter("sslrootcert", PATH, sslrootcert, 0, 0),
    ngx_commerce_pg_parameter("sslcert", PATH, sslcert, 0, 0),
    ngx_commerce_pg_parameter("sslkey", PATH, sslkey, 0, 0),
    { ngx_null_string, NGX_COMMERCE_PG_TEXT, 0, 0, 0 }
};


/* Two cores and a small shop; docs/directives.md says what to change for more. */

void
ngx_commerce_pg_conf_init(ngx_commerce_pg_main_conf_t *pmcf)
{
    ngx_uint_t                    i;
    ngx_commerce_pg_lane_conf_t  *lane;

    for (i = 0; i < NGX_COMMERCE_PG_LANES; i++) {
        lane = &pmcf->lanes[i];

        lane->connections = 2;
        lane->connect_timeout = 3000;
        lane->grace = 1000;
        lane->lock_timeout = 1000;
    }

    lane = &pmcf->lanes[NGX_COMMERCE_PG_READ];
    ngx_str_set(&lane->lane, "read");
    lane->depth = 32;
    lane->queue = 512;
    lane->wait = 500;
    lane->timeout = 3000;
    lane->statement_timeout = 2000;

    lane = &pmcf->lanes[NGX_COMMERCE_PG_WRITE];
    ngx_str_set(&lane->lane, "write");

    /* commits share an fsync over connections, never within one; and whoever waits for a lock makes nobody else wait */
    lane->connections = 8;
    lane->depth = 1;
    lane->queue = 256;
    lane->wait = 120;
    lane->timeout = 5000;
    lane->statement_timeout = 3000;
    lane->lock_timeout = 2000;

    lane = &pmcf->lanes[NGX_COMMERCE_PG_SLOW];
    ngx_str_set(&lane->lane, "slow");
    lane->depth = 2;
    lane->queue = 64;
    lane->wait = 5000;
    lane->timeout = 15000;
    lane->statement_timeout = 10000;

    lane = &pmcf->lanes[NGX_COMMERCE_PG_EVENTS];
    ngx_str_set(&lane->lane, "events");
    lane->connections = 3;
    lane->depth = 1;
    lane->queue = 1024;
    lane->wait = 30000;
    lane->timeout = 20000;
    lane->statement_timeout = 15000;
}


void
ngx_commerce_pg_lane_use(ngx_conf_t *cf, ngx_commerce_pg_lane_t lane)
{
    ngx_commerce_pg_main_conf_t  *pmcf;

    if (lane == NGX_COMMERCE_PG_EVENTS) {
        pmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_pg_module);
        pmcf->events = 1;
    }
}


char *
ngx_commerce_pg_conf_directive(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_pg_main_conf_t  *pmcf = conf;

    char                         *rv;
    ngx_str_t                    *value;
    ngx_uint_t                    i;
    ngx_commerce_pg_lane_conf_t  *lane;

    value = cf->args->elts;
    lane = NULL;

    for (i = 0; i < NGX_COMMERCE_PG_LANES; i++) {
        if (value[1].len == pmcf->lanes[i].lane.len
            && ngx_strncmp(value[1].data, pmcf->lanes[i].lane.data,
                           value[1].len) == 0)
        {
            lane = &pmcf->lanes[i];
        }
    }

    if (lane == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown lane \"%V\" in \"commerce_postgres\", it "
                           "is one of read, write, slow, events", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (lane->set) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "lane \"%V\" has a \"commerce_postgres\" already",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    lane->set = 1;
    pmcf->configured = 1;

    rv = ngx_commerce_pg_conf_address(cf, lane, &value[2]);

    for (i = 3; rv == NGX_CONF_OK && i < cf->args->nelts; i++) {
        rv = ngx_commerce_pg_conf_parameter(cf, lane, &value[i]);
    }

    return rv;
}


static char *
ngx_commerce_pg_conf_address(ngx_conf_t *cf,
    ngx_commerce_pg_lane_conf_t *lane, ngx_str_t *value)
{
    ngx_url_t  u;

    lane->address = *value;

    if (ngx_strlchr(value->data, value->data + value->len, '=')) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"commerce_postgres %V\" needs an address before "
                           "its parameters: host:port or unix:folder",
                           &lane->lane);
        return NGX_CONF_ERROR;
    }

    if (ngx_strncmp(value->data, "unix:", 5) == 0) {
        return ngx_commerce_pg_conf_unix(cf, lane, value);
    }

    ngx_memzero(&u, sizeof(ngx_url_t));

    u.url = *value;
    u.default_port = 5432;

    if (ngx_parse_url(cf->pool, &u) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"commerce_postgres %V\": %s in \"%V\"",
                           &lane->lane, u.err ? u.err : "error", value);
        return NGX_CONF_ERROR;
    }

    return ngx_commerce_pg_conf_resolve(cf, lane, &u);
}


/* libpq wants the folder and the port; the socket's own path is taken as well. */

static char *
ngx_commerce_pg_conf_unix(ngx_conf_t *cf, ngx_commerce_pg_lane_conf_t *lane,
    ngx_str_t *value)
{
    u_char     *p;
    ngx_str_t   path;

    path.data = value->data + 5;
    path.len = value->len - 5;

    if (path.len == 0 || path.data[0] != '/') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"commerce_postgres %V\": \"%V\" needs an absolute "
                           "path, as in unix:/run/postgresql",
                           &lane->lane, value);
        return NGX_CONF_ERROR;
    }

    ngx_str_set(&lane->port, "5432");
    lane->host = path;

    p = ngx_strnstr(path.data, "/.s.PGSQL.", path.len);

    if (p) {
        lane->host.len = p - path.data;
        lane->port.data = p + sizeof("/.s.PGSQL.") - 1;
        lane->port.len = path.data + path.len - lane->port.data;
    }

    return NGX_CONF_OK;
}


/* libpq would resolve in the worker and block it; it gets every address and tries them in turn. */

static char *
ngx_commerce_pg_conf_resolve(ngx_conf_t *cf, ngx_commerce_pg_lane_conf_t *lane,
    ngx_url_t *u)
{
    u_char      *a, *h, *p;
    size_t       len;
    ngx_uint_t   i;

    len = u->naddrs * (NGX_SOCKADDR_STRLEN + 1);

    a = ngx_pnalloc(cf->pool, len);
    h = ngx_pnalloc(cf->pool, u->naddrs * (u->host.len + 1));
    p = ngx_pnalloc(cf->pool, NGX_INT_T_LEN);

    if (a == NULL || h == NULL || p == NULL) {
        return NGX_CONF_ERROR;
    }

    lane->hostaddr.data = a;
    lane->host.data = h;
    lane->port.data = p;
    lane->port.len = ngx_sprintf(p, "%ui", (ngx_uint_t) u->port) - p;

    for (i = 0; i < u->naddrs; i++) {
        if (i) {
            *a++ = ',';
            *h++ = ',';
        }

        a += ngx_sock_ntop(u->addrs[i].sockaddr, u->addrs[i].socklen, a,
                           NGX_SOCKADDR_STRLEN, 0);
        h = ngx_cpymem(h, u->host.data, u->host.len);
    }

    lane->hostaddr.len = a - lane->hostaddr.data;
    lane->host.len = h - lane->host.data;

    /* [::1] */

    if (u->naddrs == 1) {
        p = lane->hostaddr.data;

        if (*p == '[') {
            lane->hostaddr.data++;
            lane->hostaddr.len -= 2;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_commerce_pg_conf_parameter(ngx_conf_t *cf,
    ngx_commerce_pg_lane_conf_t *lane, ngx_str_t *value)
{
    u_char                       *eq;
    ngx_int_t                     n;
    ngx_str_t                     name, text, *s;
    ngx_commerce_pg_parameter_t  *p;

    eq = ngx_strlchr(value->data, value->data + value->len, '=');

    if (eq == NULL || eq == value->data + value->len - 1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"commerce_postgres %V\": \"%V\" is not of the form "
                           "name=value", &lane->lane, value);
        return NGX_CONF_ERROR;
    }

    name.data = value->data;
    name.len = eq - value->data;
    text.data = eq + 1;
    text.len = value->data + value->len - text.data;

    if (name.len == 8 && ngx_strncmp(name.data, "password", 8) == 0) {
        return ngx_commerce_password_inline(cf, "commerce_postgres");
    }

    for (p = ngx_commerce_pg_parameters; p->name.len; p++) {
        if (p->name.len == name.len
            && ngx_strncmp(p->name.data, name.data, name.len) == 0)
        {
            break;
        }
    }

    if (p->name.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"commerce_postgres %V\" knows no \"%V\"; it takes "
                           "dbname, user, password_file, connections, depth, "
                           "queue, wait, timeout, connect_timeout, grace, "
                           "statement_timeout, lock_timeout, sslmode, "
                           "sslrootcert, sslcert, sslkey", &lane->lane, &name);
        return NGX_CONF_ERROR;
    }

    s = (ngx_str_t *) ((u_char *) lane + p->offset);

    switch (p->type) {

    case NGX_COMMERCE_PG_TEXT:
        *s = text;
        return NGX_CONF_OK;

    case NGX_COMMERCE_PG_PATH:
        *s = text;
        return (ngx_conf_full_name(cf->cycle, s, 1) == NGX_OK)
               ? NGX_CONF_OK : NGX_CONF_ERROR;

    case NGX_COMMERCE_PG_SECRET:
        return ngx_commerce_password_file(cf, "commerce_postgres", &text, s);

    case NGX_COMMERCE_PG_NUMBER:
        n = ngx_atoi(text.data, text.len);
        break;

    default: /* NGX_COMMERCE_PG_MSEC */
        n = ngx_parse_time(&text, 0);
    }

    if (n == NGX_ERROR || n < p->min || n > p->max) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"commerce_postgres %V\": \"%V\" must be between "
                           "%i and %i%s", &lane->lane, value, p->min, p->max,
                           p->type == NGX_COMMERCE_PG_MSEC
                           ? " milliseconds, written as 500ms or 2s" : "");
        return NGX_CONF_ERROR;
    }

    /* ngx_uint_t and ngx_msec_t are one size */
    *(ngx_uint_t *) s = n;

    return NGX_CONF_OK;
}


char *
ngx_commerce_pg_conf_finish(ngx_conf_t *cf, ngx_commerce_pg_main_conf_t *pmcf)
{
    char                         *rv;
    ngx_str_t                     name;
    ngx_uint_t                    i;
    ngx_commerce_pg_lane_conf_t  *lane, *write;

    /* what is wrong with "write" should not be reported of a lane that inherits it */

    static const ngx_commerce_pg_lane_t  order[] = {
        NGX_COMMERCE_PG_WRITE, NGX_COMMERCE_PG_READ, NGX_COMMERCE_PG_SLOW,
        NGX_COMMERCE_PG_EVENTS
    };

    if (!pmcf->configured) {
        return NGX_CONF_OK;
    }

    write = &pmcf->lanes[NGX_COMMERCE_PG_WRITE];

    if (!write->set) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"commerce_postgres write ADDRESS …\" is missing: the "
                      "other lanes take what they lack from it");
        return NGX_CONF_ERROR;
    }

    for (i = 0; i < NGX_COMMERCE_PG_LANES; i++) {
        lane = &pmcf->lanes[order[i]];

        ngx_commerce_pg_conf_inherit(lane, write);

        rv = ngx_commerce_pg_conf_check(cf, lane);

        if (rv == NGX_CONF_OK) {
            rv = ngx_commerce_pg_conf_keywords(cf, lane);
        }

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    if (!pmcf->events) {
        pmcf->lanes[NGX_COMMERCE_PG_EVENTS].connections = 0;
    }

    ngx_str_set(&name, "commerce_postgres");

    pmcf->breakers = ngx_commerce_breaker_zone(cf, &name,
                                               &ngx_commerce_pg_module);

    return pmcf->breakers ? NGX_CONF_OK : NGX_CONF_ERROR;
}


/* Where and who, not how many and how long. */

static void
ngx_commerce_pg_conf_inherit(ngx_commerce_pg_lane_conf_t *lane,
    ngx_commerce_pg_lane_conf_t *from)
{
    ngx_uint_t           i;
    ngx_str_t           *to, *source;
    static const size_t  fields[] = {
        offsetof(ngx_commerce_pg_lane_conf_t, dbname),
        offsetof(ngx_commerce_pg_lane_conf_t, user),
        offsetof(ngx_commerce_pg_lane_conf_t, password),
        offsetof(ngx_commerce_pg_lane_conf_t, sslmode),
        offsetof(ngx_commerce_pg_lane_conf_t, sslrootcert),
        offsetof(ngx_commerce_pg_lane_conf_t, sslcert),
        offsetof(ngx_commerce_pg_lane_conf_t, sslkey)
    };

    if (!lane->set) {
        lane->address = from->address;
        lane->host = from->host;
        lane->hostaddr = from->hostaddr;
        lane->port = from->port;
    }

    for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        to = (ngx_str_t *) ((u_char *) lane + fields[i]);
        source = (ngx_str_t *) ((u_char *) from + fields[i]);

        if (to->data == NULL) {
            *to = *source;
        }
    }
}


static char *
ngx_commerce_pg_conf_check(ngx_conf_t *cf, ngx_commerce_pg_lane_conf_t *lane)
{
    ngx_uint_t         i, known;
    ngx_str_t         *mode;
    static ngx_str_t   modes[] = {
        ngx_string("disable"), ngx_string("require"),
        ngx_string("verify-ca"), ngx_string("verify-full")
    };

    if (lane->dbname.len == 0 || lane->user.len == 0) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"commerce_postgres %V\" needs dbname= and user=",
                      &lane->lane);
        return NGX_CONF_ERROR;
    }

    if (lane->statement_timeout >= lane->timeout) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"commerce_postgres %V\": statement_timeout (%M ms) must "
                      "be below timeout (%M ms), or a slow statement would look "
                      "like a dead server", &lane->lane,
                      lane->statement_timeout, lane->timeout);
        return NGX_CONF_ERROR;
    }

    mode = &lane->sslmode;

    if (mode->len == 0) {
        if (ngx_commerce_pg_conf_local(lane)) {
            *mode = modes[0];

        } else {
            *mode = modes[1];
        }
    }

    known = 0;

    for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        known |= (mode->len == modes[i].len
                  && ngx_strncmp(mode->data, modes[i].data, mode->len) == 0);
    }

    if (!known) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"commerce_postgres %V\": sslmode \"%V\" is not one of "
                      "disable, require, verify-ca, verify-full", &lane->lane,
                      mode);
        return NGX_CONF_ERROR;
    }

    if (mode->data[0] == 'v' && lane->sslrootcert.len == 0) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"commerce_postgres %V\": sslmode %V needs sslrootcert=, "
                      "the certificate of the authority to trust", &lane->lane,
                      mode);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* Over a network TLS is the default. */

static ngx_uint_t
ngx_commerce_pg_conf_local(ngx_commerce_pg_lane_conf_t *lane)
{
    return lane->hostaddr.len == 0
           || ngx_strncmp(lane->hostaddr.data, "127.", 4) == 0
           || (lane->hostaddr.len == 3
               && ngx_strncmp(lane->hostaddr.data, "::1", 3) == 0);
}


static char *
ngx_commerce_pg_conf_keywords(ngx_conf_t *cf,
    ngx_commerce_pg_lane_conf_t *lane)
{
    u_char      *p, *last;
    ngx_str_t    options, name, *v;
    ngx_uint_t   i, n;

    struct {
        const char  *keyword;
        ngx_str_t   *value;
    } list[] = {
        { "host", &lane->host },
        { "hostaddr", &lane->hostaddr },
        { "port", &lane->port },
        { "dbname", &lane->dbname },
        { "user", &lane->user },
        { "password", &lane->password },
        { "sslmode", &lane->sslmode },
        { "sslrootcert", &lane->sslrootcert },
        { "sslcert", &lane->sslcert },
        { "sslkey", &lane->sslkey },
        { "application_name", &name },
        { "options", &options }
    };

    options.data = ngx_pnalloc(cf->pool, 512);
    name.data = ngx_pnalloc(cf->pool, 64);

    if (options.data == NULL || name.data == NULL) {
        return NGX_CONF_ERROR;
    }

    last = options.data + 512;

    /* an idle transaction cannot happen in a pipeline; one that does is a fault of ours */

    options.len = ngx_slprintf(options.data, last,
                               "-c statement_timeout=%M -c lock_timeout=%M "
                               "-c idle_in_transaction_session_timeout=10000 "
                               "-c client_min_messages=warning -c jit=off",
                               lane->statement_timeout, lane->lock_timeout)
                  - options.data;

    name.len = ngx_slprintf(name.data, name.data + 64, "nginx-commerce %V",
                            &lane->lane)
               - name.data;

    n = 0;

    for (i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
        v = list[i].value;

        if (v->len == 0) {
            continue;
        }

        p = ngx_pnalloc(cf->pool, v->len + 1);
        if (p == NULL) {
            return NGX_CONF_ERROR;
        }

        (void) ngx_cpystrn(p, v->data, v->len + 1);

        lane->keywords[n] = list[i].keyword;
        lane->values[n++] = (char *) p;
    }

    lane->keywords[n] = "client_encoding";
    lane->values[n++] = "UTF8";
    lane->keywords[n] = "gssencmode";
    lane->values[n++] = "disable";
    lane->keywords[n] = "keepalives_idle";
    lane->values[n++] = "30";
    lane->keywords[n] = "keepalives_interval";
    lane->values[n++] = "10";
    lane->keywords[n] = "keepalives_count";
    lane->values[n++] = "3";
    lane->keywords[n] = "tcp_user_timeout";
    lane->values[n++] = "15000";

    if (ngx_strcmp(lane->lane.data, "write") == 0) {
        /* after a failover the old primary must not be taken for the new one */
        lane->keywords[n] = "target_session_attrs";
        lane->values[n++] = "read-write";
    }

    lane->keywords[n] = NULL;
    lane->values[n] = NULL;

    return NGX_CONF_OK;
}
