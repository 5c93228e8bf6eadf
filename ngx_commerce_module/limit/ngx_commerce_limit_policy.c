/*
 * commerce_limit_policy: a line of conf becomes a const policy.
 */

#include "ngx_commerce_limit_internal.h"


/* What the line says, until it is complete. */

typedef struct {
    ngx_conf_t                   *cf;
    ngx_commerce_limit_policy_t  *policy;
    ngx_uint_t                    keyed;
    ngx_uint_t                    count;        /* of rate= */
    ngx_uint_t                    period;       /* of rate=, or window= */
    ngx_uint_t                    windowed;
} ngx_commerce_limit_line_t;

typedef struct {
    ngx_str_t                     name;         /* "rate=" */
    ngx_int_t                   (*set)(ngx_commerce_limit_line_t *line,
                                    ngx_str_t *value);
    const char                   *cure;
} ngx_commerce_limit_parameter_t;


static ngx_int_t ngx_commerce_limit_parameter(ngx_commerce_limit_line_t *line,
    ngx_str_t *value);
static ngx_int_t ngx_commerce_limit_set_key(ngx_commerce_limit_line_t *line,
    ngx_str_t *value);
static ngx_int_t ngx_commerce_limit_set_rate(ngx_commerce_limit_line_t *line,
    ngx_str_t *value);
static ngx_int_t ngx_commerce_limit_set_burst(ngx_commerce_limit_line_t *line,
    ngx_str_t *value);
static ngx_int_t ngx_commerce_limit_set_window(
    ngx_commerce_limit_line_t *line, ngx_str_t *value);
static ngx_int_t ngx_commerce_limit_set_cost(ngx_commerce_limit_line_t *line,
    ngx_str_t *value);
static ngx_int_t ngx_commerce_limit_set_status(
    ngx_commerce_limit_line_t *line, ngx_str_t *value);
static ngx_int_t ngx_commerce_limit_set_prefix(
    ngx_commerce_limit_line_t *line, ngx_str_t *value);
static ngx_int_t ngx_commerce_limit_compile(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_complex_value_t *cv);
static ngx_uint_t ngx_commerce_limit_mentions(ngx_str_t *value,
    const char *part);
static char *ngx_commerce_limit_complete(ngx_commerce_limit_line_t *line);
static ngx_uint_t ngx_commerce_limit_name_valid(ngx_str_t *name);


static ngx_str_t  ngx_commerce_limit_keys[] = {
    ngx_string("ip"),
    ngx_string("user"),
    ngx_string("tenant"),
    ngx_string("api_key"),
    ngx_string("ip_user")
};


static ngx_commerce_limit_parameter_t  ngx_commerce_limit_parameters[] = {

    { ngx_string("key="), ngx_commerce_limit_set_key,
      "a key is ip, user, tenant, api_key, ip_user, or text with variables, "
      "like $http_x_device" },

    { ngx_string("rate="), ngx_commerce_limit_set_rate,
      "a rate is like 10r/s, 60r/m or 1000r/h, at most 1000000" },

    { ngx_string("burst="), ngx_commerce_limit_set_burst,
      "burst is the number of requests that pass at once, 1 to 1000000" },

    { ngx_string("window="), ngx_commerce_limit_set_window,
      "a window is the time in which burst comes back, like 15m, up to 366d" },

    { ngx_string("cost="), ngx_commerce_limit_set_cost,
      "cost is what one request takes: 1 to 1000000, or a variable" },

    { ngx_string("status="), ngx_commerce_limit_set_status,
      "a status is 400 to 599" },

    { ngx_string("ip6_prefix="), ngx_commerce_limit_set_prefix,
      "a prefix is 1 to 128" },

    { ngx_null_string, NULL, NULL }
};


char *
ngx_commerce_limit_policy(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_limit_main_conf_t  *lmcf = conf;

    ngx_str_t                     *value;
    ngx_uint_t                     i;
    ngx_commerce_limit_line_t      line;
    ngx_commerce_limit_policy_t   *policy, **slot;

    value = cf->args->elts;

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

    policy->conf = lmcf;
    policy->name = value[1];
    policy->units = 1;
    policy->status = NGX_HTTP_TOO_MANY_REQUESTS;
    policy->ip6_prefix = 64;

    ngx_memzero(&line, sizeof(ngx_commerce_limit_line_t));
    line.cf = cf;
    line.policy = policy;

    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_commerce_limit_parameter(&line, &value[i]) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    slot = ngx_array_push(&lmcf->policies);
    if (slot == NULL) {
        return NGX_CONF_ERROR;
    }

    *slot = policy;
    lmcf->cluster |= policy->cluster;

    return ngx_commerce_limit_complete(&line);
}


