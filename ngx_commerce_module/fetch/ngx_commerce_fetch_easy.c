/*
 * One call in curl's hands: its options, its answer, what its end means.
 */

#include "ngx_commerce_fetch_internal.h"
#include "ngx_commerce_codec.h"


typedef struct {
    CURLcode     code;
    const char  *error;
} ngx_commerce_fetch_outcome_t;


static ngx_int_t ngx_commerce_fetch_easy_http(ngx_commerce_fetch_easy_t *e);
static ngx_uint_t ngx_commerce_fetch_repeatable(ngx_commerce_fetch_t *f);
static ngx_int_t ngx_commerce_fetch_easy_mail(
    const ngx_commerce_fetch_conf_t *conf, ngx_commerce_fetch_easy_t *e);
static size_t ngx_commerce_fetch_on_answer(char *data, size_t size, size_t n,
    void *user);
static size_t ngx_commerce_fetch_on_mail(char *data, size_t size, size_t n,
    void *user);
static curl_socket_t ngx_commerce_fetch_on_connect(void *user,
    curlsocktype purpose, struct curl_sockaddr *address);


static const ngx_commerce_fetch_outcome_t  ngx_commerce_fetch_outcomes[] = {
    { CURLE_OPERATION_TIMEDOUT, "timeout" },
    { CURLE_COULDNT_RESOLVE_HOST, "resolve" },
    { CURLE_COULDNT_CONNECT, "connect" },
    { CURLE_SSL_CONNECT_ERROR, "tls" },
    { CURLE_PEER_FAILED_VERIFICATION, "tls" },
    { CURLE_SSL_CERTPROBLEM, "tls" },
    { CURLE_SSL_CIPHER, "tls" },
    { CURLE_SSL_ISSUER_ERROR, "tls" },
    { CURLE_SSL_CACERT_BADFILE, "tls" },
    { CURLE_USE_SSL_FAILED, "tls" },
    { CURLE_GOT_NOTHING, "cut" },
    { CURLE_SEND_ERROR, "cut" },
    { CURLE_RECV_ERROR, "cut" },
    { CURLE_PARTIAL_FILE, "cut" },
    { CURLE_HTTP2, "cut" },
    { CURLE_HTTP2_STREAM, "cut" },
    { CURLE_URL_MALFORMAT, "config" },
    { CURLE_UNSUPPORTED_PROTOCOL, "refused" },
    { CURLE_LOGIN_DENIED, "login" },
    { CURLE_OK, NULL }
};


ngx_commerce_fetch_easy_t *
ngx_commerce_fetch_easy_create(const ngx_commerce_fetch_conf_t *conf,
    ngx_commerce_fetch_t *f)
{
    CURL                       *h;
    ngx_commerce_fetch_easy_t  *e;

    e = ngx_pcalloc(f->pool, sizeof(ngx_commerce_fetch_easy_t));
    if (e == NULL) {
        return NULL;
    }

    h = curl_easy_init();
    if (h == NULL) {
        return NULL;
    }

    e->handle = h;
    e->f = f;

    (void) curl_easy_setopt(h, CURLOPT_PRIVATE, e);
    (void) curl_easy_setopt(h, CURLOPT_ERRORBUFFER, e->message);
    (void) curl_easy_setopt(h, CURLOPT_URL, f->url.data);
    (void) curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);

    /* a name server that is silent has a thread of its own; nobody waits for its end */
    (void) curl_easy_setopt(h, CURLOPT_QUICK_EXIT, 1L);

    /* nothing of the environment, no other place than the one that was named */
    (void) curl_easy_setopt(h, CURLOPT_PROXY, "");
    (void) curl_easy_setopt(h, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
    (void) curl_easy_setopt(h, CURLOPT_FOLLOWLOCATION, 0L);

    if (conf->ca.len) {
        (void) curl_easy_setopt(h, CURLOPT_CAINFO, conf->ca.data);
        (void) curl_easy_setopt(h, CURLOPT_CAPATH, NULL);
    }

    (void) curl_easy_setopt(h, CURLOPT_OPENSOCKETFUNCTION,
                            ngx_commerce_fetch_on_connect);
    (void) curl_easy_setopt(h, CURLOPT_OPENSOCKETDATA, e);
    (void) curl_easy_setopt(h, CURLOPT_WRITEFUNCTION,
                            ngx_commerce_fetch_on_answer);
    (void) curl_easy_setopt(h, CURLOPT_WRITEDATA, e);

    if ((f->mail ? ngx_commerce_fetch_easy_mail(conf, e)
                 : ngx_commerce_fetch_easy_http(e))
        != NGX_OK)
    {
        ngx_commerce_fetch_easy_destroy(e);
        return NULL;
    }

    return e;
}


