-- scripts/generate's work, part by part: base (categories, brands), batch (products first … last), end (statistics).
-- Every value is a hash of seed and row number, so that a row is the same whoever makes it and in whatever order.

\set QUIET on
SELECT set_config('commerce.tenant_id', (SELECT id::text FROM shop.tenant WHERE slug = :'tenant'), false) IS NULL \g /dev/null
SELECT EXISTS (SELECT FROM shop.tenant WHERE slug = :'tenant') AS known \gset
\if :known
\else
    \warn 'scripts/generate: there is no such tenant'
    DO $$ BEGIN RAISE EXCEPTION 'unknown tenant'; END $$;
\endif
SET synchronous_commit = off;

-- n: 0 … n-1, from seed, row and salt
\set body 'SELECT ((hashint8extended(item, salt + 1000 * ' :seed '::bigint) & 9007199254740991) % n)::int'
CREATE FUNCTION pg_temp.pick(item bigint, salt int, n int) RETURNS int LANGUAGE sql IMMUTABLE AS :'body';
CREATE FUNCTION pg_temp.words(kind text) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE kind
        WHEN 'style' THEN '{Classic,Modern,Wireless,Summer,Winter,Compact,Foldable,Portable,Premium,Vintage,Nordic,Urban,Slim,
            Robust,Silent,Bright,Soft,Smart,Solar,Handmade,Organic,Striped,Round,Deluxe,Mini,Light,Heavy,Crème,Élégant,Rustic}'::text[]
        WHEN 'material' THEN '{Cotton,Steel,Leather,Bamboo,Oak,Glass,Ceramic,Linen,Wool,Silk,Copper,Marble,Rattan,Cork,Velvet,
            Aluminium,Walnut,Denim,Canvas,Porcelain,Silicone,Titanium,Cashmere,Rubber,Paper}'
        WHEN 'place' THEN '{Garden,Kitchen,Travel,Office,Bathroom,Camping,Outdoor,Bedroom,Sports,Party}'
        WHEN 'noun' THEN '{Lamp,Table,Chair,Bag,Bottle,Backpack,Knife,Pan,Blanket,Pillow,Mirror,Clock,Headphones,Speaker,Keyboard,
            Mouse,Monitor,Camera,Tent,Jacket,Shirt,Dress,Shoes,Boots,Scarf,Gloves,Hat,Watch,Ring,Bracelet,Vase,Mug,Plate,Bowl,
            Basket,Shelf,Desk,Sofa,Rug,Curtain,Towel,Brush,Kettle,Toaster,Blender,Grill,Bicycle,Helmet,Racket,Ball}'
        END
$$;

SELECT :'part' = 'base' AS base, :'part' = 'batch' AS batch \gset

\if :base

-- ten rooms, each with a category for each noun
BEGIN;
SELECT pg_advisory_xact_lock(hashtext('generate')) \g /dev/null
INSERT INTO shop.location (tenant_id, code, name) SELECT domain.tenant_id(), 'main', 'Main'
 WHERE NOT EXISTS (SELECT FROM shop.location WHERE tenant_id = domain.tenant_id());
INSERT INTO shop.category (tenant_id, slug, name, position)
SELECT domain.tenant_id(), 'generated-' || lower(w), w, i::int FROM unnest(pg_temp.words('place')) WITH ORDINALITY AS u (w, i)
ON CONFLICT (tenant_id, slug) WHERE deleted_at IS NULL DO NOTHING;
INSERT INTO shop.category (tenant_id, parent_id, slug, name, position)
SELECT domain.tenant_id(), p.id, p.slug || '-' || lower(w), p.name || ' ' || w, i::int
  FROM shop.category p, unnest(pg_temp.words('noun')) WITH ORDINALITY AS u (w, i)
 WHERE p.tenant_id = domain.tenant_id() AND p.parent_id IS NULL AND p.slug LIKE 'generated-%' AND p.deleted_at IS NULL
ON CONFLICT (tenant_id, slug) WHERE deleted_at IS NULL DO NOTHING;
UPDATE shop.category SET path = CASE WHEN parent_id IS NULL THEN ARRAY[id] ELSE ARRAY[parent_id, id] END
 WHERE tenant_id = domain.tenant_id() AND path = '{}';
INSERT INTO shop.brand (tenant_id, slug, name)
SELECT domain.tenant_id(), lower(a || b), a || b
  FROM unnest('{Nor,Alt,Ber,Cal,Dor,Els,Fin,Gra,Hol,Ika,Jun,Kel,Lum,Mar,Ned,Ost,Pel,Qui,Ros,Sol}'::text[]) a,
       unnest('{dia,ton,berg,vik,mont,line,haus,wood,craft,nova}'::text[]) b
ON CONFLICT (tenant_id, slug) WHERE deleted_at IS NULL DO NOTHING;
COMMIT;

\elif :batch

BEGIN;

CREATE TEMPORARY TABLE made ON COMMIT DROP AS
WITH place AS (SELECT array_agg(id ORDER BY slug) AS ids FROM shop.category
                WHERE tenant_id = domain.tenant_id() AND slug LIKE 'generated-%' AND parent_id IS NOT NULL AND deleted_at IS NULL),
     brand AS (SELECT array_agg(id ORDER BY slug) AS ids FROM shop.brand WHERE tenant_id = domain.tenant_id() AND deleted_at IS NULL),
     style AS (SELECT pg_temp.words('style') AS w), material AS (SELECT pg_temp.words('material') AS w)