static ngx_int_t
ngx_commerce_limit_parameter(ngx_commerce_limit_line_t *line,
    ngx_str_t *value)
{
    ngx_str_t                        s;
    ngx_commerce_limit_parameter_t  *p;

    if (ngx_strcmp(value->data, "dry_run") == 0) {
        line->policy->dry_run = 1;
        return NGX_OK;
    }

    if (ngx_strcmp(value->data, "override") == 0) {
        line->policy->override = 1;
        return NGX_OK;
    }

    if (ngx_strcmp(value->data, "cluster") == 0) {
        line->policy->cluster = 1;
        return NGX_OK;
    }

    for (p = ngx_commerce_limit_parameters; p->set; p++) {

        if (ngx_strncmp(value->data, p->name.data, p->name.len) != 0) {
            continue;
        }

        s.data = value->data + p->name.len;
        s.len = value->len - p->name.len;

        if (s.len && p->set(line, &s) == NGX_OK) {
            return NGX_OK;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, line->cf, 0, "invalid \"%V\": %s",
                           value, p->cure);
        return NGX_ERROR;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, line->cf, 0,
                       "invalid parameter \"%V\": policies take key=, rate=, "
                       "burst=, window=, cost=, status=, ip6_prefix=, "
                       "cluster, override and dry_run", value);
    return NGX_ERROR;
}


/* A key of variables that tell of a token waits until that was looked at. */

static ngx_int_t
ngx_commerce_limit_set_key(ngx_commerce_limit_line_t *line, ngx_str_t *value)
{
    ngx_uint_t                    i;
    ngx_commerce_limit_policy_t  *policy;

    policy = line->policy;
    line->keyed = 1;

    for (i = 0; i < NGX_COMMERCE_LIMIT_VARIABLE; i++) {
        if (value->len == ngx_commerce_limit_keys[i].len
            && ngx_strncmp(value->data, ngx_commerce_limit_keys[i].data,
                           value->len) == 0)
        {
            policy->key = i;
            policy->stage = (i == NGX_COMMERCE_LIMIT_IP)
                            ? NGX_COMMERCE_STAGE_ADDRESS
                            : NGX_COMMERCE_STAGE_PRINCIPAL;
            return NGX_OK;
        }
    }

    policy->key = NGX_COMMERCE_LIMIT_VARIABLE;
    policy->stage = (ngx_commerce_limit_mentions(value, "$commerce_")
                     || ngx_commerce_limit_mentions(value, "${commerce_"))
                    ? NGX_COMMERCE_STAGE_PRINCIPAL
                    : NGX_COMMERCE_STAGE_ADDRESS;

    return ngx_commerce_limit_mentions(value, "$")
           ? ngx_commerce_limit_compile(line->cf, value, &policy->value)
           : NGX_ERROR;
}


static ngx_int_t
ngx_commerce_limit_set_rate(ngx_commerce_limit_line_t *line, ngx_str_t *value)
{
    return ngx_commerce_limit_parse_rate(value, &line->count, &line->period);
}


