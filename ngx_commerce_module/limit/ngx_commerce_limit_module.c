/*
 * Named rate limits in shared memory: directives, the zone, taking, headers.
 */

#include "ngx_commerce_limit.h"
#include "ngx_commerce_gcra.h"

#include <openssl/rand.h>


#define NGX_COMMERCE_LIMIT_NAME_MAX   64
#define NGX_COMMERCE_LIMIT_QUOTA_MAX  1000000


struct ngx_commerce_limit_policy_s {
    ngx_str_t                    name;
    ngx_str_t                    scope;     /* name and its NUL: hashed before the key */
    ngx_commerce_limit_key_t     key;
    ngx_uint_t                   dry_run;
    ngx_uint_t                   window;    /* seconds in which burst comes back */
    ngx_commerce_gcra_rate_t     rate;
    ngx_str_t                    header;    /* "name";q=60;w=60 */
    ngx_shm_zone_t              *zone;
};


/* What the zone's init callback hands over from one cycle to the next. */

typedef struct {
    ngx_commerce_gcra_table_t   *table;
} ngx_commerce_limit_shctx_t;


typedef struct {
    ngx_shm_zone_t              *zone;
    ngx_array_t                  policies;  /* of ngx_commerce_limit_policy_t * */
} ngx_commerce_limit_main_conf_t;


static ngx_table_elt_t *ngx_commerce_limit_header(ngx_http_request_t *r,
    ngx_str_t *name);
static ngx_int_t ngx_commerce_limit_join(ngx_http_request_t *r,
    const char *name, size_t len, u_char *text, size_t text_len);
