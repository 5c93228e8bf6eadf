/* PostgreSQL as a source of interactions and texts, and where reports are kept. */

#ifndef TRAIN_DATABASE_H
#define TRAIN_DATABASE_H


#include "data.h"


/*
 * Interactions, orders and texts of one tenant in one snapshot, by binary
 * COPY.  "url" is libpq's; a password comes from PGPASSWORD, PGPASSFILE or it.
 */

void train_database_read(const char *url, uint64_t tenant,
    train_reader_t *reader);

/* The texts alone. */

void train_database_texts(const char *url, uint64_t tenant,
    train_reader_t *reader);

/* The report of a run: of those that were queued when the data was read, else of a new one. */

void train_database_report(const char *url, uint64_t tenant,
    uint64_t generation, int64_t watermark, const char *json,
    const char *text);


#endif /* TRAIN_DATABASE_H */
