/* The model of reviews that this worker has; see README.md. */

#ifndef NGX_COMMERCE_SENTIMENT_MODEL_H
#define NGX_COMMERCE_SENTIMENT_MODEL_H


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_commerce_sentiment.h"


/* Good until the event loop goes on.  NULL: there is none. */

const ngx_commerce_sentiment_t *ngx_commerce_sentiment_model(void);


extern ngx_module_t  ngx_commerce_sentiment_module;


#endif /* NGX_COMMERCE_SENTIMENT_MODEL_H */