SELECT n, c.id AS category_id, c.name AS category,
       brand.ids[1 + pg_temp.pick(n, 2, cardinality(brand.ids))] AS brand_id,
       style.w[1 + pg_temp.pick(n, 3, cardinality(style.w))] AS style,
       material.w[1 + pg_temp.pick(n, 4, cardinality(material.w))] AS material,
       300 + pg_temp.pick(n, 5, 10000) * (1 + pg_temp.pick(n, 6, 5)) AS price,
       -- 1 / rank^0.8 of a permutation-like rank
       ((1 + pg_temp.pick(n, 7, 1000000)) ^ -0.8)::real AS popularity,
       -- one in ten products comes in three sizes
       CASE WHEN pg_temp.pick(n, 8, 10) = 0 THEN 3 ELSE 1 END AS forms,
       pg_temp.pick(n, 9, 200) AS ratings
  FROM generate_series(:first::bigint, :last::bigint) n, place, brand, style, material
 CROSS JOIN LATERAL (SELECT id, name FROM shop.category
                      WHERE tenant_id = domain.tenant_id() AND id = place.ids[1 + pg_temp.pick(n, 1, cardinality(place.ids))]) c
 WHERE NOT EXISTS (SELECT FROM shop.product p
                    WHERE p.tenant_id = domain.tenant_id() AND p.external_id = 'generated-' || n AND p.deleted_at IS NULL);

CREATE TEMPORARY TABLE product ON COMMIT DROP AS
WITH added AS (
    INSERT INTO shop.product (tenant_id, slug, external_id, name, description, category_id, brand_id, tags, attributes, image,
                              rating_sum, rating_count, popularity, created_at, updated_at)
    SELECT domain.tenant_id(),
           domain.slugify(concat_ws(' ', style, material, category)) || '-' || n, 'generated-' || n,
           concat_ws(' ', style, material, category, n),
           format('A %s piece of %s for your %s. It comes in %s colours, is made to last and easy to care for.',
                  lower(style), lower(material), lower(category), 1 + pg_temp.pick(n, 10, 12)),
           category_id, brand_id, ARRAY[lower(style), lower(material)],
           jsonb_build_object('material', lower(material), 'colour', (ARRAY['red', 'green', 'blue', 'black', 'white'])[1 + pg_temp.pick(n, 11, 5)]),
           '/media/generated/' || pg_temp.pick(n, 12, 1000) || '.svg',
           ratings * (20 + pg_temp.pick(n, 13, 31)) / 10, ratings, popularity,
           timestamptz '2024-01-01 00:00Z' + make_interval(secs => pg_temp.pick(n, 14, 63072000)),
           timestamptz '2026-01-01 00:00Z'
      FROM made ORDER BY n
    RETURNING id, external_id)
SELECT a.id, m.* FROM added a JOIN made m ON a.external_id = 'generated-' || m.n;

CREATE TEMPORARY TABLE variant ON COMMIT DROP AS
WITH added AS (
    INSERT INTO shop.variant (tenant_id, product_id, sku, name, price_amount, sale_amount, attributes, position)
    SELECT domain.tenant_id(), p.id, format('G%s-%s', p.n, i), CASE WHEN p.forms > 1 THEN (ARRAY['Small', 'Medium', 'Large'])[i] END,
           p.price + (i - 1) * 500, CASE WHEN pg_temp.pick(p.n, 15, 20) = 0 THEN p.price * 8 / 10 END,
           CASE WHEN p.forms > 1 THEN jsonb_build_object('size', (ARRAY['S', 'M', 'L'])[i]) ELSE '{}' END, i
      FROM product p, generate_series(1, p.forms) i
     ORDER BY p.n, i
    RETURNING id, product_id)
SELECT a.id, a.product_id,
       CASE WHEN pg_temp.pick(a.id, 16, 20) = 0 THEN 0 ELSE 1 + pg_temp.pick(a.id, 17, 1000) END AS on_hand,
       pg_temp.pick(a.id, 18, 50) > 0 AS track, l.id AS location
  FROM added a, (SELECT id FROM shop.location WHERE tenant_id = domain.tenant_id() AND deleted_at IS NULL
                  ORDER BY priority DESC, id LIMIT 1) l;

INSERT INTO shop.stock (tenant_id, variant_id, location_id, product_id, on_hand, track_stock)
SELECT domain.tenant_id(), id, location, product_id, on_hand, track FROM variant ORDER BY id;
INSERT INTO shop.stock_movement (tenant_id, variant_id, location_id, delta, on_hand, reason)
SELECT domain.tenant_id(), id, location, on_hand, on_hand, 'received' FROM variant WHERE on_hand > 0 ORDER BY id;

ANALYZE product;
SELECT domain.product_refresh(ARRAY(SELECT id FROM product ORDER BY id)) \g /dev/null

COMMIT;

\else

ANALYZE shop.product, shop.variant, shop.stock, shop.stock_movement, shop.product_card, shop.product_document, shop.product_stock,
        shop.category, shop.brand, shop.search_word;

\endif
