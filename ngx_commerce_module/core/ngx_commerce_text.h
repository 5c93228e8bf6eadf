/*
 * Text that people type, in the one form it is stored and compared in:
 * Unicode's NFC, mail and host names in ASCII (IDNA 2008), passwords as
 * RFC 8265's OpaqueString.
 */

#ifndef NGX_COMMERCE_TEXT_H
#define NGX_COMMERCE_TEXT_H


#include "ngx_commerce_core.h"


#define NGX_COMMERCE_TEXT_MARKS   30    /* in a row: UAX 15, Stream-Safe Text */
#define NGX_COMMERCE_HOST_MAX     253   /* bytes of a host's name in ASCII */


/*
 * Makes *text NFC.  It is valid UTF-8.  Text that is NFC stays where it is;
 * ASCII costs an eighth of a load per byte.  INVALID: a character bears more than
 * NGX_COMMERCE_TEXT_MARKS marks, which to put in order would cost their number squared.
 * Keeps its tables per process: event loop only.
 */

ngx_commerce_rc_t ngx_commerce_text_nfc(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_str_t *text);

/*
 * A host's name as DNS has it: A-labels in lower case.  Returns its length, or
 * -1 when it has none.  Memory of its own is freed before it returns.
 */

ptrdiff_t ngx_commerce_text_host(uint8_t dst[NGX_COMMERCE_HOST_MAX],
    const uint8_t *p, size_t len);

/* Spaces beyond ASCII become U+0020, in place: never longer.  Returns the length. */

size_t ngx_commerce_text_spaces(uint8_t *p, size_t len);


#endif /* NGX_COMMERCE_TEXT_H */