static ngx_int_t
ngx_commerce_fetch_easy_http(ngx_commerce_fetch_easy_t *e)
{
    CURL                  *h;
    ngx_str_t             *line;
    ngx_uint_t             i;
    struct curl_slist     *list;
    ngx_commerce_fetch_t  *f;

    h = e->handle;
    f = e->f;

    (void) curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    (void) curl_easy_setopt(h, CURLOPT_USERAGENT, "nginx-commerce");
    (void) curl_easy_setopt(h, CURLOPT_ACCEPT_ENCODING, "");

    if (f->body.data) {
        (void) curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE,
                                (curl_off_t) f->body.len);
        (void) curl_easy_setopt(h, CURLOPT_POSTFIELDS, f->body.data);
    }

    if (ngx_strcmp(f->method.data, "HEAD") == 0) {
        (void) curl_easy_setopt(h, CURLOPT_NOBODY, 1L);

    } else {
        (void) curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, f->method.data);
    }

    /*
     * curl sends a request again when a kept connection ends without a byte
     * of an answer: what nobody would know again begins with a new one
     */

    if (!ngx_commerce_fetch_repeatable(f)) {
        (void) curl_easy_setopt(h, CURLOPT_FRESH_CONNECT, 1L);
    }

    /* bodies go at once: no waiting for "100 Continue" */

    list = curl_slist_append(NULL, "Expect:");
    if (list == NULL) {
        return NGX_ERROR;
    }

    e->headers = list;

    line = f->headers.elts;

    for (i = 0; i < f->headers.nelts; i++) {
        list = curl_slist_append(e->headers, (char *) line[i].data);
        if (list == NULL) {
            return NGX_ERROR;
        }
    }

    (void) curl_easy_setopt(h, CURLOPT_HTTPHEADER, e->headers);

    return NGX_OK;
}


/* Whether the other side does no more when it is told twice. */

static ngx_uint_t
ngx_commerce_fetch_repeatable(ngx_commerce_fetch_t *f)
{
    ngx_str_t   *line;
    ngx_uint_t   i;

    if (ngx_strcmp(f->method.data, "POST") != 0
        && ngx_strcmp(f->method.data, "PATCH") != 0)
    {
        return 1;
    }

    line = f->headers.elts;

    for (i = 0; i < f->headers.nelts; i++) {
        if (ngx_strncasecmp(line[i].data, (u_char *) "idempotency-key:", 16)
            == 0
            || ngx_strncasecmp(line[i].data, (u_char *) "webhook-id:", 11)
               == 0)
        {
            return 1;
        }
    }

    return 0;
}


static ngx_int_t
ngx_commerce_fetch_easy_mail(const ngx_commerce_fetch_conf_t *conf,
    ngx_commerce_fetch_easy_t *e)
{
    CURL                  *h;
    ngx_str_t             *to;
    ngx_uint_t             i;
    struct curl_slist     *list;
    ngx_commerce_fetch_t  *f;

    h = e->handle;
    f = e->f;

    (void) curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "smtp,smtps");
    (void) curl_easy_setopt(h, CURLOPT_USE_SSL, (long) conf->mail_tls);
    (void) curl_easy_setopt(h, CURLOPT_MAIL_FROM, f->from.data);
    (void) curl_easy_setopt(h, CURLOPT_UPLOAD, 1L);
    (void) curl_easy_setopt(h, CURLOPT_READFUNCTION,
                            ngx_commerce_fetch_on_mail);
    (void) curl_easy_setopt(h, CURLOPT_READDATA, e);

    if (conf->mail_user.len) {
        (void) curl_easy_setopt(h, CURLOPT_USERNAME, conf->mail_user.data);
        (void) curl_easy_setopt(h, CURLOPT_PASSWORD,
                                conf->mail_password.data);
    }

    to = f->recipients.elts;

    for (i = 0; i < f->recipients.nelts; i++) {
        list = curl_slist_append(e->recipients, (char *) to[i].data);
        if (list == NULL) {
            return NGX_ERROR;
        }

        e->recipients = list;
    }

    (void) curl_easy_setopt(h, CURLOPT_MAIL_RCPT, e->recipients);

    return NGX_OK;
}