static void *ngx_commerce_limit_create_main_conf(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_limit_init(ngx_conf_t *cf);
static char *ngx_commerce_limit_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_commerce_limit_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);
static char *ngx_commerce_limit_policy(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_commerce_limit_parse_key(ngx_str_t *value,
    ngx_commerce_limit_policy_t *policy);
static ngx_int_t ngx_commerce_limit_parse_rate(ngx_str_t *value,
    ngx_uint_t *count, ngx_uint_t *period);
static char *ngx_commerce_limit_complete(ngx_conf_t *cf,
    ngx_commerce_limit_policy_t *policy, ngx_uint_t count, ngx_uint_t period);
static ngx_uint_t ngx_commerce_limit_name_valid(ngx_str_t *name);
static ngx_commerce_limit_policy_t *ngx_commerce_limit_lookup(
    ngx_commerce_limit_main_conf_t *lmcf, ngx_str_t *name);


static ngx_command_t  ngx_commerce_limit_commands[] = {

    { ngx_string("commerce_limit_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_commerce_limit_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_limit_policy"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_2MORE,
      ngx_commerce_limit_policy,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_limit_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_commerce_limit_init,               /* postconfiguration */

    ngx_commerce_limit_create_main_conf,   /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_commerce_limit_module = {
    NGX_MODULE_V1,
    &ngx_commerce_limit_module_ctx,        /* module context */
    ngx_commerce_limit_commands,           /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static const ngx_str_t  ngx_commerce_limit_keys[] = {
    ngx_string("ip"),
    ngx_string("user"),
    ngx_string("tenant"),
    ngx_string("ip_user")
};


ngx_commerce_limit_policy_t *
ngx_commerce_limit_find(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_commerce_limit_main_conf_t  *lmcf;

    lmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_limit_module);

    return ngx_commerce_limit_lookup(lmcf, name);
}


ngx_commerce_limit_key_t
ngx_commerce_limit_key(ngx_commerce_limit_policy_t *policy)
{
    return policy->key;
}


ngx_str_t *
ngx_commerce_limit_name(ngx_commerce_limit_policy_t *policy)
{
    return &policy->name;
}


void
ngx_commerce_limit_take(ngx_commerce_limit_policy_t *policy, ngx_str_t *key,
    ngx_uint_t cost, ngx_commerce_limit_verdict_t *verdict)
{
    ngx_commerce_str_t            scope, bytes;
    ngx_commerce_limit_shctx_t   *sh;
    ngx_commerce_gcra_verdict_t   gcra;

    sh = policy->zone->data;

    scope.data = policy->scope.data;
    scope.len = policy->scope.len;
    bytes.data = key->data;
    bytes.len = key->len;

    /* monotonic and the same in all workers, up to the length of a loop's turn */

    ngx_commerce_gcra_take(sh->table, &policy->rate, scope, bytes,
                           (uint64_t) ngx_current_msec * 1000, cost, &gcra);

    verdict->allowed = gcra.allowed;
    verdict->remaining = gcra.remaining;
    verdict->retry_after = (gcra.retry_after + 999999) / 1000000;

    /* of a refused request: nothing remains until retry_after, hence t = Retry-After */

    verdict->reset = gcra.allowed ? (gcra.reset + 999999) / 1000000
                                  : verdict->retry_after;

    if (!gcra.allowed && policy->dry_run) {
        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                      "limit \"%V\" would have refused a request (dry run)",
                      &policy->name);
        verdict->allowed = 1;
    }
}


ngx_int_t
ngx_commerce_limit_headers(ngx_http_request_t *r,
    ngx_commerce_limit_policy_t *policy, ngx_commerce_limit_verdict_t *verdict)
{
    u_char  *p, text[NGX_COMMERCE_LIMIT_NAME_MAX + sizeof("\"\";r=;t=")
                     + 2 * NGX_INT_T_LEN];

    p = ngx_sprintf(text, "\"%V\";r=%ui;t=%ui", &policy->name,
                    verdict->remaining, verdict->reset);

    if (ngx_commerce_limit_join(r, "RateLimit-Policy",
                                sizeof("RateLimit-Policy") - 1,
                                policy->header.data, policy->header.len)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_commerce_limit_join(r, "RateLimit", sizeof("RateLimit") - 1,
                                   text, p - text);
}


/* Both fields are lists: a second policy joins the first one's line. */

static ngx_int_t
ngx_commerce_limit_join(ngx_http_request_t *r, const char *name, size_t len,
    u_char *text, size_t text_len)
{
    u_char           *p;
    ngx_str_t         key;
    ngx_table_elt_t  *h;

    key.data = (u_char *) name;
    key.len = len;

    h = ngx_commerce_limit_header(r, &key);

    if (h == NULL) {
        h = ngx_list_push(&r->headers_out.headers);
        if (h == NULL) {
            return NGX_ERROR;
        }

        ngx_memzero(h, sizeof(ngx_table_elt_t));
        h->hash = 1;
        h->key = key;
    }

    p = ngx_pnalloc(r->pool, h->value.len + 2 + text_len);
    if (p == NULL) {
        h->hash = 0;
        return NGX_ERROR;
    }

    text = ngx_cpymem(p + (h->value.len ? h->value.len + 2 : 0), text,
                      text_len);

    if (h->value.len) {
        ngx_memcpy(ngx_cpymem(p, h->value.data, h->value.len), ", ", 2);
    }

    h->value.len = text - p;
    h->value.data = p;

    return NGX_OK;
}


static ngx_table_elt_t *
ngx_commerce_limit_header(ngx_http_request_t *r, ngx_str_t *name)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    part = &r->headers_out.headers.part;

    for ( /* void */ ; part != NULL; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {
            if (h[i].hash != 0 && h[i].key.len == name->len
                && ngx_strncasecmp(h[i].key.data, name->data, name->len) == 0)
            {
                return &h[i];
            }
        }
    }

    return NULL;
}


static void *
ngx_commerce_limit_create_main_conf(ngx_conf_t *cf)
{
    ngx_commerce_limit_main_conf_t  *lmcf;

    lmcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_limit_main_conf_t));
    if (lmcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     lmcf->zone = NULL;
     */

    if (ngx_array_init(&lmcf->policies, cf->pool, 8,
                       sizeof(ngx_commerce_limit_policy_t *))
        != NGX_OK)
    {
        return NULL;
    }

    return lmcf;
}


static ngx_int_t
ngx_commerce_limit_init(ngx_conf_t *cf)
{
    ngx_uint_t                       i;
    ngx_commerce_limit_policy_t    **policy;
    ngx_commerce_limit_main_conf_t  *lmcf;

    lmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_limit_module);

    if (lmcf->policies.nelts != 0 && lmcf->zone == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "commerce_limit_policy needs shared memory: add "
                           "\"commerce_limit_zone 1m;\" to http{}");
        return NGX_ERROR;
    }

    policy = lmcf->policies.elts;

    for (i = 0; i < lmcf->policies.nelts; i++) {
        policy[i]->zone = lmcf->zone;
    }

    return NGX_OK;
}


