/*
 * Dies where a test said, see ngx_commerce_crash.h.
 */

#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_commerce_crash.h"


#if (NGX_COMMERCE_CRASH)

void
ngx_commerce_crash(const char *point)
{
    if (ngx_commerce_crash_asked(point)) {
        (void) raise(SIGKILL);
    }
}


/*
 * COMMERCE_CRASH=NAME@FILE: at this place, when FILE is there; the file is
 * taken away first, so that the worker's successor lives.
 */

ngx_uint_t
ngx_commerce_crash_asked(const char *point)
{
    char         name[64];
    size_t       len;
    const char  *wanted, *at;

    wanted = getenv("COMMERCE_CRASH");

    if (wanted == NULL) {
        return 0;
    }

    at = strchr(wanted, '@');

    if (at == NULL || (len = at - wanted) >= sizeof(name)) {
        return 0;
    }

    (void) ngx_cpystrn((u_char *) name, (u_char *) wanted, len + 1);

    return ngx_strcmp(name, point) == 0 && unlink(at + 1) == 0;
}

#endif
