/*
 * What the files of fetch/ share.  Nobody else includes this.
 *
 *   module   directives, the worker's start and end
 *   multi    curl on the event loop: sockets, timer, queue, outcomes
 *   guard    which addresses are public
 *   parse    edge.fetch and edge.mail → a call
 *   secret   {secret:…}, {sealed:…}, {url:…}; signatures
 *   exchange a call, then a SQL function
 */

#ifndef NGX_COMMERCE_FETCH_INTERNAL_H
#define NGX_COMMERCE_FETCH_INTERNAL_H


#include <ngx_http.h>
#include <curl/curl.h>

#include "ngx_commerce_fetch.h"
#include "ngx_commerce_watch.h"


typedef struct {
    ngx_str_t  name;
    ngx_str_t  value;
    ngx_str_t  origin;                  /* of commerce_secret: where it may be sent; empty: nowhere */
} ngx_commerce_fetch_named_t;

typedef struct {
    ngx_array_t  *secrets;              /* of ngx_commerce_fetch_named_t */
    ngx_array_t  *urls;                 /* the same */
    ngx_array_t  *allow;                /* of ngx_cidr_t */
    ngx_str_t     ca;                   /* terminated; empty: the system's */
    ngx_str_t     mail_server;          /* smtp://host:port; empty: none */
    ngx_str_t     mail_user;
    ngx_str_t     mail_password;
    ngx_uint_t    mail_tls;             /* CURLUSESSL_… */
    ngx_msec_t    timeout;
    ngx_msec_t    max_timeout;
    ngx_uint_t    connections;          /* at once, per worker */
    ngx_uint_t    queue;
} ngx_commerce_fetch_conf_t;


/* multi */

typedef enum {
    NGX_COMMERCE_FETCH_IDLE = 0,
    NGX_COMMERCE_FETCH_PAUSED,
    NGX_COMMERCE_FETCH_WAITING,
    NGX_COMMERCE_FETCH_ACTIVE,
    NGX_COMMERCE_FETCH_ENDED
} ngx_commerce_fetch_state_e;

/*
 * Calls to addresses that anybody may name and calls to those that the
 * operator named have connections of their own: one that was opened without
 * the guard must not serve a call under it.
 */

typedef struct {
    CURLM        *multi;
    ngx_event_t   timer;
} ngx_commerce_fetch_multi_t;

typedef struct {
    const ngx_commerce_fetch_conf_t  *conf;
    ngx_commerce_fetch_multi_t        multis[2];    /* by f->guard */
    ngx_queue_t                       paused;
    ngx_queue_t                       waiting;
    ngx_queue_t                       active;
    ngx_event_t                       turn;         /* begins and ends what is due, outside curl's callbacks */
    ngx_event_t                       expiry;       /* of the queue */
    ngx_queue_t                       ended;
    ngx_uint_t                        active_count;
    ngx_uint_t                        waiting_count;
    ngx_log_t                        *log;
} ngx_commerce_fetch_pool_t;

extern ngx_commerce_fetch_pool_t  ngx_commerce_fetch_pool;

ngx_int_t ngx_commerce_fetch_init(const ngx_commerce_fetch_conf_t *conf,
    ngx_log_t *log);
void ngx_commerce_fetch_exit(void);

/* easy: one call in curl's hands */

typedef struct ngx_commerce_fetch_easy_s  ngx_commerce_fetch_easy_t;

struct ngx_commerce_fetch_easy_s {
    CURL                  *handle;
    struct curl_slist     *headers;
    struct curl_slist     *recipients;
    size_t                 sent;        /* of the mail */
    size_t                 size;        /* of the answer's room */
    ngx_commerce_fetch_t  *f;
    unsigned               refused:1;   /* the guard said no */
    unsigned               too_large:1;
    char                   message[CURL_ERROR_SIZE];
};

ngx_commerce_fetch_easy_t *ngx_commerce_fetch_easy_create(
    const ngx_commerce_fetch_conf_t *conf, ngx_commerce_fetch_t *f);
void ngx_commerce_fetch_easy_destroy(ngx_commerce_fetch_easy_t *e);
/* Fills status, answer and error. */
void ngx_commerce_fetch_easy_outcome(ngx_commerce_fetch_easy_t *e,
    CURLcode code, ngx_log_t *log);


/* guard */

ngx_uint_t ngx_commerce_fetch_public(const ngx_commerce_fetch_conf_t *conf,
    struct sockaddr *sa);


/* secret */

typedef enum {
    NGX_COMMERCE_FETCH_RAW = 0,
    NGX_COMMERCE_FETCH_IN_JSON,         /* inside a string */
    NGX_COMMERCE_FETCH_IN_FORM,
    NGX_COMMERCE_FETCH_IN_HEADER
} ngx_commerce_fetch_escape_e;

/* {url:NAME|DEFAULT} at the beginning; NGX_OK: the operator's, NGX_DECLINED: not. */
ngx_int_t ngx_commerce_fetch_base(ngx_commerce_fetch_t *f, ngx_str_t *in,
    ngx_str_t *out);
/* NGX_DECLINED: one of them does not open, or may not go there. */
ngx_int_t ngx_commerce_fetch_expand(ngx_commerce_fetch_t *f, ngx_str_t *tenant,
    ngx_commerce_fetch_escape_e escape, ngx_str_t *in, ngx_str_t *out);
ngx_int_t ngx_commerce_fetch_sign(ngx_commerce_fetch_t *f, ngx_str_t *tenant,
    const ngx_commerce_json_t *spec);
ngx_int_t ngx_commerce_fetch_header(ngx_commerce_fetch_t *f, ngx_str_t *name,
    ngx_str_t *value);


#endif /* NGX_COMMERCE_FETCH_INTERNAL_H */