static char *
ngx_commerce_limit_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_limit_main_conf_t *lmcf = conf;

    ssize_t                      size;
    ngx_str_t                   *value, name;
    ngx_commerce_limit_shctx_t  *sh;

    if (lmcf->zone != NULL) {
        return "is duplicate";
    }

    value = cf->args->elts;
    size = ngx_parse_size(&value[1]);

    if (size == NGX_ERROR || size < (ssize_t) (8 * ngx_pagesize)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid zone size \"%V\": at least 32k, 1m holds "
                           "about 64,000 clients", &value[1]);
        return NGX_CONF_ERROR;
    }

    sh = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_limit_shctx_t));
    if (sh == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_str_set(&name, "commerce_limit");

    lmcf->zone = ngx_shared_memory_add(cf, &name, size,
                                       &ngx_commerce_limit_module);
    if (lmcf->zone == NULL) {
        return NGX_CONF_ERROR;
    }

    lmcf->zone->init = ngx_commerce_limit_init_zone;
    lmcf->zone->data = sh;

    return NGX_CONF_OK;
}


/*
 * A zone of the same size lives on over a reload, and nothing in it is changed
 * here: the new configuration may still be refused.
 */

static ngx_int_t
ngx_commerce_limit_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    void                        *mem;
    size_t                       size;
    u_char                       seed[16];
    ngx_slab_pool_t             *shpool;
    ngx_commerce_limit_shctx_t  *sh = shm_zone->data;

    shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (data != NULL || shm_zone->shm.exists) {
        sh->table = ngx_commerce_gcra_attach(shpool->data);

        if (sh->table == NULL) {
            ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                          "zone \"%V\" was made by another version of the "
                          "module: restart nginx, or change "
                          "commerce_limit_zone's size", &shm_zone->shm.name);
            return NGX_ERROR;
        }

        return NGX_OK;
    }

    /* all pages are free and in one run; slab pages are aligned for a set */

    size = shpool->pfree * ngx_pagesize;
    mem = ngx_slab_alloc(shpool, size);

    if (mem == NULL) {
        return NGX_ERROR;
    }

    if (RAND_bytes(seed, sizeof(seed)) != 1) {
        ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                      "no randomness for zone \"%V\"", &shm_zone->shm.name);
        return NGX_ERROR;
    }

    sh->table = ngx_commerce_gcra_create(mem, size, seed);
    if (sh->table == NULL) {
        return NGX_ERROR;
    }

    shpool->data = sh->table;

    return NGX_OK;
}


static char *
ngx_commerce_limit_policy(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_limit_main_conf_t *lmcf = conf;

    ngx_int_t                      n;
    ngx_str_t                     *value, s;
    ngx_uint_t                     i, keyed, count, period;
    ngx_commerce_limit_policy_t   *policy, **slot;

    value = cf->args->elts;
    keyed = 0;
    count = 0;
    period = 0;

    if (!ngx_commerce_limit_name_valid(&value[1])) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "policy name \"%V\" must be 1 to %d of "
                           "[a-z0-9_-]", &value[1],
                           NGX_COMMERCE_LIMIT_NAME_MAX);
        return NGX_CONF_ERROR;
    }

    if (ngx_commerce_limit_lookup(lmcf, &value[1]) != NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "duplicate policy \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    policy = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_limit_policy_t));
    if (policy == NULL) {
        return NGX_CONF_ERROR;
    }

    policy->name = value[1];

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "key=", 4) == 0) {
            s.data = value[i].data + 4;
            s.len = value[i].len - 4;

            if (ngx_commerce_limit_parse_key(&s, policy) == NGX_OK) {
                keyed = 1;
                continue;
            }

            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid \"%V\": key is one of ip, user, "
                               "tenant, ip_user", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (ngx_strncmp(value[i].data, "rate=", 5) == 0) {
            s.data = value[i].data + 5;
            s.len = value[i].len - 5;

            if (ngx_commerce_limit_parse_rate(&s, &count, &period) == NGX_OK) {
                continue;
            }

            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid \"%V\": a rate is like 10r/s, 60r/m "
                               "or 1000r/h, at most 1000000", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (ngx_strncmp(value[i].data, "burst=", 6) == 0) {
            n = ngx_atoi(value[i].data + 6, value[i].len - 6);

            if (n > 0 && n <= NGX_COMMERCE_LIMIT_QUOTA_MAX) {
                policy->rate.burst = n;
                continue;
            }

            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid \"%V\": burst is the number of "
                               "requests that pass at once, 1 to 1000000",
                               &value[i]);
            return NGX_CONF_ERROR;
        }

        if (ngx_strcmp(value[i].data, "dry_run") == 0) {
            policy->dry_run = 1;
            continue;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\": policies take key=, "
                           "rate=, burst= and dry_run", &value[i]);
        return NGX_CONF_ERROR;
    }

    if (!keyed || count == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "policy \"%V\" needs key= and rate=, as in "
                           "\"commerce_limit_policy orders key=user "
                           "rate=10r/m;\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    slot = ngx_array_push(&lmcf->policies);
    if (slot == NULL) {
        return NGX_CONF_ERROR;
    }

    *slot = policy;

    return ngx_commerce_limit_complete(cf, policy, count, period);
}


