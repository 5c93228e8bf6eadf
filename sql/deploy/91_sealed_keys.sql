-- Deploy nginx-commerce:91_sealed_keys to pg
-- requires: 72_sealed
-- A pass of sealing anew is worth what the keys of its edge could open, and an edge that is on its way out may still seal with the
-- key from before: what a pass could not open is counted, and it is known since when these keys are in use.

BEGIN;

SET LOCAL ROLE commerce_owner;

ALTER TABLE shop.sealed_renewal
    ADD COLUMN keys text NOT NULL DEFAULT '',
    ADD COLUMN since timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN unopened bigint NOT NULL DEFAULT 0;

COMMENT ON COLUMN shop.sealed_renewal.keys IS 'ids of the keys that the edge has, the one that encrypts among them';
COMMENT ON COLUMN shop.sealed_renewal.since IS 'when an edge first asked with this kid and these keys';
COMMENT ON COLUMN shop.sealed_renewal.unopened IS 'fields of this pass that none of the keys opens';

RESET ROLE;

COMMIT;
