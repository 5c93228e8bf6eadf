-- Deploy nginx-commerce:70_privacy to pg
-- requires: 20_identity
-- requires: 40_orders
-- requires: 45_account
-- requires: 50_platform
-- The audit log: what staff did. Rows are added, never changed: schema and table belong to commerce_audit, functions of the shop run as
-- commerce_owner, which may insert and read through the view shop.audit_log, and a trigger refuses the rest to everybody who is not
-- refused by privileges. (In a schema of its own, because who owns a schema may drop every table in it.)

BEGIN;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'commerce_audit') THEN
        CREATE ROLE commerce_audit NOLOGIN NOBYPASSRLS;
    END IF;
END
$$;

CREATE SCHEMA audit AUTHORIZATION commerce_audit;
COMMENT ON SCHEMA audit IS 'The audit log and what looks after it';

GRANT USAGE ON SCHEMA domain TO commerce_audit;
GRANT EXECUTE ON FUNCTION domain.tenant_id() TO commerce_audit;
GRANT USAGE ON SCHEMA audit TO commerce_owner;

SET LOCAL ROLE commerce_audit;

CREATE TABLE audit.log (
    tenant_id       bigint       NOT NULL,
    id              bigint       GENERATED ALWAYS AS IDENTITY,
    created_at      timestamptz  NOT NULL DEFAULT now(),
    -- user:<uuid>, key:<id of an API key>, platform:<uuid> (the platform's admin acting for the shop), system
    actor           text         NOT NULL,
    operation       text,                       -- operationId
    action          text         NOT NULL,
    entity          text         NOT NULL,
    entity_id       text,
    before          jsonb,                      -- members that differ, as they were
    after           jsonb,                      -- and as they are now
    address         inet,
    correlation_id  text,
    PRIMARY KEY (tenant_id, created_at, id)
) PARTITION BY RANGE (created_at);

COMMENT ON TABLE audit.log IS 'What staff did: added to, never changed; months are partitions';

CREATE INDEX log_entity ON audit.log (tenant_id, entity, entity_id, created_at);
CREATE INDEX log_actor ON audit.log (tenant_id, actor, created_at);

CREATE FUNCTION audit.refuse() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'The audit log is never changed: ' || TG_OP || ' is refused.';
END
$$;

-- What makes a table one of the log: nobody changes rows, each tenant sees its own.
CREATE PROCEDURE audit.seal(target regclass, partition boolean)
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT partition THEN               -- row triggers of the parent are the partitions' too
        EXECUTE format('CREATE TRIGGER changed BEFORE UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION audit.refuse()', target);
    END IF;
    EXECUTE format('CREATE TRIGGER emptied BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse()', target);
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
    EXECUTE format('CREATE POLICY tenant ON %s USING (tenant_id = domain.tenant_id()) '
                   'WITH CHECK (tenant_id = domain.tenant_id())', target);
END
$$;

-- The months from this one on; returns how many were made. What falls outside lands in the default partition, never an error.
CREATE FUNCTION audit.partitions(months int DEFAULT 3) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    month  date;
    name   text;
    made   int := 0;
BEGIN
    FOR i IN 0 .. months - 1 LOOP
        month := date_trunc('month', now() AT TIME ZONE 'UTC')::date + make_interval(months => i);
        name := 'audit.log_' || to_char(month, 'YYYYMM');
        CONTINUE WHEN to_regclass(name) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE TABLE %s PARTITION OF audit.log FOR VALUES FROM (%L) TO (%L)', name,
                           month::timestamp AT TIME ZONE 'UTC', (month + interval '1 month')::timestamp AT TIME ZONE 'UTC');
        EXCEPTION WHEN check_violation THEN         -- the default partition has rows of this month already
            CONTINUE;
        END;
        EXECUTE format('CALL audit.seal(%L, true)', name);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

REVOKE ALL ON FUNCTION audit.partitions(int) FROM PUBLIC;
REVOKE ALL ON PROCEDURE audit.seal(regclass, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.partitions(int) TO commerce_owner;
GRANT INSERT, SELECT ON audit.log TO commerce_owner;

CREATE TABLE audit.log_default PARTITION OF audit.log DEFAULT;
CALL audit.seal('audit.log', false);
CALL audit.seal('audit.log_default', true);

DO $$
BEGIN
    PERFORM audit.partitions();
END
$$;

RESET ROLE;
SET LOCAL ROLE commerce_owner;

CREATE VIEW shop.audit_log WITH (security_invoker = true) AS
    SELECT tenant_id, id, created_at, actor, operation, action, entity, entity_id, before, after, address, correlation_id
      FROM audit.log;

COMMENT ON VIEW shop.audit_log IS 'What staff did, of the current tenant: added to, never changed';

RESET ROLE;

COMMIT;