static ngx_int_t
ngx_commerce_limit_set_burst(ngx_commerce_limit_line_t *line,
    ngx_str_t *value)
{
    ngx_int_t  n;

    n = ngx_atoi(value->data, value->len);

    if (n <= 0 || n > NGX_COMMERCE_LIMIT_QUOTA_MAX) {
        return NGX_ERROR;
    }

    line->policy->rate.burst = n;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_limit_set_window(ngx_commerce_limit_line_t *line,
    ngx_str_t *value)
{
    ngx_int_t  n;

    n = ngx_parse_time(value, 1);

    if (n <= 0 || n > 366 * 86400) {
        return NGX_ERROR;
    }

    line->windowed = n;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_limit_set_cost(ngx_commerce_limit_line_t *line, ngx_str_t *value)
{
    ngx_int_t                     n;
    ngx_commerce_limit_policy_t  *policy;

    policy = line->policy;

    if (value->data[0] == '$') {
        policy->cost = ngx_palloc(line->cf->pool,
                                  sizeof(ngx_http_complex_value_t));
        if (policy->cost == NULL) {
            return NGX_ERROR;
        }

        if (ngx_commerce_limit_mentions(value, "$commerce_")
            || ngx_commerce_limit_mentions(value, "${commerce_"))
        {
            policy->stage = NGX_COMMERCE_STAGE_PRINCIPAL;
        }

        return ngx_commerce_limit_compile(line->cf, value, policy->cost);
    }

    n = ngx_atoi(value->data, value->len);

    if (n <= 0 || n > NGX_COMMERCE_LIMIT_QUOTA_MAX) {
        return NGX_ERROR;
    }

    policy->units = n;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_limit_set_status(ngx_commerce_limit_line_t *line,
    ngx_str_t *value)
{
    ngx_int_t  n;

    n = ngx_atoi(value->data, value->len);

    if (n < 400 || n > 599) {
        return NGX_ERROR;
    }

    line->policy->status = n;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_limit_set_prefix(ngx_commerce_limit_line_t *line,
    ngx_str_t *value)
{
    ngx_int_t  n;

    n = ngx_atoi(value->data, value->len);

    if (n < 1 || n > 128) {
        return NGX_ERROR;
    }

    line->policy->ip6_prefix = n;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_limit_compile(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_complex_value_t *cv)
{
    ngx_http_compile_complex_value_t  ccv;

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = value;
    ccv.complex_value = cv;

    return ngx_http_compile_complex_value(&ccv);
}


static ngx_uint_t
ngx_commerce_limit_mentions(ngx_str_t *value, const char *part)
{
    return ngx_strnstr(value->data, (char *) part, value->len) != NULL;
}


ngx_int_t
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
 * Either of rate= and window= says how fast burst comes back.  Without burst=
 * the quota of a whole period passes at once: 60r/m lets exactly 60 quick
 * requests through, then one a second.
 */

static char *
ngx_commerce_limit_complete(ngx_commerce_limit_line_t *line)
{
    u_char                       *p;
    size_t                        len;
    ngx_uint_t                    count, period;
    ngx_commerce_limit_policy_t  *policy;

    policy = line->policy;

    if (!line->keyed || (line->count == 0) == (line->windowed == 0)
        || (line->windowed && policy->rate.burst == 0))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, line->cf, 0,
                           "policy \"%V\" needs key= and rate=, or burst= "
                           "with window= instead of rate=, as in "
                           "\"commerce_limit_policy orders key=user "
                           "rate=10r/m;\"", &policy->name);
        return NGX_CONF_ERROR;
    }

    if (policy->rate.burst == 0) {
        policy->rate.burst = line->count;
    }

    count = line->count ? line->count : policy->rate.burst;
    period = line->count ? line->period : line->windowed;

    policy->rate.interval = ngx_max((uint64_t) period * 1000000 / count, 1);
    policy->window = (policy->rate.burst * period + count - 1) / count;

    if (policy->units > policy->rate.burst) {
        ngx_conf_log_error(NGX_LOG_EMERG, line->cf, 0,
                           "policy \"%V\": cost=%ui is more than burst=%uL, so "
                           "nothing would ever pass", &policy->name,
                           policy->units, policy->rate.burst);
        return NGX_CONF_ERROR;
    }

    policy->scope.len = policy->name.len + 1;
    policy->scope.data = ngx_pnalloc(line->cf->pool, policy->scope.len);

    len = policy->name.len + sizeof("\"\";q=;w=") + 2 * NGX_INT_T_LEN;
    policy->header.data = ngx_pnalloc(line->cf->pool, len);

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


/* "20r/m" lets 20 pass at once, as rate= without burst= does. */

ngx_int_t
ngx_commerce_limit_override(ngx_pool_t *pool, ngx_commerce_limit_taken_t *t,
    ngx_commerce_limit_own_t *own)
{
    u_char      *p;
    ngx_int_t    burst;
    ngx_str_t    key;
    ngx_uint_t   count, period;

    if (ngx_commerce_limit_parse_rate(&own->rate, &count, &period) != NGX_OK) {
        return NGX_DECLINED;
    }

    burst = ngx_atoi(own->burst.data, own->burst.len);

    if (burst <= 0 || burst > NGX_COMMERCE_LIMIT_QUOTA_MAX) {
        burst = count;
    }

    p = ngx_pnalloc(pool, NGX_COMMERCE_LIMIT_HEADER_LEN + own->tenant.len + 1
                          + t->key.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    t->rate.burst = burst;
    t->rate.interval = ngx_max((uint64_t) period * 1000000 / count, 1);

    t->header.data = p;
    p = ngx_sprintf(p, "\"%V\";q=%i;w=%ui", &t->policy->name, burst,
                    (burst * period + count - 1) / count);
    t->header.len = p - t->header.data;

    key.data = p;
    p = ngx_cpymem(p, own->tenant.data, own->tenant.len);
    *p++ = '=';
    p = ngx_cpymem(p, t->key.data, t->key.len);
    key.len = p - key.data;

    t->key = key;

    return NGX_OK;
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


ngx_commerce_limit_policy_t *
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
