/*
 * Lua scripts: files of one folder, read while the configuration is read.
 *
 * A first line "-- include: a.lua b.lua" puts these files in front; the text
 * that Redis gets, and its SHA-1, are of the whole.
 */

#include "ngx_commerce_redis_internal.h"
#include <ngx_sha1.h>


#define NGX_COMMERCE_REDIS_INCLUDE     "-- include: "
#define NGX_COMMERCE_REDIS_MAX_SCRIPT  (256 * 1024)


static ngx_int_t ngx_commerce_redis_script_path(ngx_conf_t *cf,
    ngx_str_t *name, ngx_str_t *path);
static ngx_int_t ngx_commerce_redis_script_text(ngx_conf_t *cf,
    ngx_str_t *file, ngx_str_t *text);
static void ngx_commerce_redis_script_hash(
    ngx_commerce_redis_script_t *script);


ngx_commerce_redis_script_t *
ngx_commerce_redis_script(ngx_conf_t *cf, ngx_str_t *name)
{
    u_char                           *p;
    ngx_str_t                         file, path;
    ngx_uint_t                        i;
    ngx_commerce_redis_script_t      *script, **scripts;
    ngx_commerce_redis_main_conf_t   *rmcf;

    rmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_redis_module);

    scripts = rmcf->scripts.elts;
    for (i = 0; i < rmcf->scripts.nelts; i++) {
        if (scripts[i]->name.len == name->len
            && ngx_strncmp(scripts[i]->name.data, name->data, name->len) == 0)
        {
            return scripts[i];
        }
    }

    for (i = 0; i < name->len; i++) {
        p = &name->data[i];
        if (!((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9')
              || *p == '_'))
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "script \"%V\": names are made of a-z, 0-9 "
                               "and _", name);
            return NULL;
        }
    }

    script = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_redis_script_t));
    if (script == NULL) {
        return NULL;
    }

    script->name = *name;

    file.len = name->len + sizeof(".lua") - 1;
    file.data = ngx_pnalloc(cf->pool, file.len + 1);
    if (file.data == NULL) {
        return NULL;
    }

    ngx_sprintf(file.data, "%V.lua%Z", name);

    if (ngx_commerce_redis_script_path(cf, &file, &path) != NGX_OK
        || ngx_commerce_redis_script_text(cf, &path, &script->text) != NGX_OK)
    {
        return NULL;
    }

    ngx_commerce_redis_script_hash(script);

    scripts = ngx_array_push(&rmcf->scripts);
    if (scripts == NULL) {
        return NULL;
    }

    script->index = rmcf->scripts.nelts - 1;
    *scripts = script;

    return script;
}


static ngx_int_t
ngx_commerce_redis_script_path(ngx_conf_t *cf, ngx_str_t *name,
    ngx_str_t *path)
{
    ngx_commerce_redis_main_conf_t  *rmcf;

    rmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_redis_module);

    if (rmcf->scripts_dir.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "script \"%V\": set \"commerce_redis_scripts\" to "
                           "the folder that holds it", name);
        return NGX_ERROR;
    }

    path->len = rmcf->scripts_dir.len + 1 + name->len;
    path->data = ngx_pnalloc(cf->pool, path->len + 1);
    if (path->data == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(path->data, "%V/%V%Z", &rmcf->scripts_dir, name);

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_redis_script_text(ngx_conf_t *cf, ngx_str_t *path,
    ngx_str_t *text)
{
    size_t      len;
    u_char     *p, *last, *end;
    ngx_str_t   body, name, file, part, all;

    if (ngx_commerce_redis_script_file(cf, path, &body) != NGX_OK) {
        return NGX_ERROR;
    }

    *text = body;
    len = sizeof(NGX_COMMERCE_REDIS_INCLUDE) - 1;

    if (body.len < len
        || ngx_strncmp(body.data, NGX_COMMERCE_REDIS_INCLUDE, len) != 0)
    {
        return NGX_OK;
    }

    ngx_str_set(&all, "");
    p = body.data + len;
    last = body.data + body.len;

    while (p < last && *p != LF) {

        for (end = p; end < last && *end > ' '; end++) { /* void */ }

        name.data = p;
        name.len = end - p;
        p = end;

        while (p < last && *p == ' ') {
            p++;
        }

        if (name.len == 0) {
            break;
        }

        if (ngx_commerce_redis_script_path(cf, &name, &file) != NGX_OK
            || ngx_commerce_redis_script_file(cf, &file, &part) != NGX_OK)
        {
            return NGX_ERROR;
        }

        text->len = all.len + part.len;
        text->data = ngx_pnalloc(cf->pool, text->len + 1);
        if (text->data == NULL) {
            return NGX_ERROR;
        }

        ngx_memcpy(text->data, all.data, all.len);
        ngx_memcpy(text->data + all.len, part.data, part.len);
        all = *text;
    }

    text->len = all.len + body.len;
    text->data = ngx_pnalloc(cf->pool, text->len + 1);
    if (text->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(text->data, all.data, all.len);
    ngx_memcpy(text->data + all.len, body.data, body.len);

    return NGX_OK;
}


/* Reads a small file whole. */

ngx_int_t
ngx_commerce_redis_script_file(ngx_conf_t *cf, ngx_str_t *path,
    ngx_str_t *text)
{
    off_t            size;
    ssize_t          n;
    ngx_file_t       file;
    ngx_file_info_t  fi;

    ngx_memzero(&file, sizeof(ngx_file_t));

    file.name = *path;
    file.log = cf->log;
    file.fd = ngx_open_file(path->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (file.fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_open_file_n " \"%V\" failed", path);
        return NGX_ERROR;
    }

    n = NGX_ERROR;

    if (ngx_fd_info(file.fd, &fi) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_fd_info_n " \"%V\" failed", path);
        goto done;
    }

    size = ngx_file_size(&fi);

    if (size > NGX_COMMERCE_REDIS_MAX_SCRIPT) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" is too big", path);
        goto done;
    }

    text->data = ngx_pnalloc(cf->pool, size + 1);
    if (text->data == NULL) {
        goto done;
    }

    n = ngx_read_file(&file, text->data, size, 0);

    if (n != size) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" was not read whole",
                           path);
        n = NGX_ERROR;
        goto done;
    }

    text->len = n;
    text->data[n] = '\0';

done:

    ngx_close_file(file.fd);

    return (n == NGX_ERROR) ? NGX_ERROR : NGX_OK;
}


static void
ngx_commerce_redis_script_hash(ngx_commerce_redis_script_t *script)
{
    u_char      hash[20];
    ngx_sha1_t  sha1;

    ngx_sha1_init(&sha1);
    ngx_sha1_update(&sha1, script->text.data, script->text.len);
    ngx_sha1_final(hash, &sha1);

    ngx_hex_dump(script->sha, hash, sizeof(hash));
}
