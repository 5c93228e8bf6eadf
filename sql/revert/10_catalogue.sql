-- Revert nginx-commerce:10_catalogue from pg

BEGIN;

DROP TABLE shop.search_word, shop.product_document, shop.product_card, shop.review, shop.product_stock, shop.stock,
           shop.price_history, shop.variant, shop.product_image, shop.product_slug, shop.product, shop.brand,
           shop.category CASCADE;
DROP TEXT SEARCH CONFIGURATION shop.words;

ALTER FUNCTION public.similarity_op(text, text) NOT LEAKPROOF;
ALTER FUNCTION pg_catalog.ts_match_vq(tsvector, tsquery) NOT LEAKPROOF;

COMMIT;
