-- Deploy nginx-commerce:80_recommendations to pg
-- requires: 10_catalogue
-- requires: 40_orders
-- requires: 45_account
-- What the trainer reads, and what it tells of its runs.

BEGIN;

-- Reads what a tenant's visitors did, without names or addresses. The tenant is the one it sets: row-level security shows no other.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'commerce_train') THEN
        CREATE ROLE commerce_train LOGIN NOBYPASSRLS;
    END IF;
END
$$;

SET LOCAL ROLE commerce_owner;

CREATE TABLE shop.training_run (
    tenant_id     bigint       NOT NULL REFERENCES shop.tenant,
    id            bigint       GENERATED ALWAYS AS IDENTITY,
    status        text         NOT NULL CHECK (status IN ('queued', 'done', 'failed')),
    -- of the table that came of it
    generation    bigint,
    -- time of the last event in it
    watermark     timestamptz,
    -- metrics beside their baselines, options, counts; the same for people
    report        jsonb        CHECK (jsonb_typeof(report) = 'object'),
    report_text   text,
    requested_by  uuid,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    finished_at   timestamptz,
    PRIMARY KEY (tenant_id, id),
    CHECK ((status = 'done') = (report IS NOT NULL))
);

COMMENT ON TABLE shop.training_run IS 'Trainings of the recommendations, asked for and done, with their reports';

CREATE INDEX training_run_queued ON shop.training_run (tenant_id, id) WHERE status = 'queued';

CALL domain.isolate('shop.training_run');

GRANT USAGE ON SCHEMA shop, domain TO commerce_train;
GRANT EXECUTE ON FUNCTION domain.tenant_id() TO commerce_train;
GRANT SELECT (tenant_id, user_id, guest, product_id, action, created_at) ON shop.interaction TO commerce_train;
GRANT SELECT (tenant_id, id, user_id, guest, status, created_at) ON shop.orders TO commerce_train;
GRANT SELECT (tenant_id, order_id, product_id) ON shop.order_item TO commerce_train;
GRANT SELECT (tenant_id, id, status, name, description, category_id, brand_id, tags, deleted_at) ON shop.product TO commerce_train;
GRANT SELECT (tenant_id, id, name) ON shop.category, shop.brand TO commerce_train;
GRANT SELECT, INSERT ON shop.training_run TO commerce_train;
GRANT UPDATE (status, generation, watermark, report, report_text, finished_at) ON shop.training_run TO commerce_train;

COMMIT;
