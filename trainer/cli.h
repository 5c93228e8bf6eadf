/* Options of a command: parsed from a table, and told by the same table. */

#ifndef TRAIN_CLI_H
#define TRAIN_CLI_H


#include "train.h"


typedef enum {
    TRAIN_FLAG = 0,
    TRAIN_TEXT,
    TRAIN_NUMBER,                       /* double */
    TRAIN_COUNT                         /* uint64_t, with k, M, G */
} train_type_t;

typedef struct {
    const char    *name;                /* without the dashes; NULL ends the table */
    train_type_t   type;
    void          *value;               /* bool, const char *, double, uint64_t */
    const char    *argument;            /* "FILE" */
    const char    *help;
    double         min;
    double         max;
    bool          *given;               /* may be NULL */
} train_option_t;

typedef struct {
    const char            *name;        /* "sentiment fit" */
    const char            *arguments;   /* "TABLE" */
    const char            *about;
    const char            *examples;
    const train_option_t  *options;
} train_command_t;

/*
 * Reads the options behind the command's name; what is left goes to "rest",
 * "wanted" of them.  --help prints and ends the program.
 */

void train_cli(const train_command_t *command, int argc, char **argv,
    const char **rest, unsigned wanted);


int train_embed_main(int argc, char **argv);
int train_evaluate_main(int argc, char **argv);
int train_fit_main(int argc, char **argv);
int train_inspect_main(int argc, char **argv);
int train_publish_main(int argc, char **argv);
int train_sentiment_main(int argc, char **argv);


#endif /* TRAIN_CLI_H */
