/* See cli.h. */

#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>


static void train_help(const train_command_t *command);
static void train_option(const train_command_t *command,
    const train_option_t *option, const char *text);
static void train_option_count(const train_option_t *option, const char *text);


void
train_cli(const train_command_t *command, int argc, char **argv,
    const char **rest, unsigned wanted)
{
    int                    i;
    size_t                 len;
    unsigned               n;
    const char            *name, *value;
    const train_option_t  *option;

    n = 0;

    for (i = 0; i < argc; i++) {
        name = argv[i];

        if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
            train_help(command);
            exit(TRAIN_OK);
        }

        if (strncmp(name, "--", 2) != 0) {

            if (n == wanted) {
                train_fail(TRAIN_USAGE, "\"%s\" is one too many: see "
                           "commerce-train %s --help", name, command->name);
            }

            rest[n++] = name;
            continue;
        }

        name += 2;
        value = strchr(name, '=');
        len = (value != NULL) ? (size_t) (value - name) : strlen(name);

        for (option = command->options; option->name != NULL; option++) {
            if (strlen(option->name) == len
                && memcmp(option->name, name, len) == 0)
            {
                break;
            }
        }

        if (option->name == NULL) {
            train_fail(TRAIN_USAGE, "unknown option --%.*s: see commerce-train "
                       "%s --help", (int) len, name, command->name);
        }

        if (option->given != NULL) {
            *option->given = true;
        }

        if (option->type == TRAIN_FLAG) {

            if (value != NULL) {
                train_fail(TRAIN_USAGE, "--%s takes no value", option->name);
            }

            *(bool *) option->value = true;
            continue;
        }

        if (value != NULL) {
            value++;

        } else if (++i < argc) {
            value = argv[i];

        } else {
            train_fail(TRAIN_USAGE, "--%s needs %s", option->name,
                       option->argument);
        }

        train_option(command, option, value);
    }

    if (n < wanted) {
        train_fail(TRAIN_USAGE, "%s is missing: commerce-train %s %s",
                   command->arguments, command->name, command->arguments);
    }
}


static void
train_option(const train_command_t *command, const train_option_t *option,
    const char *text)
{
    char    *end;
    double   number;

    switch (option->type) {

    case TRAIN_TEXT:
        *(const char **) option->value = text;
        return;

    case TRAIN_COUNT:
        train_option_count(option, text);
        return;

    default:
        errno = 0;
        number = strtod(text, &end);

        if (end == text || *end != '\0' || errno != 0
            || !(number >= option->min && number <= option->max))
        {
            train_fail(TRAIN_USAGE, "--%s takes a number from %g to %g, not "
                       "\"%s\"", option->name, option->min, option->max, text);
        }

        *(double *) option->value = number;
    }
}


static void
train_option_count(const train_option_t *option, const char *text)
{
    char      *end;
    double     number;

    errno = 0;
    number = strtod(text, &end);

    switch (*end) {
    case 'k':
        number *= 1e3;
        end++;
        break;

    case 'M':
        number *= 1e6;
        end++;
        break;

    case 'G':
        number *= 1e9;
        end++;
        break;
    }

    if (end == text || *end != '\0' || errno != 0 || number != (uint64_t) number
        || !(number >= option->min && number <= option->max))
    {
        train_fail(TRAIN_USAGE, "--%s takes a whole number from %.0f to %.0f "
                   "(k, M and G are understood), not \"%s\"", option->name,
                   option->min, option->max, text);
    }

    *(uint64_t *) option->value = number;
}


static void
train_help(const train_command_t *command)
{
    char                   left[64];
    const train_option_t  *option;

    printf("usage: commerce-train %s %s[options]\n\n%s\n\noptions:\n",
           command->name, command->arguments ? command->arguments : "",
           command->about);

    for (option = command->options; option->name != NULL; option++) {
        snprintf(left, sizeof(left), "--%s %s", option->name,
                 option->argument ? option->argument : "");
        printf("  %-26s %s\n", left, option->help);
    }

    printf("  %-26s %s\n\nexamples:\n%s\n", "--help", "this text",
           command->examples);
}
