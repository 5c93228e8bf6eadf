/*
 * Native steps: what reviews sound like.
 *
 *     sentiment         comment, or document: an object with a member
 *                       "comment" → sentiment_score, _label, _confidence,
 *                       and sentiment_analyzed; nothing without a comment or
 *                       a model, nulls when nothing can be said of the text
 *     sentiment_show    text → {"score","label","confidence","model"}
 *     sentiment_batch   texts: an array → {"data":[{"score",…},…],"model"}
 */

#include "ngx_commerce_http.h"
#include "ngx_commerce_sentiment_model.h"


#define NGX_COMMERCE_SENTIMENT_TEXT                                           \
    sizeof("{\"sentiment_score\":-1.0000,\"sentiment_label\":\"positive\","   \
           "\"sentiment_confidence\":1.0000,\"sentiment_analyzed\":true}")
#define NGX_COMMERCE_SENTIMENT_MODEL                                          \
    (sizeof("{\"reviews\":,\"created\":}") + 2 * NGX_INT64_LEN)


static ngx_int_t ngx_commerce_native_sentiment(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_sentiment_show(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_sentiment_batch(
    ngx_commerce_request_t *c, const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_sentiment_comment(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, ngx_commerce_str_t *comment);
static u_char *ngx_commerce_sentiment_write(u_char *p, const char *prefix,
    const ngx_commerce_sentiment_t *model, const ngx_commerce_str_t *text);
static u_char *ngx_commerce_sentiment_describe(u_char *p,
    const ngx_commerce_sentiment_t *model);


const ngx_commerce_native_t  ngx_commerce_natives_sentiment[] = {

    { ngx_string("sentiment"), ngx_commerce_native_sentiment, NULL },
    { ngx_string("sentiment_show"), ngx_commerce_native_sentiment_show, NULL },
    { ngx_string("sentiment_batch"), ngx_commerce_native_sentiment_batch,
      NULL },
    { ngx_null_string, NULL, NULL }
};


static const char  *ngx_commerce_sentiment_labels[] = {
    "negative", "neutral", "positive"
};


static ngx_int_t
ngx_commerce_native_sentiment(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    u_char                          *p;
    ngx_int_t                        rc;
    ngx_str_t                        body;
    ngx_commerce_str_t               comment;
    const ngx_commerce_sentiment_t  *model;

    model = ngx_commerce_sentiment_model();
    rc = model ? ngx_commerce_sentiment_comment(c, step, &comment)
         : NGX_DECLINED;

    if (rc == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (rc == NGX_DECLINED) {
        ngx_commerce_step_reply(c, NGX_HTTP_OK, NULL);
        return NGX_OK;
    }

    p = ngx_pnalloc(c->request->pool, NGX_COMMERCE_SENTIMENT_TEXT);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body.data = p;
    p = ngx_cpymem(p, "{", 1);
    p = ngx_commerce_sentiment_write(p, "sentiment_", model, &comment);
    p = ngx_cpymem(p, ",\"sentiment_analyzed\":true}", 27);
    body.len = p - body.data;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}


/* NGX_DECLINED: there is none. */

static ngx_int_t
ngx_commerce_sentiment_comment(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, ngx_commerce_str_t *comment)
{
    ngx_str_t                  *text;
    ngx_commerce_json_t        *root, *member;
    ngx_commerce_alloc_t        alloc;
    ngx_commerce_json_error_t   error;

    text = ngx_commerce_scope_input(c, step, "document");

    if (text == NULL) {
        text = ngx_commerce_scope_input(c, step, "comment");

        if (text == NULL) {
            return NGX_DECLINED;
        }

        *comment = ngx_commerce_to_core(text);
        return NGX_OK;
    }

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    if (ngx_commerce_json_parse(&alloc, text->data, text->len, NULL, &root,
                                &error)
        != NGX_COMMERCE_OK)
    {
        return ngx_commerce_problem_internal(c);
    }

    member = ngx_commerce_json_get(root, "comment");

    if (member == NULL || member->type != NGX_COMMERCE_JSON_STRING) {
        return NGX_DECLINED;
    }

    *comment = member->text;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_native_sentiment_show(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    u_char                          *p;
    ngx_str_t                        body, *text;
    ngx_commerce_str_t               core;
    const ngx_commerce_sentiment_t  *model;

    text = ngx_commerce_scope_input(c, step, "text");

    if (text == NULL) {
        return ngx_commerce_problem_internal(c);
    }

    p = ngx_pnalloc(c->request->pool, NGX_COMMERCE_SENTIMENT_TEXT
                                      + NGX_COMMERCE_SENTIMENT_MODEL
                                      + sizeof(",\"model\":"));
    if (p == NULL) {
        return NGX_ERROR;
    }

    model = ngx_commerce_sentiment_model();
    core = ngx_commerce_to_core(text);

    body.data = p;
    p = ngx_cpymem(p, "{", 1);
    p = ngx_commerce_sentiment_write(p, "", model, &core);
    p = ngx_cpymem(p, ",\"model\":", 9);
    p = ngx_commerce_sentiment_describe(p, model);
    p = ngx_cpymem(p, "}", 1);
    body.len = p - body.data;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_native_sentiment_batch(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    u_char                          *p;
    ngx_str_t                        body, *texts;
    ngx_uint_t                       n;
    ngx_commerce_str_t               none;
    ngx_commerce_json_t             *root, *node;
    ngx_commerce_alloc_t             alloc;
    ngx_commerce_json_error_t        error;
    const ngx_commerce_sentiment_t  *model;

    texts = ngx_commerce_scope_input(c, step, "texts");
    alloc = ngx_commerce_pool_alloc(c->request->pool);

    if (texts == NULL
        || ngx_commerce_json_parse(&alloc, texts->data, texts->len, NULL,
                                   &root, &error)
           != NGX_COMMERCE_OK)
    {
        return ngx_commerce_problem_internal(c);
    }

    for (n = 0, node = root->child; node; node = node->next) {
        n++;
    }

    p = ngx_pnalloc(c->request->pool, n * NGX_COMMERCE_SENTIMENT_TEXT
                                      + NGX_COMMERCE_SENTIMENT_MODEL
                                      + sizeof("{\"data\":[],\"model\":}"));
    if (p == NULL) {
        return NGX_ERROR;
    }

    model = ngx_commerce_sentiment_model();
    none = ngx_commerce_str("");

    body.data = p;
    p = ngx_cpymem(p, "{\"data\":[", 9);

    for (node = root->child; node; node = node->next) {
        p = ngx_cpymem(p, "{", 1);
        p = ngx_commerce_sentiment_write(p, "", model,
                                node->type == NGX_COMMERCE_JSON_STRING
                                ? &node->text : &none);
        p = ngx_cpymem(p, "},", node->next ? 2 : 1);
    }

    p = ngx_cpymem(p, "],\"model\":", 10);
    p = ngx_commerce_sentiment_describe(p, model);
    p = ngx_cpymem(p, "}", 1);
    body.len = p - body.data;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}


/* "score":…,"label":…,"confidence":…, each name after the prefix */

static u_char *
ngx_commerce_sentiment_write(u_char *p, const char *prefix,
    const ngx_commerce_sentiment_t *model, const ngx_commerce_str_t *text)
{
    ngx_commerce_sentiment_answer_t  answer;

    answer.answered = false;

    if (model) {
        ngx_commerce_sentiment(model, text->data, text->len, &answer);
    }

    if (!answer.answered) {
        return ngx_sprintf(p, "\"%sscore\":null,\"%slabel\":null,"
                           "\"%sconfidence\":null", prefix, prefix, prefix);
    }

    return ngx_sprintf(p, "\"%sscore\":%.4f,\"%slabel\":\"%s\","
                       "\"%sconfidence\":%.4f", prefix, (double) answer.score,
                       prefix, ngx_commerce_sentiment_labels[answer.label + 1],
                       prefix, (double) answer.confidence);
}


/* What it was trained on, and when. */

static u_char *
ngx_commerce_sentiment_describe(u_char *p,
    const ngx_commerce_sentiment_t *model)
{
    if (model == NULL) {
        return ngx_cpymem(p, "null", 4);
    }

    return ngx_sprintf(p, "{\"reviews\":%uL,\"created\":%L}",
                       model->about->reviews, model->about->created / 1000);
}
