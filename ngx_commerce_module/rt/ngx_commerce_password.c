/*
 * Passwords of backends: from files, never from the configuration.
 */

#include "ngx_commerce_password.h"

#include <openssl/crypto.h>


#define NGX_COMMERCE_PASSWORD_SIZE  1024


static const char *ngx_commerce_password_mode(struct stat *st);
static void ngx_commerce_password_wipe(void *data);


char *
ngx_commerce_password_file(ngx_conf_t *cf, const char *directive,
    ngx_str_t *file, ngx_str_t *password)
{
    u_char               text[NGX_COMMERCE_PASSWORD_SIZE];
    ssize_t              n;
    ngx_fd_t             fd;
    ngx_str_t            name, *kept;
    const char          *why;
    struct stat          st;
    ngx_pool_cleanup_t  *cln;

    name = *file;

    if (ngx_conf_full_name(cf->cycle, &name, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    fd = open((char *) name.data, O_RDONLY|O_CLOEXEC|O_NONBLOCK);

    if (fd == -1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "\"%s\": password_file \"%V\" cannot be opened",
                           directive, &name);
        return NGX_CONF_ERROR;
    }

    why = (fstat(fd, &st) == -1) ? "cannot be read"
                                 : ngx_commerce_password_mode(&st);

    n = why ? 0 : read(fd, text, sizeof(text));
    (void) close(fd);

    while (n > 0 && (text[n - 1] == LF || text[n - 1] == CR)) {
        n--;
    }

    if (why == NULL && (n <= 0 || n == sizeof(text) || memchr(text, LF, n)
                        || memchr(text, '\0', n)))
    {
        why = "must hold one line, the password";
    }

    if (why) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%s\": password_file \"%V\" %s", directive, &name,
                           why);
        OPENSSL_cleanse(text, sizeof(text));
        return NGX_CONF_ERROR;
    }

    cln = ngx_pool_cleanup_add(cf->pool, sizeof(ngx_str_t));
    password->data = ngx_pnalloc(cf->pool, n + 1);

    if (cln == NULL || password->data == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memcpy(password->data, text, n);
    password->data[n] = '\0';
    password->len = n;

    kept = cln->data;
    *kept = *password;
    cln->handler = ngx_commerce_password_wipe;

    OPENSSL_cleanse(text, sizeof(text));

    return NGX_CONF_OK;
}


static const char *
ngx_commerce_password_mode(struct stat *st)
{
    if (!S_ISREG(st->st_mode)) {
        return "must be a regular file";
    }

    if (st->st_mode & S_IROTH) {
        return "can be read by everyone: chmod 0400";
    }

    if (st->st_mode & (S_IWGRP|S_IWOTH)) {
        return "can be written by others: chmod 0400";
    }

    return NULL;
}


char *
ngx_commerce_password_inline(ngx_conf_t *cf, const char *directive)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "\"%s\" takes no password=: a configuration is read by "
                       "many and kept for long. Write the password to a file "
                       "of mode 0400 and give password_file=", directive);

    return NGX_CONF_ERROR;
}


static void
ngx_commerce_password_wipe(void *data)
{
    ngx_str_t *password = data;

    OPENSSL_cleanse(password->data, password->len);
}
