-- Verify nginx-commerce:10_catalogue on pg

BEGIN;

DO $$
BEGIN
    ASSERT (SELECT count(*) = 13 AND bool_and(c.relrowsecurity AND c.relforcerowsecurity)
              FROM pg_class c
             WHERE c.relnamespace = 'shop'::regnamespace AND c.relkind = 'r'
               AND c.relname IN ('category', 'brand', 'product', 'product_slug', 'product_image', 'variant',
                                 'price_history', 'stock', 'product_stock', 'review', 'product_card',
                                 'product_document', 'search_word')),
           'a table of the catalogue is missing or not isolated';
    ASSERT (SELECT bool_and(proleakproof) FROM pg_proc
             WHERE oid IN ('pg_catalog.ts_match_vq(tsvector, tsquery)'::regprocedure,
                           'public.similarity_op(text, text)'::regprocedure)),
           'search cannot use its index: ts_match_vq or similarity_op is not LEAKPROOF';
END
$$;

SELECT to_tsvector('shop.words', 'Crèmes');

ROLLBACK;