void
ngx_commerce_fetch_easy_destroy(ngx_commerce_fetch_easy_t *e)
{
    curl_easy_cleanup(e->handle);
    curl_slist_free_all(e->headers);
    curl_slist_free_all(e->recipients);
}


/* Only the operator's addresses, or public ones: asked for each connection, with the address that is connected to. */

static curl_socket_t
ngx_commerce_fetch_on_connect(void *user, curlsocktype purpose,
    struct curl_sockaddr *address)
{
    ngx_commerce_fetch_easy_t  *e = user;

    if (purpose != CURLSOCKTYPE_IPCXN
        || (e->f->guard
            && !ngx_commerce_fetch_public(ngx_commerce_fetch_pool.conf,
                                          &address->addr)))
    {
        e->refused = 1;
        return CURL_SOCKET_BAD;
    }

    return socket(address->family, address->socktype | SOCK_CLOEXEC,
                  address->protocol);
}


static size_t
ngx_commerce_fetch_on_answer(char *data, size_t size, size_t n, void *user)
{
    ngx_commerce_fetch_easy_t  *e = user;

    u_char     *p;
    size_t      len, room;
    ngx_str_t  *answer;

    answer = &e->f->answer;
    len = size * n;

    if (answer->len + len > NGX_COMMERCE_FETCH_ANSWER) {
        e->too_large = 1;
        return 0;
    }

    if (answer->data == NULL || answer->len + len > e->size) {

        room = ngx_max(2 * e->size, ngx_max(answer->len + len, 4096));

        p = ngx_palloc(e->f->pool, room);
        if (p == NULL) {
            return 0;
        }

        if (answer->len) {
            ngx_memcpy(p, answer->data, answer->len);
            (void) ngx_pfree(e->f->pool, answer->data);
        }

        answer->data = p;
        e->size = room;
    }

    ngx_memcpy(answer->data + answer->len, data, len);
    answer->len += len;

    return len;
}


static size_t
ngx_commerce_fetch_on_mail(char *data, size_t size, size_t n, void *user)
{
    ngx_commerce_fetch_easy_t  *e = user;

    size_t  len;

    len = ngx_min(size * n, e->f->body.len - e->sent);

    ngx_memcpy(data, e->f->body.data + e->sent, len);
    e->sent += len;

    return len;
}


void
ngx_commerce_fetch_easy_outcome(ngx_commerce_fetch_easy_t *e, CURLcode code,
    ngx_log_t *log)
{
    char                                *host;
    long                                 status;
    ngx_commerce_fetch_t                *f;
    const ngx_commerce_fetch_outcome_t  *o;

    f = e->f;
    status = 0;
    host = NULL;

    (void) curl_easy_getinfo(e->handle, CURLINFO_RESPONSE_CODE, &status);
    (void) curl_easy_getinfo(e->handle, CURLINFO_EFFECTIVE_URL, &host);

    if (f->mail) {
        ngx_str_null(&f->answer);

        /* a server that said no has answered */

        if (code != CURLE_OK && status >= 400 && status < 600) {
            f->status = status;
            return;
        }
    }

    if (code == CURLE_OK) {
        f->status = status;

        if (f->answer.data
            && (memchr(f->answer.data, '\0', f->answer.len)
                || !ngx_commerce_utf8_valid(f->answer.data, f->answer.len)))
        {
            f->status = 0;
            f->error = "not-text";
            ngx_str_null(&f->answer);
        }

        return;
    }

    ngx_str_null(&f->answer);

    for (o = ngx_commerce_fetch_outcomes; o->error; o++) {
        if (o->code == code) {
            break;
        }
    }

    f->error = e->too_large ? "too-large"
               : (e->refused && code == CURLE_COULDNT_CONNECT) ? "refused"
               : o->error ? o->error : "failed";

    ngx_log_error(NGX_LOG_INFO, log, 0,
                  "commerce: call of %s: %s (%s)", host ? host : "?", f->error,
                  e->message[0] ? e->message : curl_easy_strerror(code));
}