static ngx_int_t
ngx_commerce_limit_parse_key(ngx_str_t *value,
    ngx_commerce_limit_policy_t *policy)
{
    ngx_uint_t  i;

    for (i = 0; i <= NGX_COMMERCE_LIMIT_IP_USER; i++) {
        if (value->len == ngx_commerce_limit_keys[i].len
            && ngx_strncmp(value->data, ngx_commerce_limit_keys[i].data,
                           value->len) == 0)
        {
            policy->key = i;
            return NGX_OK;
        }
    }

    return NGX_ERROR;
}


static ngx_int_t
ngx_commerce_limit_parse_rate(ngx_str_t *value, ngx_uint_t *count,
    ngx_uint_t *period)
{
    ngx_int_t  n;

    if (value->len < 4 || ngx_strncmp(value->data + value->len - 3, "r/", 2))
    {
        return NGX_ERROR;
    }

    switch (value->data[value->len - 1]) {

    case 's':
        *period = 1;
        break;

    case 'm':
        *period = 60;
        break;

    case 'h':
        *period = 3600;
        break;

    default:
        return NGX_ERROR;
    }

    n = ngx_atoi(value->data, value->len - 3);

    if (n <= 0 || n > NGX_COMMERCE_LIMIT_QUOTA_MAX) {
        return NGX_ERROR;
    }

    *count = n;

    return NGX_OK;
}


/*
 * Without burst= the quota of a whole period passes at once: 60r/m lets
 * exactly 60 quick requests through, then one a second.
 */

static char *
ngx_commerce_limit_complete(ngx_conf_t *cf,
    ngx_commerce_limit_policy_t *policy, ngx_uint_t count, ngx_uint_t period)
{
    u_char  *p;
    size_t   len;

    if (policy->rate.burst == 0) {
        policy->rate.burst = count;
    }

    policy->rate.interval = (uint64_t) period * 1000000 / count;
    policy->window = (policy->rate.burst * period + count - 1) / count;

    policy->scope.len = policy->name.len + 1;
    policy->scope.data = ngx_pnalloc(cf->pool, policy->scope.len);

    len = policy->name.len + sizeof("\"\";q=;w=") + 2 * NGX_INT_T_LEN;
    policy->header.data = ngx_pnalloc(cf->pool, len);

    if (policy->scope.data == NULL || policy->header.data == NULL) {
        return NGX_CONF_ERROR;
    }

    p = ngx_cpymem(policy->scope.data, policy->name.data, policy->name.len);
    *p = '\0';

    p = ngx_sprintf(policy->header.data, "\"%V\";q=%uL;w=%ui", &policy->name,
                    policy->rate.burst, policy->window);
    policy->header.len = p - policy->header.data;

    return NGX_CONF_OK;
}


static ngx_uint_t
ngx_commerce_limit_name_valid(ngx_str_t *name)
{
    u_char  ch;
    size_t  i;

    if (name->len == 0 || name->len > NGX_COMMERCE_LIMIT_NAME_MAX) {
        return 0;
    }

    for (i = 0; i < name->len; i++) {
        ch = name->data[i];

        if (!((ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9')
              || ch == '_' || ch == '-'))
        {
            return 0;
        }
    }

    return 1;
}


static ngx_commerce_limit_policy_t *
ngx_commerce_limit_lookup(ngx_commerce_limit_main_conf_t *lmcf,
    ngx_str_t *name)
{
    ngx_uint_t                     i;
    ngx_commerce_limit_policy_t  **policy;

    policy = lmcf->policies.elts;

    for (i = 0; i < lmcf->policies.nelts; i++) {
        if (policy[i]->name.len == name->len
            && ngx_strncmp(policy[i]->name.data, name->data, name->len) == 0)
        {
            return policy[i];
        }
    }

    return NULL;
}
