/* ngx_commerce_file: which file it is, and reading it while somebody else is at it. */

#define _GNU_SOURCE

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ngx_commerce_file.h"


typedef struct {
    char  folder[64];
    char  name[96];
    char  other[96];
} fixture_t;


static int
setup(void **state)
{
    fixture_t  *f;

    f = calloc(1, sizeof(*f));
    strcpy(f->folder, "/tmp/test_file.XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    sprintf(f->name, "%s/name", f->folder);
    sprintf(f->other, "%s/other", f->folder);
    *state = f;

    return 0;
}


static int
teardown(void **state)
{
    fixture_t  *f = *state;

    unlink(f->name);
    unlink(f->other);
    rmdir(f->folder);
    free(f);

    return 0;
}


static void
put(const char *name, const char *text)
{
    int  fd;

    fd = open(name, O_WRONLY|O_CREAT|O_TRUNC, 0600);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t) strlen(text));
    close(fd);
}


/* The same, but for what the caller does to it; times are the kernel's tick apart. */

static ngx_commerce_file_t
look(const char *name)
{
    struct stat          st;
    ngx_commerce_file_t  file;

    assert_int_equal(stat(name, &st), 0);
    ngx_commerce_file_identify(&file, &st);

    return file;
}


/* What changes a file's times is done until they differ. */

static void
until_changed(const char *name, const ngx_commerce_file_t *before, mode_t mode)
{
    ngx_commerce_file_t  now;

    do {
        assert_int_equal(chmod(name, mode), 0);
        now = look(name);
    } while (now.changed == before->changed);
}


static void
test_which_file_it_is(void **state)
{
    fixture_t            *f = *state;
    ngx_commerce_file_t   first, now;

    put(f->name, "one");
    first = look(f->name);
    now = look(f->name);
    assert_true(ngx_commerce_file_same(&first, &now));
    assert_int_equal(first.size, 3);

    /* made readable: the bytes are as they were, the file is to be tried again */

    until_changed(f->name, &first, 0644);
    now = look(f->name);
    assert_false(ngx_commerce_file_same(&first, &now));
    assert_int_equal(first.modified, now.modified);

    put(f->other, "two");
    first = look(f->name);
    assert_int_equal(rename(f->other, f->name), 0);
    now = look(f->name);
    assert_int_not_equal(first.inode, now.inode);
    assert_false(ngx_commerce_file_same(&first, &now));
}


static void
test_settled(void **state)
{
    struct timespec       now;
    ngx_commerce_file_t   file = { 1, 0, 1, 1 };

    clock_gettime(CLOCK_REALTIME, &now);
    file.modified = (uint64_t) now.tv_sec * 1000000000 + now.tv_nsec;
    assert_false(ngx_commerce_file_settled(&file));

    file.modified -= 2000000000;
    assert_true(ngx_commerce_file_settled(&file));

    /* a clock that was wrong keeps nothing out for years */

    file.modified += 3600 * UINT64_C(1000000000);
    assert_true(ngx_commerce_file_settled(&file));
}


static void
test_all_of_it_is_read(void **state)
{
    int                   fd;
    char                  data[16];
    fixture_t            *f = *state;
    ngx_commerce_file_t   file;

    put(f->name, "all of it");
    file = look(f->name);
    fd = open(f->name, O_RDONLY);
    assert_null(ngx_commerce_file_read(fd, data, &file));
    assert_memory_equal(data, "all of it", 9);

    /* a chmod meanwhile harms nobody */

    until_changed(f->name, &file, 0644);
    assert_null(ngx_commerce_file_read(fd, data, &file));

    assert_int_equal(truncate(f->name, 4), 0);
    assert_non_null(strstr(ngx_commerce_file_read(fd, data, &file), "shorter"));

    put(f->name, "all of it, and more");
    assert_non_null(strstr(ngx_commerce_file_read(fd, data, &file), "changed"));
    close(fd);

    fd = open(f->folder, O_RDONLY|O_DIRECTORY);
    assert_non_null(strstr(ngx_commerce_file_read(fd, data, &file), "cannot be read"));
    close(fd);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test_setup_teardown(test_which_file_it_is, setup, teardown),
        cmocka_unit_test(test_settled),
        cmocka_unit_test_setup_teardown(test_all_of_it_is_read, setup, teardown)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
