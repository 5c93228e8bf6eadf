/*
 * getaddrinfo() of the tests, preloaded into nginx: names below "test" need no
 * network, and one of them is never answered.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>


int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res)
{
    int  (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

    *(void **) &real = dlsym(RTLD_NEXT, "getaddrinfo");

    if (node && strcmp(node, "hang.test") == 0) {
        sleep(60);
        return EAI_AGAIN;
    }

    if (node && strcmp(node, "double.test") == 0) {
        node = "127.0.0.1";

    } else if (node && strcmp(node, "private.test") == 0) {
        node = "10.11.12.13";

    } else if (node && strcmp(node, "mapped.test") == 0) {
        node = "::ffff:127.0.0.1";
    }

    return real(node, service, hints, res);
}
