/* See ngx_commerce_file.h. */

#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "ngx_commerce_file.h"


#define NGX_COMMERCE_FILE_SETTLED  INT64_C(500000000)   /* ns */


static inline uint64_t
ngx_commerce_file_time(const struct timespec *at)
{
    return (uint64_t) at->tv_sec * 1000000000 + at->tv_nsec;
}


void
ngx_commerce_file_identify(ngx_commerce_file_t *file, const struct stat *st)
{
    file->inode = st->st_ino;
    file->modified = ngx_commerce_file_time(&st->st_mtim);
    file->size = st->st_size;
    file->changed = ngx_commerce_file_time(&st->st_ctim);
}


bool
ngx_commerce_file_same(const ngx_commerce_file_t *a,
    const ngx_commerce_file_t *b)
{
    return a->inode == b->inode && a->modified == b->modified
           && a->size == b->size && a->changed == b->changed;
}


bool
ngx_commerce_file_settled(const ngx_commerce_file_t *file)
{
    int64_t          age;
    struct timespec  now;

    (void) clock_gettime(CLOCK_REALTIME, &now);

    age = (int64_t) (ngx_commerce_file_time(&now) - file->modified);

    return age < 0 || age >= NGX_COMMERCE_FILE_SETTLED;
}


bool
ngx_commerce_file_scarce(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM;
}


const char *
ngx_commerce_file_read(int fd, void *data, const ngx_commerce_file_t *file)
{
    size_t               done;
    ssize_t              n;
    struct stat          st;
    ngx_commerce_file_t  now;

    for (done = 0; done < file->size; done += n) {
        n = pread(fd, (char *) data + done, file->size - done, done);

        if (n == -1 && errno == EINTR) {
            n = 0;
            continue;
        }

        if (n == -1) {
            return "it cannot be read";
        }

        if (n == 0) {
            return "it became shorter while it was read";
        }
    }

    if (fstat(fd, &st) == -1) {
        return "it cannot be read";
    }

    /* a rename meanwhile leaves the bytes as they are */

    ngx_commerce_file_identify(&now, &st);
    now.changed = file->changed;

    return ngx_commerce_file_same(&now, file) ? NULL
           : "it changed while it was read; replace it by rename()";
}
