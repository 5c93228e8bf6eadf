/*
 * Places where a debug build can be told to die as by SIGKILL, so that tests
 * see what survives it: scripts/build --crash, COMMERCE_CRASH=NAME in the
 * worker's environment (env COMMERCE_CRASH; in nginx.conf).  In any other
 * build there is nothing here.
 */

#ifndef NGX_COMMERCE_CRASH_H
#define NGX_COMMERCE_CRASH_H


#if (NGX_COMMERCE_CRASH)

#include <ngx_config.h>
#include <ngx_core.h>

void ngx_commerce_crash(const char *point);
/* The same for what goes wrong without a death: the caller does it. */
ngx_uint_t ngx_commerce_crash_asked(const char *point);

#else

#define ngx_commerce_crash(point)
#define ngx_commerce_crash_asked(point)  0

#endif


#endif /* NGX_COMMERCE_CRASH_H */
