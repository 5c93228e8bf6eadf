-- Revert nginx-commerce:98_reporting from pg

BEGIN;

-- The role is of the cluster: another database may use it.
DO $$
DECLARE
    t  record;
BEGIN
    FOR t IN SELECT c.oid::regclass AS name, string_agg(quote_ident(a.attname), ', ') AS columns
               FROM pg_class c
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              WHERE c.relnamespace = 'shop'::regnamespace AND c.relkind IN ('r', 'p')
                AND has_any_column_privilege('commerce_report', c.oid, 'SELECT')
              GROUP BY c.oid LOOP
        EXECUTE format('REVOKE ALL ON %s FROM commerce_report', t.name);
        EXECUTE format('REVOKE ALL (%s) ON %s FROM commerce_report', t.columns, t.name);
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION domain.tenant_id() FROM commerce_report;
REVOKE ALL ON SCHEMA shop, domain FROM commerce_report;

COMMIT;
