/*
 * Passwords of backends: from files, never from the configuration.
 */

#ifndef NGX_COMMERCE_PASSWORD_H
#define NGX_COMMERCE_PASSWORD_H


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * The one line of a file that only its owner or group may read.  The password is in cf->pool, terminated, and wiped with it.  What is
 * wrong is told with the cure.
 */
char *ngx_commerce_password_file(ngx_conf_t *cf, const char *directive,
    ngx_str_t *file, ngx_str_t *password);

/* Refuses "password=…" in the configuration without repeating it in the log. */
char *ngx_commerce_password_inline(ngx_conf_t *cf, const char *directive);


#endif /* NGX_COMMERCE_PASSWORD_H */
